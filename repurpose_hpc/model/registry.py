"""Registries: functions by what they are for, such as the type of an operation."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import TypeVar

_Key = TypeVar("_Key")
_Entry = TypeVar("_Entry")


def entered(registry: MutableMapping[_Key, _Entry], *keys: _Key) -> Callable[[_Entry], _Entry]:
    """A decorator that enters what it decorates into a registry under some keys."""

    def enter(entry: _Entry) -> _Entry:
        registry.update(dict.fromkeys(keys, entry))
        return entry

    return enter
