"""Element-wise functions by integer code, in the precision of their argument.

The formulas are those of ``repurpose_hpc.model.activations``, under the same names.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..arguments import FLOAT, INTEGER, REAL, Array
from ..jit import jit
from ..registry import kernel

ACTIVATION_CODES: dict[str, int] = {}


def _code(name: str) -> int:
    """The next code, entered into ``ACTIVATION_CODES``; replays and caches rely on those that there are."""
    return ACTIVATION_CODES.setdefault(name, len(ACTIVATION_CODES))


# Numba folds module constants, but not look-ups in a dictionary.
IDENTITY = _code("identity")
RELU = _code("relu")
LEAKY_RELU = _code("leaky_relu")
SIGMOID = _code("sigmoid")
TANH = _code("tanh")
GELU = _code("gelu")
GELU_TANH = _code("gelu_tanh")
CLIP = _code("clip")
ELU = _code("elu")
HARD_SIGMOID = _code("hard_sigmoid")
HARD_SWISH = _code("hard_swish")
SILU = _code("silu")
SQUARE = _code("square")
POWER = _code("power")
SOFTPLUS = _code("softplus")
EXP = _code("exp")
ABS = _code("abs")
SELU = _code("selu")
CELU = _code("celu")
SOFTSHRINK = _code("softshrink")
HARDSHRINK = _code("hardshrink")
THRESHOLD = _code("threshold")
SOFTSIGN = _code("softsign")
LOG_SIGMOID = _code("log_sigmoid")
ROUND = _code("round")
FLOOR = _code("floor")
CEIL = _code("ceil")
SIGN = _code("sign")
SIN = _code("sin")
COS = _code("cos")
TAN = _code("tan")
SINH = _code("sinh")
COSH = _code("cosh")
ASIN = _code("asin")
ACOS = _code("acos")
ATAN = _code("atan")
ASINH = _code("asinh")
ACOSH = _code("acosh")
ATANH = _code("atanh")
LOG = _code("log")
ERF = _code("erf")
GREATER = _code("greater")
GREATER_EQUAL = _code("greater_equal")
EQUAL = _code("equal")

_SQRT_HALF = math.sqrt(0.5)
# erf(z) / z for |z| <= 4 as a quotient of polynomials in z², fitted for the least relative error (2e-9).
_ERF_ABOVE = (
    *(1.1283791693653422, 0.18520484897945497, 0.05431699943197184, 0.003849662020464958),
    *(0.0003796044867991296, 4.6846187653409835e-06, -1.320151408917854e-08),
)
_ERF_BELOW = (
    *(0.4974669375510471, 0.11395897561859482, 0.015462175209314841, 0.001307574364367474),
    6.310909615264538e-05,
)
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
    if code == SELU:
        return _selu(value, alpha, beta)
    if code == CELU:
        return _celu(value, alpha)
    if code == SOFTSHRINK:
        return _softshrink(value, alpha)
    if code == HARDSHRINK:
        return _hardshrink(value, alpha)
    if code == THRESHOLD:
        return _threshold(value, alpha, beta)
    if code == SOFTSIGN:
        return _softsign(value)
    if code == LOG_SIGMOID:
        return _log_sigmoid(value)
    if code >= ROUND:
        return _elementary(code, alpha, value)
    return value


@jit
def _elementary(code: int, alpha: float, value: float) -> float:
    """The elementary functions, which come last among the codes."""
    real = type(value)
    if code == ROUND:
        return np.rint(value)
    if code == FLOOR:
        return np.floor(value)
    if code == CEIL:
        return np.ceil(value)
    if code == SIGN:
        return _sign(value)
    if code == SIN:
        return np.sin(value)
    if code == COS:
        return np.cos(value)
    if code == TAN:
        return np.tan(value)
    if code == SINH:
        return np.sinh(value)
    if code == COSH:
        return np.cosh(value)
    if code == ASIN:
        return np.arcsin(value)
    if code == ACOS:
        return np.arccos(value)
    if code == ATAN:
        return np.arctan(value)
    if code == ASINH:
        return np.arcsinh(value)
    if code == ACOSH:
        return np.arccosh(value)
    if code == ATANH:
        return np.arctanh(value)
    if code == LOG:
        return np.log(value)
    if code == ERF:
        return real(math.erf(value))
    if code == GREATER:
        return _truth(value, value > real(alpha))
    if code == GREATER_EQUAL:
        return _truth(value, value >= real(alpha))
    if code == EQUAL:
        return _truth(value, value == real(alpha))
    return value


class Levels(NamedTuple):
    """The levels between which a product leaves its results, and whether that is all of the activation."""

    low: float
    high: float
    suffice: bool


@jit
def levels(code: int, alpha: float, beta: float) -> Levels:
    """The two levels of an activation that is the identity between them; infinite ones for all others."""
    if code == RELU:
        return Levels(0.0, np.inf, True)
    if code == CLIP:
        return Levels(float(alpha), float(beta), True)
    return Levels(-np.inf, np.inf, code == IDENTITY)


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
    elif code == GELU and flat.itemsize == 4:
        _gelu_all(flat)
    else:
        for i in range(flat.size):
            flat[i] = activate(code, alpha, beta, flat[i])


@jit
def _gelu_all(values: np.ndarray) -> None:
    """GELU of numbers of 4 bytes, erf(z) = z P(z²) / Q(z²) to 4e-7, which loops over vectors can compute."""
    real = values.dtype.type
    half, one, far, scale = real(0.5), real(1), real(4), real(_SQRT_HALF)
    p0, p1, p2, p3, p4, p5, p6 = _ERF_ABOVE
    q1, q2, q3, q4, q5 = _ERF_BELOW
    for i in range(values.size):
        value = values[i]
        z = scale * value
        z = far if z > far else z
        z = -far if z < -far else z
        t = z * z
        above = real(p3) + t * (real(p4) + t * (real(p5) + t * real(p6)))
        above = real(p0) + t * (real(p1) + t * (real(p2) + t * above))
        below = real(q2) + t * (real(q3) + t * (real(q4) + t * real(q5)))
        below = one + t * (real(q1) + t * below)
        values[i] = half * value * (one + z * above / below)


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


@jit
def _selu(value: float, alpha: float, beta: float) -> float:
    real = type(value)
    return real(beta) * (value if value >= 0 else real(alpha) * np.expm1(value))


@jit
def _celu(value: float, alpha: float) -> float:
    return value if value >= 0 else type(value)(alpha) * np.expm1(value / type(value)(alpha))


@jit
def _softshrink(value: float, alpha: float) -> float:
    threshold = type(value)(alpha)
    if abs(value) <= threshold:
        return type(value)(0)
    return value + threshold if value < 0 else value - threshold  # NaN stays NaN


@jit
def _hardshrink(value: float, alpha: float) -> float:
    return type(value)(0) if abs(value) <= type(value)(alpha) else value


@jit
def _threshold(value: float, alpha: float, beta: float) -> float:
    return type(value)(beta) if value <= type(value)(alpha) else value


@jit
def _softsign(value: float) -> float:
    return value / (type(value)(1) + abs(value))


@jit
def _log_sigmoid(value: float) -> float:
    return -_ramp(-value, 1.0, 0.0, 0.0, np.inf) - np.log1p(np.exp(-abs(value)))


@jit
def _sign(value: float) -> float:
    real = type(value)
    if value > 0:
        return real(1)
    return real(-1) if value < 0 else value  # NaN stays NaN


@jit
def _truth(value: float, holds: bool) -> float:
    real = type(value)
    if value != value:
        return value  # NaN stays NaN
    return real(1) if holds else real(0)
