"""Products of a block of a mixing with maps: of all positions, of patches, or directly.

``out = act(start + W * X)``, as for the products of ``blocks``, with X (n, batch, values) and out
(m, batch * values).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from repurpose_hpc.kernels import (
    Region,
    channels_are_faster,
    convolution_rows,
    convolve_direct,
    finish,
    patches,
)
from repurpose_hpc.model.comm_dtype import EXACT
from repurpose_hpc.model.operations import Window
from repurpose_hpc.model.weights import SparseWeights, Weights
from repurpose_hpc.plan.shard import Block
from repurpose_hpc.runtime.buffers import Arena, Scratch
from repurpose_hpc.runtime.calls import COMPUTE, PACK, Call
from repurpose_hpc.runtime.lowering.blocks import (
    NO_ACTIVATION,
    SPARSE_PRODUCTS,
    Epilogue,
    Product,
    choose_product,
)
from repurpose_hpc.runtime.lowering.local import as_maps, as_rows, on_two_axes, two
from repurpose_hpc.runtime.lowering.weights import packed
from repurpose_hpc.runtime.resources import Resources
from repurpose_hpc.runtime.schedule.threads import on_threads

# From a block's weights, sparse ones where every position is by itself.
Maker = Callable[[Any], Product]

# Of a tile of patches; larger ones leave the caches, smaller ones cost more calls.
TILE_BYTES = 1 << 21
# Forwards that are timed to choose between two products, after one that is not.
TRIALS = 3


class Pointwise:
    """Every position by itself: a product with all positions of all samples as columns."""

    def __init__(self, product: Maker, weights: Weights) -> None:
        self.product = product(weights)
        self.format = self.product.format

    def scratch(self, columns: int) -> int:
        """See ``Product``."""
        return self.product.scratch(columns)

    def calls(
        self, X: np.ndarray, start: np.ndarray, out: np.ndarray, scratch: Scratch, epilogue: Epilogue
    ) -> list[Call]:
        """See ``Product``."""
        return self.product.calls(as_rows(X), start, out, scratch, epilogue)


class WholeMap:
    """A dense layer that sees whole maps: a product with every value of a map as an input of its own."""

    def __init__(self, product: Maker, weights: Weights) -> None:
        self.product = product(weights)
        self.format = self.product.format

    def scratch(self, columns: int) -> int:
        """See ``Product``."""
        return self.product.scratch(columns)

    def calls(
        self, X: np.ndarray, start: np.ndarray, out: np.ndarray, scratch: Scratch, epilogue: Epilogue
    ) -> list[Call]:
        """See ``Product``; for more than one sample the maps are transposed first."""
        n, batch, values = X.shape
        if batch == 1:
            return self.product.calls(X.reshape(n * values, 1), start, out, scratch, epilogue)
        columns = np.empty((n, values, batch), X.dtype)
        product = self.product.calls(columns.reshape(-1, batch), start, out, scratch, epilogue)
        return [(PACK, np.copyto, (columns, X.transpose(0, 2, 1))), *product]


class Patches:
    """Patches, a tile at a time, and BLAS; where every position sees itself, all of them as they are."""

    format = "patches"

    def __init__(self, window: Window, weights: np.ndarray) -> None:
        self.window, self.weights = window, np.ascontiguousarray(weights)

    def scratch(self, columns: int) -> int:
        """See ``Product``."""
        return len(self.weights) * columns

    def calls(
        self, X: np.ndarray, start: np.ndarray, out: np.ndarray, scratch: Scratch, epilogue: Epilogue
    ) -> list[Call]:
        """See ``Product``."""
        window, depth = self.window, self.weights.shape[1]
        x, maps = as_maps(X, window.positions), two(window.out)
        product = scratch.take(*out.shape) if start is out else out
        finishing = (COMPUTE, finish, (start, product, out, epilogue))
        if window.is_pointwise:
            return [(COMPUTE, np.matmul, (self.weights, as_rows(X), product)), finishing]
        width, rows = maps[1], x.shape[1] * maps[0]
        most = min(rows, max(1, TILE_BYTES // max(1, depth * width * X.itemsize)))
        tile = np.empty(depth * most * width, X.dtype)
        calls: list[Call] = []
        for first in range(0, rows, most):
            last = min(first + most, rows)
            patch = tile[: depth * (last - first) * width].reshape(depth, (last - first) * width)
            arguments = x, first, maps, on_two_axes(window), patch
            calls.append((COMPUTE, patches, arguments))
            calls.append(
                (COMPUTE, np.matmul, (self.weights, patch, product[:, first * width : last * width]))
            )
        return [*calls, finishing]


class Direct:
    """The compiled convolution, with weights in a format of ``weights.packed``."""

    format = "direct"

    def __init__(
        self, window: Window, weights: np.ndarray, weights_dtype: str = EXACT, arena: Arena | None = None
    ) -> None:
        geometry = len(weights), two(window.out), on_two_axes(window), weights.dtype
        self.window, self.by_channels = window, channels_are_faster(*geometry)
        rows = convolution_rows(weights.dtype, self.by_channels)
        self.panels, self.scales = packed(weights, weights_dtype, rows, arena or Arena())

    def scratch(self, columns: int) -> int:
        """See ``Product``."""
        return 0

    def calls(
        self, X: np.ndarray, start: np.ndarray, out: np.ndarray, scratch: Scratch, epilogue: Epilogue
    ) -> list[Call]:
        """See ``Product``."""
        return [self.call_for(Region.whole(two(self.window.out)), X, start, out, epilogue)]

    def call_for(
        self, region: Region, X: np.ndarray, start: np.ndarray, out: np.ndarray, epilogue: Epilogue
    ) -> Call:
        """The call that computes a region of the maps; see ``Product`` for the rest."""
        window, x = self.window, as_maps(X, self.window.positions)
        target = as_maps(out.reshape(len(out), X.shape[1], out.shape[1] // X.shape[1]), window.out)
        first = target if start is out else start.reshape(-1, 1, 1, 1)
        weights = self.panels, self.scales, int(self.by_channels)
        arguments = *weights, x, on_two_axes(window), region, first, target, epilogue
        return COMPUTE, convolve_direct, arguments


def choose(
    window: Window | None,
    block: Block,
    kept: int,
    values: int,
    resources: Resources,
    has_events: bool = False,
) -> Maker:
    """The product for all parts of ``block``; where there are two ways, they are timed, on its own neurons.

    Not those of deterministic programs: BLAS adds up in an order of its own for every shape, and clocks
    decide otherwise next time.

    Args:
        window: of the mixing.
        block: of a worker.
        kept: its weights that are not zero.
        values: per neuron of the target.
        resources: of the program.
        has_events: many values of what it reads may be 0, and all others 1.
    """
    ways = _ways(window, block, kept, values, resources, has_events)
    if window is None or resources.deterministic or len(ways) == 1 or not block.own_weights.size:
        return ways[0]
    # Those that are not chosen leave nothing in the memory of the program.
    trials = _ways(window, block, kept, values, resources._replace(arena=Arena()), has_events)
    seconds = [_seconds(make, window, block, values, resources) for make in trials]
    return ways[int(np.argmin(seconds))]


def _ways(
    window: Window | None, block: Block, kept: int, values: int, resources: Resources, has_events: bool
) -> list[Maker]:
    """The products from which ``choose`` chooses."""
    samples = None if resources.deterministic else resources.max_batch
    weights_dtype = resources.formats.weights_dtype
    if window is not None and window.is_whole_map:
        return [partial(WholeMap, choose_product(block, kept, samples, resources))]
    makers: list[Maker] = []
    if window is None or window.is_pointwise:
        columns = None if samples is None else samples * values
        product = choose_product(block, kept, columns, resources, has_events)
        makers.append(partial(Pointwise, product))
        is_sparse = isinstance(block.own_weights, SparseWeights)
        if window is None or values == 1 or product in SPARSE_PRODUCTS or is_sparse:
            return makers
    makers.append(partial(Direct, window, weights_dtype=weights_dtype, arena=resources.arena))
    # BLAS multiplies numbers only: in fewer bits, patches would need the weights expanded as a whole.
    return [*makers, partial(Patches, window)] if weights_dtype == EXACT else makers


def _seconds(make: Maker, window: Window, block: Block, values: int, resources: Resources) -> float:
    """The least time of a few forwards of the block's own neurons."""
    (rows, columns), dtype, batch = block.own_weights.shape, block.own_weights.dtype, resources.max_batch
    X = np.zeros((columns // window.taps, batch, math.prod(window.positions)), dtype)
    out, product = np.empty((rows, batch * values), dtype), make(block.own_weights)
    scratch = Scratch(dtype, product.scratch(batch * values))
    calls = product.calls(X, block.bias.reshape(-1, 1), out, scratch, NO_ACTIVATION)
    calls = on_threads(calls, resources.threads)
    times = []
    for _ in range(1 + TRIALS):
        began = perf_counter()
        for _, function, arguments in calls:
            function(*arguments)
        times.append(perf_counter() - began)
    return min(times[1:])
