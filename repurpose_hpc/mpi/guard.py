"""Guard of a process of a job before MPI has started, when ranks cannot agree on failures yet.

The others wait in ``MPI_Init`` for a process that never comes.  Launchers end a job when a process dies by a
signal; not all do when one exits with a status.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from repurpose_hpc.mpi.launch import launched


@contextmanager
def guarded_start() -> Iterator[None]:
    """A program's whole run: what escapes before MPI has started, on any process, ends all of them.

    Without a launcher, and once MPI has started, nothing is done here.
    """
    try:
        yield
    except SystemExit:
        raise
    except BaseException as error:
        processes, number = launched(os.environ)
        if processes <= 1 or _mpi_has_started():
            raise
        what = "was interrupted" if isinstance(error, KeyboardInterrupt) else f"found {error!r}"
        details = "" if isinstance(error, KeyboardInterrupt) else "".join(traceback.format_exception(error))
        if sys.stderr is not None:
            sys.stderr.write(
                f"{details}repurpose-hpc: error: expected MPI to start in {processes} processes, but process "
                f"{number} {what} before; see that this machine has the same installation as the others\n"
            )
            sys.stderr.flush()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)


def _mpi_has_started() -> bool:
    mpi = sys.modules.get("mpi4py.MPI")
    return mpi is not None and mpi.Is_initialized()
