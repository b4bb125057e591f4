"""Operators that work entry by entry, in NumPy."""

from __future__ import annotations

from functools import reduce

import numpy as np

from repurpose_hpc.model.ends.call import FUNCTIONS, Call, NotByNumpy, function

# Numbers of ONNX's element types.
DTYPES = {
    **{1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64"},
    **{9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64"},
}

_UFUNCS = {
    **{"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Neg": np.negative, "Abs": np.abs},
    **{"Sqrt": np.sqrt, "Exp": np.exp, "Log": np.log, "Floor": np.floor, "Ceil": np.ceil},
    **{"Round": np.rint, "Sign": np.sign, "Sin": np.sin, "Cos": np.cos, "Tan": np.tan},
    **{"Asin": np.arcsin, "Acos": np.arccos, "Atan": np.arctan, "Tanh": np.tanh},
    **{"Sinh": np.sinh, "Cosh": np.cosh, "IsNaN": np.isnan},
    **{"Equal": np.equal, "Greater": np.greater, "Less": np.less, "GreaterOrEqual": np.greater_equal},
    **{"LessOrEqual": np.less_equal, "And": np.logical_and, "Or": np.logical_or},
    **{"Xor": np.logical_xor, "Not": np.logical_not, "Where": np.where},
}
_FOLDS = {"Sum": np.add, "Max": np.maximum, "Min": np.minimum}

FUNCTIONS.update({name: lambda call, *x, ufunc=ufunc: ufunc(*x) for name, ufunc in _UFUNCS.items()})
FUNCTIONS.update({name: lambda call, *x, ufunc=ufunc: reduce(ufunc, x) for name, ufunc in _FOLDS.items()})


@function("Identity")
def _identity(call: Call, x: np.ndarray) -> np.ndarray:
    return x


@function("Dropout")
def _dropout(
    call: Call, x: np.ndarray, ratio: np.ndarray | None = None, training: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    if training is not None and training.any():
        raise ValueError("it is in training mode; export the model after model.eval()")
    return x, np.ones(x.shape, bool)


@function("Mean")
def _mean(call: Call, *x: np.ndarray) -> np.ndarray:
    return (reduce(np.add, x) / len(x)).astype(x[0].dtype)


@function("Div")
def _div(call: Call, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if x.dtype.kind == "f":
        return x / y
    if not np.all(y):
        raise ValueError("an integer is divided by 0")
    quotient, remainder = np.divmod(x, y)
    return quotient + ((remainder != 0) & ((x < 0) != (y < 0))).astype(x.dtype)  # towards zero


@function("Mod")
def _mod(call: Call, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.fmod(x, y) if call.get("fmod") else np.mod(x, y)


@function("Pow")
def _pow(call: Call, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.power(x, y).astype(x.dtype)


@function("Reciprocal")
def _reciprocal(call: Call, x: np.ndarray) -> np.ndarray:
    return 1 / x


@function("Clip")
def _clip(
    call: Call, x: np.ndarray, low: np.ndarray | None = None, high: np.ndarray | None = None
) -> np.ndarray:
    for limit, bound in (
        (np.maximum, call.get("min") if low is None else low),
        (np.minimum, call.get("max") if high is None else high),
    ):
        x = x if bound is None else limit(x, np.asarray(bound, x.dtype))
    return x


@function("Cast")
def _cast(call: Call, x: np.ndarray) -> np.ndarray:
    dtype = DTYPES.get(call.get("to"))
    if dtype is None or x.dtype.kind not in "biuf":
        raise NotByNumpy
    return x.astype(dtype)


@function("CastLike")
def _cast_like(call: Call, x: np.ndarray, like: np.ndarray) -> np.ndarray:
    return x.astype(like.dtype)


@function("Relu")
def _relu(call: Call, x: np.ndarray) -> np.ndarray:
    return np.maximum(x, np.zeros((), x.dtype))


@function("LeakyRelu")
def _leaky_relu(call: Call, x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, x * x.dtype.type(call.get("alpha", 0.01)), x)


@function("Sigmoid")
def _sigmoid(call: Call, x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))  # cannot overflow
    return np.where(x < 0, small, np.ones((), x.dtype)) / (1 + small)


@function("Softplus")
def _softplus(call: Call, x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, np.zeros((), x.dtype))


@function("HardSigmoid")
def _hard_sigmoid(call: Call, x: np.ndarray) -> np.ndarray:
    alpha, beta = (x.dtype.type(call.get(*item)) for item in (("alpha", 0.2), ("beta", 0.5)))
    return np.clip(alpha * x + beta, 0, 1)


@function("IsInf")
def _is_inf(call: Call, x: np.ndarray) -> np.ndarray:
    positive, negative = (call.get(f"detect_{sign}", 1) for sign in ("positive", "negative"))
    return (np.isposinf(x) & bool(positive)) | (np.isneginf(x) & bool(negative))


@function("ai.onnx.ml.Scaler")
def _scaler(call: Call, x: np.ndarray) -> np.ndarray:
    offset, scale = (np.float32(call.get(*item)) for item in (("offset", 0.0), ("scale", 1.0)))
    return (x.astype(np.float32) - offset) * scale
