"""A promise instead of a budget: the least communication that stays within a tolerance on held-out data.

Budgets are tried as ``search`` says; each trial restructures with four samples in five and is measured on
what was held out.  Of the trials that stayed within, the one with the smallest budget is what is written, or
the one with the least modelled time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv

from repurpose_hpc.fields import FieldError, count
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.comm_dtype import EXACT
from repurpose_hpc.model.labels import is_classified, understood
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.quality import Accuracy
from repurpose_hpc.plan.plan import Plan, dense_plan, single_worker_plan
from repurpose_hpc.restructure.calibration.evaluation import Comparison, compare
from repurpose_hpc.restructure.calibration.probes import value_weights
from repurpose_hpc.restructure.computation import compute_fraction
from repurpose_hpc.restructure.constraints import constraints_of
from repurpose_hpc.restructure.context import Log, silent
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.held_out import ONE_IN, held_out_findings, split, split_record
from repurpose_hpc.restructure.options import TIME, VALUES, Options
from repurpose_hpc.restructure.search import Pace, Tried, least_time, least_values
from repurpose_hpc.restructure.support.reserve import BudgetTooSmall
from repurpose_hpc.restructure.team import ALONE, Team
from repurpose_hpc.restructure.time_model import TimeModel

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
        options: those given, with the budgets that were used.
        held_out: comparison on samples that were held out; None: there are none.
        findings: of the promise, under the names of the report; empty if none was asked for.
        provenance: findings and how the samples were split; empty likewise.
    """

    cut: Cut
    calibration: Samples
    options: Options
    held_out: Comparison | None = None
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
    """Search the smallest budget, or the least time, that stays within the tolerance of ``options``.

    Args:
        network: trained.
        samples: all calibration data; with labels for ``max_accuracy_drop``.
        options: with a tolerance; ``compute_budget`` is not exceeded.
        restructure: makes the network that would be written, from samples, options with budgets, and a log.
        log: is given one line for each trial.
        team: shares the work.

    Raises:
        UserError: no labels or classes, too few samples, or a model of time that is for fewer workers.
        BrokenPromise: not even the whole budget meets the tolerance.
    """
    samples = understood(network, samples)
    check_samples(samples, options)
    trials = _BudgetTrials(network, samples, options, restructure, log, team)
    if not trials.search():
        raise trials.broken()
    return trials.outcome()


