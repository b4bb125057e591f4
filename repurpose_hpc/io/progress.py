"""Progress of a long run: lines on stderr, by the root only.

A line that ends in " ..." says what is being done.  On a terminal the next line takes its place; in a
log file all lines stay.
"""

from __future__ import annotations

import sys
from time import perf_counter
from typing import TextIO

from repurpose_hpc.io.speech import end_line, is_unended, leave_unended, says_progress

PENDING = " ..."
# Seconds before the first line on how far work is, and from one to the next on a terminal and in a log file.
FIRST, ON_TERMINAL, IN_LOG = 5.0, 1.0, 30.0
# Less than so many seconds are not worth a word.
LEAST_LEFT = 5.0


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
        start = "\r\x1b[K" if is_unended(self.stream) else ""
        self.pending = line.endswith(PENDING)
        self.stream.write(f"{start}{perf_counter() - self.began:7.1f} s  {line}")
        leave_unended(self.stream)
        if not (self.pending and self.stream.isatty()):
            end_line()
        self.stream.flush()


class TimeLeft:
    """How long work will still take, if what is left goes like what was done.

    Args:
        total: of things to do, or of their sizes.
        first: of them, that were done before.
    """

    def __init__(self, total: float, first: float = 0) -> None:
        self.began, self.total, self.first = perf_counter(), total, first

    def __call__(self, done: float) -> str:
        """``, about 40 s left`` when so many are done; "": not known, or hardly any."""
        if done <= self.first:
            return ""
        seconds = (perf_counter() - self.began) / (done - self.first) * (self.total - done)
        text = expected(seconds)
        return text and f"{text} left"


def expected(seconds: float) -> str:
    """``, about 40 s`` of work that is about to begin; "": it hardly takes any time."""
    return f", about {_duration(seconds)}" if seconds >= LEAST_LEFT else ""


class Countdown:
    """Lines on how far long work is, and how long it will still take; none if it is short.

    Args:
        log: prints them.
        unit: of what is done, such as ``samples``.
        total, first: see ``TimeLeft``.
    """

    def __init__(self, log: Progress, unit: str, total: int, first: int = 0) -> None:
        self.log, self.unit, self.left = log, unit, TimeLeft(total, first)
        self.next = self.left.began + FIRST
        self.interval = ON_TERMINAL if log.stream.isatty() else IN_LOG

    def __call__(self, done: int) -> None:
        """Print how far it is, if it is time to."""
        now, text = perf_counter(), f"{done:,} of {self.left.total:,} {self.unit}"
        if done == self.left.total and self.log.pending:
            self.log(text)
        elif done < self.left.total and now >= self.next:
            self.next = now + self.interval
            self.log(f"{text}{self.left(done)}{PENDING}")


def _duration(seconds: float) -> str:
    """Such as ``40 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def say(line: str) -> None:
    """Print a line of progress on stderr."""
    if says_progress():
        end_line()
        print(line, file=sys.stderr, flush=True)
