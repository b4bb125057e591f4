"""Element-wise functions by integer code, in the precision of their argument.

The formulas are those of ``repurpose_hpc.model.activations``, under the same names.
"""

from __future__ import annotations

import math

import numpy as np

from .jit import jit

IDENTITY, RELU, LEAKY_RELU, SIGMOID, TANH, GELU, GELU_TANH = range(7)

ACTIVATION_CODES: dict[str, int] = {
    "identity": IDENTITY,
    "relu": RELU,
    "leaky_relu": LEAKY_RELU,
    "sigmoid": SIGMOID,
    "tanh": TANH,
    "gelu": GELU,
    "gelu_tanh": GELU_TANH,
}

_SQRT_HALF = math.sqrt(0.5)
_SQRT_TWO_OVER_PI = math.sqrt(2 / math.pi)


@jit
def activate(code: int, alpha: float, value: float) -> float:
    """The activation ``code`` of one number, in the number's type.

    ``alpha`` is the slope of leaky_relu for negative arguments; the others ignore it.
    """
    # Constants take the type of value: a float64 among them would make float32 twice as slow.
    real = type(value)
    half, one = real(0.5), real(1)
    if code == RELU:
        return real(0) if value < 0 else value  # in this order NaN stays NaN
    if code == LEAKY_RELU:
        return value if value >= 0 else real(alpha) * value
    if code == SIGMOID:
        return half * (one + np.tanh(half * value))
    if code == TANH:
        return np.tanh(value)
    if code == GELU:
        return half * value * (one + real(math.erf(real(_SQRT_HALF) * value)))
    if code == GELU_TANH:
        cubic = value + real(0.044715) * value * value * value
        return half * value * (one + np.tanh(real(_SQRT_TWO_OVER_PI) * cubic))
    return value


@jit
def activate_in_place(values: np.ndarray, code: int, alpha: float) -> None:
    """values = activation(values), for a C-contiguous array of one or two dimensions."""
    if code == IDENTITY:
        return
    flat = values.reshape(-1)
    for i in range(flat.size):
        flat[i] = activate(code, alpha, flat[i])
