"""Which product is the faster one, from measurements.

Measured with ``scripts/bench_kernels.py`` in float32, one thread, NumPy's OpenBLAS 0.3.31, blocks of 128 to
4096 neurons, on an Intel Xeon of the Emerald Rapids family (AVX-512) and on an AMD EPYC.  Run the script
and change the constants for a very different machine.
"""

from __future__ import annotations

# (smallest batch, density below which CSR wins).  Each is the lowest of both machines and all sizes: CSR is
# never the slower one, but is passed over where it would win on one of them.  (One sample: 0.36 on the Intel,
# 0.08 on the AMD machine, whose dense product reads the caches faster.  Batches from 2: 0.02 to 0.25,
# the lowest for blocks of 256 neurons.)
CSR_DENSITIES = ((64, 0.19), (8, 0.06), (2, 0.02), (1, 0.08))


def csr_is_faster(density: float, batch: int) -> bool:
    """Whether a block with this fraction of non-zeros (0 to 1) is faster as CSR than dense."""
    return density < next(limit for smallest, limit in CSR_DENSITIES if batch >= smallest)
