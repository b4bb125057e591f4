"""How much a command prints, and in which form.

It is said once, when a command starts, as standard output and standard error belong to all of a process.  A
library user hears what is printed by default.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

from repurpose_hpc.fields import Declared, option, yes
from repurpose_hpc.io.colour import coloured


@dataclass(frozen=True, kw_only=True)
class Speech(Declared):
    """What a command prints."""

    quiet: bool = option(False, kind=yes(), help="print neither progress nor a summary, only what went wrong")
    json: bool = option(False, kind=yes(), help="print the report as one JSON object, instead of a summary")


_chosen = Speech()
_unended: list[TextIO] = []
"""The stream of the last line of progress, while that waits on a terminal for what takes its place."""


def choose(speech: Speech) -> None:
    """Speak like that from now on."""
    global _chosen
    _chosen = speech


def says_progress() -> bool:
    """Whether progress is printed."""
    return not _chosen.quiet


def says_text() -> bool:
    """Whether results are printed for people."""
    return not (_chosen.quiet or _chosen.json)


def says_json() -> bool:
    """Whether nothing but a JSON object goes to standard output."""
    return _chosen.json


def tell(result: Mapping[str, object], text: str = "") -> None:
    """Print a result, as text for people, unless that is "", or as JSON for scripts, or not at all."""
    end_line()
    if _chosen.json:
        print(json.dumps(result), flush=True)
    elif says_text() and text:
        print(coloured(text, sys.stdout), flush=True)


def leave_unended(stream: TextIO) -> None:
    """Note that the last line on ``stream``, a terminal, has no end yet: the next one may take its place."""
    _unended[:] = [stream]


def is_unended(stream: TextIO) -> bool:
    """Whether the last line on ``stream`` is one that may be overwritten."""
    return stream in _unended


def end_line() -> None:
    """End such a line, before anything else is printed."""
    while _unended:
        stream = _unended.pop()
        stream.write("\n")
        stream.flush()
