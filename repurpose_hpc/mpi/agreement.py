"""Agreement of the ranks of a job on failures, so that every run ends with one message and no hang.

*Phases without communication* (reading files, checking options, writing results) run inside
``collectively``: whatever fails on whatever rank, all ranks learn of it at the end of the
block and leave together; the lowest rank that failed speaks.

*Phases with communication* cannot agree, for the others already wait for a message that never
comes.  They run inside ``aborting``: the rank that failed speaks and ends the job.

*Phases in which all ranks do the same work*, with communication, run inside ``in_unison``: what is
wrong with the data is found by all of them at the same place, and they leave together.

All print ``repurpose-hpc: error: ...`` on stderr, once, and a traceback only for what is not
the user's mistake.  SIGTERM, which batch systems send at the time limit and launchers when another rank has
failed, ends a command in silence, but only after it has tidied up.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from repurpose_hpc.errors import PREFIX, UserError
from repurpose_hpc.fields import typed
from repurpose_hpc.io.atomic import remove_registered
from repurpose_hpc.io.colour import coloured
from repurpose_hpc.io.speech import end_line
from repurpose_hpc.process.termination import TERMINATED, Terminated, raising_at_sigterm

if TYPE_CHECKING:
    from mpi4py import MPI

# How far ranks that do the same may be apart.
UNISON_SECONDS = 60.0
# For a launcher to pass on what a rank said last: it may drop what it has not read when the job is aborted.
FORWARDING_SECONDS = 0.3
# A rank that fails gives those below it, which may have failed as well, no longer than this to speak first.
LONGEST_TURN = 5.0
# Of values in a message.
LONGEST_VALUE = 60


@contextmanager
def collectively(comm: MPI.Comm) -> Iterator[None]:
    """A block that may fail on any rank and holds no communication; every rank must enter it.

    At its end every rank tells every other whether it failed (one byte each, non-blocking all-gather).
    If any failed, the lowest of them prints its message and broadcasts its exit status, so that
    nobody leaves before the message is out.  Ranks that wait for a slow one sleep: a rank may
    work for minutes and have the cores to itself.

    Raises:
        SystemExit: on every rank if the block failed on any.
    """
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    failed = _gather_flags(comm, failure is not None)
    if failed:
        speaker = failed[0]
        if failure is not None and comm.rank == speaker:
            report_failure(failure, comm.rank)
        status = comm.bcast(_status(failure), root=speaker)
        raise SystemExit(status)


@contextmanager
def agreed(comm: MPI.Comm | None) -> Iterator[None]:
    """A block of the library that may fail on any rank and holds no communication; every rank must enter it.

    Args:
        comm: of the ranks, which tell each other who failed, and the lowest that did its message; None:
            this process is alone.

    Raises:
        Exception: on every rank if the block failed on any: its own failure, or a ``UserError`` with the
            message of the lowest rank that failed.
    """
    if comm is None:
        yield
        return
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    failed = _gather_flags(comm, failure is not None)
    if failed:
        message = comm.bcast(None if failure is None else str(failure), root=failed[0])
        raise failure or UserError(f"on rank {failed[0]}: {message}")


def difference_from_root(values: Mapping[str, object], comm: MPI.Comm) -> str:
    """Message on the first value that differs from the root's, without a remedy; "": none.  Collective.

    The root sends its values to all others; each rank compares them with its own.

    Args:
        values: by the names that users know; one that is missing counts as None.
        comm: of the ranks.
    """
    own_values = {name: "none" if value is None else str(value) for name, value in values.items()}
    expected = comm.bcast(own_values, root=0)
    for name in {**expected, **own_values}:
        of_root, of_rank = expected.get(name, "none"), own_values.get(name, "none")
        if of_root != of_rank:
            return (
                f"{name}: expected the same on every rank, found {_shortened(of_root)} on rank 0 and "
                f"{_shortened(of_rank)} on rank {comm.rank}"
            )
    return ""


def check_same(values: Mapping[str, object], comm: MPI.Comm | None) -> None:
    """Compare arguments of the library that must be the same on every rank; collective.

    Args:
        values: by the names that callers know.
        comm: of the ranks; None: this process is alone.

    Raises:
        UserError: on every rank: names the first value that differs.
    """
    if comm is None:
        return
    difference = difference_from_root(values, comm)
    with agreed(comm):
        if difference:
            raise UserError(f"{difference}; call it alike on all ranks")


@contextmanager
def aborting(comm: MPI.Comm) -> Iterator[None]:
    """A command's whole run: what escapes from it on one rank ends all ranks within seconds.

    ``SystemExit`` passes: all ranks leave by it together.  Anything else, Ctrl-C included, is
    reported by this rank, which then removes the temporary files that are registered (``io.atomic``) and
    calls ``comm.Abort``.

    Args:
        comm: of the whole job.
    """
    try:
        with raising_at_sigterm(remove_registered):
            yield
    except SystemExit:
        raise
    except Terminated:
        remove_registered()
        comm.Abort(TERMINATED)
    except BaseException as error:
        # Ranks that fail together: the lowest of them speaks and ends the others before they do.
        time.sleep(min(2 * FORWARDING_SECONDS * comm.rank, LONGEST_TURN))
        report_failure(error, comm.rank)
        remove_registered()
        time.sleep(FORWARDING_SECONDS)
        comm.Abort(1)


@contextmanager
def in_unison(comm: MPI.Comm) -> Iterator[None]:
    """A block with communication in which all ranks do the same, so that a ``UserError`` meets all of them.

    The root speaks, and all leave together.  Whoever finds that the others do not come has failed by
    itself, for instance because its machine does not see a file, and ends the job.

    Raises:
        SystemExit: on every rank if the block failed.
    """
    try:
        yield
    except UserError as error:
        if comm.rank == 0:
            report_failure(error, comm.rank)
        request, began = comm.Ibarrier(), time.monotonic()
        while not request.Test():
            time.sleep(0.02)
            if time.monotonic() - began > UNISON_SECONDS:
                raise UserError(f"on rank {comm.rank} only: {typed(error)}") from None
        raise SystemExit(_status(error)) from None


@contextmanager
def alone() -> Iterator[None]:
    """A command's whole run in a single process, without MPI.

    Raises:
        SystemExit: after the one message, if anything escapes from the block, Ctrl-C included.
    """
    try:
        with raising_at_sigterm(remove_registered):
            yield
    except Terminated:
        raise SystemExit(TERMINATED) from None
    except (Exception, KeyboardInterrupt) as error:
        report_failure(error, rank=0)
        raise SystemExit(_status(error)) from None


def report_failure(error: BaseException, rank: int) -> None:
    """Print the one message of a failure on stderr, after a traceback if it is a defect."""
    details = ""
    if isinstance(error, UserError):
        message = typed(error)
    elif isinstance(error, KeyboardInterrupt):
        message = "interrupted"
    else:
        details = "".join(traceback.format_exception(error))
        message = f"rank {rank} failed with {type(error).__name__}: {error}; the traceback is above"
    sys.stdout.flush()
    end_line()
    # One write: lines of several ranks must not mix.
    sys.stderr.write(coloured(f"{details}{PREFIX}{message}\n", sys.stderr))
    sys.stderr.flush()


def _gather_flags(comm: MPI.Comm, flag: bool) -> list[int]:
    """The ranks on which ``flag`` is set."""
    flags = bytearray(comm.size)
    request = comm.Iallgather(bytearray([flag]), flags)
    pause = 1e-5
    while not request.Test():
        time.sleep(pause)
        pause = min(1.5 * pause, 0.02)
    return [rank for rank, failed in enumerate(flags) if failed]


def _status(error: BaseException | None) -> int:
    return error.status if isinstance(error, UserError) else 1


def _shortened(text: str) -> str:
    """The beginning of a text, for a message."""
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
