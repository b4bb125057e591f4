"""The choice of the faster product, from measurements.

Measured with ``scripts/bench_kernels.py`` in float32, one thread, blocks of 256 to 4096 neurons, on an Intel
Xeon (AVX-512).  Run the script and change the constants for a very different machine.
"""

from __future__ import annotations

# (smallest batch, density below which CSR wins): the lowest of all sizes: CSR is never the slower one, but is
# passed over where it would win.  (Batches of 16 to 64 fill vectors, hence 0.18 to 0.4; of 256 samples not
# even a thousand neurons fit into the nearer cache, 0.17 and 0.066 for 4096.  Batches of 4 to 8: 0.16 to
# 0.29; of 2: 0.12 to 0.27.  One sample: 0.15 to 0.48 here, but 0.08 with an earlier dense product on an
# AMD EPYC.)
CSR_DENSITIES = ((256, 0.06), (16, 0.18), (4, 0.16), (2, 0.12), (1, 0.08))

# The same for blocks most of whose rows have entries in the same columns as others, and the fewest samples
# that this is for: those rows are multiplied about as fast as dense ones.
ALIKE_DENSITY, ALIKE_BATCH = 0.5, 64

# The largest share of inputs that are 1, the others being 0, with which it is faster to add the weights of
# these than to multiply with all.  Not measured by a script: from trials with 784 and 1,000 inputs on an AMD
# EPYC, where it was clearly faster at 0.28.
EVENT_DENSITY = 0.4


def csr_is_faster(density: float, batch: int | None, alike: bool = False) -> bool:
    """Say if a block with this fraction of non-zeros (0 to 1) is faster as CSR than dense.

    With ``batch`` None: for every batch.  ``alike``: most rows have entries in the same columns as others.
    """
    if alike and batch is not None and batch >= ALIKE_BATCH:
        return density < ALIKE_DENSITY
    if batch is None:
        return density < min(limit for _, limit in CSR_DENSITIES)
    return density < next(limit for smallest, limit in CSR_DENSITIES if batch >= smallest)
