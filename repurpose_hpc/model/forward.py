"""The plain NumPy forward pass that every parallel result is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import reduce

import numpy as np

from repurpose_hpc.model.activations import activate
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

# Values of all tensors together that a forward pass keeps at a time.
_CHUNK = 1 << 26

# Computes the target of an operation from its sources, as ``compute`` does.
Compute = Callable[..., np.ndarray]


def compute(op: Operation, *x: np.ndarray) -> np.ndarray:
    """The target of an operation from its sources, each (neurons, batch) or (neurons, batch, positions)."""
    return _FUNCTIONS[type(op)](op, *x)


def forward(
    network: Network, x: np.ndarray, dtype: type = np.float64, compute: Compute = compute
) -> np.ndarray:
    """The network's outputs.

    Args:
        network: any network.
        x: samples, shape (samples, inputs).
        dtype: in which to compute.
        compute: of every operation.

    Returns:
        shape (samples, outputs), ``dtype``, the heads applied.
    """
    step = max(1, _CHUNK // values_per_sample(network))
    parts = [
        outputs(network, trace(network, np.asarray(x[first : first + step], dtype).T, compute=compute))
        for first in range(0, len(x), step)
    ]
    return apply_heads(network, np.ascontiguousarray(np.concatenate(parts, axis=1).T))


def values_per_sample(network: Network) -> int:
    """Values of all tensors and of the largest set of patches of a mixing, for one sample."""
    patches = (
        network.size(mixing.source)
        // network.values(mixing.source)
        * mixing.taps
        * network.values(mixing.target)
        for mixing in network.mixings
    )
    return sum(map(network.size, network.space_of)) + max(patches, default=0)


# Of patches that are multiplied at a time.
TILE_BYTES = 1 << 23


def trace(
    network: Network, x: np.ndarray, last: str | None = None, compute: Compute = compute
) -> dict[str, np.ndarray]:
    """Every tensor of a forward pass, in the dtype of ``x``, the heads not applied.

    Args:
        network: any network.
        x: samples, shape (inputs, samples).
        last: the tensor after which to stop; None: the outputs.
        compute: of every operation.

    Returns:
        name -> (neurons, samples) or (neurons, samples, positions).
    """
    tensors = split_inputs(network, x)
    for op in network.operations:
        if last in tensors:
            break
        tensors[op.target] = compute(op, *(tensors[source] for source in op.sources))
    return tensors


def split_inputs(network: Network, x: np.ndarray) -> dict[str, np.ndarray]:
    """The input tensors from samples (inputs, samples)."""
    return dict(zip(network.input_tensors, split_values(network, network.input_tensors, x), strict=True))


def split_values(network: Network, names: tuple[str, ...], values: np.ndarray) -> list[np.ndarray]:
    """The tensors ``names`` from their values, one after the other, (values, samples)."""
    tensors, first = [], 0
    for name in names:
        rows = values[first : first + network.size(name)]
        first += len(rows)
        if network.positions_of[name]:
            rows = rows.reshape(-1, network.values(name), values.shape[1]).transpose(0, 2, 1)
        tensors.append(rows)
    return tensors


def outputs(network: Network, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """The values of all outputs, (outputs, samples), from a trace."""
    parts = [tensors[name] for name in network.output_tensors]
    flat = [part if part.ndim == 2 else part.transpose(0, 2, 1).reshape(-1, part.shape[1]) for part in parts]
    return flat[0] if len(flat) == 1 else np.concatenate(flat)


def mix(mixing: Mixing, x: np.ndarray) -> np.ndarray:
    """W x + b, in the dtype of ``x``: (m, batch) or (m, batch, positions)."""
    W, b = (array.astype(x.dtype, copy=False) for array in (mixing.weights, mixing.bias))
    if mixing.window is None:
        return W @ x + b[:, None]
    y = np.empty((len(W), x.shape[1], math.prod(mixing.window.out)), x.dtype)
    # A few samples at a time, so that their patches stay in the cache.
    step = max(1, TILE_BYTES // (W.shape[1] * y.shape[2] * x.itemsize))
    for first in range(0, x.shape[1], step):
        seen = x[:, first : first + step]
        part = W @ patches(mixing.window, seen) + b[:, None]
        y[:, first : first + step] = part.reshape(len(W), seen.shape[1], -1)
    return _from_map(y)


def patches(window: Window | None, x: np.ndarray) -> np.ndarray:
    """What the weights of a mixing are multiplied by, (n k, batch · positions out): column by column."""
    if window is None:
        return x
    if window.is_pointwise:
        return x.reshape(len(x), -1)
    if window.is_whole_map:
        return as_map(x).transpose(0, 2, 1).reshape(-1, x.shape[1])
    entries = np.empty((len(x), window.taps, x.shape[1], *window.out), x.dtype)
    for tap, values in enumerate(tap_views(window, pad(window, x, 0))):
        entries[:, tap] = values
    return entries.reshape(len(x) * window.taps, -1)


def patches_at(window: Window, x: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Some columns of ``patches``, (n k, batch · s): of each sample those of positions ``at``, (batch, s)."""
    x = as_map(x)
    padded = np.concatenate([x, np.zeros((*x.shape[:2], 1), x.dtype)], axis=2)
    # Index -1 is the last, the padding.
    entries = padded[:, np.arange(len(at))[:, None, None], window.indices()[at]]
    return entries.transpose(0, 3, 1, 2).reshape(len(x) * window.taps, -1)


