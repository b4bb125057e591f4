"""HOW A RANK RUNS IT: steps over local arrays, the exchange, the input and output streams.

May import plan, model, mpi, process, io, errors and kernels; never restructure.
"""
