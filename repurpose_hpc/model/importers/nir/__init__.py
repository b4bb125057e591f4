"""Spiking networks in ``.nir`` files, the Neuromorphic Intermediate Representation, read with h5py alone.

``file`` reads what a file has, ``graph`` makes one graph of nested ones and orders it, ``options`` and
``conventions`` say what no file says, ``neurons`` and ``nodes`` make layers of nodes, ``recurrent`` of
cycles, ``load`` a network.  Source: Pedersen et al., "Neuromorphic intermediate representation: A unified
instruction set for interoperable brain-inspired computing" (2024), and package nir 1.0.8.
"""
