"""Which tests are slow, and what is left of the others in the fast tier (``pytest --fast``)."""

from __future__ import annotations

import inspect
import itertools
import subprocess
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType

import environment
import pytest

# Of each test function, in the fast tier.
PARAMETER_SETS = 3
EXAMPLES = 5
# Who uses one of them starts processes.
_LAUNCHERS = (subprocess, environment)


def mark_slow(items: list[pytest.Item]) -> None:
    """Mark the tests that start a process as slow; others say so themselves."""
    for item in items:
        definitions = itertools.chain(*item._fixtureinfo.name2fixturedefs.values())
        if starts_process([item.function, *(definition.func for definition in definitions)]):
            item.add_marker("slow")


def starts_process(functions: list[Callable]) -> bool:
    """Whether ``subprocess`` is named in these functions, or in functions that they name, and so on."""
    waiting, seen = list(functions), set()
    while waiting:
        function = inspect.unwrap(waiting.pop())
        function = getattr(getattr(function, "hypothesis", None), "inner_test", function)
        if not isinstance(function, FunctionType) or function in seen:
            continue
        seen.add(function)
        named = [function.__globals__.get(name) for name in _names(function.__code__)]
        if any(value is launcher for value in named for launcher in _LAUNCHERS):
            return True
        waiting += [value for value in named if isinstance(value, FunctionType)]
    return False


def _names(code: CodeType) -> Iterator[str]:
    """The names that a function uses and that are not its own, those of functions inside it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def fast_tier(items: list[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Tests that are neither slow nor mpi, with a few of the parameter sets of each; (those, the others)."""
    functions: dict[str, list[pytest.Item]] = {}
    for item in items:
        if not (item.get_closest_marker("slow") or item.get_closest_marker("mpi")):
            functions.setdefault(item.nodeid.split("[")[0], []).append(item)
    kept = {id(sets[index]) for sets in functions.values() for index in _spread(len(sets))}
    return [item for item in items if id(item) in kept], [item for item in items if id(item) not in kept]


def _spread(number: int) -> set[int]:
    """At most ``PARAMETER_SETS`` indices below ``number``, from the first to the last."""
    last = min(number, PARAMETER_SETS) - 1
    return {index * (number - 1) // last for index in range(last + 1)} if last else {0}
