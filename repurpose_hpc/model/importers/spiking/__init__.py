"""Spiking networks: what readers of files and of modules make of their layers.

A sample is a whole train of T steps; tensors are maps whose first axis of positions is the step.  ``trains``
adds layers to a network under construction, ``readout`` says what its outputs are, ``options`` what no file
says.
"""
