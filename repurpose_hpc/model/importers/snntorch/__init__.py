"""Spiking networks from modules of snnTorch.

``recorded`` runs a copy of a module and sees in which order it calls its layers, ``layers`` makes layers of
them, ``load`` a network, which it compares with the module spike for spike.
"""
