"""Which product is the faster one, from measurements.

Measured with ``scripts/bench_kernels.py`` in float32, one thread, on an Intel Xeon of the
Emerald Rapids family (AVX-512), NumPy's OpenBLAS 0.3.31 with its SkylakeX kernels, square blocks of
128 to 4096 neurons.  Run the script and change the constants for a very different machine.
"""

from __future__ import annotations

# (smallest batch, density below which CSR wins).  Each is the lowest of two runs at 1024 and 4096
# neurons, rounded down: the limit of 1024, a block that fits into the caches.  At 4096 it is
# 0.19 to 0.25 for every batch from 2, and the same 0.37 for one sample.
CSR_DENSITIES = ((64, 0.19), (8, 0.11), (2, 0.06), (1, 0.36))

# Blocks of 512 to 2048 neurons break even at batches of 8 to 12.  (Blocks of 128 do at 4, but lose no
# more than two microseconds by waiting for 8.)
BLAS_BATCH = 8


def csr_is_faster(density: float, batch: int) -> bool:
    """Whether a block with this fraction of non-zeros (0 to 1) is faster as CSR than dense."""
    return density < next(limit for smallest, limit in CSR_DENSITIES if batch >= smallest)


def blas_is_faster(batch: int) -> bool:
    """Whether a dense block should go through ``np.matmul`` and ``finish`` rather than ``dense_batch``."""
    return batch >= BLAS_BATCH
