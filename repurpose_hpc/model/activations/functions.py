"""The declarations of the activations of neural networks, in plain NumPy.

A new one is declared here, compiled under the same name in ``kernels.activations``, and listed in
docs/models.md; importers, chain files, bound, gradient and tests follow.
"""

from __future__ import annotations

import math

import numpy as np

from repurpose_hpc.model.activations.activation import ActivationKind, Parameter, Piece, declare


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
    return 0.5 * y * (1 + erf(y / y.dtype.type(math.sqrt(2))))


def _gelu_slope(y: np.ndarray, *_: object) -> np.ndarray:
    normal_density = np.exp(-0.5 * y * y) / y.dtype.type(math.sqrt(2 * math.pi))
    return 0.5 * (1 + erf(y / y.dtype.type(math.sqrt(2)))) + y * normal_density


def _gelu_tanh(y: np.ndarray, *_: object) -> np.ndarray:
    return 0.5 * y * (1 + np.tanh(_gelu_argument(y)))


def _gelu_tanh_slope(y: np.ndarray, *_: object) -> np.ndarray:
    t = np.tanh(_gelu_argument(y))
    slope = y.dtype.type(math.sqrt(2 / math.pi)) * (1 + y.dtype.type(3 * 0.044715) * y * y)
    return 0.5 * (1 + t) + 0.5 * y * (1 - t * t) * slope


def _gelu_argument(y: np.ndarray) -> np.ndarray:
    return y.dtype.type(math.sqrt(2 / math.pi)) * (y + y.dtype.type(0.044715) * y**3)


def erf(y: np.ndarray) -> np.ndarray:
    """The error function, in the precision of ``y``."""
    # SciPy only where a Gelu is there: inference on shards must not import it otherwise.
    from scipy import special

    return special.erf(y)


def _elu(y: np.ndarray, alpha: np.floating, _: object) -> np.ndarray:
    return np.where(y >= 0, y, alpha * np.expm1(np.minimum(y, 0)))


def _elu_slope(y: np.ndarray, alpha: np.floating, _: object) -> np.ndarray:
    return np.where(y >= 0, y.dtype.type(1), alpha * np.exp(np.minimum(y, 0)))


