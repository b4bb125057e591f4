"""The command line by which this process was started, as reports and traces have it.

It is noted once, when a command starts.  A process that uses the library has none.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

KEY = "command"
_words: list[str] = []


def note(name: str, words: Sequence[str]) -> None:
    """Remember a command and the words after it."""
    _words[:] = [name, *words]


def command_line(*words: str) -> str:
    """A command line of this package, quoted as shells want it."""
    return shlex.join(("repurpose-hpc", *words))


def signed(result: Mapping[str, Any]) -> dict[str, Any]:
    """``result`` and, under ``KEY``, the command line that makes it, as it was typed, but for a launcher."""
    return {KEY: command_line(*_words), **result} if _words else dict(result)
