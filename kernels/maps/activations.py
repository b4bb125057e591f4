"""Element-wise functions by integer code, in the precision of their argument.

The formulas are those of ``repurpose_hpc.model.activations``, under the same names.
"""

from __future__ import annotations

import math

import numpy as np

from ..arguments import FLOAT, INTEGER, REAL, Array
from ..jit import jit
from ..registry import kernel

ACTIVATION_CODES: dict[str, int] = {
    "identity": 0,
    "relu": 1,
    "leaky_relu": 2,
    "sigmoid": 3,
    "tanh": 4,
    "gelu": 5,
    "gelu_tanh": 6,
    "clip": 7,
    "elu": 8,
    "hard_sigmoid": 9,
    "hard_swish": 10,
    "silu": 11,
    "square": 12,
    "power": 13,
    "softplus": 14,
    "exp": 15,
    "abs": 16,
}

# Numba folds module constants, but not look-ups in a dictionary.
IDENTITY, RELU, LEAKY_RELU, SIGMOID, TANH, GELU, GELU_TANH, CLIP, ELU = range(9)
HARD_SIGMOID, HARD_SWISH, SILU, SQUARE, POWER, SOFTPLUS, EXP, ABS = range(9, 17)

_SQRT_HALF = math.sqrt(0.5)
_SQRT_TWO_OVER_PI = math.sqrt(2 / math.pi)


@jit
def activate(code: int, alpha: float, beta: float, value: float) -> float:
    """The activation ``code`` of one number, in the number's type.

    ``alpha`` and ``beta`` are what ``repurpose_hpc.model.activations.Activation`` says; most ignore them.
    """
    # Constants take the type of value: a float64 among them would make float32 twice as slow.
    real = type(value)
    half, one = real(0.5), real(1)
    if code == RELU:
        return real(0) if value < 0 else value  # in this order NaN stays NaN
    if code == LEAKY_RELU:
        return _leaky(value, alpha)
    if code == SIGMOID:
        return half * (one + np.tanh(half * value))
    if code == TANH:
        return np.tanh(value)
    if code == GELU:
        return half * value * (one + real(math.erf(real(_SQRT_HALF) * value)))
    if code == GELU_TANH:
        cubic = value + real(0.044715) * value * value * value
        return half * value * (one + np.tanh(real(_SQRT_TWO_OVER_PI) * cubic))
    if code == CLIP:
        return _ramp(value, 1.0, 0.0, alpha, beta)
    if code == ELU:
        return value if value >= 0 else real(alpha) * np.expm1(value)
    if code == HARD_SIGMOID:
        return _ramp(value, alpha, beta, 0.0, 1.0)
    if code == HARD_SWISH:
        return _hard_swish(value)
    if code == SILU:
        return half * value * (one + np.tanh(half * value))
    if code == SQUARE:
        return value * value
    if code == POWER:
        return value ** real(alpha)
    if code == SOFTPLUS:
        return _ramp(value, 1.0, 0.0, 0.0, np.inf) + np.log1p(np.exp(-abs(value)))
    if code == EXP:
        return np.exp(value)
    if code == ABS:
        return abs(value)
    return value


@kernel(
    arguments={"values": Array(REAL, 2, also=(1,)), "code": INTEGER, "alpha": FLOAT, "beta": FLOAT},
    replayed=True,
)
def activate_in_place(values: np.ndarray, code: int, alpha: float, beta: float) -> None:
    """values = activation(values), for a C-contiguous array of one or two dimensions."""
    flat = values.reshape(-1)
    # The cheap and frequent ones get loops of their own: the last one is not vectorised.
    if code == IDENTITY:
        return
    if code == RELU:
        _ramp_all(flat, 1.0, 0.0, 0.0, np.inf)
    elif code == CLIP:
        _ramp_all(flat, 1.0, 0.0, alpha, beta)
    elif code == HARD_SIGMOID:
        _ramp_all(flat, alpha, beta, 0.0, 1.0)
    elif code == HARD_SWISH:
        for i in range(flat.size):
            flat[i] = _hard_swish(flat[i])
    elif code == LEAKY_RELU:
        for i in range(flat.size):
            flat[i] = _leaky(flat[i], alpha)
    else:
        for i in range(flat.size):
            flat[i] = activate(code, alpha, beta, flat[i])


@jit
def _ramp_all(values: np.ndarray, slope: float, shift: float, low: float, high: float) -> None:
    for i in range(values.size):
        values[i] = _ramp(values[i], slope, shift, low, high)


@jit
def _ramp(value: float, slope: float, shift: float, low: float, high: float) -> float:
    """A line between two levels, the upper one winning; NaN stays NaN in this order."""
    real = type(value)
    value = real(slope) * value + real(shift)
    value = real(low) if value < real(low) else value
    return real(high) if value > real(high) else value


@jit
def _leaky(value: float, alpha: float) -> float:
    return value if value >= 0 else type(value)(alpha) * value


@jit
def _hard_swish(value: float) -> float:
    return value * _ramp(value, 1 / 6, 0.5, 0.0, 1.0)
