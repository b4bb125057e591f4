"""HOW A NETWORK IS CUT: assign, eliminate, adjust, in the steps of docs/method.md (``driver``).

May import plan, model, mpi, process, io, errors and kernels; never runtime.
"""
