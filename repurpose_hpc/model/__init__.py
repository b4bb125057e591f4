"""WHAT A NETWORK IS: its graph, how it is read from files, and what it computes in plain NumPy.

``network`` holds the graph, ``spec`` the rules of a legal one, ``operations`` and ``activations`` one entry
for each that there is; ``forward``, ``backward`` and ``bound`` walk over the graph and know no operation;
``builder`` and ``importers`` make networks, and import what a file format needs where such a file is read.
``labels`` says what stands beside samples means, ``quality`` how well outputs agree with it.
May import io and errors; nothing of the other packages, and never the kernels.
"""
