"""Operators that bring entries along axes together, in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from repurpose_hpc.model.ends.call import FUNCTIONS, Call, function

_Reduction = Callable[[np.ndarray, "tuple[int, ...] | None", bool], np.ndarray]


def _log_sum_exp(x: np.ndarray, axes: tuple[int, ...] | None, keep: bool) -> np.ndarray:
    largest = x.max(axis=axes, keepdims=True)
    total = np.log(np.exp(x - largest).sum(axis=axes, keepdims=True)) + largest
    return total if keep else np.squeeze(total, tuple(range(x.ndim)) if axes is None else axes)


_REDUCTIONS: dict[str, _Reduction] = {
    "ReduceSum": lambda x, axes, keep: x.sum(axis=axes, keepdims=keep),
    "ReduceMean": lambda x, axes, keep: x.mean(axis=axes, keepdims=keep),
    "ReduceProd": lambda x, axes, keep: x.prod(axis=axes, keepdims=keep),
    "ReduceMax": lambda x, axes, keep: x.max(axis=axes, keepdims=keep),
    "ReduceMin": lambda x, axes, keep: x.min(axis=axes, keepdims=keep),
    "ReduceL1": lambda x, axes, keep: np.abs(x).sum(axis=axes, keepdims=keep),
    "ReduceL2": lambda x, axes, keep: np.sqrt((x * x).sum(axis=axes, keepdims=keep)),
    "ReduceSumSquare": lambda x, axes, keep: (x * x).sum(axis=axes, keepdims=keep),
    "ReduceLogSum": lambda x, axes, keep: np.log(x.sum(axis=axes, keepdims=keep)),
    "ReduceLogSumExp": _log_sum_exp,
}


def _reduced(call: Call, x: np.ndarray, axes: np.ndarray | None = None, *, over: _Reduction) -> np.ndarray:
    given, whole = call.integers("axes", axes), None if not call.get("noop_with_empty_axes") else ()
    chosen = tuple(given) if given else whole
    return over(x, chosen, bool(call.get("keepdims", 1))).astype(x.dtype)


FUNCTIONS.update(
    {
        name: lambda call, *x, over=reduction: _reduced(call, *x, over=over)
        for name, reduction in _REDUCTIONS.items()
    }
)


@function("ArgMax")
def _argmax(call: Call, x: np.ndarray) -> np.ndarray:
    return _place(call, x, np.argmax)


@function("ArgMin")
def _argmin(call: Call, x: np.ndarray) -> np.ndarray:
    return _place(call, x, np.argmin)


def _place(call: Call, x: np.ndarray, of: Callable[..., np.ndarray]) -> np.ndarray:
    axis, keep = call.get("axis", 0), bool(call.get("keepdims", 1))
    if not call.get("select_last_index"):
        return of(x, axis=axis, keepdims=keep)
    return x.shape[axis] - 1 - of(np.flip(x, axis), axis=axis, keepdims=keep)


@function("Softmax")
def _softmax(call: Call, x: np.ndarray) -> np.ndarray:
    axes = _softmax_axes(call, x)
    exponentials = np.exp(x - x.max(axis=axes, keepdims=True))
    return exponentials / exponentials.sum(axis=axes, keepdims=True)


@function("LogSoftmax")
def _log_softmax(call: Call, x: np.ndarray) -> np.ndarray:
    axes = _softmax_axes(call, x)
    below = x - x.max(axis=axes, keepdims=True)  # large values would drown the logarithm in rounding
    return below - np.log(np.exp(below).sum(axis=axes, keepdims=True))


def _softmax_axes(call: Call, x: np.ndarray) -> tuple[int, ...]:
    """One axis, or before opset 13 that axis and all behind it."""
    if call.opset >= 13:
        return (call.get("axis", -1),)
    axis = call.get("axis", 1)
    return tuple(range(axis + x.ndim if axis < 0 else axis, x.ndim))


@function("CumSum")
def _cumsum(call: Call, x: np.ndarray, axis: np.ndarray) -> np.ndarray:
    on = int(axis.item())
    x = np.flip(x, on) if call.get("reverse") else x
    total = np.cumsum(x, on, dtype=x.dtype)
    total = total - x if call.get("exclusive") else total
    return np.flip(total, on) if call.get("reverse") else total


@function("MatMul")
def _matmul(call: Call, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.matmul(x, y)


@function("LpNormalization")
def _lp_normalization(call: Call, x: np.ndarray) -> np.ndarray:
    axis = (call.get("axis", -1),)
    norm = _REDUCTIONS[f"ReduceL{call.get('p', 2)}"](x, axis, True)
    return x / np.where(norm == 0, np.ones((), x.dtype), norm)


@function("ai.onnx.ml.Normalizer")
def _normalizer(call: Call, x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float32)
    over = {"MAX": "ReduceMax", "L1": "ReduceL1", "L2": "ReduceL2"}[call.get("norm", "MAX")]
    norm = _REDUCTIONS[over](x, (1,), True)
    return x / np.where(norm == 0, np.float32(1), norm)
