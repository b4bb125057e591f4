"""Colours on a terminal: red for errors and verdicts that disappoint, green for those that please.

There are none where the output goes elsewhere, where NO_COLOR is set (https://no-color.org) or where the
terminal is called dumb.  Texts are written without colours; what counts is found when they are printed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TextIO

_RED, _GREEN, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[0m"
_BAD = r"^repurpose-hpc: error:|^ERROR:|^WARNING:|^warning:|ONE PROCESS IS FASTER"
_GOOD = r"\d ranks(?: of a group)? are [\d.]+ times faster|^nothing to complain of$"
_VERDICT = re.compile(f"({_BAD})|({_GOOD})", re.M)


def coloured(text: str, stream: TextIO, environ: Mapping[str, str] | None = None) -> str:
    """``text`` with colours where ``stream`` shows them.

    Args:
        text: that is about to be written.
        stream: to which.
        environ: of the process; None: that of this one.
    """
    environ = os.environ if environ is None else environ
    if environ.get("NO_COLOR") or environ.get("TERM") == "dumb" or not stream.isatty():
        return text
    return _VERDICT.sub(lambda found: f"{_RED if found[1] else _GREEN}{found[0]}{_PLAIN}", text)
