"""A promise instead of a budget: the least communication that stays within a tolerance on held-out data.

One in ``ONE_IN`` samples, drawn at random, takes no part in the restructuring.  Budgets are tried by
bisection of their logarithm; each trial restructures with the rest and is measured on what was held
out.  The trial with the smallest budget among those that stayed within is what is written.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import betaincinv

from repurpose_hpc.fields import FieldError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.comm_dtype import EXACT
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.plan import dense_plan
from repurpose_hpc.restructure.calibration.evaluation import Comparison, compare
from repurpose_hpc.restructure.context import Log, silent
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.support.reserve import BudgetTooSmall
from repurpose_hpc.restructure.team import ALONE, Team

# One sample in so many is held out.
ONE_IN = 5
# The split must not depend on, nor change, what else is drawn from the seed.
SPLIT_STREAM = 1
# The search ends when the smallest budget that was enough is at most so many times one that was not.
RESOLUTION = 1.1
# That of the bound of the accuracy drop.
CONFIDENCE = 0.95

# From samples, options with a budget, and a log.
Restructure = Callable[[Samples, Options, Log], Cut]


class BrokenPromise(FieldError):
    """Not even the whole budget meets the tolerance."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """A restructured network, and the data and options that it was made with.

    Attributes:
        cut: as it is to be written.
        calibration: the samples that it was restructured with.
        options: those given, with the budget that was used.
        findings: of the promise, under the names of the report; empty if none was asked for.
        provenance: findings and how the samples were split; empty likewise.
    """

    cut: Cut
    calibration: Samples
    options: Options
    findings: dict = field(default_factory=dict)
    provenance: dict = field(default_factory=dict)


def keep_promise(
    network: Network,
    samples: Samples,
    options: Options,
    restructure: Restructure,
    log: Log,
    team: Team = ALONE,
) -> Outcome:
    """Search the smallest budget that stays within the tolerance of ``options``.

    Args:
        network: trained.
        samples: all calibration data; with labels for ``max_accuracy_drop``.
        options: with a tolerance.
        restructure: makes the network that would be written, from samples, options with a budget, and a log.
        log: is given one line for each trial.
        team: shares the work.

    Raises:
        UserError: no labels or classes, or too few samples.
        BrokenPromise: not even the whole budget meets the tolerance.
    """
    check_samples(network, samples, options)
    trials = _BudgetTrials(network, samples, options, restructure, log, team)
    if search(trials.meets, trials.dense) is None:
        raise trials.broken()
    return trials.outcome()


def check_samples(network: Network, samples: Samples, options: Options) -> None:
    """Refuse samples that no promise can be based on.

    Raises:
        FieldError: no labels, or no classes, where accuracy is promised, or too few samples: even if
            restructuring changed no class at all, the bound of the accuracy drop would exceed the tolerance.
    """
    fewest = 1
    if options.max_accuracy_drop is not None:
        if not network.has_classes:
            raise FieldError(
                "max_accuracy_drop",
                "expected a network with one output, a value for each class, found "
                f"{len(network.output_tensors)} outputs or maps; promise max_output_error=E",
            )
        if samples.labels is None:
            raise FieldError(
                "max_accuracy_drop",
                f"expected labels y beside the samples of {samples.name}, found none; add them, or promise "
                "max_output_error=E",
            )
        fewest = samples_needed(options.max_accuracy_drop)
    if samples.samples // ONE_IN < fewest:
        field, tolerance = _promised(options)
        raise FieldError(
            field,
            f"expected at least {fewest * ONE_IN} samples in {samples.name} for {tolerance:g}, so that "
            f"{fewest} can be held out (1 in {ONE_IN}), found {samples.samples}: too few to promise; add "
            "samples or allow more",
        )


def samples_needed(max_accuracy_drop: float) -> int:
    """The fewest held-out samples with which ``accuracy_drop_bound`` can be that low, in points."""
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log1p(-max_accuracy_drop / 100))


def hold_out(samples: int, seed: int) -> np.ndarray:
    """Mask of the samples that are held out, bool (samples,): one in ``ONE_IN``, rounded down."""
    order = np.random.default_rng([seed, SPLIT_STREAM]).permutation(samples)
    held_out = np.zeros(samples, bool)
    held_out[order[: samples // ONE_IN]] = True
    return held_out


def search(meets: Callable[[int], bool], dense: int) -> int | None:
    """The smallest budget tried that is enough, in values per sample; None if not even ``dense`` is.

    Nothing and everything are tried first; then the logarithm of the budget is bisected down to
    ``RESOLUTION``.

    Args:
        meets: tells if a budget is enough.  That need not be monotone: the search then ends at one of
            the budgets that are enough beside one that is not.
        dense: values per sample with nothing pruned.
    """
    if meets(0):
        return 0
    if not dense or not meets(dense):
        return None
    low, high = 0, dense
    while high - low > 1 and high > RESOLUTION * low:
        middle = min(max(round(math.sqrt(max(low, 1) * high)), low + 1), high - 1)
        if meets(middle):
            high = middle
        else:
            low = middle
    return high


def accuracy_drop_bound(lost: int, gained: int, samples: int) -> float:
    """Upper 95 % confidence bound of the loss of accuracy, in percentage points.

    The loss is p_lost − p_gained, with p_lost the probability that a sample is classified rightly before
    and wrongly after.  Both are binomial proportions of the same samples: the exact (Clopper-Pearson) upper
    bound of the first minus the lower bound of the second, each wrong with probability 2.5 % at most, is
    wrong with 5 % at most, however they depend on each other (Bonferroni).

    Args:
        lost, gained: samples that were right only before, and only after.
        samples: how many there are in all.
    """
    error = (1 - CONFIDENCE) / 2
    upper = betaincinv(lost + 1, samples - lost, 1 - error) if lost < samples else 1.0
    lower = betaincinv(gained, samples - gained + 1, error) if gained else 0.0
    return 100 * float(upper - lower)


@dataclass(frozen=True, eq=False)
class _BudgetTrial:
    options: Options
    cut: Cut
    comparison: Comparison


class _BudgetTrials:
    """Trials of budgets: the best, which is the last within the tolerance, and the last beyond it."""

    def __init__(
        self,
        network: Network,
        samples: Samples,
        options: Options,
        restructure: Restructure,
        log: Log,
        team: Team,
    ) -> None:
        self.network, self.options, self.restructure, self.log = network, options, restructure, log
        self.team = team
        self.split = hold_out(samples.samples, options.seed)
        self.calibration, self.held_out = samples.subset(~self.split), samples.subset(self.split)
        self.dense = _dense_values(network, options)
        self.count = 0
        self.latest: dict[bool, _BudgetTrial] = {}

    def meets(self, values: int) -> bool:
        """Restructure with a budget of so many values per sample, and measure."""
        options = replace(self.options, comm_budget=values / self.dense if self.dense else 0.0)
        try:
            cut = self.restructure(self.calibration, options, silent)
        except BudgetTooSmall as problem:
            if values == self.dense:
                raise
            self.log(f"not enough: {problem}")
            return False
        comparison = compare(self.network, cut.network, self.held_out, self.team, cut.compute())
        self.count += 1
        is_enough = _keeps(options, comparison)
        self.latest[is_enough] = _BudgetTrial(options, cut, comparison)
        # With prices, a budget is a fraction of the cost.
        size = f" ({values} values per sample)" if options.link_costs is None else ""
        self.log(
            f"trial {self.count}: budget {options.comm_budget:.4g}{size}, "
            f"{_finding(options, comparison)} on {self.held_out.samples} held-out samples: "
            f"{'enough' if is_enough else 'not enough'}"
        )
        return is_enough

    def broken(self) -> BrokenPromise:
        """The failure of all trials."""
        trial = self.latest[False]
        field, tolerance = _promised(trial.options)
        return BrokenPromise(
            field,
            f"expected at most {tolerance:g} on {self.held_out.samples} held-out samples, found "
            f"{_finding(trial.options, trial.comparison)} even at comm_budget=1{_way_out(trial.options)}",
        )

    def outcome(self) -> Outcome:
        """The best trial."""
        trial = self.latest[True]
        findings = {
            "held_out_samples": self.held_out.samples,
            "comm_budget": trial.options.comm_budget,
            "trials": self.count,
            **_measured(trial.options, trial.comparison),
        }
        positions = np.flatnonzero(self.split).astype("<i8")
        provenance = {
            **findings,
            "held_out_share": 1 / ONE_IN,
            "samples": self.split.size,
            "split": f"numpy.random.default_rng([{trial.options.seed}, {SPLIT_STREAM}])"
            ".permutation(samples)[:held_out_samples]",
            "held_out_sha256": hashlib.sha256(positions.tobytes()).hexdigest(),
        }
        return Outcome(trial.cut, self.calibration, trial.options, findings, provenance)


def _dense_values(network: Network, options: Options) -> int:
    """Values per sample with nothing pruned; they do not depend on who owns what."""
    plan = dense_plan(network, options.workers, options.input_placement, np.ones(options.workers))
    return sum(plan.dense_values(network, mixing) for mixing in network.mixings)


def _keeps(options: Options, comparison: Comparison) -> bool:
    if options.max_accuracy_drop is not None:
        return _accuracy_drop(comparison) <= options.max_accuracy_drop
    tolerance = options.max_output_error
    return tolerance is not None and comparison.promised_error <= tolerance


def _accuracy_drop(comparison: Comparison) -> float:
    """The estimated loss of accuracy, in percentage points, which decides."""
    return 100 * (comparison.lost - comparison.gained) / comparison.samples


def _measured(options: Options, comparison: Comparison) -> dict:
    """Findings that the promise is about, under the names of the report."""
    if options.max_accuracy_drop is not None:
        bound = accuracy_drop_bound(comparison.lost, comparison.gained, comparison.samples)
        return {"accuracy_drop": _accuracy_drop(comparison), "accuracy_drop_bound": bound}
    return {"output_error_held_out": comparison.promised_error, "agreement_held_out": comparison.agreement}


def _promised(options: Options) -> tuple[str, float]:
    """The tolerance that is given: field and value."""
    fields = {name: getattr(options, name) for name in ("max_accuracy_drop", "max_output_error")}
    return next((name, value) for name, value in fields.items() if value is not None)


def _way_out(options: Options) -> str:
    """The reason why even the whole budget is too small, and advice."""
    if options.keeps_everything and options.comm_dtype == EXACT:
        return (
            ", where only the rounding of the weights changes; allow more, or write the shards with "
            "dtype=float64"
        )
    limits = {
        f"density={options.density:g}": options.density < 1,
        "the memory limits": options.memory_limits is not None,
        f"comm_dtype={options.comm_dtype}": options.comm_dtype != EXACT,
    }
    limitations = " and ".join(option for option, is_given in limits.items() if is_given)
    return f" with {limitations}; allow more, or do without {limitations}"


def _finding(options: Options, comparison: Comparison) -> str:
    if options.max_accuracy_drop is not None:
        return f"an accuracy drop of {_accuracy_drop(comparison):.2f} points"
    return f"an output error of {comparison.promised_error:.3g}"
