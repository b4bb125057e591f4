"""Normalisations that every rank computes for itself: one step each, where a network has ten operations.

A network says them in sums, products and powers, since their sums may be over neurons of several workers.
Where each worker has all neurons of the groups that it normalises, nothing is exchanged on the way, and one
kernel goes over the numbers two or three times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from repurpose_hpc.kernels import normalise
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Affine, Combine, Elementwise, Mixing, Operation
from repurpose_hpc.plan.shard import Block, Shard
from repurpose_hpc.runtime.buffers import Part
from repurpose_hpc.runtime.calls import COMPUTE, Call
from repurpose_hpc.runtime.hosting import Hosting
from repurpose_hpc.runtime.lowering.blocks import Epilogue
from repurpose_hpc.runtime.lowering.mixings import BlockReport, Tensor, block_report

if TYPE_CHECKING:
    from mpi4py import MPI


class Normalisation(NamedTuple):
    """target = scale (source - mean) / sqrt(mean of (source - mean)² + epsilon) + shift, within groups.

    Attributes:
        operations: names of those that it stands for.
        source: the tensor that is read, of the space of the target.
        sums: the mixing that adds up the squares of each group, and the one that gives what becomes of a sum
            to all neurons of the group; before them, where a mean is subtracted, those of the mean.
        last: the operation that scales and shifts.
        epsilon: see above.
    """

    operations: frozenset[str]
    source: str
    sums: tuple[str, ...]
    last: Affine
    epsilon: float

    @property
    def is_centred(self) -> bool:
        """Say if a mean is subtracted."""
        return len(self.sums) > 2


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
        for normalisation in _Finder(shards[0].graph).all()
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
        of_pairs.add(_group(add.own_weights, give.own_weights))
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


class _Finder:
    """Looks for what is written as a normalisation, from its last operation to its first."""

    def __init__(self, graph: Network) -> None:
        self._graph = graph
        self._made_by = {op.target: op for op in graph.operations}
        self._readers = Counter(source for op in graph.operations for source in op.sources)
        self._readers.update(graph.output_tensors)

    def all(self) -> Iterator[Normalisation]:
        """Every normalisation of the graph, in order."""
        for op in self._graph.operations:
            if isinstance(op, Affine) and op.scale.shape[1] == op.shift.shape[1] == 1:
                product = self._made(op.source, readers=1)
                if isinstance(product, Combine) and product.kind == "multiply":
                    found = self._found(op, product, *product.sources)
                    found = found or self._found(op, product, *product.sources[::-1])
                    if found is not None:
                        yield found

    def _found(self, last: Affine, product: Combine, x: str, factor: str) -> Normalisation | None:
        """The one that multiplies ``x`` with ``factor``."""
        path = self._path(factor, x)
        mixings = [op for op in path if isinstance(op, Mixing)]
        others = [op for op in path if not isinstance(op, Mixing)]
        if len(mixings) != 2 or len(others) != 3 or path[-2] is not mixings[1]:
            return None
        power, raised, square = others
        if not (_is(power, "power", -0.5) and _is(square, "square") and isinstance(raised, Affine)):
            return None
        epsilon = raised.shift.flat[0]
        if (raised.scale != 1).any() or (raised.shift != epsilon).any():
            return None
        operations, sums, source = [*path, product, last], [op.name for op in mixings[::-1]], x
        centring = self._centring(x)
        if centring:
            operations += centring
            sums = [op.name for op in centring[:2]] + sums
            (source, _) = centring[-1].sources
        tensors = {op.target for op in operations}
        if len({self._graph.values(tensor) for tensor in (source, *tensors)}) > 1:
            return None
        names = frozenset(op.name for op in operations)
        return Normalisation(names, source, tuple(sums), last, float(epsilon))

    def _centring(self, x: str) -> list[Operation]:
        """The operations that make ``x`` by subtracting a mean, which adds up, gives, subtracts; or none."""
        subtract = self._made(x, readers=2)
        if not isinstance(subtract, Combine) or subtract.kind != "subtract":
            return []
        source, mean = subtract.sources
        path = self._path(mean, source)
        if len(path) != 2 or not all(isinstance(op, Mixing) for op in path):
            return []
        return [*path[::-1], subtract]

    def _path(self, tensor: str, source: str) -> list[Operation]:
        """The operations of one source that make ``tensor`` from ``source``, the last first; or none."""
        path: list[Operation] = []
        while tensor != source:
            op = self._made(tensor, readers=1)
            if op is None or not isinstance(op, Mixing | Affine | Elementwise):
                return []
            path.append(op)
            tensor = op.source
        return path

    def _made(self, tensor: str, readers: int) -> Operation | None:
        """What makes a tensor that so many read; None: it is given, or others read it too."""
        return self._made_by.get(tensor) if self._readers[tensor] == readers else None


def _is(op: Operation, kind: str, exponent: float | None = None) -> bool:
    """Say if an operation is such an activation."""
    if not isinstance(op, Elementwise) or op.activation.kind != kind:
        return False
    return exponent is None or op.activation.alpha == exponent
