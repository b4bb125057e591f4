"""Keys and values of earlier tokens: real numbers, or codes of fewer bits, expanded when they are read.

Codes of 16 bits are those of float16; codes of 8 bits are multiples of a scale for each token and head.  What
they cannot hold, numbers beyond the largest float16 and those that are not finite, is kept as NaN.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from ..llvm.halves import half_bits, half_number
from ..llvm.stored import FLOAT16, INT8, expanded

# The largest code of 8 bits, and the largest float16.
_MOST, _LARGEST_HALF, _NAN = 127, 65504, np.float32(np.nan)


def keep(
    new: np.ndarray,
    first: int,
    count: int,
    kept: np.ndarray,
    scales: np.ndarray,
    slot: int,
    past: int,
) -> None:
    """Put tokens behind those of their sequence.

    Args:
        new: (G, d, tokens), real.
        first, count: of the tokens in it.
        kept: (G, d, slots, longest): real, ``FLOAT16`` or ``INT8``.
        scales: (G, slots, longest), of ``INT8``; else (0, 0, 0).
        slot, past: of the sequence, and what it has already.
    """
    part, place = new[:, :, first : first + count], slice(past, past + count)
    if kept.dtype == FLOAT16:
        part = np.where(np.abs(part) <= _LARGEST_HALF, part, np.nan).astype(np.float16).view(np.int16)
    elif kept.dtype == INT8:
        scale = np.abs(part).max(axis=1) / part.dtype.type(_MOST)
        scales[:, slot, place] = np.where(np.isfinite(scale), scale, np.nan)
        codes = np.rint(part / np.where(scale > 0, scale, 1)[:, None])
        part = np.where(np.isfinite(codes), codes, 0)
    kept[:, :, slot, place] = part


@overload(keep)
def _keep(new, first, count, kept, scales, slot, past):
    if kept.dtype == types.int16:
        return _keep_halves
    if kept.dtype == types.int8:
        return _keep_multiples
    return _keep_numbers


def _keep_numbers(new, first, count, kept, scales, slot, past):
    kept[:, :, slot, past : past + count] = new[:, :, first : first + count]


def _keep_halves(new, first, count, kept, scales, slot, past):
    for g in range(len(new)):
        for c in range(new.shape[1]):
            for t in range(count):
                number = np.float32(new[g, c, first + t])
                kept[g, c, slot, past + t] = half_bits(number if abs(number) <= _LARGEST_HALF else _NAN)


def _keep_multiples(new, first, count, kept, scales, slot, past):
    is_finite = np.empty(count, np.bool_)
    for g in range(len(new)):
        scale = scales[g, slot, past : past + count]
        scale[:] = 0
        is_finite[:] = True
        for c in range(new.shape[1]):
            for t in range(count):
                size = abs(new[g, c, first + t])
                if size < np.inf:
                    scale[t] = max(scale[t], size)
                else:
                    is_finite[t] = False
        for t in range(count):
            scale[t] = scale[t] / _MOST if is_finite[t] else np.nan
        for c in range(new.shape[1]):
            for t in range(count):
                step = scale[t] if scale[t] > 0 else scale.dtype.type(1)
                kept[g, c, slot, past + t] = np.int8(np.rint(new[g, c, first + t] / step))


def numbers_of_kept(
    kept: np.ndarray, scales: np.ndarray, g: int, slot: int, T: int
) -> tuple[np.ndarray, int, int]:
    """The first T tokens of a head in a slot as numbers.

    Args:
        kept: see ``keep``.
        scales: (G, slots, longest) real; of other than ``INT8`` (0, 0, 0).
        g, slot, T: see there.

    Returns:
        (heads, d, slots, at least T), and the place of the head and of the slot in it.
    """
    if kept.dtype == scales.dtype:
        return kept, g, slot
    numbers = expanded(kept[g, :, slot, :T]).astype(scales.dtype)
    if kept.dtype == INT8:
        numbers *= scales[g, slot, :T]
    return np.ascontiguousarray(numbers)[None, :, None], 0, 0


@overload(numbers_of_kept)
def _numbers_of_kept(kept, scales, g, slot, T):
    if kept.dtype == types.int16:
        return _numbers_of_halves
    if kept.dtype == types.int8:
        return _numbers_of_multiples
    return lambda kept, scales, g, slot, T: (kept, g, slot)


def _numbers_of_halves(kept, scales, g, slot, T):
    numbers = np.empty((1, kept.shape[1], 1, T), scales.dtype)
    for c in range(kept.shape[1]):
        for t in range(T):
            numbers[0, c, 0, t] = half_number(kept[g, c, slot, t])
    return numbers, 0, 0


def _numbers_of_multiples(kept, scales, g, slot, T):
    numbers = np.empty((1, kept.shape[1], 1, T), scales.dtype)
    for c in range(kept.shape[1]):
        for t in range(T):
            numbers[0, c, 0, t] = kept[g, c, slot, t] * scales[g, slot, t]
    return numbers, 0, 0
