"""The traffic of spatial partitioning with halo exchange: the baseline for networks of convolutions.

Every worker holds all weights and owns a rectangle of positions of every feature map, all channels of it.
The rectangles are those of a grid of rows x columns = workers; a grid of one column cuts the map into strips.
Counted are the values per sample that cross between workers, as for every other method:

- Each map that a convolution or pooling reads is exchanged once.  A worker gets the positions that its
  positions of the readers' outputs are computed from and that it does not own, whoever owns them, times the
  channels.  Positions that a stride skips, and padding, are not sent.
- The input is replicated and costs nothing.  Element-wise steps, normalisation, residual additions and
  concatenations cost nothing either, because maps of one size are cut alike.
- The head (a global pooling, or a dense layer that reads the whole map) either adds up the workers' partial
  results on one of them, or gathers the map there, whichever is less; workers that own nothing of the map
  send nothing.  What follows runs on that worker alone.  Collecting the outputs counts for no method.

The grid and the cuts are the cheapest of several.  Each size of map is cut evenly, or where the even cut of a
smaller map falls when it is scaled up, so that a pooling does not cross it, unless that makes a strip over a
quarter larger than the largest of an even cut.  Likewise a grid must not give a worker over a quarter more of
the largest map than another grid would.  A map with fewer rows than strips leaves the workers without a row
idle there.  No position is computed twice: a worker could compute its halo instead of receiving it, at the
extreme the whole network from the replicated input without any traffic, but that is no longer a partition.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Depthwise, Mixing, Pool

UNEVEN = 1.25

# Where a size is cut along one axis, by size: strip q is cut[q] to cut[q + 1] - 1.
Cuts = dict[int, tuple[int, ...]]


@dataclass(frozen=True)
class WindowLayer:
    """A convolution or pooling.

    ``source`` names the map it reads, ``None`` for the replicated input; layers that read one map share its
    exchange.  Pairs are (height, width); ``padding`` is the leading one, the trailing one follows from
    ``out_shape``.  A map of one dimension has width 1.
    """

    source: str | None
    channels: int
    shape: tuple[int, int]
    out_shape: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Head:
    """The end of the maps: a global pooling, or a dense layer that reads the flattened map.

    ``partial`` is the number of values of a worker's partial result: the rows of the dense layer, or the
    channels of the pooling; if a dense layer follows a global average directly, the lesser of both numbers,
    because both are sums.
    """

    source: str | None
    channels: int
    shape: tuple[int, int]
    partial: int


Layer = WindowLayer | Head


@dataclass(frozen=True)
class Partition:
    """A grid of workers, and the values per sample that each map it cuts costs."""

    grid: tuple[int, int]
    values: dict[str, int]

    @property
    def total(self) -> int:
        """Values per sample over all maps."""
        return sum(self.values.values())


def layers_of(network: Network) -> list[Layer]:
    """The layers of a network that read neighbours of a position, or a whole map."""
    layers: list[Layer] = []
    for op in network.operations:
        if not isinstance(op, Mixing | Pool | Depthwise) or op.window is None:
            continue
        source = None if op.source in network.input_tensors else op.source
        channels, shape = network.space(op.source).neurons, _pair(op.window.positions)
        if op.window.kernel == op.window.positions and math.prod(op.window.out) == 1:
            layers.append(Head(source, channels, shape, _partial(network, op)))
        else:
            pairs = (op.window.out, op.window.kernel, op.window.strides)
            pads, dilations = _pair(op.window.pads, 0), _pair(op.window.dilations)
            layers.append(WindowLayer(source, channels, shape, *map(_pair, pairs), pads, dilations))
    return layers


def _pair(sizes: tuple[int, ...], missing: int = 1) -> tuple[int, int]:
    return (*sizes, *(missing,) * (2 - len(sizes)))  # type: ignore[return-value]


def _partial(network: Network, head: Mixing | Pool | Depthwise) -> int:
    """Values of the least partial result of a head."""
    values = network.space(head.target).neurons
    if isinstance(head, Pool) and head.kind == "average":
        readers = [op for op in network.operations if head.target in op.sources]
        if len(readers) == 1 and isinstance(readers[0], Mixing):
            return min(values, len(readers[0].bias))
    return values


def halo_values(layers: Sequence[Layer], workers: int) -> int:
    """Values per sample that cross between ``workers`` workers; the top of this file says what counts.

    Raises ValueError if two layers read maps of one name and different size.
    """
    return halo_partition(layers, workers).total


def halo_partition(layers: Sequence[Layer], workers: int) -> Partition:
    """The cheapest of the partitions considered, with the values of each map in the order of reading."""
    return min(_partitions(layers, workers), key=lambda partition: partition.total)


def _partitions(layers: Sequence[Layer], workers: int) -> Iterator[Partition]:
    shapes = {shape for layer in layers for shape in _shapes(layer)}
    for grid in grids_of(max(shapes, key=math.prod), workers):
        axes = (_candidates({shape[axis] for shape in shapes}, grid[axis]) for axis in (0, 1))
        for cuts in product(*axes):
            yield Partition(grid, _values(layers, cuts))


def grids_of(shape: tuple[int, int], workers: int) -> list[tuple[int, int]]:
    """The grids of all workers that share the positions of a map of ``shape`` about as evenly as possible."""
    grids = [(rows, workers // rows) for rows in range(1, workers + 1) if workers % rows == 0]
    shares = {
        grid: math.prod(-(-size // parts) for size, parts in zip(shape, grid, strict=True)) for grid in grids
    }
    return [grid for grid, share in shares.items() if share <= UNEVEN * min(shares.values())]


def _shapes(layer: Layer) -> tuple[tuple[int, int], ...]:
    return (layer.shape, layer.out_shape) if isinstance(layer, WindowLayer) else (layer.shape,)


def _candidates(sizes: set[int], parts: int) -> list[Cuts]:
    """The cuts of all sizes, once for each size whose even cut the larger ones follow as far as they may."""
    even = {size: tuple(part * size // parts for part in range(parts + 1)) for size in sorted(sizes)}
    return [{size: _follow(even[base], even[size]) for size in even} for base in even]


def _follow(smaller: tuple[int, ...], even: tuple[int, ...]) -> tuple[int, ...]:
    """The cut ``smaller`` scaled to the size of ``even``; ``even`` if that is less or the result uneven."""
    base, size = smaller[-1], even[-1]
    # In proportion, a cut stays inside the window that lies over it, whatever rows padding adds or drops.
    scaled = tuple(round(at * size / base) for at in smaller)
    return scaled if size > base and _largest(scaled) <= UNEVEN * _largest(even) else even


def _largest(cut: tuple[int, ...]) -> int:
    return max(stop - start for start, stop in pairwise(cut))


def _values(layers: Sequence[Layer], cuts: tuple[Cuts, Cuts]) -> dict[str, int]:
    """Values per sample of each map that is not the input, by its name."""
    values: dict[str, int] = {}
    for source in dict.fromkeys(layer.source for layer in layers if layer.source is not None):
        readers = [layer for layer in layers if layer.source == source]
        if len({(layer.channels, layer.shape) for layer in readers}) > 1:
            raise ValueError(f"the layers that read {source} disagree about its size")
        windows = [layer for layer in readers if isinstance(layer, WindowLayer)]
        heads = [layer for layer in readers if isinstance(layer, Head)]
        values[source] = sum(_head_values(head, cuts) for head in heads)
        values[source] += _window_values(windows, cuts) if windows else 0
    return values


def _window_values(readers: Sequence[WindowLayer], cuts: tuple[Cuts, Cuts]) -> int:
    """Values of the positions of one map that some worker needs for some reader and does not own."""
    height, width = readers[0].shape
    row_cut, column_cut = cuts[0][height], cuts[1][width]
    positions = 0
    for row, column in product(range(len(row_cut) - 1), range(len(column_cut) - 1)):
        reads = np.zeros((height, width), dtype=bool)
        for reader in readers:
            reads |= np.outer(_reads(reader, 0, cuts[0], row), _reads(reader, 1, cuts[1], column))
        reads[slice(*row_cut[row : row + 2]), slice(*column_cut[column : column + 2])] = False
        positions += int(reads.sum())
    return readers[0].channels * positions


def _reads(window: WindowLayer, axis: int, cuts: Cuts, strip: int) -> np.ndarray:
    """Mask of the rows (axis 0) or columns (axis 1) of the input that one strip's outputs read; (size,)."""
    size = window.shape[axis]
    start, stop = cuts[window.out_shape[axis]][strip : strip + 2]
    first = np.arange(start, stop) * window.stride[axis] - window.padding[axis]
    taps = np.add.outer(first, np.arange(window.kernel[axis]) * window.dilation[axis])
    return np.isin(np.arange(size), taps)


def _head_values(head: Head, cuts: tuple[Cuts, Cuts]) -> int:
    rows, columns = (np.diff(cut[size]) for cut, size in zip(cuts, head.shape, strict=True))
    owned = np.outer(rows, columns)
    partial_sums = (np.count_nonzero(owned) - 1) * head.partial
    gathered = (owned.sum() - owned.max()) * head.channels
    return int(min(partial_sums, gathered))
