"""Element-wise functions by name: values and derivatives in plain NumPy.

``repurpose_hpc.kernels`` has compiled twins under the same names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

KINDS = ("identity", "relu", "leaky_relu", "sigmoid", "tanh", "gelu", "gelu_tanh")


@dataclass(frozen=True)
class Activation:
    """An element-wise function.

    Attributes:
        kind: one of ``KINDS``.
        alpha: slope for negative arguments (``leaky_relu`` only).
    """

    kind: str
    alpha: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown activation {self.kind!r}, expected one of {', '.join(KINDS)}")


IDENTITY = Activation("identity")
RELU = Activation("relu")


def activate(activation: Activation, y: np.ndarray) -> np.ndarray:
    """The activation of ``y``, same shape and dtype."""
    kind = activation.kind
    if kind == "identity":
        return y
    if kind == "relu":
        return np.maximum(y, 0)
    if kind == "leaky_relu":
        return np.where(y >= 0, y, y.dtype.type(activation.alpha) * y)
    if kind == "sigmoid":
        return 0.5 * (1 + np.tanh(0.5 * y))
    if kind == "tanh":
        return np.tanh(y)
    if kind == "gelu":
        return 0.5 * y * (1 + _erf(y / y.dtype.type(math.sqrt(2))))
    return 0.5 * y * (1 + np.tanh(_gelu_argument(y)))


def derivative(activation: Activation, y: np.ndarray) -> np.ndarray:
    """The derivative of the activation at ``y``, same shape and dtype."""
    kind = activation.kind
    if kind == "identity":
        return np.ones_like(y)
    if kind == "relu":
        return (y > 0).astype(y.dtype)
    if kind == "leaky_relu":
        return np.where(y >= 0, y.dtype.type(1), y.dtype.type(activation.alpha))
    if kind == "sigmoid":
        s = activate(activation, y)
        return s * (1 - s)
    if kind == "tanh":
        return 1 - np.tanh(y) ** 2
    if kind == "gelu":
        normal_density = np.exp(-0.5 * y * y) / y.dtype.type(math.sqrt(2 * math.pi))
        return 0.5 * (1 + _erf(y / y.dtype.type(math.sqrt(2)))) + y * normal_density
    t = np.tanh(_gelu_argument(y))
    slope = y.dtype.type(math.sqrt(2 / math.pi)) * (1 + y.dtype.type(3 * 0.044715) * y * y)
    return 0.5 * (1 + t) + 0.5 * y * (1 - t * t) * slope


def lipschitz(activation: Activation) -> float:
    """The largest slope L of the activation: |f(a) − f(b)| <= L |a − b|.

    gelu' = Φ(y) + y φ(y) has the derivative (2 − y²) φ(y), hence its maximum at √2.  The maximum of
    gelu_tanh', 1.12899307 near 1.4185, has no closed form and is rounded up.
    """
    kind = activation.kind
    if kind == "leaky_relu":
        return max(1.0, abs(activation.alpha))
    if kind == "sigmoid":
        return 0.25
    if kind == "gelu":
        return 0.5 * (1 + math.erf(1)) + math.exp(-1) / math.sqrt(math.pi)
    return 1.128994 if kind == "gelu_tanh" else 1.0


def _gelu_argument(y: np.ndarray) -> np.ndarray:
    return y.dtype.type(math.sqrt(2 / math.pi)) * (y + y.dtype.type(0.044715) * y**3)


def _erf(y: np.ndarray) -> np.ndarray:
    # SciPy only where a Gelu is there: inference on shards must not import it otherwise.
    from scipy.special import erf

    return erf(y)
