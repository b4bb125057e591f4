"""ONNX operators whose results are values of their inputs, somewhere else, and constants.

They are executed on numbers that no two values have in common; where a number comes out is where its value
comes from, and what does not depend on them is a constant.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from repurpose_hpc.model.importers.onnx.constants import run
from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.nodes_elementwise import affine
from repurpose_hpc.model.importers.onnx.signal import Signal, Unsupported
from repurpose_hpc.model.importers.onnx.varying import BATCHES, Varying

# Of a batch of any size, that are tried.
_SAMPLES = 3


def selection(node: Node) -> Signal:
    """Values and constants in another order."""
    if node.text("reduction", "none") != "none":
        raise Unsupported(f"attribute reduction is {node.text('reduction', 'none')!r}, expected 'none'")
    signal = node.signal()
    index, constants = _selected(node, signal)
    return filled(node, signal, index, constants)


def _selected(node: Node, signal: Signal) -> tuple[np.ndarray, np.ndarray]:
    """Of every value of the result its place among those of ``signal``, -1 for a constant, and constants."""
    samples = _SAMPLES if signal.shape[0] == BATCHES[0] else signal.shape[0]
    rng = np.random.default_rng(0)
    numbers = rng.random((2, samples, signal.features))
    first, second = (executed(node, each.reshape(samples, *signal.shape[1:])) for each in numbers)
    if first.shape != second.shape or first.shape[:1] != (samples,):
        raise Unsupported("its result does not keep the samples, and nothing else, on the first axis")
    index = np.stack([_lookup(numbers[0, sample], first[sample]) for sample in range(samples)])
    other = np.stack([_lookup(numbers[1, sample], second[sample]) for sample in range(samples)])
    constant = (index < 0) & (first == second)
    if (index != other).any() or (index != index[:1]).any() or ((index < 0) & ~constant).any():
        raise Unsupported("its result has other values than those of each sample and constants")
    values = np.where(constant, first, 0)
    if (values != values[:1]).any():
        raise Unsupported("its result has constants that differ from sample to sample")
    return index[0], values[0]


def executed(node: Node, x: np.ndarray) -> np.ndarray:
    """The first output of a node for an input, by the evaluator of the onnx package."""
    from onnx.helper import make_node

    inputs = [_constant(node, place, x) for place in range(len(node.inputs))]
    names = [f"input{place}" if value is not None else "" for place, value in enumerate(inputs)]
    proto = make_node(node.operator, names, ["output"], **node.attributes)
    return run(proto, inputs, node.opset)[0]


def _constant(node: Node, place: int, x: np.ndarray) -> np.ndarray | None:
    """An input for the samples ``x``."""
    value = node.input(place)
    if value is None or isinstance(value, np.ndarray):
        return value
    if isinstance(value, Varying):
        return np.repeat(node.constant(place), len(x), axis=0)
    if place > 0:
        raise Unsupported(f"{node.called(place)} is not a constant")
    return x


def _lookup(numbers: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The place of every value among ``numbers``, -1 where it is none of them."""
    order = np.argsort(numbers)
    places = order[np.searchsorted(numbers[order], values).clip(max=len(numbers) - 1)]
    return np.where(numbers[places] == values, places, -1)


def filled(node: Node, signal: Signal, index: np.ndarray, constants: np.ndarray) -> Signal:
    """Values of a signal and constants.

    Args:
        index: of each value its place among those of ``signal``, -1 for a constant; the shape of the result
            without the samples.
        constants: the constants at their places, of the same shape.
    """
    signal = node.tensors.settled(signal)
    is_constant = index < 0
    places = np.where(is_constant, -1, signal.places.ravel()[index])
    if not is_constant.any():
        return signal.placed(places)
    if is_constant.all():
        raise Unsupported("its result does not depend on the input of the network")
    per_neuron = node.tensors.values_per_neuron(signal)
    alternatives = (_any_value(places, axis, per_neuron) for axis in range(index.ndim))
    consistent = (places for places in alternatives if places is not None)
    places = next(consistent, np.where(is_constant, places[~is_constant][0], places))
    constants = np.where(is_constant, constants, 0).astype(np.float32)
    return affine(node, signal.placed(places), (~is_constant).astype(np.float32), constants)


def _any_value(places: np.ndarray, axis: int, per_neuron: int) -> np.ndarray | None:
    """Places with -1 replaced, neurons on ``axis`` and positions on the others; None if they are not."""
    table = np.moveaxis(places, axis, 0).reshape(places.shape[axis], -1)
    is_value = table >= 0
    neurons, positions = np.divmod(table, per_neuron)
    neuron = np.where(is_value, neurons, -1).max(axis=1, keepdims=True).clip(min=0)
    position = np.where(is_value, positions, -1).max(axis=0, keepdims=True).clip(min=0)
    if ((neurons != neuron) & is_value).any() or ((positions != position) & is_value).any():
        return None
    shape = (places.shape[axis], *places.shape[:axis], *places.shape[axis + 1 :])
    return np.moveaxis((neuron * per_neuron + position).reshape(shape), 0, axis)


OPERATORS: dict[str, Callable[[Node], Signal]] = dict.fromkeys(
    (
        *("DepthToSpace", "SpaceToDepth", "GatherElements", "GatherND", "ScatterElements", "ScatterND"),
        *("ReverseSequence", "Trilu", "CenterCropPad", "Tile", "Compress", "MaxUnpool"),
    ),
    selection,
)
