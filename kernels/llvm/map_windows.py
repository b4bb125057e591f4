"""Windows of single maps: a few rows of outputs by a vector of columns at a time, finished in registers.

What windows see is read where it lies.  Lanes beyond the columns of a map are masked, and rows beyond it are
read from a row of numbers that change nothing.  So there is no copy with a border, and every output is
written once.  A row that several rows of outputs see is loaded once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import types
from numba.extending import overload

from ..arguments import Pair
from .intrinsics import intrinsic
from .map_emitters import Emitter, FilterEmitter, LargestEmitter, MeanEmitter
from .map_view import View


def filter_maps(
    view: View, maps: Pair, taps: np.ndarray, start: np.ndarray, source: np.ndarray, out: np.ndarray
) -> None:
    """Outputs = start + Σ_k taps[k] · what they see with entry k of their window.

    Args:
        view: of every map.
        maps: the first, and the one behind the last.
        taps: (n, kh, kw), of neurons.
        start: of neurons, n numbers.
        source: (n, batch, H, W).
        out: (n, batch, OH, OW).
    """
    neurons = np.arange(*maps) // view.batch
    taps, start = taps.reshape(len(taps), -1)[neurons], start.reshape(-1)[neurons]
    _outputs(view, maps, out)[:] = start[:, None, None] + np.einsum(
        "mk,mpqk->mpq", taps, _seen(view, maps, source)
    )


def largest_of_maps(view: View, maps: Pair, source: np.ndarray, out: np.ndarray) -> None:
    """Outputs = the largest number that they see, NaN if there is one; otherwise as ``filter_maps``."""
    _outputs(view, maps, out)[:] = _seen(view, maps, source).max(-1)


def mean_of_maps(view: View, maps: Pair, shares: np.ndarray, source: np.ndarray, out: np.ndarray) -> None:
    """Outputs = the sum of what they see times their share, of OH · OW; otherwise as ``filter_maps``."""
    _outputs(view, maps, out)[:] = _seen(view, maps, source).sum(-1) * shares.reshape(view.out_shape)


def _outputs(view: View, maps: Pair, out: np.ndarray) -> np.ndarray:
    return out.reshape(-1, *view.out_shape)[slice(*maps)]


def _seen(view: View, maps: Pair, source: np.ndarray) -> np.ndarray:
    """What every output sees, (maps, OH, OW, kh · kw)."""
    kernel, strides, dilations, pads = view.window
    x = source.reshape(-1, *view.shape)[slice(*maps)]
    result = np.full((len(x), *view.out_shape, kernel[0] * kernel[1]), view.border[0], x.dtype)
    for k, taps in enumerate(np.ndindex(*kernel)):
        rows, columns = (
            np.arange(count) * stride + tap * dilation - pad
            for count, stride, tap, dilation, pad in zip(
                view.out_shape, strides, taps, dilations, pads, strict=True
            )
        )
        down, across = (
            np.flatnonzero((each >= 0) & (each < size))
            for each, size in zip((rows, columns), view.shape, strict=True)
        )
        result[:, down[:, None], across, k] = x[:, rows[down][:, None], columns[across]]
    return result


@overload(filter_maps)
def _filter_maps(view, maps, taps, start, source, out):
    return lambda view, maps, taps, start, source, out: _filter(view, maps, taps, start, source, out)


@overload(largest_of_maps)
def _largest_of_maps(view, maps, source, out):
    return lambda view, maps, source, out: _largest(view, maps, source, out)


@overload(mean_of_maps)
def _mean_of_maps(view, maps, shares, source, out):
    return lambda view, maps, shares, source, out: _mean(view, maps, shares, source, out)


@intrinsic
def _filter(typing, view, maps, taps, start, source, out):
    return types.void(view, maps, taps, start, source, out), _generator(FilterEmitter)


@intrinsic
def _largest(typing, view, maps, source, out):
    return types.void(view, maps, source, out), _generator(LargestEmitter)


@intrinsic
def _mean(typing, view, maps, shares, source, out):
    return types.void(view, maps, shares, source, out), _generator(MeanEmitter)


def _generator(emitter: type[Emitter]) -> Callable:
    def generate(context, builder, signature, arguments):
        emitter(context, builder, signature.args, arguments).emit()
        return context.get_dummy_value()

    return generate
