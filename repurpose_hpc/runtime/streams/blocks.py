"""Blocks: batches that are read, agreed on and written together.

What is done once for each block, whatever its size, is then little beside the batches themselves.  A block is
small enough to stay in a cache, and to be over within a fraction of a second, so that an error is too.
"""

from __future__ import annotations

import math

from repurpose_hpc.runtime.program import Program
from repurpose_hpc.runtime.setup import Setup

# Of the inputs of a block, and of its outputs.
MOST_BYTES = 1 << 22
# Multiply-adds of the slowest rank for a block, and batches, whose exchanges take their time.
MOST_WORK, MOST_BATCHES = 1 << 29, 256


def block_size(setup: Setup, program: Program) -> int:
    """Samples in a block: as many batches as the limits allow, at least one; collective.

    Every rank tells the others how many multiply-adds a sample costs it.

    Args:
        setup: of the run.
        program: of this rank.
    """
    graph, options = setup.shard.graph, setup.job.options
    values = max(math.prod(graph.input_shape), graph.outputs)
    work = max(1, *setup.comm.allgather(program.multiply_adds))
    samples = min(MOST_BYTES // (values * options.dtype.itemsize), MOST_WORK // work)
    batches = min(samples // options.batch_size, MOST_BATCHES)
    return max(batches, 1) * options.batch_size
