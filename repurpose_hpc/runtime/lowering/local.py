"""Operations that work neuron by neuron, hence without any exchange: pools, gates, selections."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import compress, pairwise
from typing import Any, NamedTuple

import numpy as np

from repurpose_hpc.kernels import (
    COMBINATION_CODES,
    INDEX_DTYPE,
    RESET_CODES,
    AttentionRule,
    MembraneRule,
    Window2D,
    activate_in_place,
    add_positions,
    affine,
    attend,
    attend_tokens,
    average_pool,
    combine,
    copy_runs,
    depthwise,
    integrate_and_fire,
    max_pool,
    pack,
    retain,
    take_positions,
    turn_tokens,
)
from repurpose_hpc.model.network import Space
from repurpose_hpc.model.operations import (
    PER_NEURON,
    Affine,
    Attention,
    Combine,
    Depthwise,
    Elementwise,
    Membrane,
    Mixing,
    Operation,
    Pool,
    PositionTable,
    Rearrange,
    Retention,
    Rotary,
    Rows,
    Select,
    Stitch,
    Window,
)
from repurpose_hpc.runtime.buffers import Buffer, Part
from repurpose_hpc.runtime.calls import COMPUTE, Call
from repurpose_hpc.runtime.lowering.blocks import Epilogue, epilogue_of
from repurpose_hpc.runtime.resources import Resources
from repurpose_hpc.runtime.sequences import Sequences


class LocalStep:
    """One such operation on the neurons of all workers that a rank hosts.

    Attributes:
        name: of the operation.
        sources, target: the tensors' memory.
    """

    def __init__(
        self,
        op: Operation,
        sources: Sequence[Buffer],
        target: Buffer,
        spaces: Sequence[Space],
        resources: Resources,
        epilogue: Epilogue,
    ) -> None:
        """Cuts what belongs to the rank's neurons out of the operation.

        Args:
            op: of a type in ``LOWERINGS``.
            sources, target: the tensors' memory.
            spaces: of the sources, then of the target.
            resources: of the program.
            epilogue: applied last, by one of ``ENDING``; of others nothing.
        """
        self.name, self.sources, self.target = op.name, sources, target
        rows = [resources.hosting.rows_of(space) for space in spaces]
        part = op.restricted(rows[-1], *rows[:-1])
        self._make = LOWERINGS[type(op)](part, rows, resources, epilogue)

    def calls(self, part: Part) -> list[Call]:
        """Calls that compute it for a part of a batch."""
        maps = [buffer.maps(part) for buffer in (*self.sources, self.target)]
        return [(COMPUTE, function, arguments) for function, arguments in self._make(*maps)]


class StitchStep(LocalStep):
    """A map put together of others, of which some may be there before the rest.

    Attributes:
        index: of the operation: where each position comes from.
    """

    def __init__(self, op: Stitch, *others: Any) -> None:
        """See ``LocalStep``."""
        super().__init__(op, *others)
        self.index = op.index

    def known(self, is_there: Sequence[bool]) -> np.ndarray:
        """Whether each position comes from a source that is there, (values,) bool."""
        return np.repeat(is_there, [source.values for source in self.sources])[self.index]

    def calls_of(self, part: Part, chosen: Sequence[bool]) -> list[Call]:
        """The calls for some of the sources."""
        return list(compress(self.calls(part), chosen))


# From the sources and the target, each (rows, batch, values): functions and their arguments.
Maker = Callable[..., list[tuple[Callable[..., object], tuple]]]
# From an operation on the rank's neurons, the rows of its sources and its target, the program's resources and
# the epilogue.
Lowering = Callable[[Any, Sequence[Rows], Resources, Epilogue], Maker]

# By type of operation; mixings, which exchange, are steps of their own (``mixings``).
LOWERINGS: dict[type[Operation], Lowering] = {}
# Positions that are copied in runs of fewer are taken one by one.
FEWEST_IN_RUN = 4
# Those whose steps apply the epilogue.
_WITH_EPILOGUE: list[type[Operation]] = []


def lowers(kind: type[Operation], epilogue: bool = False) -> Callable[[Lowering], Lowering]:
    """Enter a function into ``LOWERINGS``.

    Args:
        kind: of operation.
        epilogue: whether its steps apply an activation to what they compute.
    """

    def enter(lowering: Lowering) -> Lowering:
        LOWERINGS[kind] = lowering
        if epilogue:
            _WITH_EPILOGUE.append(kind)
        return lowering

    return enter


@lowers(Elementwise)
def _elementwise(op: Elementwise, rows: Sequence[Rows], resources: Resources, _: Epilogue) -> Maker:
    epilogue = epilogue_of(op.activation)
    return lambda x, out: [(np.copyto, (out, x)), (activate_in_place, (as_rows(out), *epilogue))]


@lowers(Affine, epilogue=True)
def _affine(op: Affine, rows: Sequence[Rows], resources: Resources, epilogue: Epilogue) -> Maker:
    arrays = np.broadcast_arrays(op.scale, op.shift)
    scale, shift = (np.array(array, order="C") for array in arrays)

    def make(x: np.ndarray, out: np.ndarray) -> list:
        x, out = along_batch(x, out)
        factors, terms = ((array if len(array) == len(x) else array.T) for array in (scale, shift))
        return [(affine, (factors, x, terms, out, epilogue))]

    return make


@lowers(Depthwise, epilogue=True)
def _depthwise(op: Depthwise, rows: Sequence[Rows], resources: Resources, epilogue: Epilogue) -> Maker:
    window, weights = op.window, op.weights.reshape(len(op.weights), *two(op.window.kernel))
    start = op.bias.reshape(-1, 1, 1, 1)

    def make(x: np.ndarray, out: np.ndarray) -> list:
        x, out = as_maps(x, window.positions), as_maps(out, window.out)
        return [(depthwise, (weights, x, on_two_axes(window), start, out, epilogue))]

    return make


@lowers(Pool)
def _pool(op: Pool, rows: Sequence[Rows], resources: Resources, _: Epilogue) -> Maker:
    window = op.window
    pads_behind = (last - size for last, size in zip(two(op.extent), two(window.positions), strict=True))
    counted = (*two(window.pads, 0), *pads_behind) if op.count_padding else (0, 0, 0, 0)

    def make(x: np.ndarray, out: np.ndarray) -> list:
        x, out = as_maps(x, window.positions), as_maps(out, window.out)
        if op.kind == "max":
            return [(max_pool, (x, on_two_axes(window), out))]
        return [(average_pool, (x, on_two_axes(window), counted, out))]

    return make


@lowers(Rearrange)
def _rearrange(op: Rearrange, rows: Sequence[Rows], resources: Resources, _: Epilogue) -> Maker:
    index = op.index.astype(np.int64)
    runs = _runs(index)
    if len(runs) * FEWEST_IN_RUN <= index.size and (index >= 0).all():
        return lambda x, out: [(copy_runs, (x, runs, out))]
    return lambda x, out: [(take_positions, (x, index, float(op.fill), out))]


@lowers(Stitch)
def _stitch(op: Stitch, rows: Sequence[Rows], resources: Resources, _: Epilogue) -> Maker:
    def make(*maps: np.ndarray) -> list:
        *sources, out = maps
        ends = np.cumsum([0, *(x.shape[2] for x in sources)])
        calls = []
        for first, x in zip(ends[:-1], sources, strict=True):
            is_here = (op.index >= first) & (op.index < first + x.shape[2])
            runs = _runs(np.where(is_here, op.index - first, -1))
            calls.append((copy_runs, (x, runs[runs[:, 0] >= 0], out)))
        return calls

    return make


def _runs(index: np.ndarray) -> np.ndarray:
    """Positions that follow one another in both maps: first, where they go, how many; (runs, 3) int64.

    Places that are taken from nowhere, -1, are a run each that begins at -1.
    """
    starts = np.flatnonzero(np.append(True, (np.diff(index) != 1) | (index[1:] <= 0)))
    lengths = np.diff(np.append(starts, index.size))
    return np.stack([index[starts], starts, lengths], axis=1).astype(np.int64)


@lowers(Combine, epilogue=True)
def _combine(op: Combine, rows: Sequence[Rows], resources: Resources, epilogue: Epilogue) -> Maker:
    code = COMBINATION_CODES[op.kind]

    def make(*maps: np.ndarray) -> list:
        return [(combine, (code, *along_batch(*maps), epilogue))]

    return make


@lowers(Attention)
def _attention(op: Attention, rows: Sequence[Rows], resources: Resources, _: Epilogue) -> Maker:
    rule = AttentionRule(op.scale, op.softcap, op.before, op.after)
    heads, groups = op.heads, op.groups
    if resources.sequences is not None:
        sizes = [part.neurons.size // max(groups, 1) for part in rows[1:3]]
        return _attention_of_tokens(resources.sequences, rule, (heads, groups), sizes)

    def make(*maps: np.ndarray) -> list:
        q, k, v, *masks, out = maps
        shape, calls = (q.shape[2], k.shape[2]), []
        bias = np.zeros((0, 1, *shape), q.dtype)
        if op.has_constants:
            bias = op.additive(shape, q.dtype, np.arange(heads))[:, None]
        if masks:
            mask = masks[0].reshape(heads, q.shape[1], masks[0].shape[2] // shape[1], shape[1])
            if op.has_constants:
                total = np.empty(np.broadcast_shapes(mask.shape, bias.shape), q.dtype)
                calls, mask = [(np.add, (mask, bias, total))], total
            bias = mask
        read = (as_heads(x, count) for x, count in ((q, heads), (k, groups), (v, groups)))
        return [*calls, (attend, (*read, bias, rule, as_heads(out, heads)))]

    return make


def _attention_of_tokens(
    sequences: Sequences, rule: AttentionRule, counts: tuple[int, int], sizes: Sequence[int]
) -> Maker:
    """The attention of tokens over what is kept of their sequences.

    Args:
        sequences: of the program.
        rule: of the scores.
        counts: heads of this rank: of queries, and of keys and values.
        sizes: neurons of a head of keys and of values.
    """
    heads, groups = counts
    past = [sequences.memory(groups, size) for size in sizes]
    scales = sequences.scales(groups)

    def make(*maps: np.ndarray) -> list:
        q, k, v, out = (
            as_heads(x, count)[..., 0] for x, count in zip(maps, (heads, groups, groups, heads), strict=True)
        )
        return [(attend_tokens, (q, k, v, *past, scales, sequences.table, rule, out))]

    return make


@lowers(Retention)
def _retention(op: Retention, rows: Sequence[Rows], resources: Resources, _: Epilogue) -> Maker:
    decay, sequences = op.decay.astype(np.float64), resources.sequences
    if sequences is not None:
        sizes = (part.neurons.size // max(op.heads, 1) for part in rows[1:3])
        kept = sequences.states(op.heads, *sizes)

    def make(*maps: np.ndarray) -> list:
        by_head = (as_heads(x, op.heads) for x in maps)
        q, k, v, out = (x.reshape(*x.shape[:2], x.shape[2] * x.shape[3]) for x in by_head)
        if sequences is None:
            # Samples are sequences, one after the other in the same state.
            table = np.zeros((maps[0].shape[1], 4), np.int64)
            table[:, 0], table[:, 1] = np.arange(len(table)) * maps[0].shape[2], maps[0].shape[2]
            state = np.empty((op.heads, 1, k.shape[1], v.shape[1]), q.dtype)
        else:
            table, state = sequences.table, kept
        return [(retain, (q, k, v, state, table, decay, op.scale, out))]

    return make


@lowers(Membrane)
def _membrane(op: Membrane, rows: Sequence[Rows], resources: Resources, _: Epilogue) -> Maker:
    rule = MembraneRule(op.steps, RESET_CODES[op.reset], int(op.is_delayed), int(op.fires))
    arrays = np.broadcast_arrays(*map(op.by_position, PER_NEURON))

    def make(x: np.ndarray, out: np.ndarray) -> list:
        numbers = (np.array(array, x.dtype, order="C") for array in arrays)
        return [(integrate_and_fire, (x, *numbers, rule, out))]

    return make


@lowers(Rotary)
def _rotary(op: Rotary, rows: Sequence[Rows], resources: Resources, _: Epilogue) -> Maker:
    @cache  # one for all batch sizes
    def tables(most: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        angles = op.angles(most)
        cos, sin = ((op.factor * function(angles)).astype(dtype) for function in (np.cos, np.sin))
        return cos, sin

    def make(x: np.ndarray, out: np.ndarray) -> list:
        places = positions_of(x, resources)
        cos, sin = tables(places.most, x.dtype)
        source, target = (
            tensor.reshape(op.heads, len(x) // max(op.heads, 1), places.positions.size) for tensor in (x, out)
        )
        return [(turn_tokens, (source, places.positions, cos, sin, int(op.interleaved), target))]

    return make


@lowers(PositionTable)
def _position_table(op: PositionTable, rows: Sequence[Rows], resources: Resources, _: Epilogue) -> Maker:
    @cache  # one for all batch sizes
    def table(most: int) -> np.ndarray:
        return np.ascontiguousarray(op.table[:, :most])

    def make(x: np.ndarray, out: np.ndarray) -> list:
        places = positions_of(x, resources)
        return [(add_positions, (as_rows(x), places.positions, table(places.most), as_rows(out)))]

    return make


@lowers(Select)
def _select(op: Select, rows: Sequence[Rows], resources: Resources, _: Epilogue) -> Maker:
    starts = np.cumsum([0, *(part.neurons.size for part in rows[:-1])])
    source = np.searchsorted(starts[1:], op.index, side="right")
    # Rows of one source that follow one another are copied by one call.
    runs = np.flatnonzero(np.diff(source, prepend=-1))
    copies = []
    for first, last in pairwise([*runs.tolist(), op.index.size]):
        number = int(source[first])
        taken = (op.index[first:last] - starts[number]).astype(INDEX_DTYPE)
        copies.append((number, taken, slice(first, last)))

    def make(*maps: np.ndarray) -> list:
        *x, out = (as_rows(tensor) for tensor in maps)
        return [(pack, (x[number], taken, out[target])) for number, taken, target in copies]

    return make


# Operations that can apply an activation to what they compute.
ENDING: tuple[type[Operation], ...] = (Mixing, *_WITH_EPILOGUE)


def as_maps(x: np.ndarray, positions: tuple[int, ...]) -> np.ndarray:
    """(rows, batch, values) as (rows, batch, H, W); H is 1 where maps have one axis.

    Where they have three, the maps along the first are as many samples.
    """
    return x.reshape(len(x), x.shape[1] * math.prod(positions[:-2]), *two(positions))


class Places(NamedTuple):
    """The position of every value of a row, (values,) int64, and how many positions there may be."""

    positions: np.ndarray
    most: int


def positions_of(x: np.ndarray, resources: Resources) -> Places:
    """The positions of the values of a tensor (rows, batch, values): those of its maps, or of tokens."""
    if resources.sequences is not None:
        return Places(resources.sequences.positions[: x.shape[1]], resources.sequences.longest)
    return Places(np.tile(np.arange(x.shape[2], dtype=np.int64), x.shape[1]), x.shape[2])


def as_heads(x: np.ndarray, heads: int) -> np.ndarray:
    """(rows, batch, values) as (heads, rows of each, batch, values), also where there are none."""
    return x.reshape(heads, len(x) // max(heads, 1), *x.shape[1:])


def on_two_axes(window: Window) -> Window2D:
    """The window as the kernels take it, over the last two axes."""
    return Window2D(two(window.kernel), two(window.strides), two(window.dilations), two(window.pads, 0))


def two(sizes: tuple[int, ...], missing: int = 1) -> tuple[int, int]:
    """Sizes along the last two axes of a map, which may have fewer."""
    first, second = (missing,) * (2 - len(sizes)) + sizes[-2:]
    return first, second


def along_batch(*maps: np.ndarray) -> Sequence[np.ndarray]:
    """Vectors (rows, batch, 1) as maps with long rows, which kernels go through number by number.

    These are (rows, 1, batch), and those of a single sample (1, 1, rows).
    """
    if any(x.shape[2] > 1 for x in maps) or not len(maps[0]):
        return maps
    return [x.reshape(len(x) if x.shape[1] > 1 else 1, 1, -1) for x in maps]


def as_rows(x: np.ndarray) -> np.ndarray:
    """(rows, batch, values) as (rows, batch * values), also where there are no rows."""
    return x.reshape(len(x), x.shape[1] * x.shape[2])
