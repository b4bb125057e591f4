"""Options of restructuring a network of tokens."""

from __future__ import annotations

from dataclasses import dataclass

from repurpose_hpc.fields import Declared, FieldError, like, listed, number, option
from repurpose_hpc.restructure.options import (
    Options,
    check_part_weights,
    check_round_cost,
    or_auto,
)

# Tolerances that may take the place of a budget.
PROMISES = ("max_perplexity_increase", "max_accuracy_drop", "max_output_error")


@dataclass(frozen=True)
class TokenOptions(Declared):
    """Wishes for a restructured network of tokens.

    Raises:
        FieldError: a value out of range.
    """

    workers: int = like(Options, "workers")
    comm_budget: float = like(
        Options,
        "comm_budget",
        0.25,
        help="largest fraction of what dense tensor parallelism sends, two all-reduces for each block, or "
        "with a price of rounds of what it costs",
    )
    part_weights: tuple[float, ...] | None = like(
        Options,
        "part_weights",
        kind=or_auto(listed(number(above=0), "finite numbers", example=(1.0, 2.0))),
    )
    round_cost: float = like(Options, "round_cost", 0.0)
    comm_dtype: str = like(Options, "comm_dtype")
    seed: int = like(Options, "seed")
    load: float = option(
        1.5,
        kind=number("a number", least=1, example=1.5),
        metavar="X",
        help="largest computation of a worker, relative to an even share; what all compute need not cross",
        more="with texts: largest computation of a worker, relative to an even share. What every worker "
        "computes need not cross ([how](docs/transformers.md#restructure))",
    )
    max_perplexity_increase: float | None = option(
        None,
        kind=number("a finite number", least=0, example=1.0),
        metavar="PCT",
        unit="percent",
        excludes="amount",
        help="instead, of a decoder: the least communication with which the perplexity of the next token, on "
        "texts that are held out, grows by no more",
        more="instead of a budget, of a decoder: by how much the perplexity of the next token may grow on "
        "texts that are held out ([how](docs/transformers.md#restructure))",
    )
    max_accuracy_drop: float | None = like(
        Options,
        "max_accuracy_drop",
        help="instead, of a decoder: how much less often the most probable token may be the next one there",
    )
    max_output_error: float | None = like(Options, "max_output_error")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_round_cost(self.round_cost)
        if self.part_weights is not None:
            check_part_weights(self.part_weights, self.workers)
        given = [name for name in PROMISES if getattr(self, name) is not None]
        if len(given) > 1:
            raise FieldError(" and ".join(given), f"expected one of them, got {len(given)}; leave others out")

    @property
    def promised(self) -> tuple[str, float] | None:
        """Field and value of the tolerance that is given instead of a budget; None: there is none."""
        fields = {name: getattr(self, name) for name in PROMISES}
        return next(((name, value) for name, value in fields.items() if value is not None), None)
