"""The method as a value, and the baselines: what differs between them is written here and nowhere else.

An ablation is a value as well: ``replace(DATA, alternations=1)``.  Numbers of steps are those of
docs/method.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from repurpose_hpc.fields import FieldError
from repurpose_hpc.plan.masks import GHOST, MIXED, PARTIAL, RELAY


class Gram(Enum):
    """The Gram matrix of a mixing's inputs, with which steps 2 and 3 judge errors (step 1.1)."""

    MEASURED = "that of the calibration data, measured anew before each mixing is restructured"
    DIAGONAL = "the diagonal of that of the original network: second moments"
    IDENTITY = "the identity: no data are looked at before step 4"


class Metric(Enum):
    """The metric M of errors of a mixing (step 1.2)."""

    OUTPUT = "what they do to the outputs of the network, measured"
    FLAT = "the same for all neurons of a mixing: the mean of the measured one"
    IDENTITY = "the identity"


class PriceScope(Enum):
    """The mixings that share one price λ, and with it a budget (step 3.3)."""

    NETWORK = "all"
    MIXING = "each by itself: all send the same fraction of their dense communication"


@dataclass(frozen=True)
class Method:
    """A way to restructure a network.

    Attributes:
        gram: of the inputs, in steps 2 and 3.
        metric: of errors.
        price: scope of a price: the network, or each mixing.
        forms: in which mixings may communicate, of ``GHOST`` (always), ``PARTIAL``, ``MIXED`` and ``RELAY``.
        branches: workers may own whole branches of the network (step 2.3).
        look_ahead: sweeps of drafts, at most (step 2.2).
        alternations: times that rows are assigned, at most, the first time included (step 3.4).
        reselect: what is sent is selected once more, with what everybody lacks in view (step 3.7).
        compensation: passes in which rows make up for each other (step 4.3).
        refit: weights are adjusted (step 4); without, those that are left stay as they are.

    Raises:
        ValueError: a combination that cannot be.
    """

    gram: Gram = Gram.MEASURED
    metric: Metric = Metric.OUTPUT
    price: PriceScope = PriceScope.NETWORK
    forms: frozenset[str] = frozenset({GHOST, PARTIAL, MIXED})
    branches: bool = True
    look_ahead: int = 3
    alternations: int = 2
    reselect: bool = True
    compensation: int = 2
    refit: bool = True

    def __post_init__(self) -> None:
        if GHOST not in self.forms or not self.forms <= {GHOST, PARTIAL, MIXED, RELAY}:
            raise ValueError(f"forms: expected {GHOST!r} and others of a mixing, got {sorted(self.forms)}")
        if self.look_ahead < 0 or self.alternations < 1 or self.compensation < 0:
            raise ValueError("expected look_ahead >= 0, alternations >= 1 and compensation >= 0")
        if self.relays and (self.gram is not Gram.MEASURED or not self.compensation):
            raise ValueError("expected measured Gram matrices and rows adjusted together, for relays")
        if self.reselect and not self.compensation:
            raise ValueError("expected rows adjusted together, to select once more for all of them")

    @property
    def sums(self) -> bool:
        """Mixings may send partial sums."""
        return PARTIAL in self.forms

    @property
    def relays(self) -> bool:
        """Mixings may send relays."""
        return RELAY in self.forms

    @property
    def needs_data(self) -> bool:
        """Step 1 looks at the calibration data."""
        return self.gram is not Gram.IDENTITY or self.metric is not Metric.IDENTITY


DATA = Method()
SECOND_MOMENT = replace(DATA, gram=Gram.DIAGONAL, metric=Metric.IDENTITY, reselect=False, compensation=0)
FROBENIUS = replace(SECOND_MOMENT, gram=Gram.IDENTITY)
MAGNITUDE = replace(FROBENIUS, refit=False)

METHODS = {
    "data": DATA,
    "second-moment": SECOND_MOMENT,
    "frobenius": FROBENIUS,
    "magnitude": MAGNITUDE,
}
# Names that methods had, and what to ask for instead.
FORMER = {"independent": "take comm_budget=0 (in a study budgets=0), which is the same"}


def method_named(name: str) -> Method:
    """The method of this name.

    Raises:
        FieldError: there is none.
    """
    if name not in METHODS:
        advice = FORMER.get(name, "take one of these")
        raise FieldError("method", f"expected one of {', '.join(METHODS)}, got {name!r}; {advice}")
    return METHODS[name]
