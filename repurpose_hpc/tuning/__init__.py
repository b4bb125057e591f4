"""HOW IT IS TUNED: fine-tuning of restructured networks on the ranks, forward and backward.

May import runtime, plan, model, mpi, process, io, errors and kernels; never restructure.
"""
