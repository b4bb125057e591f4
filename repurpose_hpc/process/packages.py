"""Packages that are installed in this environment."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress


def installed(names: Iterable[str]) -> dict[str, str]:
    """The versions of those of the packages that are there, in the order of ``names``."""
    # Imported here: it takes a process tens of milliseconds, and hardly any asks.
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