def _hard_sigmoid(y: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    return np.clip(alpha * y + beta, 0, 1)


def _within(y: np.ndarray, low: float, high: float) -> np.ndarray:
    return ((y > low) & (y < high)).astype(y.dtype)


def _clip_pieces(low: float, high: float) -> tuple[Piece, ...]:
    if low > high:  # the larger bound wins
        return (Piece(-math.inf, math.inf, 0.0, high),)
    below = (Piece(-math.inf, low, 0.0, low),) if low > -math.inf else ()
    above = (Piece(high, math.inf, 0.0, high),) if high < math.inf else ()
    return (*below, Piece(low, high, 1.0, 0.0), *above)


def _hard_sigmoid_pieces(slope: float, at_0: float) -> tuple[Piece, ...]:
    if slope <= 0:
        return ()
    low, high = -at_0 / slope, (1 - at_0) / slope
    return (
        Piece(-math.inf, low, 0.0, 0.0),
        Piece(low, high, slope, at_0),
        Piece(high, math.inf, 0.0, 1.0),
    )


def _bent(below: float, above: float = 1.0) -> tuple[Piece, ...]:
    """Straight on either side of 0, with these slopes."""
    return (Piece(-math.inf, 0.0, below, 0.0), Piece(0.0, math.inf, above, 0.0))


# gelu' = Φ(y) + y φ(y) has the derivative (2 − y²) φ(y), hence its maximum at √2.
_GELU_SLOPE = 0.5 * (1 + math.erf(1)) + math.exp(-1) / math.sqrt(math.pi)

declare(
    ActivationKind(
        "identity",
        value=lambda y, a, b: y,
        slope=lambda y, a, b: np.ones_like(y),
        formula=lambda x, a, b: x,
        pieces=lambda a, b: (Piece(-math.inf, math.inf, 1.0, 0.0),),
    )
)
declare(
    ActivationKind(
        "relu",
        value=lambda y, a, b: np.maximum(y, 0),
        slope=lambda y, a, b: (y > 0).astype(y.dtype),
        formula=lambda x, a, b: x.clip(0, math.inf),
        onnx={"Relu": lambda: ()},
        pieces=lambda a, b: _bent(0.0),
        range=(0.0, math.inf),
    )
)
declare(
    ActivationKind(
        "leaky_relu",
        value=lambda y, a, b: np.where(y >= 0, y, a * y),
        slope=lambda y, a, b: np.where(y >= 0, y.dtype.type(1), a),
        formula=lambda x, a, b: x.is_less(0).choose(a * x, x),
        lipschitz=lambda a, b: max(1.0, abs(a)),
        parameters=(Parameter("slope"),),
        onnx={"LeakyRelu": lambda alpha=0.01: (alpha,)},
        with_numbers=True,
        pieces=lambda a, b: _bent(a),
    )
)
declare(
    ActivationKind(
        "sigmoid",
        value=_sigmoid,
        slope=_sigmoid_slope,
        formula=lambda x, a, b: x.sigmoid(),
        lipschitz=0.25,
        onnx={"Sigmoid": lambda: ()},
        range=(0.0, 1.0),
    )
)
declare(
    ActivationKind(
        "tanh",
        value=lambda y, a, b: np.tanh(y),
        slope=lambda y, a, b: 1 - np.tanh(y) ** 2,
        formula=lambda x, a, b: x.tanh(),
        onnx={"Tanh": lambda: ()},
        range=(-1.0, 1.0),
    )
)
declare(
    ActivationKind(
        "gelu",
        value=_gelu,
        slope=_gelu_slope,
        formula=lambda x, a, b: 0.5 * x * (1 + (math.sqrt(0.5) * x).erf()),
        lipschitz=_GELU_SLOPE,
        onnx={"Gelu": lambda approximate=b"none": () if approximate == b"none" else None},
        range=(-0.17, math.inf),  # lowest near -0.7518
    )
)
declare(
    ActivationKind(
        "gelu_tanh",
        value=_gelu_tanh,
        slope=_gelu_tanh_slope,
        formula=lambda x, a, b: 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh()),
        lipschitz=1.128994,  # rounded up from 1.12899307 near 1.4185
        onnx={"Gelu": lambda approximate=b"none": () if approximate == b"tanh" else None},
        range=(-0.171, math.inf),
    )
)
declare(
    ActivationKind(
        "clip",
        value=np.clip,  # the larger bound wins
        slope=_within,
        formula=lambda x, a, b: x.clip(a, b),
        parameters=(Parameter("low", -math.inf, math.inf), Parameter("high", -math.inf, math.inf)),
        with_numbers=True,
        pieces=_clip_pieces,
    )
)
declare(
    ActivationKind(
        "elu",
        value=_elu,
        slope=_elu_slope,
        formula=lambda x, a, b: x.is_less(0).choose(a * (x.exp() - 1), x),
        lipschitz=lambda a, b: max(1.0, abs(a)),
        parameters=(Parameter("depth", default=1.0),),  # what is left at minus infinity, times -1
        onnx={"Elu": lambda alpha=1.0: (alpha,)},
        written_out=((1.0,),),
        with_numbers=True,
        pieces=lambda a, b: (Piece(0.0, math.inf, 1.0, 0.0),),
        range=lambda a, b: (min(0.0, -a), math.inf),
    )
)
declare(
    ActivationKind(
        "hard_sigmoid",
        value=_hard_sigmoid,
        slope=lambda y, a, b: a * _within(a * y + b, 0, 1),
        formula=lambda x, a, b: (a * x + b).clip(0, 1),
        lipschitz=lambda a, b: abs(a),
        parameters=(Parameter("slope"), Parameter("value at 0")),
        onnx={"HardSigmoid": lambda alpha=0.2, beta=0.5: (alpha, beta)},
        written_out=((1 / 6, 0.5),),
        with_numbers=True,
        pieces=_hard_sigmoid_pieces,
        range=(0.0, 1.0),
    )
)
declare(
    ActivationKind(
        "hard_swish",
        value=lambda y, a, b: y * _hard_sigmoid(y, 1 / 6, 0.5),
        slope=lambda y, a, b: np.where(y >= 3, y.dtype.type(1), (y / 3 + 0.5) * _within(y, -3, 3)),
        formula=lambda x, a, b: x * (x / 6 + 0.5).clip(0, 1),
        lipschitz=1.5,
        onnx={"HardSwish": lambda: ()},
        range=(-0.376, math.inf),
    )
)
declare(
    ActivationKind(
        "silu",
        value=_silu,
        slope=_silu_slope,
        formula=lambda x, a, b: x * x.sigmoid(),
        lipschitz=1.09984,  # rounded up from 1.09983932 near 2.3994
        range=(-0.279, math.inf),
    )
)
declare(
    ActivationKind(
        "square",
        value=lambda y, a, b: y * y,
        slope=lambda y, a, b: 2 * y,
        formula=lambda x, a, b: x * x,
        lipschitz=math.inf,
        range=(0.0, math.inf),
    )
)
declare(
    ActivationKind(
        "power",
        value=lambda y, a, b: y**a,
        slope=lambda y, a, b: a * y ** (a - 1),
        formula=lambda x, a, b: x**a,
        lipschitz=math.inf,
        parameters=(Parameter("exponent"),),
        onnx={"Sqrt": lambda: (0.5,), "Reciprocal": lambda: (-1.0,)},
    )
)
declare(
    ActivationKind(
        "softplus",
        value=lambda y, a, b: np.logaddexp(y, y.dtype.type(0)),
        slope=_sigmoid,
        formula=lambda x, a, b: x.softplus(),
        onnx={"Softplus": lambda: ()},
        range=(0.0, math.inf),
    )
)
declare(
    ActivationKind(
        "exp",
        value=lambda y, a, b: np.exp(y),
        slope=lambda y, a, b: np.exp(y),
        formula=lambda x, a, b: x.exp(),
        lipschitz=math.inf,
        onnx={"Exp": lambda: ()},
        range=(0.0, math.inf),
    )
)
declare(
    ActivationKind(
        "abs",
        value=lambda y, a, b: np.abs(y),
        slope=lambda y, a, b: np.sign(y),
        formula=lambda x, a, b: x * x.sign(),
        onnx={"Abs": lambda: ()},
        pieces=lambda a, b: _bent(-1.0),
        range=(0.0, math.inf),
    )
)
declare(
    ActivationKind(
        "selu",
        value=lambda y, a, b: b * np.where(y >= 0, y, a * np.expm1(np.minimum(y, 0))),
        slope=lambda y, a, b: b * np.where(y >= 0, y.dtype.type(1), a * np.exp(np.minimum(y, 0))),
        formula=lambda x, a, b: x.is_less(0).choose(a * b * (x.exp() - 1), b * x),
        lipschitz=lambda a, b: max(abs(b), abs(a * b)),
        parameters=(
            Parameter("depth", default=1.6732632423543772848),
            Parameter("scale", default=1.0507009873554804934),
        ),
        onnx={"Selu": lambda alpha=1.6732631921768188, gamma=1.0507010221481323: (alpha, gamma)},
        with_numbers=True,
        pieces=lambda a, b: (Piece(0.0, math.inf, b, 0.0),),
    )
)
declare(
    ActivationKind(
        "celu",
        value=lambda y, a, b: np.where(y >= 0, y, a * np.expm1(np.minimum(y, 0) / a)),
        slope=lambda y, a, b: np.where(y >= 0, y.dtype.type(1), np.exp(np.minimum(y, 0) / a)),
        formula=lambda x, a, b: x.is_less(0).choose(a * ((x / a).exp() - 1) if a else 0 * x, x),
        parameters=(Parameter("depth", low=0.0, default=1.0),),  # with 0 a ReLU
        onnx={"Celu": lambda alpha=1.0: (alpha,)},
        with_numbers=True,
        pieces=lambda a, b: (Piece(0.0, math.inf, 1.0, 0.0),),
        range=lambda a, b: (-a, math.inf),
    )
)
declare(
    ActivationKind(
        "softshrink",
        value=lambda y, a, b: np.where(np.abs(y) <= a, y.dtype.type(0), y - np.sign(y) * a),
        slope=lambda y, a, b: (np.abs(y) > a).astype(y.dtype),
        formula=lambda x, a, b: x.is_less(-a).choose(x + a, x.is_greater(a).choose(x - a, 0 * x)),
        parameters=(Parameter("threshold", low=0.0, default=0.5),),
        with_numbers=True,
    )
)
declare(
    ActivationKind(
        "hardshrink",
        value=lambda y, a, b: np.where(np.abs(y) <= a, y.dtype.type(0), y),
        slope=lambda y, a, b: (~(np.abs(y) <= a)).astype(y.dtype),
        formula=lambda x, a, b: x.is_less(-a).choose(x, x.is_greater(a).choose(x, 0 * x)),
        lipschitz=lambda a, b: 1.0 if a == 0 else math.inf,
        parameters=(Parameter("threshold", low=0.0, default=0.5),),
        with_numbers=True,
    )
)
declare(
    ActivationKind(
        "threshold",
        value=lambda y, a, b: np.where(y <= a, np.full_like(y, b), y),
        slope=lambda y, a, b: (~(y <= a)).astype(y.dtype),
        formula=lambda x, a, b: x.is_greater(a).choose(x, 0 * x + b),
        lipschitz=lambda a, b: 1.0 if a == b else math.inf,
        parameters=(Parameter("threshold"), Parameter("value")),
        onnx={"ThresholdedRelu": lambda alpha=1.0: (alpha, 0.0)},
        with_numbers=True,
    )
)
declare(
    ActivationKind(
        "softsign",
        value=lambda y, a, b: y / (1 + np.abs(y)),
        slope=lambda y, a, b: (1 + np.abs(y)) ** -2,
        formula=lambda x, a, b: x / (1 + x * x.sign()),
        onnx={"Softsign": lambda: ()},
        range=(-1.0, 1.0),
    )
)
declare(
    ActivationKind(
        "log_sigmoid",
        value=lambda y, a, b: -np.logaddexp(-y, y.dtype.type(0)),
        slope=lambda y, a, b: _sigmoid(-y),
        formula=lambda x, a, b: -(-x).softplus(),
        range=(-math.inf, 0.0),
    )
)