def check_samples(samples: Samples, options: Options) -> None:
    """Refuse samples, ``understood``, that no promise can be based on.

    Raises:
        FieldError: no labels where accuracy is promised, or too few samples: even if restructuring changed no
            class at all, the bound of the accuracy drop would exceed the tolerance.
    """
    fewest = 1
    if options.max_accuracy_drop is not None:
        if not is_classified(samples):
            found = "none" if samples.meaning is None else samples.meaning.line
            raise FieldError(
                "max_accuracy_drop",
                f"expected labels y of classes beside the samples of {samples.name}, found {found}; add "
                "them, or promise max_output_error=E",
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


def accuracy_drop_bound(lost: int, gained: int, samples: int) -> float:
    """Upper 95 % confidence bound of the loss of accuracy, in percentage points.

    The loss is p_lost − p_gained, with p_lost the probability that a sample is classified rightly before
    and wrongly after.  Both are binomial proportions of the same samples: the exact (Clopper-Pearson) upper
    bound of the first minus the lower bound of the second, each wrong with probability 2.5 % at most, is
    wrong with 5 % at most, however they depend on each other (Bonferroni).  Of several labels a sample
    loses a share: no more than all of it if any is lost; what it gains counts if that is all of it.

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
    seconds: float

    @property
    def order(self) -> tuple[float, ...]:
        """The less, the better."""
        return self.seconds, self.options.comm_budget, self.options.compute_budget


class _Modelled(NamedTuple):
    """Modelled seconds of the network before restructuring.

    Attributes:
        dense: on as many ranks as workers.
        single: in one process.
    """

    dense: float
    single: float


class _BudgetTrials:
    """Trials of budgets: the best within the tolerance, and the last beyond it."""

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
        self.split = split(samples, options.seed)
        self.weights = value_weights(network, options.output_weights)
        self.dense = _dense_values(network, options)
        self.count, self.pace = 0, Pace(self.dense)
        self.warnings: list[str] = []
        self.best: _BudgetTrial | None = None
        self.beyond: _BudgetTrial | None = None
        # None: values are minimised.
        self.model = None if isinstance(options.minimise, str) else options.minimise
        self.original = None if self.model is None else self._model_original(self.model)

    def search(self) -> bool:
        """Try budgets; False: none meets the tolerance."""
        most = self.options.compute_budget
        if self.model is None:
            return least_values(lambda values: self.attempt(values, most).is_enough, self.dense) is not None
        return least_time(self.attempt, self.dense, most, self._computes_less()) is not None

    def attempt(self, values: int, compute_budget: float) -> Tried:
        """Restructure with a budget of so many values per sample, and measure."""
        comm_budget = values / self.dense if self.dense else 0.0
        options = replace(self.options, comm_budget=comm_budget, compute_budget=compute_budget)
        try:
            cut = self.restructure(self.split.rest, options, silent)
        except BudgetTooSmall as problem:
            is_whole = values == self.dense and compute_budget == self.options.compute_budget
            if is_whole and self.best is None:
                raise
            self.pace.follow(values, False)
            self.log(f"not enough: {problem}")
            return Tried(False, 0.0, compute_budget, values)
        held_out, weights = self.split.held_out, self.weights
        comparison = compare(self.network, cut.network, held_out, self.team, cut.compute(), weights, cut.plan)
        self.count += 1
        if self.count == 1:
            self._warn(_doubts(options, comparison))
        trial = _BudgetTrial(options, cut, comparison, self._seconds(cut.network, cut.plan))
        is_enough = _keeps(options, comparison)
        self._log_trial(trial, values, is_enough)
        if not is_enough:
            self.beyond = trial
        elif self.best is None or trial.order < self.best.order:
            self.best = trial
        compute = min(compute_budget, compute_fraction(self.network, cut, options))
        return Tried(is_enough, trial.seconds, compute, int(cut.traffic_matrix().sum()))

    def _seconds(self, network: Network, plan: Plan) -> float:
        """Modelled time; 0 if there is no model; collective."""
        model = self.model
        if model is None:
            return 0.0
        # One rank computes for all: on processors that differ the last digits would, and then decisions.
        return self.team.map(lambda plan: model.seconds(network, plan), [plan])[0]

    def _model_original(self, model: TimeModel) -> _Modelled:
        part_weights = constraints_of(self.options).part_weights
        dense = dense_plan(self.network, self.options.workers, self.options.input_placement, part_weights)
        dense = replace(dense, comm_dtype=self.options.comm_dtype)
        single = single_worker_plan(self.network)
        original = _Modelled(*(self._seconds(self.network, plan) for plan in (dense, single)))
        self.log(
            f"modelled time on {model.name}: {_us(original.single)} in one process, {_us(original.dense)} "
            f"dense with {count(self.options.workers, 'worker')}"
        )
        return original

    def _computes_less(self) -> bool:
        """False, with a line, if other options exclude smaller budgets of computation."""
        try:
            replace(self.options, compute_budget=self.options.compute_budget / 2)
        except FieldError as problem:
            self.log(f"computation is not reduced: {problem}")
            return False
        return True

    def _log_trial(self, trial: _BudgetTrial, values: int, is_enough: bool) -> None:
        options, comparison = trial.options, trial.comparison
        # With prices, a budget is a fraction of the cost.
        size = f" ({values:,} values per sample)" if options.link_costs is None else ""
        compute = f"compute budget {options.compute_budget:.4g}, {_us(trial.seconds)}, " if self.model else ""
        following = self.pace.follow(values, is_enough)
        # Where time is minimised, trials of computation follow, whose number nobody knows.
        of_most = "" if self.model else f" of at most {self.count + following}"
        self.log(
            f"trial {self.count}{of_most}: budget {options.comm_budget:.4g}{size}, {compute}"
            f"{_finding(options, comparison)} on {comparison.samples:,} held-out samples: "
            f"{'enough' if is_enough else 'not enough'}{'' if self.model else self.pace.left(following)}"
        )

    def _warn(self, warnings: list[str]) -> None:
        self.warnings += warnings
        for warning in warnings:
            self.log(f"warning: {warning}")

    def broken(self) -> BrokenPromise:
        """The failure of all trials."""
        trial = self.beyond
        assert trial is not None
        field, tolerance = _promised(trial.options)
        return BrokenPromise(
            field,
            f"expected at most {tolerance:g} on {trial.comparison.samples} held-out samples, found "
            f"{_finding(trial.options, trial.comparison)} even at comm_budget=1{_way_out(trial.options)}",
        )

    def outcome(self) -> Outcome:
        """The best trial."""
        trial = self.best
        assert trial is not None
        self._warn(self._slower(trial))
        findings = {
            "minimised": VALUES if self.model is None else TIME,
            "comm_budget": trial.options.comm_budget,
            **self._modelled(trial),
            "trials": self.count,
            **_measured(trial.options, trial.comparison),
            **({"warnings": self.warnings} if self.warnings else {}),
        }
        provenance = {
            **findings,
            **held_out_findings(trial.comparison),
            **split_record(self.split.mask, trial.options.seed),
        }
        return Outcome(trial.cut, self.split.rest, trial.options, trial.comparison, findings, provenance)

    def _modelled(self, trial: _BudgetTrial) -> dict:
        """Modelled times under the names of the report, if they were minimised."""
        if self.model is None or self.original is None:
            return {}
        return {
            "compute_budget": trial.options.compute_budget,
            "machine": self.model.name,
            "modelled_us": 1e6 * trial.seconds,
            "modelled_dense_us": 1e6 * self.original.dense,
            "modelled_single_process_us": 1e6 * self.original.single,
        }

    def _slower(self, trial: _BudgetTrial) -> list[str]:
        """Warnings that the network before restructuring would be faster."""
        if self.model is None or self.original is None:
            return []
        others = {"in one process": self.original.single, "dense": self.original.dense}
        return [
            f"by the model of {self.model.name} the original network is faster {how}: {_us(seconds)} instead "
            f"of {_us(trial.seconds)}"
            for how, seconds in others.items()
            if seconds < trial.seconds
        ]


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:,.1f} µs"


def _dense_values(network: Network, options: Options) -> int:
    """Values per sample with nothing pruned; they do not depend on who owns what."""
    plan = dense_plan(network, options.workers, options.input_placement, np.ones(options.workers))
    return sum(plan.dense_values(network, mixing) for mixing in network.mixings)


def _keeps(options: Options, comparison: Comparison) -> bool:
    """True if the estimate is within the tolerance; of an accuracy it decides, not its bound."""
    if options.max_accuracy_drop is not None:
        return comparison.accuracy_drop <= options.max_accuracy_drop
    tolerance = options.max_output_error
    return tolerance is not None and comparison.promised_error <= tolerance


def _measured(options: Options, comparison: Comparison) -> dict:
    """Loss of accuracy under the names of the report, if that is promised."""
    if options.max_accuracy_drop is None:
        return {}
    # Of several labels, all that a sample loses counts as one, and what it gains if that is all of them.
    bound = accuracy_drop_bound(comparison.losing, comparison.gaining, comparison.samples)
    return {"accuracy_drop": comparison.accuracy_drop, "accuracy_drop_bound": bound}


def _doubts(options: Options, comparison: Comparison) -> list[str]:
    """Reasons why a promised accuracy would say little."""
    if options.max_accuracy_drop is None or not isinstance(comparison.original, Accuracy):
        return []
    return [f"on the held-out samples {doubt}" for doubt in comparison.original.doubts()]


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
        f"compute_budget={options.compute_budget:g}": options.compute_budget < 1,
        "the memory limits": options.memory_limits is not None,
        f"comm_dtype={options.comm_dtype}": options.comm_dtype != EXACT,
    }
    limitations = " and ".join(option for option, is_given in limits.items() if is_given)
    return f" with {limitations}; allow more, or do without {limitations}"


def _finding(options: Options, comparison: Comparison) -> str:
    if options.max_accuracy_drop is not None:
        return f"an accuracy drop of {comparison.accuracy_drop:.2f} points"
    return f"an output error of {comparison.promised_error:.3g}"
