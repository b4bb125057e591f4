"""The calls of a forward, as few as possible: those that compiled code can make become one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np

from repurpose_hpc.kernels import Recording, Types, compile_replay
from repurpose_hpc.kernels.jit import bound, is_plain
from repurpose_hpc.kernels.registry import REGISTRY
from repurpose_hpc.model.comm_dtype import CODES, code_dtype
from repurpose_hpc.runtime.calls import PHASES, Call
from repurpose_hpc.runtime.resources import Formats
from repurpose_hpc.runtime.schedule import mpi_functions as functions
from repurpose_hpc.runtime.schedule.mpi_functions import Function, now


class Replay:
    """Calls in a row that compiled code makes, measuring the time of each phase.

    Attributes:
        calls: how many.
    """

    def __init__(self, calls: Iterable[Call], types: Types) -> None:
        """Record the calls.

        Args:
            calls: of kernels that can be on a recording, and of MPI functions.
            types: of the numbers in their arrays.

        Raises:
            TypeError: an argument is not what its kernel takes.
        """
        self._recording, self._clock, self.calls = Recording(types), functions.clock(), 0
        for phase, function, arguments in calls:
            number, self.calls = PHASES.index(phase), self.calls + 1
            if isinstance(function, Function):
                self._recording.add_call(number, function.address, function.signature, arguments)
            else:
                self._recording.add_kernel(number, function, arguments)

    def run(self, seconds: np.ndarray, times: np.ndarray | None = None, first: int = 0) -> None:
        """Make the calls; for the arguments see ``carry_out``."""
        functions.check(self._recording.run(seconds, self._clock, times, first))


def record(calls: Sequence[Call], dtype: np.dtype, formats: Formats) -> list[Call | Replay]:
    """``calls`` in order, those that follow one another and can be on a recording as one.

    Other kernels are bound to the types of their arguments.  What is called is compiled, if nobody has done
    that yet on this machine.

    Args:
        calls: of a forward.
        dtype: of numbers.
        formats: see ``Formats``.
    """
    types = Types(
        real=np.dtype(dtype),
        stored=code_dtype(formats.weights_dtype, dtype),
        codes=CODES.get(formats.comm_dtype),
        kept=CODES.get(formats.kept_dtype),
    )
    compile_replay((function for _, function, _ in calls), types)
    steps: list[Call | Replay] = []
    for recordable, group in groupby(calls, _can_be_recorded):
        calls_in_a_row = list(group)
        steps += [Replay(calls_in_a_row, types)] if recordable else map(_bound, calls_in_a_row)
    return steps


def carry_out(
    steps: Iterable[Call | Replay], seconds: np.ndarray, times: np.ndarray | None = None, first: int = 0
) -> None:
    """Make the calls of ``record``.

    Args:
        steps: the calls.
        seconds: by phase, (4,) float64; added to.
        times: gets the times at which each call began and ended, by ``now``, (n, 2) float64; None: nobody
            asks.
        first: its row for the first call.
    """
    for step in steps:
        if isinstance(step, Replay):
            step.run(seconds, times, first)
            first += step.calls
        else:
            phase, function, arguments = step
            began = now()
            function(*arguments)
            ended = now()
            seconds[PHASES.index(phase)] += ended - began
            if times is not None:
                times[first] = began, ended
            first += 1


def _bound(call: Call) -> Call:
    phase, function, arguments = call
    return phase, bound(function, arguments), arguments


def _can_be_recorded(call: Call) -> bool:
    _, function, _ = call
    if is_plain():
        return False
    kernel = REGISTRY.find(function)
    return isinstance(function, Function) or (kernel is not None and kernel.replayed)
