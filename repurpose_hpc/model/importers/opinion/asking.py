"""Asks programs that can run a file, one after the other, if a network is what is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from repurpose_hpc.model.importers.opinion.comparison import ImportCheck
from repurpose_hpc.model.importers.opinion.evaluators import CannotRun, Evaluator


class Differs(Exception):
    """The network is not what a program computes; the text says where."""


def ask(
    programs: Iterable[Evaluator | CannotRun], compare: Callable[[Evaluator], float]
) -> tuple[ImportCheck, str]:
    """Compare with what programs compute, the next one where one disagrees or cannot run.

    Args:
        programs: the preferred one first.
        compare: gives the largest difference from what a program computes, or raises ``Differs`` or
            ``CannotRun``.

    Returns:
        the result, and what the last one found to differ; "": nothing.
    """
    reasons, fault = [], ""
    for program in programs:
        try:
            if isinstance(program, CannotRun):
                raise program
            return ImportCheck(program.name, compare(program)), ""
        except CannotRun as error:
            reasons.append(str(error))
        except Differs as error:
            fault = str(error)
    return ImportCheck(None, None, "; ".join(dict.fromkeys(reasons))), fault
