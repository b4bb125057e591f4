"""Normalisations that every rank computes for itself: one step each, where a network has ten operations.

A network says them in sums, products and powers, since their sums may be over neurons of several workers.
Where each worker has all neurons of the groups that it normalises, nothing is exchanged on the way, and one
kernel goes over the numbers two or three times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from repurpose_hpc.kernels import normalise
from repurpose_hpc.model.normalisations import Normalisation, normalisations_of
from repurpose_hpc.model.weights import dense
from repurpose_hpc.plan.shard import Block, Shard
from repurpose_hpc.runtime.buffers import Part
from repurpose_hpc.runtime.calls import COMPUTE, Call
from repurpose_hpc.runtime.hosting import Hosting
from repurpose_hpc.runtime.lowering.blocks import Epilogue
from repurpose_hpc.runtime.lowering.mixings import BlockReport, Tensor, block_report

if TYPE_CHECKING:
    from mpi4py import MPI


class Group(NamedTuple):
    """Groups of a worker's neurons, which follow one another.

    Attributes:
        size: neurons of each.
        weight: of each of them in a mean.
    """

    size: int
    weight: float


def local_normalisations(
    shards: Sequence[Shard], comm: MPI.Comm | None
) -> list[tuple[Normalisation, list[Group]]]:
    """Those of a network that need no exchange, with the groups of each hosted worker.

    Collective: every rank tells all others which of them it can compute by itself, if there are any; those
    that all can are the same on all ranks.

    Args:
        shards: of the hosted workers.
        comm: of all ranks; None: this process is alone.
    """
    found = [
        (normalisation, [_groups(normalisation, shard) for shard in shards])
        for normalisation in normalisations_of(shards[0].graph)
    ]
    can = np.array([all(group is not None for group in groups) for _, groups in found], bool)
    if comm is not None and found:  # the same on all ranks, as their graph is
        can = np.logical_and.reduce(comm.allgather(can))
    return [
        (normalisation, [group for group in groups if group is not None])
        for (normalisation, groups), is_local in zip(found, can, strict=True)
        if is_local
    ]


def _groups(normalisation: Normalisation, shard: Shard) -> Group | None:
    """The groups of one worker; None: it needs others for them, or sums are not those of groups."""
    of_pairs = set()
    for adding, giving in zip(normalisation.sums[::2], normalisation.sums[1::2], strict=True):
        add, give = shard.blocks[adding], shard.blocks[giving]
        if _exchanges(add) or _exchanges(give):
            return None
        of_pairs.add(_group(dense(add.own_weights), dense(give.own_weights)))
    return of_pairs.pop() if len(of_pairs) == 1 else None


def _exchanges(block: Block) -> bool:
    """Say if anything but own neurons is read or made, or anything added to their sum."""
    lists = (block.ghosts.sent, block.ghosts.received, block.sums.sent, block.sums.received)
    return any(neurons.size for neurons in (*lists, block.ghost_neurons)) or bool(block.bias.any())


def _group(adding: np.ndarray, giving: np.ndarray) -> Group | None:
    """The groups of two products, weights (groups, n) and (n, groups)."""
    groups, neurons = adding.shape
    if not neurons:
        return Group(0, 0.0) if not groups else None
    if not groups or neurons % groups:
        return None
    size, weight = neurons // groups, adding[0, 0]
    members = np.repeat(np.eye(groups, dtype=adding.dtype), size, axis=1)
    is_so = np.array_equal(adding, weight * members) and np.array_equal(giving, members.T)
    return Group(size, float(weight)) if is_so else None


class NormalisationStep:
    """One of them, on the neurons of all workers that a rank hosts.

    Attributes:
        name: of its last operation.
        source, target: the tensors' memory.
        reports: the entries of ``Program.blocks``, one for each of its mixings and hosted worker.
    """

    def __init__(
        self,
        normalisation: Normalisation,
        groups: Sequence[Group],
        ends: tuple[Tensor, Tensor],
        hosting: Hosting,
        epilogue: Epilogue,
    ) -> None:
        """Cuts scales and shifts of the rank's neurons out of it.

        Args:
            normalisation, groups: of the hosted workers.
            ends: the source and the target.
            hosting: of the program.
            epilogue: applied last.
        """
        self.source, self.target = (tensor.buffer for tensor in ends)
        space = ends[-1].space
        self._rows, neurons = hosting.slices(space), hosting.neurons(space)
        self._normalisation, self._groups, self._epilogue = normalisation, groups, epilogue
        self.reports = [
            report
            for worker, rows, group in zip(hosting.workers, self._rows, groups, strict=True)
            for report in _reports(normalisation, worker, rows.stop - rows.start, group)
        ]
        last = normalisation.last
        self.name = last.name
        self._scale, self._shift = (
            np.ascontiguousarray(array[neurons, 0]) for array in (last.scale, last.shift)
        )

    def calls(self, part: Part) -> list[Call]:
        """Calls that compute it for a part of a batch."""
        epsilon, is_centred = self._normalisation.epsilon, int(self._normalisation.is_centred)
        calls: list[Call] = []
        for rows, (size, weight) in zip(self._rows, self._groups, strict=True):
            x, out = (buffer.view(part, rows) for buffer in (self.source, self.target))
            means = x, size, weight, epsilon, is_centred
            arguments = (*means, self._scale[rows], self._shift[rows], out, self._epilogue)
            calls.append((COMPUTE, normalise, arguments))
        return calls


def _reports(normalisation: Normalisation, worker: int, neurons: int, group: Group) -> list[BlockReport]:
    """The entries of ``Program.blocks`` of one worker."""
    groups = neurons // max(group.size, 1)
    shapes = [(groups, neurons), (neurons, groups)] * (len(normalisation.sums) // 2)
    return [
        block_report(name, worker, shape, neurons, "normalisation")
        for name, shape in zip(normalisation.sums, shapes, strict=True)
    ]
