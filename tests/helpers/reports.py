"""Reports with all keys that they may have, and whatever values."""

from __future__ import annotations

from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

from repurpose_hpc.report.schema import REPORTS

_PLAIN = {int: 3, float: 0.25, str: "word", bool: True, Any: "anything"}


def filled(kind: Any) -> Any:
    """A value of a type of ``report.schema``; of objects all keys, of lists two entries."""
    if is_typeddict(kind):
        hints = get_type_hints(kind, include_extras=True)
        return {name: filled(get_args(hint)[0]) for name, hint in hints.items()}
    if isinstance(kind, UnionType):
        return filled(get_args(kind)[0])
    if get_origin(kind) is list:
        return [filled(get_args(kind)[0]), filled(get_args(kind)[0])]
    if get_origin(kind) is dict:
        return {"one": filled(get_args(kind)[1]), "other": filled(get_args(kind)[1])}
    return _PLAIN[kind]


def least(kind: Any) -> Any:
    """A value of a type that says as little as it may: no optional keys, nothing in lists, null, 0."""
    if is_typeddict(kind):
        hints = get_type_hints(kind, include_extras=True)
        return {name: least(get_args(hints[name])[0]) for name in kind.__required_keys__}
    if isinstance(kind, UnionType):
        return None
    return "" if kind is Any else (get_origin(kind) or kind)()


def report_of(command: str, **changes: Any) -> dict[str, Any]:
    """A report of a command with all of its keys, some of them changed."""
    return filled(REPORTS[command]) | changes
