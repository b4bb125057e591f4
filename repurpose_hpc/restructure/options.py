"""What a user may ask of restructuring."""

from __future__ import annotations

import math
from dataclasses import dataclass

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.comm_dtype import EXACT, WIRES
from repurpose_hpc.plan.plan import PLACEMENTS
from repurpose_hpc.restructure.method import METHODS, method_named

ASSIGNMENTS = ("munkres", "contiguous", "random", "hypergraph")
# Price of a link inside a node, relative to one between nodes, in --link-cost nodes:K.
INSIDE_NODE = 0.1

__all__ = ["ASSIGNMENTS", "INSIDE_NODE", "METHODS", "Options"]


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
        wire: the format in which ghosts will travel, one of ``WIRES``.
        input_placement: one of ``PLACEMENTS``.
        assignment: one of ``ASSIGNMENTS``.
        method: one of ``METHODS``.
        part_weights: relative speed of each worker, >= 0; None: all equal.
        imbalance: a worker may hold more than its share of the weights by this fraction, >= 0; None: by as
            many ghosts as it is worth.
        memory_limits: MiB of float32 weights that each worker can hold; None: no limits.
        link_costs: price of sending a value from worker p (row) to q; None: all equal.
        density: largest fraction of the original weights that is kept, above 0, at most 1.
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
    imbalance: float | None = None
    memory_limits: tuple[float, ...] | None = None
    link_costs: tuple[tuple[float, ...], ...] | None = None
    density: float = 1.0
    max_accuracy_drop: float | None = None
    max_output_error: float | None = None
    wire: str = EXACT

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UserError(f"--workers: expected 1 or more, got {self.workers}")
        if not 0 <= self.comm_budget <= 1:
            raise UserError(f"--comm-budget: expected a fraction from 0 to 1, got {self.comm_budget}")
        if self.seed < 0:
            raise UserError(f"--seed: expected 0 or more, got {self.seed}")
        _check_choice("--input-placement", self.input_placement, PLACEMENTS)
        _check_choice("--assignment", self.assignment, ASSIGNMENTS)
        method_named(self.method)
        _check_choice("--wire", self.wire, WIRES)
        if not 0 < self.density <= 1:
            raise UserError(f"--density: expected a fraction above 0, at most 1, got {self.density}")
        if self.imbalance is not None and not 0 <= self.imbalance < math.inf:
            raise UserError(f"--imbalance: expected a fraction, 0 or more, got {self.imbalance}")
        if self.part_weights is not None:
            self._check_part_weights(self.part_weights)
        if self.memory_limits is not None:
            self._check_memory_limits(self.memory_limits)
        if self.link_costs is not None:
            self._check_link_costs(self.link_costs)
        self._check_tolerances(self.max_accuracy_drop, self.max_output_error)

    @property
    def keeps_everything(self) -> bool:
        """Whether nothing needs to be eliminated."""
        return self.comm_budget == 1 and self.density == 1 and self.memory_limits is None

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

    def _check_memory_limits(self, limits: tuple[float, ...]) -> None:
        if len(limits) != self.workers or not all(limit > 0 for limit in limits):
            raise UserError(
                f"--memory-limits: expected MiB above 0 for each of {self.workers} workers, "
                f"got {list(limits)}"
            )

    def _check_link_costs(self, costs: tuple[tuple[float, ...], ...]) -> None:
        if [len(row) for row in costs] != [self.workers] * self.workers:
            raise UserError(
                f"--link-cost: expected {self.workers} rows of {self.workers} prices, one for each pair of "
                f"workers, got {len(costs)} rows of {sorted({len(row) for row in costs})}"
            )
        for p, row in enumerate(costs):
            for q, cost in enumerate(row):
                if (cost != 0) if p == q else not 0 < cost < math.inf:
                    raise UserError(
                        "--link-cost: expected finite prices above 0 between workers, 0 on the diagonal, "
                        f"found {cost} from worker {p} to {q}"
                    )


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{option}: expected one of {', '.join(choices)}, got {value!r}")
