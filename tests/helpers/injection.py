"""Faults in running commands: something happens in a process of a real command when it gets to a place.

The command is started as users start it, with ``variables`` in its environment.  Nothing of the package has
to know; a file that Python reads first in every process wraps the function that is the place.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from helpers import ROOT

ALONE = -1
"""Number of a process that no launcher has started."""

FORWARD = "repurpose_hpc.runtime.program:Program.forward"
REACHED, GO = "reached", "go"
"""Files in the folder of notes: that a fault has happened, and that a process that waits may go on."""
NOTE = f"import pathlib, time\nfolder = pathlib.Path(FOLDER)\n(folder / '{REACHED}').touch()\n"
"""Code that says that a process is there."""
WAIT = (
    f"{NOTE}end = time.monotonic() + 60\n"
    f"while not (folder / '{GO}').exists() and time.monotonic() < end:\n"
    "    time.sleep(0.05)\n"
)
"""Code that makes a process wait until it may go on, a minute at most."""
_OUTPUTS = "repurpose_hpc.runtime.streams.outputs"


def signalled(number: int) -> str:
    """Code of a process that gets a signal."""
    return f"import os; os.kill(os.getpid(), {int(number)})"


KILL = signalled(signal.SIGKILL)


@dataclass(frozen=True)
class Injection:
    """What happens, where, and in which process.

    Attributes:
        place: ``module:function``, ``module:Class.method``, or a module, before its import; "": when Python
            begins.
        code: Python; it finds the ``arguments`` of the call, and ``FOLDER``.
        call: which call of the function, from 1; 0: every one.
        after: after the call, not before.
        process: its rank, or ``ALONE``; None: every process.
    """

    place: str
    code: str
    call: int = 1
    after: bool = False
    process: int | None = None


# Batches are told apart only where each is a block of its own.
_ONE_BATCH = Injection(
    "repurpose_hpc.runtime.streams.blocks:turn_size",
    "import repurpose_hpc.runtime.streams.blocks as blocks; blocks.MOST_BATCHES = 1",
)


def variables(injections: Sequence[Injection], folder: Path) -> dict[str, str]:
    """The environment of a command with injections.

    Args:
        injections: of its processes.
        folder: of notes; every process writes its id to ``pidRANK`` in it.
    """
    here = Path(__file__).parent / "injected"
    return {
        "PYTHONPATH": os.pathsep.join((str(here), str(ROOT))),
        "INJECTED": json.dumps([asdict(injection) for injection in (*injections, _ONE_BATCH)]),
        "INJECTED_FOLDER": str(folder),
    }


def after_batches(number: int, code: str) -> Injection:
    """What happens in the root of ``infer``, which alone writes them, after so many batches."""
    return Injection(f"{_OUTPUTS}:OutputFile.append", code, number, after=True)


def marking_at_once() -> Injection:
    """Have every batch of a resumable output noted at once."""
    return Injection(f"{_OUTPUTS}:ResumableOutputFile._locked", "arguments[0].MARK_SECONDS = 0")
