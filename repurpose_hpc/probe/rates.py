"""Rates at which this machine computes products, by rows and columns, and reads weights.

The fastest of several repeats counts: disturbances make a measurement longer.  Calls are made as programs
make them, by compiled code that makes all of a forward; short ones in a row, as starting it takes its time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

import numpy as np

from repurpose_hpc.kernels import Window2D, max_pool
from repurpose_hpc.model.operations import Window
from repurpose_hpc.runtime.buffers import Scratch
from repurpose_hpc.runtime.calls import COMPUTE, PHASES, Call
from repurpose_hpc.runtime.lowering.blocks import NO_ACTIVATION, CsrProduct, DenseProduct, Product
from repurpose_hpc.runtime.lowering.convolution import Direct, Patches, Pointwise
from repurpose_hpc.runtime.resources import EXACT_FORMATS
from repurpose_hpc.runtime.schedule.replay import carry_out, record

ROWS = (1, 4, 16, 64, 256)
COLUMNS = (1, 2, 4, 8, 32, 128, 512)
SPARSE_ROWS = (4, 64, 512)
SPARSE_COLUMNS = (1, 2, 8, 64, 512)
SPARSE_DENSITY = 0.05
MAP_ROWS = (1, 4, 16, 64)
MAP_SIDES = (4, 7, 14, 28, 56)
# Inputs of a row; the difference between the two times gives the time of an input.
DEPTHS = (64, 1024)
CHANNELS = (4, 32)
WORKING_SETS = tuple(1 << power for power in range(16, 29, 2))
# Rows and columns of the blocks that make up a working set, at most.
BLOCK = 256, 1024

# Short products in a row, and the multiply-adds up to which they are short.
IN_A_ROW, SHORT = 16, 1 << 23

# All ranks at once: weights beyond any cache, and turns long enough for a core to be shared fairly in each.
STREAMED = 1 << 26
TURNS, TURN_SECONDS = 9, 0.1

# A repeat takes about this long, at least once through.
SECONDS, REPEATS = 5e-4, 7


def fastest(function: Callable[[], object]) -> float:
    """Seconds of one call, the least of several repeats."""
    loops = 1
    times: list[float] = []
    while len(times) < REPEATS:
        began = perf_counter()
        for _ in range(loops):
            function()
        took = perf_counter() - began
        if took < SECONDS / 2 and not times:
            loops = int(loops * min(100.0, 1 + SECONDS / max(took, 1e-9)))
            continue
        times.append(took / loops)
    return min(times)


def dense_table() -> tuple[list[list[float]], list[list[float]]]:
    """GFLOP/s of ``DenseProduct`` and seconds that do not depend on the depth, by ROWS and COLUMNS."""
    return _table(ROWS, COLUMNS, lambda m, c: _of_depth(partial(_dense_seconds, m, c), DEPTHS, 2 * m * c))


def sparse_table() -> list[list[float]]:
    """GFLOP/s of ``CsrProduct``, by SPARSE_ROWS and SPARSE_COLUMNS; only non-zeros count."""
    flops = 2 * SPARSE_DENSITY
    rates, _ = _table(
        SPARSE_ROWS,
        SPARSE_COLUMNS,
        lambda m, c: _of_depth(partial(_sparse_seconds, m, c), DEPTHS, flops * m * c),
    )
    return rates


def convolution_table() -> list[list[float]]:
    """GFLOP/s of the faster convolution with 3 x 3 windows, by MAP_ROWS and MAP_SIDES squared."""
    rates, _ = _table(
        MAP_ROWS,
        MAP_SIDES,
        lambda m, side: _of_depth(partial(_map_seconds, m, side), CHANNELS, 2 * 9 * m * side**2),
    )
    return rates


def window_seconds() -> float:
    """Seconds of a row of a pooling, per entry of its window; the median over maps of several sizes."""
    return float(np.median([_pooling_seconds(side) for side in MAP_SIDES]))


def reading_rates(call_seconds: float, prepare: Callable[[], object]) -> list[float]:
    """Bytes per second of products with one column whose weights make up each of WORKING_SETS.

    Args:
        call_seconds: of a call, which does not count.
        prepare: called before each working set is measured.
    """
    rates = []
    for size in WORKING_SETS:
        calls = _reading_calls(size)
        in_a_row = -(-IN_A_ROW // len(calls))
        run = replayed(calls * in_a_row)
        prepare()
        seconds = fastest(run) / in_a_row - call_seconds * len(calls)
        rates.append(size / max(seconds, 1e-9))
    return rates


def sustained_rate(meet: Callable[[], object]) -> float:
    """Bytes of weights per second that products with one column read, the median of several turns.

    A turn lasts the same on all ranks: none of them has the machine to itself at its end.  Not the fastest
    one counts: a rank that shares its core is as slow as it is on average.

    Args:
        meet: called before each turn.
    """
    blocks = [replayed([call]) for call in _reading_calls(STREAMED)]
    return float(np.median([_turn_rate(blocks, meet) for _ in range(TURNS)]))


def call_and_value(rest: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Seconds of a call and of each result, from what ``dense_table`` found beside the rates."""
    seconds = np.array(rest)
    results = np.multiply.outer(ROWS, COLUMNS)
    small, large = results <= 16, results >= 4096
    call = float(np.median(seconds[small]))
    return call, float(np.median((seconds[large] - call).clip(0) / results[large]))


