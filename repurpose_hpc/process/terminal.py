"""Standard output and standard error that may be closed, full, or a pipe whose reader has gone.

What a command writes there is for people.  A command that has work to finish, and a report to write, must not
end because nobody reads any more.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO, cast

from repurpose_hpc.errors import UserError


class _Patient:
    """A text stream that goes on in silence once it cannot be written to.

    Attributes:
        error: that ended the writing; None: there was none yet.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write ``text``, if that is still possible."""
        if self.error is None:
            try:
                return self._stream.write(text)
            except OSError as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written, if that is still possible."""
        if self.error is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._give_up(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self, error: OSError) -> None:
        self.error = error
        # The interpreter flushes what is left in the buffer when it ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def be_patient() -> None:
    """Let nothing fail because standard output or standard error cannot be written to.

    What the encoding of a stream lacks becomes a question mark.  A stream that is closed is opened on the
    null device: else the next file that is opened takes its number, and libraries that print spoil that file.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for number, name in enumerate(("stdout", "stderr"), 1):
        # Of the number that was just opened; as Python's own, it is never closed.
        stream = getattr(sys, name) or open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        if isinstance(stream, io.TextIOWrapper):  # where µ and ² cannot be written
            stream.reconfigure(errors="replace")
        if not isinstance(stream, _Patient):
            setattr(sys, name, cast(TextIO, _Patient(stream)))


def check_printed() -> None:
    """Find out whether standard output took everything.

    A reader that has gone, such as ``head``, has seen what it wanted.

    Raises:
        UserError: it did not, as on a full disk.
    """
    sys.stdout.flush()
    error = getattr(sys.stdout, "error", None)
    if error is not None and error.errno != errno.EPIPE:
        raise UserError(
            f"standard output: expected to be able to write there: {error}; everything else is done: "
            "send it elsewhere, or take --report FILE.json"
        )
