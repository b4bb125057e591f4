"""Guard of a process of a job before MPI has started, when ranks cannot agree on failures yet.

The others wait in ``MPI_Init`` for a process that never comes.  Launchers end a job when a process dies by a
signal; not all do when one exits with a status.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from repurpose_hpc.errors import PREFIX, UserError
from repurpose_hpc.mpi.launch import TURN_SECONDS, launched


@contextmanager
def guarded_start() -> Iterator[None]:
    """A program's whole run: what escapes before MPI has started, on any process, ends all of them.

    A ``UserError`` is said once.  Of others, without a launcher, and once MPI has started, nothing is done
    here.
    """
    try:
        yield
    except SystemExit:
        raise
    except BaseException as error:
        processes, number = launched(os.environ)
        is_of_user = isinstance(error, UserError)
        if _mpi_has_started() or (processes <= 1 and not is_of_user):
            raise
        if is_of_user and number > 0:
            time.sleep(TURN_SECONDS)
        if sys.stderr is not None:
            sys.stderr.write(_message(error, processes, number))
            sys.stderr.flush()
        if processes <= 1:
            raise SystemExit(1) from None
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)


def _message(error: BaseException, processes: int, number: int) -> str:
    """What process ``number`` says of a failure before MPI has started."""
    if isinstance(error, UserError):
        return f"{PREFIX}{error}\n"
    what = "was interrupted" if isinstance(error, KeyboardInterrupt) else f"found {error!r}"
    details = "" if isinstance(error, KeyboardInterrupt) else "".join(traceback.format_exception(error))
    return (
        f"{details}{PREFIX}expected MPI to start in {processes} processes, but process {number} {what} "
        "before; see that this machine has the same installation as the others\n"
    )


def _mpi_has_started() -> bool:
    mpi = sys.modules.get("mpi4py.MPI")
    return mpi is not None and mpi.Is_initialized()
