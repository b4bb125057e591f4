"""ONNX operators as functions of PyTorch, those of opset 17 and later.

A function takes a ``Call`` and the inputs: tensors; numbers that are known as they are; integers and truth
values that are known as NumPy arrays; sizes of tensors as lists; None for those left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from repurpose_hpc.model.ends.call import Call
from repurpose_hpc.model.ends.elementwise import DTYPES

Function = Callable[..., Any]

# Functions of their inputs alone, by operator.
_PLAIN: dict[str, Function] = {
    **{"Identity": lambda x: x, "Neg": torch.neg, "Abs": torch.abs, "Sign": torch.sign},
    **{"Exp": torch.exp, "Log": torch.log, "Sqrt": torch.sqrt, "Reciprocal": torch.reciprocal},
    **{"Erf": torch.erf, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Softplus": F.softplus},
    **{"Relu": F.relu, "HardSwish": F.hardswish, "Softsign": F.softsign},
    **{"Round": torch.round, "Floor": torch.floor, "Ceil": torch.ceil, "IsNaN": torch.isnan},
    **{"Sin": torch.sin, "Cos": torch.cos, "Tan": torch.tan, "Sinh": torch.sinh, "Cosh": torch.cosh},
    **{"Asin": torch.asin, "Acos": torch.acos, "Atan": torch.atan},
    **{"Asinh": torch.asinh, "Acosh": torch.acosh, "Atanh": torch.atanh},
    **{"Not": torch.logical_not, "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor},
    **{"Add": lambda x, y: x + y, "Sub": lambda x, y: x - y, "Mul": lambda x, y: x * y},
    **{"Div": lambda x, y: x / y, "Pow": lambda x, y: x**y, "MatMul": lambda x, y: x @ y},
    **{"Greater": lambda x, y: x > y, "Less": lambda x, y: x < y, "Equal": lambda x, y: x == y},
    **{"GreaterOrEqual": lambda x, y: x >= y, "LessOrEqual": lambda x, y: x <= y},
    **{"Max": lambda *x: reduce(torch.maximum, x), "Min": lambda *x: reduce(torch.minimum, x)},
    "Sum": lambda *x: sum(x[1:], x[0]),
    "Where": lambda condition, x, y: torch.where(_tensor(condition), x, y),
    "Clip": torch.clamp,
    "Range": torch.arange,
    "GlobalAveragePool": lambda x: x.mean(dim=tuple(range(2, x.ndim)), keepdim=True),
    "GlobalMaxPool": lambda x: x.amax(dim=tuple(range(2, x.ndim)), keepdim=True),
    "Reshape": lambda x, shape: x.reshape(
        [x.shape[i] if n == 0 else n for i, n in enumerate(shape.tolist())]
    ),
}

# Functions of a call and its inputs, by operator.
FUNCTIONS: dict[str, Function] = {
    name: lambda call, *inputs, of=of: of(*inputs) for name, of in _PLAIN.items()
}


def function(operator: str) -> Callable[[Function], Function]:
    """Enter a function into ``FUNCTIONS``."""

    def enter(decorated: Function) -> Function:
        FUNCTIONS[operator] = decorated
        return decorated

    return enter


def _tensor(x: Any) -> torch.Tensor:
    return x if isinstance(x, torch.Tensor) else torch.as_tensor(x)


@function("Shape")
def _shape(call: Call, x: torch.Tensor) -> list[Any]:
    return [*x.shape[call.get("start", 0) : call.get("end")]]


@function("LeakyRelu")
def _leaky_relu(call: Call, x: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(x, call.get("alpha", 0.01))


@function("Elu")
def _elu(call: Call, x: torch.Tensor) -> torch.Tensor:
    return F.elu(x, call.get("alpha", 1.0))


@function("Celu")
def _celu(call: Call, x: torch.Tensor) -> torch.Tensor:
    return F.celu(x, call.get("alpha", 1.0))


@function("Selu")
def _selu(call: Call, x: torch.Tensor) -> torch.Tensor:
    return call.get("gamma", 1.0507009873554805) * F.elu(x, call.get("alpha", 1.6732632423543772))


@function("HardSigmoid")
def _hard_sigmoid(call: Call, x: torch.Tensor) -> torch.Tensor:
    return torch.clamp(call.get("alpha", 0.2) * x + call.get("beta", 0.5), 0.0, 1.0)


@function("ThresholdedRelu")
def _thresholded_relu(call: Call, x: torch.Tensor) -> torch.Tensor:
    return F.threshold(x, call.get("alpha", 1.0), 0.0)


@function("Cast")
def _cast(call: Call, x: Any) -> torch.Tensor:
    name = "bfloat16" if call.get("to") == 16 else DTYPES[call.get("to")]
    return _tensor(x).to(getattr(torch, name))


@function("Gemm")
def _gemm(call: Call, x: torch.Tensor, W: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    scales = call.get("alpha", 1.0), call.get("beta", 1.0)
    if call.get("transB") and not call.get("transA") and scales == (1.0, 1.0):
        return F.linear(x, W, bias)
    left, right = x.T if call.get("transA") else x, W.T if call.get("transB") else W
    product = scales[0] * (left @ right)
    return product if bias is None else product + scales[1] * bias


@function("Conv")
def _conv(call: Call, x: torch.Tensor, W: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    axes = W.ndim - 2
    x, padding = _evenly_padded(x, _pads(call, axes), 0.0)
    convolution = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    strides, dilations = (call.get(name, [1] * axes) for name in ("strides", "dilations"))
    return convolution(x, W, bias, strides, padding, dilations, call.get("group", 1))


def _pads(call: Call, axes: int) -> list[int]:
    return call.get("pads", [0] * 2 * axes)


def _evenly_padded(
    x: torch.Tensor, pads: Sequence[int], value: float, most: Sequence[int] | None = None
) -> tuple[torch.Tensor, list[int]]:
    """Maps, and how much the operation pads them on either side of each axis; else they are padded here.

    Args:
        x: the maps.
        pads: before every axis, then behind every axis.
        value: in the padding.
        most: that the operation takes, on each axis; None: any number.
    """
    axes = len(pads) // 2
    front, behind = list(pads[:axes]), list(pads[axes:])
    if front == behind and all(pad <= size for pad, size in zip(front, most or front, strict=True)):
        return x, front
    return F.pad(x, _widths(front, behind), value=value), [0] * axes


def _widths(front: Sequence[int], behind: Sequence[int]) -> list[int]:
    """Padding as PyTorch takes it: the last axis first, before it and behind it."""
    return [width for pair in zip(reversed(front), reversed(behind), strict=True) for width in pair]


@function("MaxPool")
def _max_pool(call: Call, x: torch.Tensor) -> torch.Tensor:
    kernel = call.get("kernel_shape")
    axes = len(kernel)
    x, padding = _evenly_padded(x, _pads(call, axes), -np.inf, [size // 2 for size in kernel])
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[axes - 1]
    strides, dilations = (call.get(name, [1] * axes) for name in ("strides", "dilations"))
    return pool(x, kernel, strides, padding, dilations)


@function("AveragePool")
def _average_pool(call: Call, x: torch.Tensor) -> torch.Tensor:
    kernel = call.get("kernel_shape")
    axes = len(kernel)
    pads, strides = _pads(call, axes), call.get("strides", [1] * axes)
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[axes - 1]
    padded, padding = _evenly_padded(x, pads, 0.0, [size // 2 for size in kernel])
    if padded is x or call.get("count_include_pad"):
        return pool(padded, kernel, strides, padding, count_include_pad=bool(call.get("count_include_pad")))
    ones, _ = _evenly_padded(torch.ones_like(x[:1, :1]), pads, 0.0, [size // 2 for size in kernel])
    return pool(padded, kernel, strides) / pool(ones, kernel, strides)


@function("Flatten")
def _flatten(call: Call, x: torch.Tensor) -> torch.Tensor:
    axis = call.get("axis", 1)
    return x.reshape(1, -1) if axis == 0 else x.flatten(axis).flatten(0, axis - 1)


@function("Transpose")
def _transpose(call: Call, x: torch.Tensor) -> torch.Tensor:
    return x.permute(call.get("perm", [*reversed(range(x.ndim))]))


@function("Concat")
def _concat(call: Call, *x: torch.Tensor) -> torch.Tensor:
    return torch.cat([_tensor(each) for each in x], call.get("axis"))


@function("Slice")
def _slice(
    call: Call,
    x: torch.Tensor,
    starts: np.ndarray,
    ends: np.ndarray,
    axes: np.ndarray | None = None,
    steps: np.ndarray | None = None,
) -> torch.Tensor:
    on = range(len(starts)) if axes is None else axes.tolist()
    by = [1] * len(starts) if steps is None else steps.tolist()
    index = [slice(None)] * x.ndim
    for axis, start, end, step in zip(on, starts, ends, by, strict=True):
        index[axis] = slice(start, end, step)
    return x[tuple(index)]


@function("Gather")
def _gather(call: Call, x: torch.Tensor, index: Any) -> torch.Tensor:
    axis = call.get("axis", 0) % x.ndim
    places = torch.remainder(_tensor(index), x.shape[axis])  # a negative one counts from the end
    chosen = x.index_select(axis, places.reshape(-1))
    return chosen.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


@function("Pad")
def _pad(
    call: Call, x: torch.Tensor, pads: np.ndarray, value: Any = 0.0, axes: np.ndarray | None = None
) -> torch.Tensor:
    on = range(x.ndim) if axes is None else axes.tolist()
    front, behind = [0] * x.ndim, [0] * x.ndim
    for axis, before, after in zip(on, pads[: len(on)].tolist(), pads[len(on) :].tolist(), strict=True):
        front[axis], behind[axis] = before, after
    return F.pad(x, _widths(front, behind), call.get("mode", "constant"), value)


@function("Softmax")
def _softmax(call: Call, x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x, call.get("axis", -1))


@function("LogSoftmax")
def _log_softmax(call: Call, x: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(x, call.get("axis", -1))


@function("ArgMax")
def _argmax(call: Call, x: torch.Tensor) -> torch.Tensor:
    return x.argmax(call.get("axis", 0), bool(call.get("keepdims", 1)))


@function("Unsqueeze")
def _unsqueeze(call: Call, x: torch.Tensor, axes: np.ndarray) -> torch.Tensor:
    rank = x.ndim + len(axes)
    return reduce(torch.unsqueeze, sorted(axis % rank for axis in axes.tolist()), x)


@function("Squeeze")
def _squeeze(call: Call, x: Any, axes: np.ndarray | None = None) -> Any:
    if isinstance(x, list):
        return x[0]
    return x.squeeze() if axes is None else x.squeeze(tuple(axes.tolist()))


def _reduction(of: Function) -> Function:
    """A function that brings entries along axes together."""

    def reduced(call: Call, x: torch.Tensor, axes: np.ndarray | None = None) -> torch.Tensor:
        given = call.integers("axes", axes)
        if not given and call.get("noop_with_empty_axes"):
            return x
        return of(x, tuple(given or range(x.ndim)), keepdim=bool(call.get("keepdims", 1)))

    return reduced


FUNCTIONS |= {
    "ReduceSum": _reduction(torch.sum),
    "ReduceMean": _reduction(torch.mean),
    "ReduceMax": _reduction(torch.amax),
    "ReduceMin": _reduction(torch.amin),
}
