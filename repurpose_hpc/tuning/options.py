"""Options of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

from repurpose_hpc.fields import Declared, FieldError, choice, integer, like, number, option
from repurpose_hpc.runtime.exchange.transport import TRANSPORTS
from repurpose_hpc.runtime.options import RunOptions
from repurpose_hpc.tuning.optimisers import OPTIMISERS, Hyperparameters, Optimiser

# By default, where no rate is given.
RATES = {"adamw": 1e-4, "sgd": 0.01}


@dataclass(frozen=True, kw_only=True)
class TuneOptions(Declared):
    """Wishes for fine-tuning.

    Raises:
        FieldError: a value out of range.
    """

    epochs: int = option(10, kind=integer(1), metavar="N", help="times that the samples are gone through")
    batch_size: int = like(RunOptions, "batch_size", 128, help="samples per step")
    optimiser: str = option(
        "adamw",
        kind=choice(*RATES),
        help="how weights follow their gradients: AdamW, or SGD with momentum",
    )
    learning_rate: float | None = option(
        None,
        kind=number(above=0, example=1e-3),
        metavar="RATE",
        default_text=", ".join(f"{rate:g} with {name}" for name, rate in RATES.items()),
        help="largest step size",
        more="largest step size: it grows to this during the warm-up, and then falls to 0 as a cosine does",
    )
    warm_up: float = option(
        0.05,
        kind=number(least=0, below=1, example=0.05),
        metavar="SHARE",
        help="share of the steps in which the step size grows",
    )
    weight_decay: float = like(
        Hyperparameters,
        "weight_decay",
        metavar="DECAY",
        help="decay of weights, not of biases",
        more="decay of weights, not of biases: decoupled with adamw, part of the gradient with sgd",
    )
    momentum: float = like(Hyperparameters, "momentum")
    groups: int = like(
        RunOptions,
        "groups",
        help="groups of ranks that hold a copy of the network each, and share the samples of a batch",
    )
    held_out: float = option(
        0.1,
        kind=number(above=0, below=1, example=0.1),
        metavar="SHARE",
        help="share of the samples that decide which epoch is best, and are not tuned on",
    )
    patience: int = option(
        3,
        kind=integer(1),
        metavar="N",
        help="epochs without a lower loss on held-out samples after which it ends",
    )
    seed: int = option(0, kind=integer(0), help="of what is held out, and of the order of samples")
    transport: str = like(
        RunOptions,
        "transport",
        kind=choice(*TRANSPORTS),
        help="how what ranks exchange is carried",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.groups > self.batch_size:
            raise FieldError(
                "groups",
                f"expected at most batch_size={self.batch_size}, a sample for each, got {self.groups}; take "
                "larger batches",
            )

    @property
    def rate(self) -> float:
        """The largest step size."""
        return RATES[self.optimiser] if self.learning_rate is None else self.learning_rate

    @property
    def share(self) -> int:
        """The most samples of a batch that one group has."""
        return -(-self.batch_size // self.groups)

    def make_optimiser(self) -> Optimiser:
        """The optimiser of one rank."""
        numbers = Hyperparameters(momentum=self.momentum, weight_decay=self.weight_decay)
        return OPTIMISERS[self.optimiser](numbers)
