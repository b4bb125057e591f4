"""Numba's ``intrinsic`` with the hints of what it makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba.extending import intrinsic as _intrinsic


def intrinsic(function: Callable) -> Callable[..., Any]:
    """A function for compiled code, which takes all arguments of ``function`` but the typing context."""
    return _intrinsic(function)
