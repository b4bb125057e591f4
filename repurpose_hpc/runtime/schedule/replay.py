"""The calls of a forward, as few as possible: those that compiled code can make become one."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from time import perf_counter

import numba
import numpy as np

from repurpose_hpc.kernels.replay import call_instruction, is_on_tape, kernel_instruction, play
from repurpose_hpc.model.comm_dtype import CODES, code_dtype
from repurpose_hpc.runtime.lowering.blocks import PHASES, Call
from repurpose_hpc.runtime.schedule import mpi_functions as functions
from repurpose_hpc.runtime.schedule.mpi_functions import Function
from repurpose_hpc.runtime.setting import Formats


class Tape:
    """A run of calls that compiled code makes.

    The time that it takes is measured by itself, phase by phase.
    """

    def __init__(self, calls: Iterable[Call], dtype: np.dtype, formats: Formats) -> None:
        """``dtype`` is that of numbers, ``formats`` those of dense weights and of ghosts on their way."""
        self._calls = list(calls)  # keeps the arrays
        rows = [_instruction(call) for call in self._calls]
        self._instructions, self._reals = (np.array(part) for part in zip(*rows, strict=True))
        self._clock = functions.function("MPI_Wtime").address
        codes = CODES.get(formats.wire)
        self._like = (
            np.empty(0, dtype),
            np.empty(0, code_dtype(formats.weights, dtype)),
            None if codes is None else np.empty(0, codes),
        )

    def play(self, seconds: np.ndarray) -> None:
        """Make the calls, adding to ``seconds`` by phase, (4,) float64."""
        status = play(self._instructions, self._reals, seconds, self._clock, *self._like)
        functions.check(status)


def taped(calls: Iterable[Call], dtype: np.dtype, formats: Formats) -> list[Call | Tape]:
    """``calls`` in order, those that follow one another and can be taped as one."""
    steps: list[Call | Tape] = []
    for tapeable, group in groupby(calls, _can_be_taped):
        calls_in_a_row = list(group)
        steps += [Tape(calls_in_a_row, dtype, formats)] if tapeable else calls_in_a_row
    return steps


def carry_out(steps: Iterable[Call | Tape], seconds: np.ndarray) -> None:
    """Make the calls of ``taped``, adding to ``seconds`` by phase, (4,) float64."""
    for step in steps:
        if isinstance(step, Tape):
            step.play(seconds)
        else:
            phase, function, arguments = step
            began = perf_counter()
            function(*arguments)
            seconds[PHASES.index(phase)] += perf_counter() - began


def _can_be_taped(call: Call) -> bool:
    _, function, arguments = call
    if numba.config.DISABLE_JIT:
        return False
    if isinstance(function, Function):
        return True
    arrays = [argument for argument in arguments if isinstance(argument, np.ndarray)]
    return is_on_tape(function) and all(array.flags.c_contiguous for array in arrays)


def _instruction(call: Call) -> tuple[np.ndarray, np.ndarray]:
    phase, function, arguments = call
    number = PHASES.index(phase)
    if isinstance(function, Function):
        return call_instruction(number, function.address, arguments)
    return kernel_instruction(number, function, arguments)