def _table(
    rows: Sequence[int], columns: Sequence[int], measure: Callable[[int, int], tuple[float, float]]
) -> tuple[list[list[float]], list[list[float]]]:
    measured = [[measure(m, c) for c in columns] for m in rows]
    rates, rest = ([[entry[part] for entry in row] for row in measured] for part in (0, 1))
    return rates, rest


def _of_depth(seconds: Callable[[int], float], depths: tuple[int, int], flops: float) -> tuple[float, float]:
    """GFLOP/s of what depends on the depth, and seconds of the rest, from the times at two depths."""
    shallow, deep = (seconds(depth) for depth in depths)
    # A difference lost in noise: no less than a tenth of the whole.
    per_depth = max((deep - shallow) / (depths[1] - depths[0]), 0.1 * deep / depths[1])
    return 1e-9 * flops / per_depth, max(shallow - per_depth * depths[0], 0.1 * shallow)


def _dense_seconds(rows: int, columns: int, depth: int) -> float:
    return _product_seconds(DenseProduct(_random(rows, depth)), depth, rows, columns)


def _sparse_seconds(rows: int, columns: int, depth: int) -> float:
    weights = _random(rows, depth)
    weights[np.random.default_rng(1).random(weights.shape) > SPARSE_DENSITY] = 0
    return _product_seconds(CsrProduct(weights), depth, rows, columns)


def _product_seconds(product: DenseProduct | CsrProduct, depth: int, rows: int, columns: int) -> float:
    out, scratch = np.empty((rows, columns), np.float32), _scratch(product, columns)
    calls = product.calls(_random(depth, columns), _random(rows, 1), out, scratch, NO_ACTIVATION)
    in_a_row = IN_A_ROW if rows * columns * depth <= SHORT else 1
    return fastest(replayed(calls * in_a_row)) / in_a_row


def _map_seconds(rows: int, side: int, channels: int) -> float:
    size = (side, side)
    window = Window(size, (3, 3), (1, 1), (1, 1), (1, 1), size)
    out = np.empty((rows, side**2), np.float32)
    times = []
    for product_class in (Patches, Direct):
        product = product_class(window, _random(rows, channels * 9))
        scratch = _scratch(product, side**2)
        maps = _random(channels, side**2).reshape(channels, 1, side**2)
        calls = product.calls(maps, _random(rows, 1), out, scratch, NO_ACTIVATION)
        times.append(fastest(replayed(calls)))
    return min(times)


def _pooling_seconds(side: int) -> float:
    maps, half = _random(16 * side, side).reshape(16, 1, side, side), side // 2
    out = np.empty((16, 1, half, half), np.float32)
    call = (COMPUTE, max_pool, (maps, Window2D((2, 2), (2, 2), (1, 1), (0, 0)), out))
    return fastest(replayed([call])) / (16 * half * 4)


def _reading_calls(size: int) -> list[Call]:
    depth = BLOCK[1]
    rows = min(BLOCK[0], size // (4 * depth))
    x, start, out = (_random(length, 1).reshape(length, 1, 1) for length in (depth, rows, rows))
    calls: list[Call] = []
    for _ in range(size // (4 * depth * rows)):
        product = Pointwise(DenseProduct, np.ones((rows, depth), np.float32))
        scratch = _scratch(product, 1)
        calls += product.calls(x, start.reshape(rows, 1), out.reshape(rows, 1), scratch, NO_ACTIVATION)
    return calls


def _turn_rate(blocks: Sequence[Callable[[], object]], meet: Callable[[], object]) -> float:
    meet()
    made, began = 0, perf_counter()
    while (took := perf_counter() - began) < TURN_SECONDS:
        blocks[made % len(blocks)]()
        made += 1
    return made * STREAMED / len(blocks) / took


def replayed(calls: Sequence[Call]) -> Callable[[], None]:
    """What makes calls as ``Program.forward`` does."""
    steps = record(calls, np.dtype(np.float32), EXACT_FORMATS)
    return partial(carry_out, steps, np.zeros(len(PHASES)))


def _scratch(product: Product, columns: int) -> Scratch:
    return Scratch(np.dtype(np.float32), product.scratch(columns))


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
