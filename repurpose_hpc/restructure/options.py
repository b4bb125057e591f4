"""What a user may ask of restructuring."""

from __future__ import annotations

import math
from dataclasses import dataclass

from repurpose_hpc.errors import UserError
from repurpose_hpc.plan.plan import PLACEMENTS

ASSIGNMENTS = ("munkres", "contiguous", "random")
METHODS = ("data", "frobenius", "magnitude")


@dataclass(frozen=True)
class Options:
    """How a network is restructured.

    Attributes:
        workers: P, 1 or more.
        comm_budget: largest communication fraction, 0 to 1.
        input_placement: one of ``PLACEMENTS``.
        assignment: one of ``ASSIGNMENTS``.
        method: one of ``METHODS``.
        part_weights: relative capacity of each worker, >= 0; None: all equal.
        seed: of everything drawn at random, 0 or more.

    Raises:
        UserError: a value out of range.
    """

    workers: int
    comm_budget: float = 0.05
    input_placement: str = "replicated"
    assignment: str = "munkres"
    method: str = "data"
    part_weights: tuple[float, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UserError(f"--workers: expected 1 or more, got {self.workers}")
        if not 0 <= self.comm_budget <= 1:
            raise UserError(f"--comm-budget: expected a fraction from 0 to 1, got {self.comm_budget}")
        if self.seed < 0:
            raise UserError(f"--seed: expected 0 or more, got {self.seed}")
        _check_choice("--input-placement", self.input_placement, PLACEMENTS)
        _check_choice("--assignment", self.assignment, ASSIGNMENTS)
        _check_choice("--method", self.method, METHODS)
        if self.part_weights is not None:
            self._check_part_weights(self.part_weights)

    def _check_part_weights(self, weights: tuple[float, ...]) -> None:
        if len(weights) != self.workers:
            raise UserError(
                f"--part-weights: expected one weight for each of {self.workers} workers, got {len(weights)}"
                "; separate them by commas, without spaces"
            )
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or sum(weights) == 0:
            raise UserError(
                f"--part-weights: expected finite weights, 0 or more and not all 0, got {list(weights)}"
            )


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{option}: expected one of {', '.join(choices)}, got {value!r}")
