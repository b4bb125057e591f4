"""Restructurings that are interrupted, and what goes on from there."""

from collections.abc import Callable

from repurpose_hpc.restructure.cut import Cut


class Interrupted(Exception):
    """The end of a run before its time."""


def interrupting_at(*beginnings: str) -> Callable[[str], None]:
    """A log that ends the run, at a line with the last of these beginnings after lines with the others."""
    waiting = list(beginnings)

    def log(line: str) -> None:
        if line.startswith(waiting[0]):
            waiting.pop(0)
            if not waiting:
                raise Interrupted

    return log


def assert_same_bits(cut: Cut, expected: Cut) -> None:
    """Plans and weights are the same."""
    assert cut.plan.identity() == expected.plan.identity()
    assert cut.network.fingerprint() == expected.network.fingerprint()
