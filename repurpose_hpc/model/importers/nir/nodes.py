"""Layers of nodes of ``.nir`` files that have no state."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from repurpose_hpc.model.importers.nir.neurons import NEURONS, dynamics_of
from repurpose_hpc.model.importers.nir.options import Rules
from repurpose_hpc.model.importers.nir.parameters import Parameters
from repurpose_hpc.model.importers.spiking.frames import Frames, same_pads
from repurpose_hpc.model.importers.spiking.trains import Train, Trains
from repurpose_hpc.model.registry import entered

Reader = Callable[[Trains, Parameters, Train, Rules], Train]
# By type of node; filled by ``reads``.
READERS: dict[str, Reader] = {}
DENSE, FLATTEN = ("Affine", "Linear"), "Flatten"
# Those to which the values of a map may come one after the other.
TAKES_FLAT = (*DENSE, FLATTEN, "Identity", "Output")


def reads(*kinds: str) -> Callable[[Reader], Reader]:
    """Enter a function as the reader of some types of nodes."""
    return entered(READERS, *kinds)


def read_node(trains: Trains, node: Parameters, source: Train, rules: Rules) -> Train:
    """The layer of a node.

    Raises:
        UserError: its type or its parameters are not supported.
    """
    kind = node.node.kind
    if kind not in READERS:
        raise node.fault(
            f"expected one of the types {', '.join(sorted(READERS))}", "replace it, and export again"
        )
    if source.is_flat and kind not in TAKES_FLAT:
        source = trains.flatten(f"{node.layer}.flat", source)
    return READERS[kind](trains, node, source, rules)


@reads(*NEURONS)
def _neurons(trains: Trains, node: Parameters, source: Train, rules: Rules) -> Train:
    return trains.neurons(node.layer, source, dynamics_of(node, rules, source.shape))


@reads("Identity", "Output")
def _identity(trains: Trains, node: Parameters, source: Train, rules: Rules) -> Train:
    return source


@reads(*DENSE)
def _dense(trains: Trains, node: Parameters, source: Train, rules: Rules) -> Train:
    W = node.weights(2)
    is_flat = source.is_flat or sum(size > 1 for size in source.shape) <= 1
    if W.shape[1] != source.size or not is_flat:
        raise node.fault(
            f"expected weights (outputs, {source.size}) for values of shape {source.shape}, flat, found "
            f"shape {W.shape}",
            "put Flatten before it, or mend the weights",
        )
    return trains.dense(node.layer, source, W, node.bias(W))


@reads("Scale")
def _scale(trains: Trains, node: Parameters, source: Train, rules: Rules) -> Train:
    scale = node.numbers("scale")
    if scale.size == 1:
        scale = np.full(source.shape[0], scale.item(), scale.dtype)
    elif scale.shape not in (source.shape, (*source.shape[:1], *(1,) * (len(source.shape) - 1))):
        raise node.fault(f"expected a scale for values of shape {source.shape}, found shape {scale.shape}")
    scale = scale.reshape(len(scale), -1)
    return trains.affine(node.layer, source, scale, np.zeros_like(scale))


@reads("Threshold")
def _threshold(trains: Trains, node: Parameters, source: Train, rules: Rules) -> Train:
    return trains.step_function(node.layer, source, node.per_value("threshold", source.shape))


@reads("Delay")
def _delay(trains: Trains, node: Parameters, source: Train, rules: Rules) -> Train:
    delays = node.per_neuron("delay", source.shape)
    steps = np.rint(delays / rules.time_step)
    is_off = np.abs(delays / rules.time_step - steps) > 1e-4 * np.maximum(steps, 1)
    if delays.min() < 0 or is_off.any():
        wrong = delays[is_off][0] if is_off.any() else delays.min()
        raise node.fault(
            f"expected a delay of a whole number of steps of {rules.time_step:g} {rules.unit}, found "
            f"{wrong:g} {rules.unit}",
            "give the --time-step that it was made for",
        )
    return trains.delay(node.layer, source, np.minimum(steps, trains.steps).astype(np.int64))


@reads("Conv1d", "Conv2d")
def _convolution(trains: Trains, node: Parameters, source: Train, rules: Rules) -> Train:
    axes = int(node.node.kind[4])
    W = node.weights(axes + 2)
    (groups,) = node.whole("groups", 1, least=1, default=1)
    if len(source.shape) != axes + 1 or W.shape[1] * groups != source.neurons or len(W) % groups:
        raise node.fault(
            f"expected weights (outputs, inputs / {groups}, {', '.join(['kernel'] * axes)}) for values of "
            f"shape {source.shape} in {groups} groups, found shape {W.shape}"
        )
    _check_input_shape(node, source)
    kernel = W.shape[2:]
    strides, dilations = (node.whole(key, axes, 1, 1) for key in ("stride", "dilation"))
    pads, behind = _pads(node, kernel, strides, dilations)
    frames = _checked(node, Frames(trains.steps, source.frame, kernel, strides, dilations, pads, behind))
    return trains.convolution(node.layer, source, W, node.bias(W), frames, groups)


def _check_input_shape(node: Parameters, source: Train) -> None:
    if node.has("input_shape") and node.whole("input_shape", len(source.frame), 1) != source.frame:
        raise node.fault(
            f"expected maps of shape {node.whole('input_shape', len(source.frame), 1)}, as its input_shape "
            f"says, found {source.frame} in front of it"
        )


def _pads(
    node: Parameters, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Zeros in front of maps and behind them."""
    axes, word = len(kernel), node.text("padding")
    if word is None:
        pads = node.whole("padding", axes, 0, 0)
        return pads, pads
    if word == "same" and max(strides) == 1:
        return same_pads(kernel, dilations)
    if word != "valid":
        raise node.fault(
            f"expected padding valid, same with a stride of 1, or whole numbers, found {word!r} with strides "
            f"{strides}"
        )
    return (0,) * axes, (0,) * axes


