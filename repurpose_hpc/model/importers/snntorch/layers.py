"""Layers of snnTorch, and of PyTorch beside them, as layers of a network."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from repurpose_hpc.errors import Note, UserError
from repurpose_hpc.model.importers.arrays import as_weights
from repurpose_hpc.model.importers.spiking.frames import Frames, same_pads
from repurpose_hpc.model.importers.spiking.trains import Dynamics, Train, Trains, by_map
from repurpose_hpc.model.importers.spiking.unrolled import Back, recurrent
from repurpose_hpc.model.operations.membrane import NONE, SET, SUBTRACT

_RESETS = {"subtract": SUBTRACT, "zero": SET, "none": NONE}
Reader = Callable[[Trains, str, Any, Train], Train]


def make_layer(trains: Trains, name: str, layer: Any, source: Train) -> Train:
    """What a layer makes of ``source``.

    Raises:
        UserError: it is not supported; names what.
    """
    kind = type(layer).__name__
    if kind not in _READERS:
        raise _fault(name, layer, f"expected one of {', '.join(sorted(_READERS))}", "replace it")
    if source.is_flat and kind not in _TAKES_FLAT:
        source = trains.flatten(f"{name}.flat", source)
    return _READERS[kind](trains, name, layer, source)


def is_neuron(layer: Any) -> bool:
    """Whether a layer has neurons."""
    return type(layer).__name__ in _NEURONS


def subtracts_at_once(layer: Any) -> bool:
    """Whether a spike takes the threshold off before the next step."""
    return layer.reset_mechanism == "subtract" and not getattr(layer, "reset_delay", True)


def _fault(name: str, layer: Any, text: str, remedy: str) -> UserError:
    return UserError(f"{name} ({type(layer).__name__}): {text}; {remedy}")


def _array(name: str, tensor: Any) -> np.ndarray:
    return as_weights(tensor.detach().cpu().numpy(), name)


def _weights(name: str, layer: Any) -> tuple[np.ndarray, np.ndarray]:
    weights = _array(f"{name}.weight", layer.weight)
    if layer.bias is None:
        return weights, np.zeros(len(weights), weights.dtype)
    return weights, _array(f"{name}.bias", layer.bias).astype(weights.dtype, copy=False)


def _linear(trains: Trains, name: str, layer: Any, source: Train) -> Train:
    return _dense(trains, name, *_weights(name, layer), source)


def _dense(trains: Trains, name: str, weights: np.ndarray, bias: np.ndarray, source: Train) -> Train:
    if source.frame and not source.is_flat:
        raise UserError(
            f"{name} (Linear): expected values (features,), found maps of shape {source.shape}; put Flatten "
            "before it"
        )
    return trains.dense(name, source, weights, bias)


def _convolution(trains: Trains, name: str, layer: Any, source: Train) -> Train:
    weights, bias = _weights(name, layer)
    if layer.padding_mode != "zeros":
        raise _fault(
            name, layer, f"expected padding_mode zeros, found {layer.padding_mode}", "pad with zeros"
        )
    pads = behind = layer.padding
    if isinstance(pads, str):
        none = (0,) * len(layer.kernel_size)
        pads, behind = same_pads(layer.kernel_size, layer.dilation) if pads == "same" else (none, none)
    sizes = (layer.kernel_size, layer.stride, layer.dilation, pads, behind)
    return trains.convolution(
        name, source, weights, bias, Frames(trains.steps, source.frame, *sizes), layer.groups
    )


def _pool(trains: Trains, name: str, layer: Any, source: Train) -> Train:
    kernel, stride, pads = (_pair(value) for value in (layer.kernel_size, layer.stride, layer.padding))
    if layer.ceil_mode or getattr(layer, "divisor_override", None) or getattr(layer, "return_indices", False):
        fault = "expected no ceil_mode, divisor_override or return_indices, found one of them"
        raise _fault(name, layer, fault, "leave it out")
    if type(layer).__name__ == "MaxPool2d":
        frames = Frames(trains.steps, source.frame, kernel, stride, _pair(layer.dilation), pads)
        return trains.pool(name, source, "max", frames)
    frames = Frames(trains.steps, source.frame, kernel, stride, pads=pads)
    return trains.pool(name, source, "average", frames, layer.count_include_pad and any(pads))


def _pair(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def _flatten(trains: Trains, name: str, layer: Any, source: Train) -> Train:
    if layer.start_dim != 1 or layer.end_dim not in (-1, len(source.shape)):
        found = f"{layer.start_dim} to {layer.end_dim}"
        raise _fault(name, layer, f"expected all axes but that of samples, found axes {found}", "flatten all")
    return source._replace(is_flat=True) if source.frame else source


def _batch_norm(trains: Trains, name: str, layer: Any, source: Train) -> Train:
    if layer.running_mean is None:
        raise _fault(name, layer, "expected running statistics, found none", "track_running_stats=True")
    ones = np.ones(source.neurons)
    scale, shift = (
        ones * other if value is None else _array(f"{name}.{key}", value).astype(np.float64)
        for key, value, other in (("weight", layer.weight, 1), ("bias", layer.bias, 0))
    )
    mean, variance = (
        _array(f"{name}.running", value).astype(np.float64)
        for value in (layer.running_mean, layer.running_var)
    )
    scale = scale / np.sqrt(variance + layer.eps)
    return trains.affine(name, source, scale, shift - mean * scale)


def _nothing(trains: Trains, name: str, layer: Any, source: Train) -> Train:
    return source


def _neurons(trains: Trains, name: str, layer: Any, source: Train) -> Train:
    _refuse_extras(name, layer)
    dynamics = _dynamics(name, layer, source.shape)
    factor = _per_value(name, layer, "graded_spikes_factor", source.shape)
    if not hasattr(layer, "recurrent"):
        spikes = trains.neurons(name, source, dynamics)
        if (factor == 1).all():
            return spikes
        return trains.affine(f"{name}.graded", spikes, factor, np.zeros_like(factor))
    if (factor != 1).any():
        raise _fault(
            name, layer, "expected spikes of 1, as they come back, found other sizes", "leave that out"
        )
    return recurrent(trains, name, source, dynamics, _way_back(name, layer, source.shape))


def _refuse_extras(name: str, layer: Any) -> None:
    if layer.inhibition:
        raise _fault(
            name, layer, "expected neurons that fire by themselves, found inhibition=True", "set it False"
        )
    if layer.state_quant:
        raise _fault(name, layer, "expected states as they are, found state_quant", "set it False")
    kind, is_delayed = layer.reset_mechanism, getattr(layer, "reset_delay", True)
    if kind == "zero" and is_delayed and type(layer).__name__ != "Leaky":
        raise _fault(
            name,
            layer,
            'expected another reset than "zero" in the step after a spike, where snnTorch drops the input of '
            "that step as well",
            'give it reset_delay=False or reset_mechanism="subtract"',
        )
    if subtracts_at_once(layer):
        warnings.warn(
            f"{name}: reset_delay=False: snnTorch fires above twice the threshold, not above the threshold, "
            "where the potential was still above it after the last spike; here it is always the threshold",
            Note,
            stacklevel=2,
        )


def _dynamics(name: str, layer: Any, shape: tuple[int, ...]) -> Dynamics:
    def values(key: str) -> np.ndarray:
        return _per_value(name, layer, key, shape)

    ones, zeros = np.ones((shape[0], 1)), np.zeros((shape[0], 1))
    resistance, synapse = ones, zeros
    if type(layer).__name__ == "Lapicque":
        decay = 1 - values("time_step") / (values("R") * values("C"))
        resistance = values("R") * (1 / (values("R") * values("C"))) * values("time_step")
    else:
        decay = values("beta").clip(0, 1)
    if hasattr(layer, "alpha"):
        synapse = values("alpha").clip(0, 1)
    threshold, reset = values("threshold"), _RESETS[layer.reset_mechanism]
    reset_value = zeros if reset == SET else threshold
    is_delayed = getattr(layer, "reset_delay", True)
    return Dynamics(decay, resistance, synapse, threshold, reset_value, zeros, reset, is_delayed)


def _per_value(name: str, layer: Any, key: str, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter as PyTorch spreads it, float64: (n, 1), or (n, positions) where it differs within a map."""
    array = np.asarray(getattr(layer, key).detach().cpu().numpy(), np.float64)
    try:
        spread = np.broadcast_to(array, shape).reshape(shape[0], -1)
    except ValueError:
        raise _fault(
            name,
            layer,
            f"expected {key} for values of shape {shape}, found shape {array.shape}",
            "give others",
        ) from None
    if not np.isfinite(spread).all():
        raise _fault(name, layer, f"expected finite {key}, found NaN or infinity", "mend it")
    return by_map(spread)


