"""What a network is, how it is read from a file, and a plain NumPy reference forward.

``network`` and ``activations`` hold the representation, ``reference`` executes it, ``load``
reads model files; the packages a file format needs are imported where such a file is read.
"""
