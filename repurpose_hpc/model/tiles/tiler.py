"""The same network, its first layers shared out by position.

Every operation of these layers becomes one for each worker, which makes the worker's tile of its target.
What that reads and the worker does not have is cut out where it is (``Rearrange``), moved by a mixing with
weights 1 (the only operation between spaces, so that plan, exchange and reports treat halos as they do
neurons), and put together with the worker's own tile (``Stitch``).  Where channels are shared out again, a
map is brought together in the same way, with owners of its channels.  The mean over a map is a sum of means
over tiles.

Neurons of a tile are all the channels, of one worker.  So a halo is exact, and counted like anything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from repurpose_hpc.model.builder import Builder
from repurpose_hpc.model.network import Network, TilePart
from repurpose_hpc.model.operations import (
    Mixing,
    Operation,
    Pool,
    Rearrange,
    Select,
    Stitch,
    pointwise,
    whole_map,
)
from repurpose_hpc.model.tiles.division import Division
from repurpose_hpc.model.tiles.halos import Tiles, is_mean, needs_of, parts_of, tiles_of
from repurpose_hpc.model.tiles.rectangles import Rectangle, area, common, places, shape_of, whole
from repurpose_hpc.model.tiles.rules import seeing_more
from repurpose_hpc.model.weights import SparseWeights, sparse


def tiled(
    network: Network, layers: int, division: Division, repeated: int = 0, input_counts: bool = False
) -> Network:
    """The same network, its leading layers shared out by position.

    Args:
        network: any of samples.
        layers, division, repeated: see ``tiles_of``.
        input_counts: whether a dense exchange counts what is sent of the inputs.

    Returns:
        its outputs are the same but for rounding; ``tile_owners`` says who has what, and ``dense_sizes`` what
        counts as dense.  The network itself where nothing can be shared out.
    """
    tiles = tiles_of(network, layers, division, repeated)
    return _Tiler(network, tiles, input_counts).network() if tiles.own else network


class _Tiler:
    """Builds the network, operation by operation."""

    def __init__(self, network: Network, tiles: Tiles, input_counts: bool) -> None:
        self._network, self._tiles, self._builder = network, tiles, Builder()
        counts = {
            space.name: np.full(space.neurons, input_counts or space.name not in network.input_spaces)
            for space in network.free_spaces
        }
        self._counted = network.derive(counts)
        self._needs = needs_of(network, tiles)
        self._mark = _unused_mark(network)
        self._names: dict[str, str] = {}  # of tensors that are not cut, in the new network
        self._workers: dict[str, int] = {}  # of tensors that one worker has
        self._made: dict[str, str] = {}  # parts of tensors, by what they are
        self._layer_of: dict[str, str] = {}  # mixing that is not one of the original -> what it is part of
        self._sizes: dict[str, int] = {}  # layer -> what it counts in a dense exchange
        self._layer = ""  # that is being added
        self._first_readers = {mixing.source: mixing.name for mixing in reversed(network.mixings)}

    def network(self) -> Network:
        """The network."""
        given, builder = self._network, self._builder
        for tensor in given.input_tensors:
            space = given.space(tensor)
            self._names[tensor] = builder.input(space.name, space.neurons, given.positions_of[tensor])
        for op in given.operations:
            self._layer = op.name
            if op.target in self._tiles:
                self._add_tiles(op)
            elif is_mean(op) and op.sources[0] in self._tiles:
                self._add_mean(op)
            else:
                self._add_whole(op)
        self._layer = "outputs"
        outputs = tuple(map(self._whole, given.output_tensors))
        renamed = {self._names[name]: axis for name, axis in given.neuron_axes.items()}
        inputs = tuple(self._names[tensor] for tensor in given.input_tensors)
        found = builder.build(outputs, given.heads, inputs, renamed)
        owners = {
            part: worker
            for tensor, worker in self._workers.items()
            if tensor in found.space_of
            for part in found.parts(tensor)
        }
        made = [mixing.name for mixing in found.mixings if mixing.name in self._layer_of]
        # The first part counts for all of a layer; some may be gone, as nothing depends on them.
        parts = {name: TilePart(self._layer_of[name], self._size_left(name)) for name in made}
        return replace(
            found,
            ends=given.ends,
            tile_owners=owners,
            tile_parts=parts,
            has_binary_inputs=given.has_binary_inputs,
        )

    def _size_left(self, name: str) -> int:
        """What a layer counts in a dense exchange, for the first of its mixings that asks."""
        return self._sizes.pop(self._layer_of[name], 0)

    def _add_tiles(self, op: Operation) -> None:
        """An operation tile by tile."""
        for worker, tile, found in parts_of(op, self._network, self._tiles.computed):
            source, need = op.sources[0], found.needs[0]
            part = found
            if need is not None and source in self._tiles:
                part = seeing_more(found, self._frame(source, need, worker))
            sources = tuple(
                self._part(source, need, worker, is_read_there=isinstance(op, Mixing))
                for source, need in zip(op.sources, part.needs, strict=True)
            )
            name, target = self._named(op.name, worker), self._named(op.target, worker)
            self._add(part.op.between(name, sources, target), shape_of(tile), worker)
            if isinstance(op, Mixing):
                self._layer_of[name], self._sizes[op.name] = op.name, self._dense_size(op)

    def _frame(self, tensor: str, need: Rectangle, worker: int) -> Rectangle:
        """What a worker has of a map that is cut, with all it needs: what it computes, or that and a halo."""
        computed = self._tiles.computed[tensor][worker]
        if computed is not None and common(need, computed) == need:
            return computed
        return self._needs[tensor, worker]

    def _dense_size(self, mixing: Mixing) -> int:
        """Values of its source that count for a mixing of the original in a dense exchange."""
        network, source = self._network, mixing.source
        neurons = np.count_nonzero(self._counted[network.space_of[source]])
        return int(neurons) * network.values(source) if self._first_readers[source] == mixing.name else 0

    def _add_mean(self, op: Pool) -> None:
        """The mean over maps: the sum of what each worker's positions add."""
        (source,), network = op.sources, self._network
        neurons, shares, means = network.space(source).neurons, [], []
        for worker, rectangle in self._tiles_of(source):
            name, shape = self._named(op.name, worker), shape_of(rectangle)
            mean = f"{name}.mean"
            pool = Pool(name, self._tile(source, worker), mean, "average", whole_map(shape))
            means.append(self._add(pool, (), worker))
            shares.append(area(rectangle) / network.values(source))
        joined = f"{op.name}{self._mark}"
        index = np.arange(neurons * len(means))
        self._builder.add(Select(joined, tuple(means), f"{joined}.means", index), ())
        rows, values = np.tile(np.arange(neurons), len(means)), np.repeat(shares, neurons)
        # In float64, as shares such as a third are not exact.
        weights, bias = sparse((neurons, index.size), rows, index, values), np.zeros(neurons)
        self._names[op.target] = self._builder.add(
            Mixing(op.name, f"{joined}.means", op.target, weights, bias, fixed=True), ()
        )
        self._layer_of[op.name] = op.name

    def _add_whole(self, op: Operation) -> None:
        """An operation as it is."""
        sources = tuple(map(self._whole, op.sources))
        positions = self._network.positions_of[op.target]
        self._names[op.target] = self._builder.add(op.between(op.name, sources, op.target), positions)
        if isinstance(op, Mixing) and op.source in self._tiles:
            self._layer_of[op.name], self._sizes[op.name] = op.name, self._dense_size(op)

    def _whole(self, tensor: str) -> str:
        """A tensor that has owners of its neurons: one that is cut is brought together once."""
        if tensor in self._names:
            return self._names[tensor]
        shape = self._network.positions_of[tensor]
        moved = [
            (self._move(self._tile(tensor, worker), f"{tensor}{self._mark}{worker}.all", None), rectangle)
            for worker, rectangle in self._tiles_of(tensor)
        ]
        self._names[tensor] = self._stitched(tensor, moved, whole(shape), None)
        return self._names[tensor]

    def _part(self, tensor: str, need: Rectangle | None, worker: int, is_read_there: bool) -> str:
        """What a worker reads of a tensor.

        Args:
            tensor: of the original.
            need: the rectangle; None: a vector, as a whole.
            worker: who reads it.
            is_read_there: whether a mixing reads it, which may do so where it is.
        """
        if need is None or tensor not in self._tiles:
            part = self._from_whole(tensor, need, worker)
            return part if is_read_there else self._moved(part, worker)
        if common(need, self._tiles.computed[tensor][worker]) == need:
            return self._held(tensor, need, worker)
        frame = self._frame(tensor, need, worker)
        return self._cropped(self._with_halo(tensor, frame, worker), frame, need, worker)

    def _from_whole(self, tensor: str, need: Rectangle | None, worker: int) -> str:
        """A part of a tensor that is not cut, where that is."""
        source, frame = self._whole(tensor), whole(self._network.positions_of[tensor])
        return source if need is None else self._cropped(source, frame, need, None)

    def _with_halo(self, tensor: str, need: Rectangle, worker: int) -> str:
        """A rectangle of a map that is cut: the worker's own tile, and what others have of it."""
        name = f"{tensor}{self._mark}{worker}.halo"
        if name not in self._made:
            pieces = []
            for other, tile in self._tiles_of(tensor):
                shared = common(need, tile)
                if other == worker and shared is not None:
                    pieces.append((self._tile(tensor, other), tile))
                elif shared is not None:
                    pieces.append((self._moved(self._held(tensor, shared, other), worker), shared))
            self._made[name] = self._stitched(name, pieces, need, worker)
        return self._made[name]

    def _tile(self, tensor: str, worker: int) -> str:
        """The tile of a worker, without what it computes besides."""
        return self._held(tensor, self._tiles.own[tensor][worker], worker)

    def _held(self, tensor: str, rectangle: Rectangle | None, worker: int) -> str:
        """A rectangle of what a worker computes of a map that is cut."""
        computed = self._tiles.computed[tensor][worker]
        assert computed is not None and rectangle is not None
        return self._cropped(self._named(tensor, worker), computed, rectangle, worker)

    def _cropped(self, held: str, frame: Rectangle, rectangle: Rectangle, worker: int | None) -> str:
        """A rectangle of a tensor that has the positions ``frame``, where it is."""
        if rectangle == frame:
            return held
        name = f"{held}.{_text(rectangle)}"
        if name not in self._made:
            crop = Rearrange(name, held, f"{name}.y", places(rectangle, shape_of(frame), frame))
            self._made[name] = self._add(crop, shape_of(rectangle), worker)
        return self._made[name]

    def _moved(self, tensor: str, worker: int) -> str:
        """A tensor brought to a worker."""
        name = f"{tensor}{self._mark}to{worker}"
        if name not in self._made:
            self._made[name] = self._move(tensor, name, worker)
        return self._made[name]

    def _move(self, tensor: str, name: str, worker: int | None) -> str:
        """A tensor brought to a worker; None: to owners of its neurons."""
        n, shape = self._builder.neurons(tensor), self._builder.positions(tensor)
        weights, bias = _ones(n, self._dtype), np.zeros(n, self._dtype)
        move = Mixing(name, tensor, f"{name}.y", weights, bias, pointwise(shape), fixed=True)
        self._layer_of[name] = self._layer
        return self._add(move, shape, worker)

    def _stitched(
        self, name: str, pieces: list[tuple[str, Rectangle]], need: Rectangle, worker: int | None
    ) -> str:
        """A rectangle of a map from pieces that cover it; ``pieces`` may be larger."""
        shape, ends = shape_of(need), np.cumsum([0, *(area(rectangle) for _, rectangle in pieces)])
        index = np.full(area(need), -1)
        for (_, rectangle), start in zip(pieces, ends[:-1], strict=True):
            shared = common(rectangle, need)
            assert shared is not None
            index[places(shared, shape, need)] = start + places(shared, shape_of(rectangle), rectangle)
        tensors = tuple(tensor for tensor, _ in pieces)
        if len(tensors) == 1 and np.array_equal(index, np.arange(ends[1])):
            return tensors[0]
        return self._add(Stitch(f"{name}.stitched", tensors, f"{name}.map", index), shape, worker)

    def _add(self, op: Operation, positions: tuple[int, ...], worker: int | None) -> str:
        tensor = self._builder.add(op, positions)
        if worker is not None:
            self._workers[tensor] = worker
        return tensor

    def _tiles_of(self, tensor: str) -> Iterator[tuple[int, Rectangle]]:
        """The workers that have a tile of a map, and where."""
        for worker, rectangle in enumerate(self._tiles.own[tensor]):
            if rectangle is not None:
                yield worker, rectangle

    def _named(self, name: str, worker: int) -> str:
        return f"{name}{self._mark}{worker}"

    @property
    def _dtype(self) -> np.dtype:
        return self._network.mixings[0].weights.dtype


def _ones(n: int, dtype: np.dtype) -> SparseWeights:
    """The identity, (n, n)."""
    return sparse((n, n), np.arange(n), np.arange(n), np.ones(n, dtype))


def _text(rectangle: Rectangle) -> str:
    return "x".join(f"{first}-{end}" for first, end in rectangle)


def _unused_mark(network: Network) -> str:
    """What separates a name from the number of a worker: in none of the names."""
    mark = "@"
    names = [*network.space_of, *(op.name for op in network.operations)]
    while any(mark in name for name in names):
        mark += "@"
    return mark
