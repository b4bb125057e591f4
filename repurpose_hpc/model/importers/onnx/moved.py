"""Operators on values whose samples are not in front: each is applied with the samples in front.

The result has its samples where the operator puts them; see ``signal.Moved``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from repurpose_hpc.model.importers.onnx import nodes_elementwise
from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.nodes_layout import reshaped_sizes
from repurpose_hpc.model.importers.onnx.signal import Moved, Signal, Unsupported, Value
from repurpose_hpc.model.importers.onnx.varying import BATCHES, Varying

Compute = Callable[[Node], Value | Iterable[Value]]

_RESHAPING = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
# Default of attribute axis; of the others along an axis, it must be given.
_DEFAULT_AXIS = {"Gather": 0, "Split": 0, "Softmax": -1, "LogSoftmax": -1, "LayerNormalization": -1}
_ALONG_AXIS = (*_DEFAULT_AXIS, "Concat")
_VALUE_BY_VALUE = {
    *("Identity", "Cast", "Dropout"),
    *(nodes_elementwise.OPERATORS.keys() - {"BatchNormalization", "PRelu"}),
}


def values_of(result: Value | Iterable[Value]) -> tuple[Value, ...]:
    """The outputs of an operator, one or several."""
    return (result,) if isinstance(result, (Signal, Moved, np.ndarray, Varying)) else tuple(result)


def in_front(value: Value | None) -> Value | None:
    """A value with its samples on the first axis, if nothing but axes of size 1 is before them."""
    if isinstance(value, Moved) and math.prod(value.signal.shape[1 : 1 + value.axis]) == 1:
        return value.signal
    return value


def with_samples_first(value: Value | None) -> Value | None:
    """An output of the network, whose samples are moved to the first axis if they have one of their own."""
    value = in_front(value)
    return value.signal if isinstance(value, Moved) and value.is_aligned else value


def moves_samples(node: Node) -> bool:
    """True if an input or an output of the node has its samples elsewhere than in front."""
    if any(isinstance(value, Moved) for value in node.inputs):
        return True
    signal = next((value for value in node.inputs if isinstance(value, Signal)), None)
    if signal is None:
        return False
    if node.operator in _VALUE_BY_VALUE:
        return max(map(_axes, node.inputs)) > len(signal.shape)
    if node.operator == "Transpose":
        return _order(node, len(signal.shape))[0] != 0
    return node.operator in _RESHAPING and reshaped_sizes(node, signal.shape)[:1] != signal.shape[:1]


def apply_moved(node: Node, operators: Mapping[str, Compute]) -> tuple[Value, ...]:
    """The outputs of a node of which ``moves_samples`` is true.

    Raises:
        Unsupported: the operator is not one of those that are known here, or acts along the samples.
    """
    operator, compute = node.operator, operators[node.operator]
    if operator == "Shape":
        return (_shape(node),)
    if operator in _RESHAPING:
        value = _moved(node, 0)
        shape = reshaped_sizes(node, value.shape)
        return (_placed(value.signal, value.axis, shape),)
    if operator == "Transpose":
        return (_transpose(node),)
    if operator in ("MatMul", "Gemm"):
        return (_product(node, operators),)
    if operator in _ALONG_AXIS:
        return _along_axis(node, compute)
    if operator == "Slice":
        return _slice(node, compute)
    if operator in _VALUE_BY_VALUE:
        return (_value_by_value(node, compute),)
    raise Unsupported(
        f"the samples of its input of shape {_moved(node, 0).shape} are not on the first axis, which is "
        "supported for layouts, dense layers and value by value only"
    )


def _placed(signal: Signal, axis: int, shape: tuple[int, ...]) -> Signal | Moved:
    """Values whose samples have ``axis`` axes of ``signal`` before them, in a shape of ONNX."""
    samples, before = signal.shape[0], math.prod(signal.shape[1 : 1 + axis])
    for place, size in enumerate(shape):
        if size == samples and math.prod(shape[:place]) == before:
            aligned = signal.reshaped((samples, *shape[:place], *shape[place + 1 :]))
            return aligned if place == 0 else Moved(aligned, place, shape)
    return Moved(signal, axis, shape)


def _moved(node: Node, position: int) -> Moved:
    value = node.input(position)
    if isinstance(value, Moved):
        if value.signal.head != "identity":
            raise Unsupported(f"it follows {value.signal.origin}, which is supported at the end only")
        return value
    signal = node.signal(position)
    return Moved(signal, 0, signal.shape)


def _aligned(node: Node, position: int) -> Moved:
    value = _moved(node, position)
    if not value.is_aligned:
        raise Unsupported(f"the samples of its input of shape {value.shape} have no axis of their own")
    return value


def _with_inputs(node: Node, *inputs: Value | None) -> Node:
    """The node with its first inputs replaced."""
    return replace(node, inputs=(*inputs, *node.inputs[len(inputs) :]))


def _shape(node: Node) -> np.ndarray | Varying:
    """The shape, a constant for each size of the batch."""
    value = _moved(node, 0)
    sizes = np.array(value.shape, np.int64)
    others = sizes.copy()
    if value.signal.shape[0] == BATCHES[0]:
        before = np.cumprod([1, *sizes[:-1]])
        has_samples = (sizes % BATCHES[0] == 0) & (before % BATCHES[0] != 0)
        others[has_samples] = sizes[has_samples] // BATCHES[0] * BATCHES[1]
    part = slice(node.attributes.get("start", 0), node.attributes.get("end"))
    return Varying.of(sizes[part], others[part])


def _order(node: Node, axes: int) -> list[int]:
    return list(node.attributes.get("perm", reversed(range(axes))))


def _transpose(node: Node) -> Signal | Moved:
    value = _moved(node, 0)
    order = _order(node, len(value.shape))
    axis, before, behind = _axis_of_samples(value)
    shared = [size for size in (before, behind) if size > 1]
    # The axes of a sample that each axis in ONNX is: that of the samples may be none, one or two of them.
    axes = [[place] for place in range(axis)]
    axes.append([axis + place for place in range(len(shared))])
    axes += [[place + len(shared)] for place in range(axis, len(value.shape) - 1)]
    places = value.signal.places.reshape(*value.shape[:axis], *shared, *value.shape[axis + 1 :])
    signal = value.signal.placed(places.transpose([place for each in order for place in axes[each]]))
    ahead = sum(len(axes[each]) for each in order[: order.index(axis)]) + (before > 1)
    shape = tuple(value.shape[each] for each in order)
    return _placed(replace(signal, origin=str(node)), ahead, shape)


def _axis_of_samples(value: Moved) -> tuple[int, int, int]:
    """The axis in ONNX on which the samples are, and the sizes that share it, before and behind them.

    Raises:
        Unsupported: they are spread over several.
    """
    samples, first = value.signal.shape[0], math.prod(value.signal.shape[1 : 1 + value.axis])
    ahead = 1
    for axis, size in enumerate(value.shape):
        before, rest = divmod(first, ahead)
        if not before:
            break
        behind, more = divmod(size, before * samples)
        if not rest and not more and behind:
            return axis, before, behind
        ahead *= size
    raise Unsupported(f"the samples of its input of shape {value.shape} have no axis of their own")


def _product(node: Node, operators: Mapping[str, Compute]) -> Signal | Moved:
    """A dense layer over the last axis."""
    value = _moved(node, 0)
    signal = _with_width(value)
    is_plain = node.operator == "MatMul"
    result = operators["MatMul"](_with_inputs(node, signal)) if is_plain else _gemm(node, signal, operators)
    assert isinstance(result, Signal)
    return _placed(result, value.axis, (*value.shape[:-1], result.shape[-1]))


def _with_width(value: Moved) -> Signal:
    """The signal of a value, whose last axis is that in ONNX: one behind the samples, or several together.

    Raises:
        Unsupported: the samples are on it, or it is a part of an axis.
    """
    signal, width = value.signal, value.shape[-1]
    for first in range(len(signal.shape) - 1, value.axis, -1):
        if math.prod(signal.shape[first:]) == width:
            return signal.reshaped((*signal.shape[:first], width))
    raise Unsupported(f"the samples of its input of shape {value.shape} are not apart from its last axis")


def _gemm(node: Node, signal: Signal, operators: Mapping[str, Compute]) -> Value | Iterable[Value]:
    """A Gemm of more axes than two: a product position by position, and a sum."""
    node.require("transA", 0)
    W = node.weights(1)
    W = W if node.attributes.get("transB", 0) == 0 else W.T
    W = W * W.dtype.type(node.attributes.get("alpha", 1.0))
    plain = replace(
        node, operator="MatMul", inputs=(signal, W), input_names=node.input_names[:2], attributes={}
    )
    product = operators["MatMul"](plain)
    if node.input(2) is None:
        return product
    assert isinstance(product, Signal)
    C = node.weights(2)
    C = C * C.dtype.type(node.attributes.get("beta", 1.0))
    if C.ndim > 1 and C.shape[0] > 1:
        raise Unsupported(f"its bias has shape {C.shape}, expected one for all rows")
    names = (node.name, node.input_names[2])
    summed = replace(plain, operator="Add", inputs=(product, C.reshape(-1)), input_names=names)
    return operators["Add"](summed)


def _along_axis(node: Node, compute: Compute) -> tuple[Value, ...]:
    """An operator along an axis that is not that of the samples."""
    several = node.operator == "Concat"
    values = [_aligned(node, position) for position in range(len(node.inputs) if several else 1)]
    first = values[0]
    if any(value.axis != first.axis for value in values):
        raise Unsupported(f"its inputs of shapes {[value.shape for value in values]} have samples elsewhere")
    axis, rank = int(node.attributes.get("axis", _DEFAULT_AXIS.get(node.operator, 0))), len(first.shape)
    ahead = _ahead(axis, first)
    behind = axis % rank > first.axis
    signals = (value.signal for value in values)
    changed = replace(_with_inputs(node, *signals), attributes={**node.attributes, "axis": ahead})
    results = []
    for result in values_of(compute(changed)):
        assert isinstance(result, Signal)
        place = first.axis if behind else first.axis + len(result.shape) - rank
        samples, *sizes = result.shape
        results.append(_placed(result, place, (*sizes[:place], samples, *sizes[place:])))
    return tuple(results)


def _ahead(axis: int, value: Moved) -> int:
    """The place of an axis once the samples are in front."""
    rank = len(value.shape)
    if not -rank <= axis < rank or axis % rank == value.axis:
        raise Unsupported(f"axis {axis} of shape {value.shape} is that of the samples")
    return axis % rank + (axis % rank < value.axis)


def _slice(node: Node, compute: Compute) -> tuple[Value, ...]:
    value = _aligned(node, 0)
    starts, ends = node.required_integers(1, "starts"), node.required_integers(2, "ends")
    axes = node.integers(3, "axes") or list(range(len(starts)))
    steps = node.integers(4, "steps") or [1] * len(starts)
    rank, size = len(value.shape), value.signal.shape[0]
    kept = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if axis % rank != value.axis or range(size)[start:end:step] != range(size):
            kept.append((start, end, _ahead(axis, value), step))
    columns = [np.array(column, np.int64) for column in zip(*kept, strict=True)]
    if not columns:
        return (value,)
    changed = replace(node, inputs=(value.signal, *columns), attributes={})
    (result,) = values_of(compute(changed))
    assert isinstance(result, Signal)
    samples, *sizes = result.shape
    return (_placed(result, value.axis, (*sizes[: value.axis], samples, *sizes[value.axis :])),)


def _value_by_value(node: Node, compute: Compute) -> Value:
    """An operator value by value, of inputs that are broadcast to one shape."""
    values = [
        _moved(node, place) if isinstance(value, (Signal, Moved)) else value
        for place, value in enumerate(node.inputs)
    ]
    signals = [value for value in values if isinstance(value, Moved)]
    first = max(signals, key=lambda value: len(value.shape))
    if first.is_aligned:
        first = _with_axes(first, max(map(_axes, node.inputs)))
        inputs = [_broadcastable(node, value, first) for value in values]
    else:
        inputs = [_like_merged(value, first) for value in values]
    (result,) = values_of(compute(replace(node, inputs=tuple(inputs))))
    assert isinstance(result, Signal)
    if not first.is_aligned:
        return _placed(result, first.axis, first.shape)
    samples, *sizes = result.shape
    return _placed(result, first.axis, (*sizes[: first.axis], samples, *sizes[first.axis :]))


def _axes(value: Value | None) -> int:
    """Number of axes that a value has in ONNX; 0 if it is left out."""
    if isinstance(value, Varying):
        return value.values[0].ndim
    return 0 if value is None else len(value.shape)


def _with_axes(value: Moved, rank: int) -> Moved:
    """The same values in ``rank`` axes, further ones in front."""
    further, (samples, *sizes) = (1,) * (rank - len(value.shape)), value.signal.shape
    signal = value.signal.reshaped((samples, *further, *sizes))
    return Moved(signal, value.axis + len(further), (*further, *value.shape))


def _broadcastable(node: Node, value: Value | None, first: Moved) -> Value | None:
    """An operand with the samples of ``first`` in front, of as many axes."""
    rank, axis = len(first.shape), first.axis
    if isinstance(value, Varying):
        return _shared_row(value, rank, axis)
    if isinstance(value, np.ndarray):
        if value.size == 1:
            return value
        constant = value.reshape(*(1,) * (rank - value.ndim), *value.shape)
        if constant.ndim > rank or constant.shape[axis] != 1:
            raise Unsupported(f"a constant of shape {value.shape} differs from sample to sample")
        return np.moveaxis(constant, axis, 0)
    if isinstance(value, Moved):
        further = rank - len(value.shape)
        if not value.is_aligned or value.axis + further != axis:
            raise Unsupported(
                f"it joins shapes {value.shape} and {first.shape}, which have samples elsewhere"
            )
        return _with_axes(value, rank).signal
    return value


def _shared_row(value: Varying, rank: int, axis: int) -> np.ndarray:
    """A constant that all samples share, (1, ...) of ``rank`` axes; the samples are on ``axis`` of these."""
    further = rank - value.values[0].ndim
    row = None
    if further <= axis:
        first, second = (np.moveaxis(array, axis - further, 0) for array in value.values)
        row = Varying((first, second)).row()
    if row is None:
        raise Unsupported("a constant among its inputs depends on the size of the batch")
    return row.reshape(1, *(1,) * further, *row.shape[1:])


def _like_merged(value: Value | None, first: Moved) -> Value | None:
    """An operand of a value whose samples share an axis with others."""
    if isinstance(value, Moved):
        same = (value.shape, value.axis, value.signal.shape) == (first.shape, first.axis, first.signal.shape)
        if not same:
            raise Unsupported(
                f"it joins shapes {value.shape} and {first.shape}, which have samples elsewhere"
            )
        return value.signal
    if isinstance(value, Varying):
        raise Unsupported("a constant among its inputs depends on the size of the batch")
    if isinstance(value, np.ndarray) and value.size > 1:
        width = value.shape[-1]
        if width != value.size or width != first.shape[-1] or width != first.signal.shape[-1]:
            raise Unsupported(f"a constant of shape {value.shape} on shape {first.shape}, expected one row")
        return value.reshape(-1)
    return value