def _way_back(name: str, layer: Any, shape: tuple[int, ...]) -> Back:
    """The way from spikes to the next step."""
    inner = layer.recurrent
    if type(inner).__name__ == "Linear":
        weights, bias = _weights(f"{name}.recurrent", inner)
        return lambda single, ending, spikes: _dense(
            single, f"{name}.recurrent{ending}", weights, bias, spikes
        )
    if type(inner).__name__ == "Conv2d":
        return lambda single, ending, spikes: _convolution(single, f"{name}.recurrent{ending}", inner, spikes)
    scale = _per_value(name, inner, "V", shape)
    zeros = np.zeros_like(scale)
    return lambda single, ending, spikes: single.affine(f"{name}.recurrent{ending}", spikes, scale, zeros)


_NEURONS = ("Leaky", "Synaptic", "Lapicque", "RLeaky", "RSynaptic")
_IGNORED = ("Dropout", "Dropout1d", "Dropout2d", "Identity")
_READERS: dict[str, Reader] = {
    "Linear": _linear,
    "Conv1d": _convolution,
    "Conv2d": _convolution,
    "AvgPool2d": _pool,
    "MaxPool2d": _pool,
    "Flatten": _flatten,
    "BatchNorm1d": _batch_norm,
    "BatchNorm2d": _batch_norm,
    **dict.fromkeys(_IGNORED, _nothing),
    **dict.fromkeys(_NEURONS, _neurons),
}
_TAKES_FLAT = ("Linear", "Flatten", *_IGNORED)
