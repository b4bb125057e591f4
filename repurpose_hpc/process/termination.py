"""SIGTERM and Ctrl-C, also where the main thread cannot see them.

Batch systems send SIGTERM at the time limit, launchers when another rank has failed.  Python's handler runs
in the main thread between two instructions: not while that waits in compiled code for a rank that stands
still, and what it raises within a callback of a library gets lost.  So a thread that sees the signal at once
repeats it, and at last ends the process.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# From a signal to its repetition, and from that to the end of the process.
PATIENCE_SECONDS = 4.0
TERMINATED = 128 + signal.SIGTERM


class Terminated(BaseException):
    """SIGTERM has come."""


@contextmanager
def raising_at_sigterm(tidy_up: Callable[[], None]) -> Iterator[None]:
    """A block in which SIGTERM raises ``Terminated``; only the main thread may enter it.

    A block that neither SIGTERM nor Ctrl-C has ended after twice ``PATIENCE_SECONDS`` ends with the process.

    Args:
        tidy_up: is called before the process is ended from outside of the block.
    """
    raised = -PATIENCE_SECONDS

    def terminate(number: int, frame: object) -> None:
        nonlocal raised
        if time.monotonic() - raised >= PATIENCE_SECONDS:  # else the block is about to end
            raised = time.monotonic()
            raise Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    watch = _Watch(tidy_up)
    try:
        yield
    except Terminated:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # nothing may interrupt the tidying up
        raise
    finally:
        if signal.getsignal(signal.SIGTERM) is terminate:
            signal.signal(signal.SIGTERM, previous)
        watch.end()


class _Watch:
    """A thread that reads the signals that have come from a pipe, into which the system's handler writes."""

    def __init__(self, tidy_up: Callable[[], None]) -> None:
        self._tidy_up, self._ended = tidy_up, threading.Event()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._previous = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._run, name="signals", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop watching."""
        signal.set_wakeup_fd(self._previous)
        self._ended.set()
        os.close(self._writer)
        self._thread.join()
        os.close(self._reader)

    def _run(self) -> None:
        numbers = (signal.SIGTERM, signal.SIGINT)
        while number := os.read(self._reader, 1):
            if number[0] in numbers:
                self._insist(number[0])

    def _insist(self, number: int) -> None:
        if self._ended.wait(PATIENCE_SECONDS):
            return
        os.kill(os.getpid(), number)
        if self._ended.wait(PATIENCE_SECONDS):
            return
        self._tidy_up()
        os.kill(os.getpid(), signal.SIGKILL)  # launchers then end the other ranks