def pad(window: Window, x: np.ndarray, value: float) -> np.ndarray:
    """x with ``value`` around its maps, as far as windows reach: (n, batch, *padded)."""
    padded = np.full((*x.shape[:2], *_padded(window)), value, x.dtype)
    unpadded(window, padded)[...] = x.reshape(*x.shape[:2], *window.positions)
    return padded


def unpadded(window: Window, padded: np.ndarray) -> np.ndarray:
    """The maps inside of what ``pad`` returns, a view (n, batch, *positions)."""
    inside = (slice(first, first + size) for first, size in zip(window.pads, window.positions, strict=True))
    return padded[(..., *inside)]


def tap_views(window: Window, padded: np.ndarray) -> Iterator[np.ndarray]:
    """For every entry of the kernel, what it meets in each window: views (n, batch, *out) of padded maps."""
    for entry in np.ndindex(*window.kernel):
        firsts = (at * dilation for at, dilation in zip(entry, window.dilations, strict=True))
        steps = zip(firsts, window.strides, window.out, strict=True)
        yield padded[(..., *(slice(first, first + (out - 1) * step + 1, step) for first, step, out in steps))]


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


def _from_map(x: np.ndarray) -> np.ndarray:
    """(neurons, batch, positions) from (neurons, batch, *out); a map of a single position as a vector."""
    x = x.reshape(*x.shape[:2], -1)
    return x if x.shape[2] > 1 else x[:, :, 0]


def _elementwise(op: Elementwise, x: np.ndarray) -> np.ndarray:
    return activate(op.activation, x)


def _affine(op: Affine, x: np.ndarray) -> np.ndarray:
    scale, shift = (array.astype(x.dtype, copy=False) for array in (op.scale, op.shift))
    return x * scale + shift if x.ndim == 2 else x * scale[:, None] + shift[:, None]


def _pool(op: Pool, x: np.ndarray) -> np.ndarray:
    if op.kind == "max":
        return _from_map(reduce(np.maximum, tap_views(op.window, pad(op.window, x, -np.inf))))
    total = sum(tap_views(op.window, pad(op.window, x, 0)))
    return _from_map(total / window_counts(op).astype(x.dtype).reshape(op.window.out))


def window_counts(op: Pool) -> np.ndarray:
    """How many entries of each window count in its mean, (positions out,)."""
    window = op.window
    if not op.count_padding:
        return (window.indices() >= 0).sum(axis=1)
    counts = np.ones(1, np.int64)
    for kernel, stride, dilation, pad, out, extent in zip(
        window.kernel, window.strides, window.dilations, window.pads, window.out, op.extent, strict=True
    ):
        at = np.arange(out)[:, None] * stride + np.arange(kernel) * dilation - pad
        counts = np.outer(counts, (at < extent).sum(axis=1)).ravel()
    return counts


def _depthwise(op: Depthwise, x: np.ndarray) -> np.ndarray:
    weights, bias = (array.astype(x.dtype, copy=False) for array in (op.weights, op.bias))
    shape = -1, *(1,) * (1 + len(op.window.out))
    views = tap_views(op.window, pad(op.window, x, 0))
    total = sum(weights[:, tap].reshape(shape) * view for tap, view in enumerate(views))
    return _from_map(total + bias.reshape(shape))


def _rearrange(op: Rearrange, x: np.ndarray) -> np.ndarray:
    x = as_map(x)
    padded = np.concatenate([x, np.full((*x.shape[:2], 1), op.fill, x.dtype)], axis=2)
    return _from_map(padded.take(op.index, axis=2))


def _combine(op: Combine, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    if left.ndim != right.ndim:
        left, right = as_map(left), as_map(right)
    return _COMBINATIONS[op.kind](left, right)


def _select(op: Select, *x: np.ndarray) -> np.ndarray:
    return np.concatenate(x)[op.index]


_COMBINATIONS: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
}

_FUNCTIONS: dict[type, Callable[..., np.ndarray]] = {
    Mixing: mix,
    Elementwise: _elementwise,
    Affine: _affine,
    Pool: _pool,
    Depthwise: _depthwise,
    Rearrange: _rearrange,
    Combine: _combine,
    Select: _select,
}


def apply_heads(network: Network, y: np.ndarray) -> np.ndarray:
    """The head of every output on its values: y (samples, outputs)."""
    if set(network.heads) == {"identity"}:
        return y
    ends = np.cumsum([network.size(name) for name in network.output_tensors])[:-1]
    parts = np.split(y, ends, axis=1)
    return np.hstack([apply_head(head, part) for head, part in zip(network.heads, parts, strict=True)])


def apply_head(head: str, y: np.ndarray) -> np.ndarray:
    """Softmax or its logarithm over the last axis of ``y`` (samples, outputs), or ``y`` itself."""
    if head == "identity":
        return y
    shifted = y - y.max(axis=-1, keepdims=True)
    if head == "softmax":
        exponentials = np.exp(shifted)
        return exponentials / exponentials.sum(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
