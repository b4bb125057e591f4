"""Candidates: functions that compute, or send, the same, to be timed beside each other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from repurpose_hpc.bench.turns import Conditions
from repurpose_hpc.errors import UserError

# Largest difference from the reference, relative to its largest value.
TOLERANCES = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-10}


@dataclass(frozen=True)
class Candidate:
    """A function that is timed.

    Attributes:
        call: the function; all that can be done once is done before.
        output: makes of what ``call`` returned the result, neuron-major (neurons, batch); collective where
            ``call`` is, and then only the root's result counts.
        conditions: a block in which it is called, for instance with more threads.
        barrier: brings all ranks together before a call; None: MPI's.
    """

    call: Callable[[], Any]
    output: Callable[[Any], np.ndarray] = np.asarray
    conditions: Conditions = nullcontext
    barrier: Callable[[], None] | None = None


def check(name: str, result: np.ndarray, expected: np.ndarray, dtype: np.dtype) -> None:
    """Compare a candidate's result with the reference.

    Raises:
        UserError: it is something else.
    """
    largest = np.abs(expected).max() or 1.0
    difference = np.abs(result - expected).max() / largest if result.shape == expected.shape else np.inf
    if not difference <= TOLERANCES[dtype]:
        raise UserError(
            f"{name}: expected results of shape {expected.shape} within {TOLERANCES[dtype]:g} of the NumPy "
            f"reference, relative to the largest, found {result.shape} and {difference:.3g}: nothing that "
            "computes something else is timed; report it, or leave its package out"
        )
