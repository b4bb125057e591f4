"""Few sets of parameters for a test: every two values of two parameters meet in one of them."""

from collections.abc import Iterable
from itertools import combinations, product


def covering(*parameters: Iterable) -> list[tuple]:
    """Choose sets of parameters, one value of each, among which all pairs of values occur.

    Args:
        parameters: the values of each, two parameters at least.

    Returns:
        the same sets each time: always the first of those that bring most pairs not yet met.
    """
    values = [list(each) for each in parameters]
    # Pairs of numbers of values: these need not be hashable.
    pairs = {row: set(combinations(enumerate(row), 2)) for row in product(*(range(len(v)) for v in values))}
    missing, chosen = set().union(*pairs.values()), []
    while missing:
        row = max(pairs, key=lambda row: len(pairs[row] & missing))
        missing -= pairs[row]
        chosen.append(tuple(value[index] for value, index in zip(values, row, strict=True)))
    return chosen
