"""Progress of a long run: lines on stderr, by the root only.

A line that ends in " ..." says what is being done.  On a terminal the next line takes its place; in a
log file all lines stay.
"""

from __future__ import annotations

import sys
from time import perf_counter
from typing import TextIO

from repurpose_hpc.io.speech import says_progress

PENDING = " ..."


class Progress:
    """Prints lines with the seconds since it was made.

    Args:
        speaks: whether this rank prints.
        stream: where to; None: stderr.
    """

    def __init__(self, speaks: bool = True, stream: TextIO | None = None) -> None:
        self.speaks, self.stream = speaks and says_progress(), stream or sys.stderr
        self.began, self.pending = perf_counter(), False

    def __call__(self, line: str) -> None:
        """Print ``line``."""
        if not self.speaks:
            return
        terminal = self.stream.isatty()
        start = "\r\x1b[K" if terminal and self.pending else ""
        self.pending = line.endswith(PENDING)
        end = "" if terminal and self.pending else "\n"
        self.stream.write(f"{start}{perf_counter() - self.began:7.1f} s  {line}{end}")
        self.stream.flush()


def say(line: str) -> None:
    """Print a line of progress on stderr."""
    if says_progress():
        print(line, file=sys.stderr, flush=True)
