"""Numbers that are 0 or 1 as bits, for messages.

A message is rows of bytes, a byte for each sample; eight neurons share a row, the first in its lowest bits.
"""

from __future__ import annotations

import numpy as np

from ..arguments import BYTE, INDEX, REAL, Array
from ..registry import kernel

_PLACES, _MESSAGE, _NUMBERS = Array(INDEX, 1), Array(BYTE, 2), Array(REAL, 2)


@kernel(
    arguments={"X": _NUMBERS, "rows": Array(INDEX, 1), "places": _PLACES, "message": _MESSAGE}, replayed=True
)
def pack_bits(X: np.ndarray, rows: np.ndarray, places: np.ndarray, message: np.ndarray) -> None:
    """Write X[rows[k]] != 0 into a message, as bit places[k] of its rows; other bits are 0.

    Args:
        X: (neurons, batch).
        rows: of each neuron that is sent, (count,).
        places: ascending, (count,); bit p is number p % 8 of row p // 8.
        message: int8, (rows of bytes, batch).
    """
    message[:] = 0
    for k in range(rows.size):
        row, line, bit = rows[k], places[k] >> 3, np.uint8(1) << np.uint8(places[k] & 7)
        for b in range(X.shape[1]):
            if X[row, b] != 0:
                message[line, b] = np.int8(np.uint8(message[line, b]) | bit)


@kernel(arguments={"message": _MESSAGE, "places": _PLACES, "X": _NUMBERS}, replayed=True)
def unpack_bits(message: np.ndarray, places: np.ndarray, X: np.ndarray) -> None:
    """X[k] = bit places[k] of a message, with X (count, batch); see ``pack_bits``."""
    one, zero = X.dtype.type(1), X.dtype.type(0)
    for k in range(places.size):
        line, bit = places[k] >> 3, np.uint8(places[k] & 7)
        for b in range(X.shape[1]):
            X[k, b] = one if (np.uint8(message[line, b]) >> bit) & np.uint8(1) else zero
