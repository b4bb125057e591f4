"""Derivatives of the output by every tensor, traced back through the graph in plain NumPy.

What is traced is gᵀ output, for one g per sample: the vector-Jacobian products of all operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from repurpose_hpc.model.activations import derivative
from repurpose_hpc.model.forward import as_map, pad, split_values, tap_views, unpadded, window_counts
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import (
    Affine,
    Combine,
    Depthwise,
    Elementwise,
    Mixing,
    Operation,
    Pool,
    Rearrange,
    Select,
    Window,
)

# What a function is given, and gives back for every source.
Tensors = list[np.ndarray]


def backpropagate(
    network: Network, tensors: dict[str, np.ndarray], g: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """The gradient of gᵀ output, heads not applied, by the target of every mixing.

    Args:
        network: any network.
        tensors: all of a forward pass, see ``reference.trace``.
        g: for the values of all outputs, see ``reference.outputs``: (outputs, batch).

    Yields:
        name of the mixing and the gradient, of the shape of its target; the last mixing first.  Where
        a function has no derivative, it is that of one side.
    """
    gradients: dict[str, np.ndarray] = {}
    for name, each in zip(
        network.output_tensors, split_values(network, network.output_tensors, g), strict=True
    ):
        _add(gradients, name, each)
    wanted = _behind_mixings(network)
    for op in reversed(network.operations):
        gradient = gradients.pop(op.target, None)
        if gradient is None:
            continue
        if isinstance(op, Mixing):
            yield op.name, gradient
        if wanted.isdisjoint(op.sources):
            continue
        sources = [tensors[source] for source in op.sources]
        for source, each in zip(
            op.sources, _FUNCTIONS[type(op)](op, gradient, tensors[op.target], *sources), strict=True
        ):
            if source in wanted:
                _add(gradients, source, each)


def _behind_mixings(network: Network) -> set[str]:
    """The tensors that depend on the target of any mixing."""
    behind: set[str] = set()
    for op in network.operations:
        if isinstance(op, Mixing) or not behind.isdisjoint(op.sources):
            behind.add(op.target)
    return behind


def _add(gradients: dict[str, np.ndarray], name: str, gradient: np.ndarray) -> None:
    gradients[name] = gradients[name] + gradient if name in gradients else gradient


def _mixing(op: Mixing, g: np.ndarray, _: np.ndarray, x: np.ndarray) -> Tensors:
    W = op.weights.astype(g.dtype, copy=False)
    if op.window is None:
        return [W.T @ g]
    columns = g.reshape(len(g), -1)
    if op.window.is_pointwise:
        return [(W.T @ columns).reshape(x.shape)]
    taps = op.window.taps
    return [_spread(op.window, x, lambda tap: W[:, tap::taps].T @ columns)]


def _spread(window: Window, x: np.ndarray, values: Callable[[int], np.ndarray]) -> np.ndarray:
    """A gradient of the shape of x: to what entry ``tap`` of every window meets, ``values(tap)`` is added.

    Args:
        window: of the operation.
        x: its source.
        values: entry of the kernel -> an array of n · batch · positions out values.
    """
    padded = pad(window, np.zeros_like(x), 0)
    for tap, view in enumerate(tap_views(window, padded)):
        view += values(tap).reshape(view.shape)
    return unpadded(window, padded).reshape(x.shape)


def _elementwise(op: Elementwise, g: np.ndarray, _: np.ndarray, x: np.ndarray) -> Tensors:
    return [derivative(op.activation, x) * g]


def _affine(op: Affine, g: np.ndarray, _: np.ndarray, x: np.ndarray) -> Tensors:
    scale = op.scale.astype(g.dtype, copy=False)
    return [g * (scale if g.ndim == 2 else scale[:, None])]


def _pool(op: Pool, g: np.ndarray, y: np.ndarray, x: np.ndarray) -> Tensors:
    g = as_map(g)
    if op.kind == "average":
        share = g / window_counts(op)
        return [_spread(op.window, x, lambda tap: share)]
    largest = _first_largest(op.window, x, as_map(y))
    return [_spread(op.window, x, lambda tap: np.where(largest == tap, g, 0))]


def _first_largest(window: Window, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The first entry of every window that is as large as its maximum y, (n, batch, positions out)."""
    largest = np.full(y.shape, window.taps, np.int32)
    for tap, view in enumerate(tap_views(window, pad(window, x, -np.inf))):
        np.minimum(largest, tap, out=largest, where=view.reshape(y.shape) == y)
    return largest


def _depthwise(op: Depthwise, g: np.ndarray, _: np.ndarray, x: np.ndarray) -> Tensors:
    g, weights = as_map(g), op.weights.astype(g.dtype, copy=False)
    return [_spread(op.window, x, lambda tap: weights[:, tap, None, None] * g)]


def _rearrange(op: Rearrange, g: np.ndarray, _: np.ndarray, x: np.ndarray) -> Tensors:
    read = np.flatnonzero(op.index >= 0)
    moved = _gather(as_map(g).take(read, axis=2), op.index[read], as_map(x).shape[2], axis=2)
    return [moved.reshape(x.shape)]


def _combine(op: Combine, g: np.ndarray, _: np.ndarray, left: np.ndarray, right: np.ndarray) -> Tensors:
    shapes = left.shape, right.shape
    if left.ndim != right.ndim:
        left, right = as_map(left), as_map(right)
    slopes = _SLOPES[op.kind](left, right)
    return [
        (slope * g).sum(axis=2) if len(shape) < g.ndim else slope * g
        for slope, shape in zip(slopes, shapes, strict=True)
    ]


def _select(op: Select, g: np.ndarray, _: np.ndarray, *x: np.ndarray) -> Tensors:
    ends = np.cumsum([len(each) for each in x])
    return np.split(_gather(g, op.index, ends[-1], axis=0), ends[:-1])


def _gather(g: np.ndarray, index: np.ndarray, size: int, axis: int) -> np.ndarray:
    """The sums of all entries of g along ``axis`` with the same ``index``, in 0 .. size - 1."""
    total = np.zeros((*g.shape[:axis], size, *g.shape[axis + 1 :]), g.dtype)
    if index.size:
        order = np.argsort(index, kind="stable")
        found, first = np.unique(index[order], return_index=True)
        place = (slice(None),) * axis + (found,)
        total[place] = np.add.reduceat(g.take(order, axis), first, axis)
    return total


# By left and right.
_SLOPES: dict[str, Callable[[np.ndarray, np.ndarray], tuple]] = {
    "add": lambda left, right: (1, 1),
    "subtract": lambda left, right: (1, -1),
    "multiply": lambda left, right: (right, left),
    "divide": lambda left, right: (1 / right, -left / right**2),
    "maximum": lambda left, right: (left >= right, left < right),
    "minimum": lambda left, right: (left <= right, left > right),
}

_FUNCTIONS: dict[type[Operation], Callable[..., Tensors]] = {
    Mixing: _mixing,
    Elementwise: _elementwise,
    Affine: _affine,
    Pool: _pool,
    Depthwise: _depthwise,
    Rearrange: _rearrange,
    Combine: _combine,
    Select: _select,
}
