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
        comm_budget: largest communication fraction, 0 to 1; found by search where one of the next two is
            given.
        max_accuracy_drop: loss of accuracy that is accepted on held-out data, in percentage points, above
            0 and below 100; None: not asked for.
        max_output_error: relative error of the outputs that is accepted there, 0 or more; None: the same.
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
    max_accuracy_drop: float | None = None
    max_output_error: float | None = None

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
        self._check_tolerances(self.max_accuracy_drop, self.max_output_error)

    @property
    def promises(self) -> bool:
        """Whether a tolerance is given instead of a budget."""
        return self.max_accuracy_drop is not None or self.max_output_error is not None

    def _check_tolerances(self, drop: float | None, error: float | None) -> None:
        if drop is not None and error is not None:
            raise UserError("--max-accuracy-drop and --max-output-error: expected one of them, got both")
        if drop is not None and not 0 < drop < 100:
            raise UserError(
                f"--max-accuracy-drop: expected percentage points above 0 and below 100, got {drop}; "
                "the original network itself is --comm-budget 1"
            )
        if error is not None and not 0 <= error < math.inf:
            raise UserError(f"--max-output-error: expected a finite number, 0 or more, got {error}")

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
