"""Compiled kernels on arrays: products, convolutions, pooling, activations, pack and unpack; assignment.

They know nothing of models, files or MPI and import nothing of the rest of the package.
"""

from .assignment.projection import project_out
from .assignment.transportation import least_cost_owners
from .maps.activations import ACTIVATION_CODES, activate, activate_in_place
from .maps.convolution import convolve_direct, pack_weights
from .maps.elementwise import COMBINATION_CODES, affine, combine, take_positions
from .maps.pooling import average_pool, depthwise, max_pool
from .maps.windows import patches
from .messages.comm_dtype import pack_codes, unpack_codes
from .messages.flags import await_read, collect, publish
from .messages.packing import clear, copy_blocks, pack, unpack, unpack_add
from .messages.zeros import expand, squeeze
from .products.crossover import csr_is_faster
from .products.csr import INDEX_DTYPE, csr_batch, csr_vector
from .products.dense import aligned, dense, dense_scratch, pack_panels, panel_rows
from .products.rows import finish
from .warmup import warm_up

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
