"""Compiled kernels on arrays: products, activations, pack and unpack; assignment and projections.

They know nothing of models, files or MPI and import nothing of the rest of the package.
"""

from .activations import ACTIVATION_CODES, activate, activate_in_place
from .crossover import blas_is_faster, csr_is_faster
from .csr import INDEX_DTYPE, csr_batch, csr_vector
from .dense import dense_batch, dense_vector
from .exchange import pack, unpack, unpack_add
from .projection import project_out
from .rows import finish
from .transport import least_cost_owners
from .warmup import warm_up

__all__ = [
    "ACTIVATION_CODES",
    "INDEX_DTYPE",
    "activate",
    "activate_in_place",
    "blas_is_faster",
    "csr_batch",
    "csr_is_faster",
    "csr_vector",
    "dense_batch",
    "dense_vector",
    "finish",
    "least_cost_owners",
    "pack",
    "project_out",
    "unpack",
    "unpack_add",
    "warm_up",
]
