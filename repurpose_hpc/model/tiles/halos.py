"""Which maps are cut, and what a worker needs of each beyond its own tile."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple, TypeGuard

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing, Operation, Pool
from repurpose_hpc.model.tiles.division import Division
from repurpose_hpc.model.tiles.rectangles import Rectangle, area, around, common
from repurpose_hpc.model.tiles.rules import Part, part_of

# Tensor -> the rectangle of each worker, (P,); None: it has none.
Rectangles = Mapping[str, Sequence[Rectangle | None]]


@dataclass(frozen=True, eq=False)
class Tiles:
    """The maps that are cut.

    Attributes:
        own: the tiles, which cover a map once.
        computed: what each worker computes: its tile, or more, so that it need not be sent.
    """

    own: Rectangles
    computed: Rectangles

    def __contains__(self, tensor: str) -> bool:
        return tensor in self.own


class WorkersPart(NamedTuple):
    """What an operation is for one worker.

    Attributes:
        worker: q.
        tile: what it computes of the target.
        part: what it reads, and the operation.
    """

    worker: int
    tile: Rectangle
    part: Part


def tileable(network: Network) -> int:
    """The number of leading mixings, fixed ones not counted, up to the last one that makes maps."""
    trained = [mixing for mixing in network.mixings if not mixing.fixed]
    numbers = [number for number, mixing in enumerate(trained, 1) if network.positions_of[mixing.target]]
    return max(numbers, default=0)


def tiles_of(network: Network, layers: int, division: Division, repeated: int = 0) -> Tiles:
    """The maps that are cut when leading layers are shared out by position.

    Args:
        network: any of samples.
        layers: leading mixings, fixed ones not counted; those are shared out that can be, and what follows
            them without another mixing.
        division: where maps are cut.
        repeated: leading ones of these of whose maps a worker computes all that it needs, so that several
            compute the same; none of these halos is sent.
    """
    trained = [mixing.name for mixing in network.mixings if not mixing.fixed]
    own = _own_tiles(network, {*trained[layers:]}, division)
    # Nothing that a repeated tensor is made of is sent: they are a beginning of the network.
    beginning = takewhile(lambda op: op.name not in {*trained[repeated:]}, network.operations)
    first = {op.target for op in beginning} & own.keys()
    if not first:
        return Tiles(own, own)
    computed = {tensor: [*rectangles] for tensor, rectangles in own.items()}
    for op in reversed(network.operations):
        for worker, _, part in parts_of(op, network, computed) if op.target in own else ():
            for source, need in zip(op.sources, part.needs, strict=True):
                has = computed[source][worker] if source in first else None
                if has is not None and need is not None:
                    computed[source][worker] = around(has, need)
    return Tiles(own, computed)


def _own_tiles(network: Network, later: Collection[str], division: Division) -> Rectangles:
    """The tiles of all maps that can be cut, ``later`` mixings being shared out by channel."""
    of_inputs, tiles = set(network.input_tensors), dict[str, Sequence[Rectangle | None]]()
    is_leading = True
    for op in network.operations:
        is_leading = is_leading and op.name not in later
        if not isinstance(op, Mixing) and of_inputs.issuperset(op.sources):
            of_inputs.add(op.target)
        begins = is_leading and isinstance(op, Mixing)
        readable = {*tiles, *of_inputs} if begins or not tiles.keys().isdisjoint(op.sources) else {*tiles}
        if op.name not in later and _can_be_cut(op, network, readable, division):
            tiles[op.target] = division.rectangles(network.positions_of[op.target])
    return tiles


def _can_be_cut(op: Operation, network: Network, readable: Collection[str], division: Division) -> bool:
    """Whether an operation can be done tile by tile, where ``readable`` can be read so."""
    maps = [name for name in op.sources if network.positions_of[name]]
    if not maps or not {*maps} <= {*readable} or not division.cuts_maps(network.positions_of[op.target]):
        return False
    target, shapes = network.shape(op.target), [network.shape(source) for source in op.sources]
    rectangles = division.rectangles(target.positions)
    return all(part_of(op, tile, shapes, target) is not None for tile in rectangles if tile is not None)


def parts_of(op: Operation, network: Network, computed: Rectangles) -> Iterator[WorkersPart]:
    """What an operation whose target is cut is for each worker that computes some of it."""
    target, shapes = network.shape(op.target), [network.shape(source) for source in op.sources]
    for worker, tile in enumerate(computed[op.target]):
        if tile is not None and (part := part_of(op, tile, shapes, target)) is not None:
            yield WorkersPart(worker, tile, part)


def needs_of(network: Network, tiles: Tiles) -> dict[tuple[str, int], Rectangle]:
    """What a worker needs of a map that is cut and does not compute, by tensor and worker: a rectangle."""
    needs: dict[tuple[str, int], Rectangle] = {}
    for op in network.operations:
        for worker, _, part in parts_of(op, network, tiles.computed) if op.target in tiles else ():
            for source, need in zip(op.sources, part.needs, strict=True):
                if need is None or source not in tiles:
                    continue
                if common(need, tiles.computed[source][worker]) != need:
                    needs[source, worker] = around(need, needs.get((source, worker), need))
    return needs


def most_multiply_adds(network: Network, tiles: Tiles) -> int:
    """Multiply-adds of a sample that the busiest worker does in layers that are shared out by position."""
    counts: dict[int, int] = {}
    for mixing in network.mixings:
        for worker, tile, _ in parts_of(mixing, network, tiles.computed) if mixing.target in tiles else ():
            counts[worker] = counts.get(worker, 0) + mixing.weights.size * area(tile)
    return max(counts.values(), default=0)


def gathered_values(network: Network, tiles: Tiles) -> int:
    """Values per sample of maps that are brought together, for operations that are not done tile by tile."""
    total = 0
    for tensor in tiles.own:
        readers = [op for op in network.operations if tensor in op.sources and op.target not in tiles]
        if tensor in network.output_tensors or not all(is_mean(op) for op in readers):
            total += network.size(tensor)
        elif readers:
            total += network.space(tensor).neurons
    return total


def is_mean(op: Operation) -> TypeGuard[Pool]:
    """Whether an operation is the mean over whole maps, which is a sum over tiles."""
    return isinstance(op, Pool) and op.kind == "average" and op.window.is_whole_map


def halo_values(network: Network, tiles: Tiles) -> int:
    """Values per sample that workers need of the tiles of others."""
    total = 0
    for (tensor, worker), need in needs_of(network, tiles).items():
        shared = common(need, tiles.computed[tensor][worker])
        total += network.space(tensor).neurons * (area(need) - (0 if shared is None else area(shared)))
    return total
