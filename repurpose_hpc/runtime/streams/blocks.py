"""Blocks: batches that are read, agreed on and written together, and who computes which.

In each turn of a stream every group of ranks computes a block.  What is done once for each turn, whatever its
size, is then little beside the batches themselves.  A block is small enough to stay in a cache, and to be
over within a fraction of a second, so that an error is too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from repurpose_hpc.io.blocks import Stretch
from repurpose_hpc.runtime.program import Program
from repurpose_hpc.runtime.setup import Setup

# Of the inputs of a block, and of its outputs.
MOST_BYTES = 1 << 22
# Multiply-adds of the slowest rank for a block, and batches, whose exchanges take their time.
MOST_WORK, MOST_BATCHES = 1 << 29, 256
# Stages are idle at the beginning or the end of a block, while others compute a batch: so many batches for
# each stage keep that short.  The inputs of a block may be so large then.
BATCHES_OF_STAGE, MOST_BYTES_OF_STAGES = 16, 1 << 26


def turn_size(setup: Setup, program: Program, stages: int) -> int:
    """Samples in a turn: for each group as many batches as the limits allow, at least one; collective.

    Every rank tells the others how many multiply-adds a sample costs it.

    Args:
        setup: of the run.
        program: of this rank.
        stages: of the plan.
    """
    graph, options, groups = setup.shard.graph, setup.job.options, setup.groups.count
    values = max(math.prod(graph.input_shape), graph.outputs * groups)  # the root has the outputs of all
    work = max(1, *setup.comm.allgather(program.multiply_adds))
    samples = min(MOST_BYTES // (values * options.dtype.itemsize), MOST_WORK // work)
    batches = min(samples // options.batch_size, MOST_BATCHES)
    if stages > 1:
        fitting = MOST_BYTES_OF_STAGES // (values * options.dtype.itemsize * options.batch_size)
        batches = max(batches, min(BATCHES_OF_STAGE * stages, fitting))
    return max(batches, 1) * options.batch_size * groups


def turns(samples: int, size: int, first: int = 0) -> Iterator[Stretch]:
    """Samples from ``first`` on in turns, which begin at multiples of ``size``, but for the first one."""
    for begin in range(first // size * size, samples, size):
        yield Stretch(max(begin, first), min(begin + size, samples))


def shares(turn: Stretch, groups: int, batch_size: int) -> list[Stretch]:
    """The block of each group, in the order of the samples: batches are shared evenly, and some may get none.

    Batches are those of all samples in a row, whatever the groups.
    """
    batches = -(-turn.size // batch_size)
    ends = [
        min(turn.first + batches * number // groups * batch_size, turn.last) for number in range(groups + 1)
    ]
    return [Stretch(*ends_of_block) for ends_of_block in pairwise(ends)]
