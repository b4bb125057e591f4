"""Views and copies of maps through windows, for convolutions and pooling."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from types import EllipsisType

import numpy as np

from repurpose_hpc.model.operations.window import Window


def patches(window: Window | None, x: np.ndarray) -> np.ndarray:
    """Columns that the weights of a mixing are multiplied by, (n k, batch · positions out)."""
    if window is None:
        return x
    if window.is_pointwise:
        return as_columns(x)
    if window.is_whole_map:
        return as_map(x).transpose(0, 2, 1).reshape(len(x) * window.taps, x.shape[1])
    entries = np.empty((len(x), window.taps, x.shape[1], *window.out), x.dtype)
    for tap, values in enumerate(tap_views(window, pad(window, x, 0))):
        entries[:, tap] = values
    return entries.reshape(len(x) * window.taps, x.shape[1] * math.prod(window.out))


def patches_at(window: Window, x: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Some columns of ``patches``, (n k, batch · s): of each sample those of ``positions``, (batch, s)."""
    x = as_map(x)
    padded = np.concatenate([x, np.zeros((*x.shape[:2], 1), x.dtype)], axis=2)
    # Index -1 is the last, the padding.
    entries = padded[:, np.arange(len(positions))[:, None, None], window.indices()[positions]]
    return entries.transpose(0, 3, 1, 2).reshape(len(x) * window.taps, -1)


def spread(window: Window, x: np.ndarray, values: Callable[[int], np.ndarray]) -> np.ndarray:
    """A gradient of the shape of x: ``values(tap)`` is added to what entry ``tap`` of every window meets.

    Args:
        window: of the operation.
        x: its source.
        values: entry of the kernel -> an array of n · batch · positions out values.
    """
    padded = pad(window, np.zeros_like(x), 0)
    for tap, view in enumerate(tap_views(window, padded)):
        view += values(tap).reshape(view.shape)
    return unpadded(window, padded).reshape(x.shape)


def pad(window: Window, x: np.ndarray, value: float) -> np.ndarray:
    """x with ``value`` around its maps, as far as windows reach: (n, batch, *padded)."""
    padded = np.full((*x.shape[:2], *_padded(window)), value, x.dtype)
    unpadded(window, padded)[...] = x.reshape(*x.shape[:2], *window.positions)
    return padded


def unpadded(window: Window, padded: np.ndarray) -> np.ndarray:
    """The maps inside of what ``pad`` returns, a view (n, batch, *positions)."""
    bounds = zip(window.pads, window.positions, strict=True)
    return padded[_of_axes(slice(first, first + size) for first, size in bounds)]


def tap_views(window: Window, padded: np.ndarray) -> Iterator[np.ndarray]:
    """Values that every entry of the kernel meets in each window: views (n, batch, *out) of padded maps."""
    for entry in np.ndindex(*window.kernel):
        firsts = (offset * dilation for offset, dilation in zip(entry, window.dilations, strict=True))
        steps = zip(firsts, window.strides, window.out, strict=True)
        yield padded[
            _of_axes(slice(offset, offset + (out - 1) * step + 1, step) for offset, step, out in steps)
        ]


def _of_axes(slices: Iterable[slice]) -> tuple[EllipsisType | slice, ...]:
    """An index of the last axes of an array."""
    return (..., *slices)


def _padded(window: Window) -> list[int]:
    """Size of a padded map along each axis."""
    return [
        max(front + size, (out - 1) * stride + (kernel - 1) * dilation + 1)
        for size, kernel, stride, dilation, front, out in zip(
            window.positions,
            window.kernel,
            window.strides,
            window.dilations,
            window.pads,
            window.out,
            strict=True,
        )
    ]


def as_map(x: np.ndarray) -> np.ndarray:
    """(neurons, batch, positions) also for a vector."""
    return x if x.ndim == 3 else x[:, :, None]


def as_columns(x: np.ndarray) -> np.ndarray:
    """(neurons, batch · positions), also of no neurons."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


def split(x: np.ndarray, parts: int) -> np.ndarray:
    """(parts, neurons of each, ...) from (neurons, ...), also of no parts."""
    return x.reshape(parts, len(x) // max(parts, 1), *x.shape[1:])


def joined(heads: np.ndarray) -> np.ndarray:
    """(heads, batch, neurons of a head, positions) as (neurons, batch, positions)."""
    by_neuron = heads.swapaxes(1, 2)
    return by_neuron.reshape(len(by_neuron) * by_neuron.shape[1], *by_neuron.shape[2:])


def from_map(x: np.ndarray) -> np.ndarray:
    """(neurons, batch, positions) from (neurons, batch, *out); a map of a single position as a vector."""
    x = x.reshape(*x.shape[:2], math.prod(x.shape[2:]))
    return x if x.shape[2] > 1 else x[:, :, 0]


def add_up(g: np.ndarray, index: np.ndarray, size: int, axis: int) -> np.ndarray:
    """The sums of all entries of g along ``axis`` with the same ``index``, in 0 .. size - 1."""
    total = np.zeros((*g.shape[:axis], size, *g.shape[axis + 1 :]), g.dtype)
    if index.size:
        order = np.argsort(index, kind="stable")
        places, first = np.unique(index[order], return_index=True)
        total[(slice(None),) * axis + (places,)] = np.add.reduceat(g.take(order, axis), first, axis)
    return total
