"""Element-wise functions by name: values and derivatives in plain NumPy.

``repurpose_hpc.kernels`` has compiled twins under the same names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# What ``alpha`` and ``beta`` mean to the kinds that have parameters.
PARAMETERS = {
    "leaky_relu": "alpha: slope for negative arguments",
    "clip": "alpha, beta: smallest and largest value, perhaps infinite; the largest wins",
    "elu": "alpha: what is left at minus infinity, times -1",
    "hard_sigmoid": "alpha, beta: slope and value at 0 of the line between 0 and 1",
    "power": "alpha: the exponent",
}
KINDS = (
    *("identity", "relu", "leaky_relu", "sigmoid", "tanh", "gelu", "gelu_tanh", "clip", "elu"),
    *("hard_sigmoid", "hard_swish", "silu", "square", "power", "softplus", "exp", "abs"),
)


@dataclass(frozen=True)
class Activation:
    """An element-wise function.

    Attributes:
        kind: one of ``KINDS``.
        alpha, beta: see ``PARAMETERS``; the other kinds ignore them.
    """

    kind: str
    alpha: float = 0.0
    beta: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown activation {self.kind!r}, expected one of {', '.join(KINDS)}")


IDENTITY = Activation("identity")
RELU = Activation("relu")


def activate(activation: Activation, y: np.ndarray) -> np.ndarray:
    """The activation of ``y``, same shape and dtype; NaN stays NaN."""
    return _VALUES[activation.kind](y, *_parameters(activation, y))


def derivative(activation: Activation, y: np.ndarray) -> np.ndarray:
    """The derivative of the activation at ``y``, same shape and dtype."""
    return _DERIVATIVES[activation.kind](y, *_parameters(activation, y))


def lipschitz(activation: Activation) -> float:
    """The largest slope L of the activation: |f(a) − f(b)| <= L |a − b|; infinite where there is none.

    gelu' = Φ(y) + y φ(y) has the derivative (2 − y²) φ(y), hence its maximum at √2.  The maxima of gelu_tanh'
    and silu', 1.12899307 near 1.4185 and 1.09983932 near 2.3994, have no closed form and are rounded up.
    """
    kind = activation.kind
    if kind in ("leaky_relu", "elu"):
        return max(1.0, abs(activation.alpha))
    if kind == "hard_sigmoid":
        return abs(activation.alpha)
    if kind == "gelu":
        return 0.5 * (1 + math.erf(1)) + math.exp(-1) / math.sqrt(math.pi)
    return _LIPSCHITZ.get(kind, 1.0)


_LIPSCHITZ = {
    "sigmoid": 0.25,
    "gelu_tanh": 1.128994,
    "hard_swish": 1.5,
    "silu": 1.09984,
    "square": math.inf,
    "power": math.inf,
    "exp": math.inf,
}


def _parameters(activation: Activation, y: np.ndarray) -> tuple[np.floating, np.floating]:
    """alpha and beta in the precision of ``y``, so that they do not change it."""
    return y.dtype.type(activation.alpha), y.dtype.type(activation.beta)


def _sigmoid(y: np.ndarray, *_: object) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * y))


def _sigmoid_slope(y: np.ndarray, *_: object) -> np.ndarray:
    s = _sigmoid(y)
    return s * (1 - s)


def _silu(y: np.ndarray, *_: object) -> np.ndarray:
    return y * _sigmoid(y)


def _silu_slope(y: np.ndarray, *_: object) -> np.ndarray:
    s = _sigmoid(y)
    return s + y * s * (1 - s)


def _gelu(y: np.ndarray, *_: object) -> np.ndarray:
    return 0.5 * y * (1 + _erf(y / y.dtype.type(math.sqrt(2))))


def _gelu_slope(y: np.ndarray, *_: object) -> np.ndarray:
    normal_density = np.exp(-0.5 * y * y) / y.dtype.type(math.sqrt(2 * math.pi))
    return 0.5 * (1 + _erf(y / y.dtype.type(math.sqrt(2)))) + y * normal_density


def _gelu_tanh(y: np.ndarray, *_: object) -> np.ndarray:
    return 0.5 * y * (1 + np.tanh(_gelu_argument(y)))


def _gelu_tanh_slope(y: np.ndarray, *_: object) -> np.ndarray:
    t = np.tanh(_gelu_argument(y))
    slope = y.dtype.type(math.sqrt(2 / math.pi)) * (1 + y.dtype.type(3 * 0.044715) * y * y)
    return 0.5 * (1 + t) + 0.5 * y * (1 - t * t) * slope


def _gelu_argument(y: np.ndarray) -> np.ndarray:
    return y.dtype.type(math.sqrt(2 / math.pi)) * (y + y.dtype.type(0.044715) * y**3)


def _erf(y: np.ndarray) -> np.ndarray:
    # SciPy only where a Gelu is there: inference on shards must not import it otherwise.
    from scipy.special import erf

    return erf(y)


def _elu(y: np.ndarray, alpha: np.floating, _: object) -> np.ndarray:
    return np.where(y >= 0, y, alpha * np.expm1(np.minimum(y, 0)))


def _elu_slope(y: np.ndarray, alpha: np.floating, _: object) -> np.ndarray:
    return np.where(y >= 0, y.dtype.type(1), alpha * np.exp(np.minimum(y, 0)))


def _hard_sigmoid(y: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    return np.clip(alpha * y + beta, 0, 1)


def _within(y: np.ndarray, low: float, high: float) -> np.ndarray:
    return ((y > low) & (y < high)).astype(y.dtype)


_Function = Callable[..., np.ndarray]

# Of the argument, alpha and beta.
_VALUES: dict[str, _Function] = {
    "identity": lambda y, a, b: y,
    "relu": lambda y, a, b: np.maximum(y, 0),
    "leaky_relu": lambda y, a, b: np.where(y >= 0, y, a * y),
    "sigmoid": _sigmoid,
    "tanh": lambda y, a, b: np.tanh(y),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "clip": np.clip,
    "elu": _elu,
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": lambda y, a, b: y * _hard_sigmoid(y, 1 / 6, 0.5),
    "silu": _silu,
    "square": lambda y, a, b: y * y,
    "power": lambda y, a, b: y**a,
    "softplus": lambda y, a, b: np.logaddexp(y, y.dtype.type(0)),
    "exp": lambda y, a, b: np.exp(y),
    "abs": lambda y, a, b: np.abs(y),
}

_DERIVATIVES: dict[str, _Function] = {
    "identity": lambda y, a, b: np.ones_like(y),
    "relu": lambda y, a, b: (y > 0).astype(y.dtype),
    "leaky_relu": lambda y, a, b: np.where(y >= 0, y.dtype.type(1), a),
    "sigmoid": _sigmoid_slope,
    "tanh": lambda y, a, b: 1 - np.tanh(y) ** 2,
    "gelu": _gelu_slope,
    "gelu_tanh": _gelu_tanh_slope,
    "clip": _within,
    "elu": _elu_slope,
    "hard_sigmoid": lambda y, a, b: a * _within(a * y + b, 0, 1),
    "hard_swish": lambda y, a, b: np.where(y >= 3, y.dtype.type(1), (y / 3 + 0.5) * _within(y, -3, 3)),
    "silu": _silu_slope,
    "square": lambda y, a, b: 2 * y,
    "power": lambda y, a, b: a * y ** (a - 1),
    "softplus": _sigmoid,
    "exp": lambda y, a, b: np.exp(y),
    "abs": lambda y, a, b: np.sign(y),
}
