"""Compiled kernels on arrays: products, convolutions, pooling, activations, pack and unpack; assignment.

They know nothing of models, files or MPI and import nothing of the rest of the package.
"""

from .activations import ACTIVATION_CODES, activate, activate_in_place
from .convolution import convolve_direct, pack_weights
from .crossover import csr_is_faster
from .csr import INDEX_DTYPE, csr_batch, csr_vector
from .dense import aligned, dense, dense_scratch, pack_panels, panel_rows
from .exchange import clear, copy_blocks, pack, unpack, unpack_add
from .flags import await_read, collect, publish
from .maps import COMBINATION_CODES, affine, combine, take_positions
from .pooling import average_pool, depthwise, max_pool
from .projection import project_out
from .rows import finish
from .transport import least_cost_owners
from .warmup import warm_up
from .windows import patches
from .wire import pack_codes, unpack_codes
from .zeros import expand, squeeze

__all__ = [
    "ACTIVATION_CODES",
    "COMBINATION_CODES",
    "INDEX_DTYPE",
    "activate",
    "activate_in_place",
    "affine",
    "aligned",
    "average_pool",
    "await_read",
    "clear",
    "collect",
    "combine",
    "convolve_direct",
    "copy_blocks",
    "csr_batch",
    "csr_is_faster",
    "csr_vector",
    "dense",
    "dense_scratch",
    "depthwise",
    "expand",
    "finish",
    "least_cost_owners",
    "max_pool",
    "pack",
    "pack_codes",
    "pack_panels",
    "pack_weights",
    "panel_rows",
    "patches",
    "project_out",
    "publish",
    "squeeze",
    "take_positions",
    "unpack",
    "unpack_add",
    "unpack_codes",
    "warm_up",
]
