"""Messages without their zeros: a bit for each number, and the numbers that are not zero.

Numbers are taken as unsigned integers of their width w (8, 16, 32 or 64 bits), and only the one whose bits
are all 0 is left out: -0.0 and NaN travel as they are.  A message of n numbers is the shorter of two forms:

- *squeezed*: ceil(n / w) words of w bits, then the numbers that are not zero, in order.  Number i is there
  if bit i % w of word i // w is set.  Words are as wide as numbers, so that both stay aligned.
- *dense*: all n numbers, unless the squeezed form is shorter.

So the length says which form it is: below n it is squeezed.
"""

from __future__ import annotations

import numpy as np

from ..arguments import INTEGER, UNSIGNED, Array
from ..registry import Need, kernel

_NUMBERS = Array(UNSIGNED, 1)


@kernel(arguments={"values": _NUMBERS, "message": _NUMBERS}, need=Need.NONE)
def squeeze(values: np.ndarray, message: np.ndarray) -> int:
    """Write ``values`` into ``message``, in the shorter form.

    Args:
        values: (n,), unsigned.
        message: (n,) of the same type; past the end of the message it may be overwritten as well.

    Returns:
        how many numbers long the message is, at most n.
    """
    count, width = values.size, 8 * values.itemsize
    words = (count + width - 1) // width
    zero, nonzeros = values.dtype.type(0), 0
    for value in values:
        nonzeros += value != zero
    if words + nonzeros >= count:
        message[:] = values
        return count
    end = words
    for word in range(words):
        mask, first = np.uint64(0), word * width
        for bit in range(min(width, count - first)):
            value = values[first + bit]
            # No branch: what is written for a zero is overwritten by the next number.
            message[end] = value
            end += value != zero
            mask |= np.uint64(value != zero) << np.uint64(bit)
        message[word] = mask
    return end


@kernel(arguments={"message": _NUMBERS, "length": INTEGER, "values": _NUMBERS}, need=Need.NONE)
def expand(message: np.ndarray, length: int, values: np.ndarray) -> None:
    """Restore the numbers that ``squeeze`` was given.

    Args:
        message: (n,), unsigned; what is past ``length`` does not matter.
        length: of the message, as ``squeeze`` returned it.
        values: (n,) of the same type.
    """
    count, width = values.size, 8 * values.itemsize
    if length == count:
        values[:] = message
        return
    end = np.int64((count + width - 1) // width)
    for word in range(end):
        mask, first = np.uint64(message[word]), word * width
        for bit in range(min(width, count - first)):
            is_set = (mask >> np.uint64(bit)) & np.uint64(1)
            # No branch: a zero is whatever comes next, times 0.
            values[first + bit] = np.uint64(message[end]) * is_set
            end += np.int64(is_set)
