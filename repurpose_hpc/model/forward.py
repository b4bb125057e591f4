"""The plain NumPy forward pass that every parallel result is compared with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Operation
from repurpose_hpc.model.operations.patches import patches, patches_at

__all__ = [
    "Compute",
    "apply_head",
    "apply_heads",
    "compute",
    "flat",
    "forward",
    "forward_middle",
    "joined_values",
    "outputs",
    "patches",
    "patches_at",
    "split_inputs",
    "split_values",
    "trace",
    "values_per_sample",
]

# Values of all tensors together that a forward pass keeps at a time.
_CHUNK = 1 << 26

# Computes the target of an operation from its sources, as ``compute`` does.
Compute = Callable[..., np.ndarray]


def compute(op: Operation, *x: np.ndarray) -> np.ndarray:
    """The target of an operation from its sources, each (neurons, batch) or (neurons, batch, positions)."""
    return op.compute(*x)


def forward(
    network: Network, x: np.ndarray, dtype: type = np.float64, compute: Compute = compute
) -> np.ndarray:
    """The outputs of the model: those of the network, between its ends.

    Args:
        network: any network of samples.
        x: samples as the model takes them, (samples, ...).
        dtype: in which to compute the network; its ends have their own.
        compute: of every operation.

    Returns:
        shape (samples, outputs), the heads applied; ``dtype``, or where there is a back, that of
        ``Ends.packed``.

    Raises:
        UserError: the front refuses a value, or it is a network of tokens.
    """
    network.check_samples()
    if not network.ends:
        return forward_middle(network, np.reshape(x, (len(x), -1)), dtype, compute)
    samples = network.ends.feed(Samples.of(x), network.input_shape)
    step = max(1, _CHUNK // values_per_sample(network))
    parts = [
        network.ends.packed(forward_middle(network, batch, dtype, compute))
        for batch in samples.batches(step, dtype=dtype)
    ]
    return np.concatenate(parts)


def forward_middle(
    network: Network, x: np.ndarray, dtype: type = np.float64, compute: Compute = compute
) -> np.ndarray:
    """The network's outputs, without the ends of its model.

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
    """Inputs or outputs from their values in samples, one after the other, (values, samples)."""
    tensors, first = [], 0
    for name in names:
        rows = values[first : first + network.size(name)]
        first += len(rows)
        if network.positions_of[name]:
            maps = rows.reshape(*network.layout(name), -1)
            maps = np.moveaxis(maps, network.neuron_axes.get(name, 0), 0)
            rows = maps.reshape(len(maps), network.values(name), -1).transpose(0, 2, 1)
        tensors.append(rows)
    return tensors


def outputs(network: Network, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """The values of all outputs, (outputs, samples), from a trace."""
    parts = [joined_values(network, name, tensors[name]) for name in network.output_tensors]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def joined_values(network: Network, name: str, tensor: np.ndarray) -> np.ndarray:
    """The values of an output as a sample has them, (values, batch); see ``split_values``."""
    if name not in network.neuron_axes:
        return flat(tensor)
    layout, axis = network.layout(name), network.neuron_axes[name]
    neurons_first = (layout[axis], *layout[:axis], *layout[axis + 1 :])
    maps = flat(tensor).reshape(*neurons_first, tensor.shape[1])
    return np.moveaxis(maps, 0, axis).reshape(-1, tensor.shape[1])


def flat(tensor: np.ndarray) -> np.ndarray:
    """A tensor, (neurons, batch) or (neurons, batch, positions), as (values, batch), neuron-major."""
    return tensor if tensor.ndim == 2 else tensor.transpose(0, 2, 1).reshape(-1, tensor.shape[1])


def apply_heads(network: Network, y: np.ndarray) -> np.ndarray:
    """The head of every output on its values: y (samples, outputs)."""
    if set(network.heads) == {"identity"}:
        return y
    if network.ends.one_by_one and len(y) > 1:
        return np.concatenate([apply_heads(network, y[row : row + 1]) for row in range(len(y))])
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