def _checked(node: Parameters, frames: Frames) -> Frames:
    if min(frames.out) < 1:
        raise node.fault(f"expected maps of at least its kernel, {frames.kernel}, found {frames.size}")
    return frames


@reads("SumPool2d", "AvgPool2d")
def _pool(trains: Trains, node: Parameters, source: Train, rules: Rules) -> Train:
    if len(source.shape) != 3:
        raise node.fault(f"expected values (channels, height, width), found shape {source.shape}")
    kernel, pads = node.whole("kernel_size", 2, 1), node.whole("padding", 2, 0, 0)
    strides = node.whole("stride", 2, 1) if node.has("stride") else kernel
    frames = _checked(node, Frames(trains.steps, source.frame, kernel, strides, pads=pads))
    if any(pad >= entries for pad, entries in zip(pads, kernel, strict=True)):
        raise node.fault(f"expected a padding below the kernel, {kernel}, found {pads}")
    if node.node.kind == "SumPool2d":
        return trains.sum_pool(node.layer, source, frames)
    return trains.pool(node.layer, source, "average", frames, count_padding=any(pads))


@reads(FLATTEN)
def _flatten(trains: Trains, node: Parameters, source: Train, rules: Rules) -> Train:
    if source.is_flat:
        return source
    shape = flat_shape(node, source.shape)
    return source._replace(is_flat=True) if len(shape) == 1 else Train(source.tensor, shape)


def flat_shape(node: Parameters, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that Flatten makes of one.

    Raises:
        UserError: neurons would become others, but not all values neurons.
    """
    if len(shape) == 1:
        return shape
    first, last = (
        _axis(node, key, default, len(shape)) for key, default in (("start_dim", 1), ("end_dim", -1))
    )
    flat = (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])
    if first > last or len(flat) > 1 and first == 0 < last:
        raise node.fault(
            f"expected all axes of {shape} to be flattened, or those behind the first, found axes {first} to "
            f"{last}"
        )
    return flat


def _axis(node: Parameters, key: str, default: int, axes: int) -> int:
    value = node.numbers(key) if node.has(key) else np.array(default)
    if value.size != 1 or not -axes <= (axis := float(value.item())) < axes or axis % 1:
        raise node.fault(f"expected one of {axes} axes as {key}, found {value.tolist()}")
    return int(axis) % axes
