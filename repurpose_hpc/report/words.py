"""Numbers and names as a page writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

_PREFIXES = ("", "k", "M", "G", "T")
# Numbers that nothing counts to, and that arithmetic with real numbers could not take.
_MOST = 2**63
# Letters of a name in a picture, at most.
_LONGEST = 22


def printable(text: str) -> str:
    """Text in which what cannot be printed, and neither HTML nor SVG can hold, is replaced."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def clean(value: Any) -> Any:
    """A value of JSON with printable text.

    Raises:
        ValueError: a whole number in it is beyond all that is counted.
    """
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): clean(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [clean(entry) for entry in value]
    if isinstance(value, int) and abs(value) > _MOST:
        raise ValueError(f"it has a number of {value.bit_length()} bits")
    return value


def short(name: str) -> str:
    """A name that is not longer than a picture has room for."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2]}…{name[-_LONGEST // 2 + 1 :]}"


def percent(share: float) -> str:
    """A share of 1 in percent, to about three digits; what is not all is never 100."""
    text = f"{100 * share:.3g} %"
    return "99.9 %" if text == "100 %" and share < 1 else text


def scaled(value: float, unit: str) -> str:
    """A number with a prefix of its unit, such as ``12.4 kB``."""
    power = 0
    while abs(value) >= 999.5 and power < len(_PREFIXES) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {_PREFIXES[power]}{unit}"


def microseconds(value: float) -> str:
    """A time, in the unit that suits it."""
    for unit, factor in (("s", 1e6), ("ms", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.3g} µs"


def cell(value: Any) -> str:
    """A value as a table has it; None: nothing."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if math.isfinite(value) and abs(value) >= 1e5 else f"{value:.5g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(cell, value))
    return str(value)


def over_mean(values: Sequence[float]) -> float:
    """The largest value over the mean of all; 1: all are equal, or 0."""
    total = sum(values)
    return max(values) * len(values) / total if total else 1.0
