"""Element-wise steps between feature maps, and moving positions.

Maps are (neurons, batch, positions), C-contiguous and of one dtype; a vector has one position.
Shapes are not checked.
"""

from __future__ import annotations

import numpy as np

from ..arguments import EPILOGUE, FLOAT, INTEGER, INTEGERS, REAL, Array, Epilogue
from ..jit import jit
from ..registry import Need, kernel
from .activations import activate_in_place

COMBINATION_CODES: dict[str, int] = {
    "add": 0,
    "subtract": 1,
    "multiply": 2,
    "divide": 3,
    "maximum": 4,
    "minimum": 5,
    "mask": 6,
}
_ADD, _SUBTRACT, _MULTIPLY, _DIVIDE, _MAXIMUM, _MINIMUM, _MASK = range(7)

_MAPS, _PER_NEURON = Array(REAL, 3), Array(REAL, 2)


@kernel(
    arguments={"scale": _PER_NEURON, "x": _MAPS, "shift": _PER_NEURON, "out": _MAPS, "epilogue": EPILOGUE},
    need=Need.MAPS,
    replayed=True,
)
def affine(scale: np.ndarray, x: np.ndarray, shift: np.ndarray, out: np.ndarray, epilogue: Epilogue) -> None:
    """out = act(scale · x + shift).

    Args:
        scale, shift: (n, 1), or (n, positions); one shape for both.
        x: (n, batch, positions).
        out: as x, possibly x itself.
        epilogue: activation.
    """
    per_position = scale.shape[1] > 1
    for j in range(x.shape[0]):
        for b in range(x.shape[1]):
            row, result = x[j, b], out[j, b]
            if per_position:
                for t in range(row.size):
                    result[t] = scale[j, t] * row[t] + shift[j, t]
            else:
                factor, constant = scale[j, 0], shift[j, 0]
                for t in range(row.size):
                    result[t] = factor * row[t] + constant
            activate_in_place(result, epilogue.code, epilogue.alpha, epilogue.beta)


@kernel(
    arguments={"operation": INTEGER, "a": _MAPS, "b": _MAPS, "out": _MAPS, "epilogue": EPILOGUE},
    need=Need.MAPS,
    replayed=True,
)
def combine(operation: int, a: np.ndarray, b: np.ndarray, out: np.ndarray, epilogue: Epilogue) -> None:
    """out = act(a operation b).

    Args:
        operation: one of ``COMBINATION_CODES``.
        a, b: (n, batch, positions), or (n, batch, 1), which is the same at all positions.
        out: (n, batch, positions), possibly a or b itself.
        epilogue: activation.
    """
    for j in range(out.shape[0]):
        for i in range(out.shape[1]):
            result = out[j, i]
            if a.shape[2] == b.shape[2]:
                _combine_rows(operation, a[j, i], b[j, i], result)
            elif b.shape[2] == 1:
                _combine_with_number(operation, a[j, i], b[j, i, 0], result)
            else:
                _combine_number(operation, a[j, i, 0], b[j, i], result)
            activate_in_place(result, epilogue.code, epilogue.alpha, epilogue.beta)


@jit
def _combined(operation: int, a: float, b: float) -> float:
    if operation == _ADD:
        return a + b
    if operation == _SUBTRACT:
        return a - b
    if operation == _MULTIPLY:
        return a * b
    if operation == _DIVIDE:
        return a / b
    if operation == _MAXIMUM:
        return a if a > b or a != a else b  # NaN stays NaN, whichever it is
    if operation == _MASK:
        return b if a != 0 else type(b)(0)
    return a if a < b or a != a else b


@jit
def _combine_rows(operation: int, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    for t in range(out.size):
        out[t] = _combined(operation, a[t], b[t])


@jit
def _combine_with_number(operation: int, a: np.ndarray, b: float, out: np.ndarray) -> None:
    for t in range(out.size):
        out[t] = _combined(operation, a[t], b)


@jit
def _combine_number(operation: int, a: float, b: np.ndarray, out: np.ndarray) -> None:
    for t in range(out.size):
        out[t] = _combined(operation, a, b[t])


@kernel(arguments={"x": _MAPS, "index": Array(INTEGERS, 1), "fill": FLOAT, "out": _MAPS}, need=Need.MAPS)
def take_positions(x: np.ndarray, index: np.ndarray, fill: float, out: np.ndarray) -> None:
    """out[j, b, t] = x[j, b, index[t]], or ``fill`` where the index is negative.

    Args:
        x: (n, batch, positions), not overlapping out.
        index: (positions of out,) int64, less than the positions of x.
        out: (n, batch, positions of out).
    """
    constant = x.dtype.type(fill)
    for j in range(x.shape[0]):
        for b in range(x.shape[1]):
            row, result = x[j, b], out[j, b]
            for t in range(index.size):
                position = index[t]
                result[t] = row[position] if position >= 0 else constant
