"""The method, in the order of the paper: assign, eliminate, adjust, propagate, mixing by mixing.

The mixings are first looked at with the activations of the original network: that yields an
estimate of what values buy everywhere, hence one price λ for the whole network.  Then they
are restructured in the order of execution, each on the activations that the ones before it
really produce; the price is set anew from what is left of the budget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from repurpose_hpc.data import Samples, check_width
from repurpose_hpc.model.network import Mixing, Network
from repurpose_hpc.plan.plan import MixingPlan, Plan, capacities, contiguous_owners, dense_plan, input_owners
from repurpose_hpc.restructure.adjustment import adjust, prune
from repurpose_hpc.restructure.assignment import assign, random_owners, residual_costs
from repurpose_hpc.restructure.forms import Problem, mask_of, tradeoffs
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.statistics import (
    Moments,
    Survey,
    data_free_survey,
    measure_moments,
    survey,
)
from repurpose_hpc.restructure.tradeoff import Tradeoff, cheapest, price_for

# Assignment and elimination in turn; more change little (docs/method.md).
ALTERNATIONS = 2

Log = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Restructured:
    """A network, cut for P workers.

    Attributes:
        network: the adjusted weights, float64, zero where workers no longer depend on each other.
        plan: owners and masks.
    """

    network: Network
    plan: Plan


def restructure(network: Network, samples: Samples, options: Options, log: Log) -> Restructured:
    """Restructure ``network`` for ``options.workers`` workers.

    Args:
        network: trained.
        samples: calibration data; labels are used only to tell a classifier.
        options: see there.
        log: is given one line for each step.

    Raises:
        UserError: data of another width, or not finite.
    """
    check_width(samples, network.inputs)
    if options.comm_budget == 1:
        # Not by elimination: that drops what the samples do not need, and other samples may.
        part_weights = np.array(options.part_weights or (1,) * options.workers, float)
        return Restructured(
            network, dense_plan(network, options.workers, options.input_placement, part_weights)
        )
    return _Restructuring(network, samples, options, log).run()


class _Restructuring:
    """One run: what has been decided so far, and the budget that is left."""

    def __init__(self, network: Network, samples: Samples, options: Options, log: Log) -> None:
        self.original, self.restructured = network, network
        self.samples, self.options, self.log = samples, options, log
        self.part_weights = np.array(options.part_weights or (1,) * options.workers, float)
        self.rng = np.random.default_rng(options.seed)
        input_space = network.space(network.input)
        self.input_owner = input_owners(input_space.neurons, options.input_placement, self.part_weights)
        self.plan = Plan(options.workers, options.input_placement, {input_space.name: self.input_owner}, {})
        self.budget = 0
        self.survey = self._survey()

    def run(self) -> Restructured:
        original, options = self.original, self.options
        self.budget = int(options.comm_budget * sum(self._dense_values(m) for m in original.mixings) + 1e-6)
        self.log(f"budget: {self.budget} values per sample")
        later = self._estimate()
        for mixing in original.mixings:
            del later[mixing.name]
            self._restructure_mixing(mixing, list(later.values()))
        return Restructured(self.restructured, self.plan)

    def _estimate(self) -> dict[str, list[Tradeoff]]:
        """Trade-offs of every mixing if nothing before it had changed."""
        self.log("estimating what values sent buy in each mixing")
        estimates, owners = {}, {self.original.space(self.original.input).name: self.input_owner}
        for mixing in self.original.mixings:
            source_owner = owners[self.original.space(mixing.source).name]
            problem = self._problem(mixing, source_owner, self.survey.moments[mixing.name])
            owner = self._initial_owner(problem)
            owners[self.original.space(mixing.target).name] = owner
            estimates[mixing.name] = tradeoffs(problem, owner)
        return estimates

    def _restructure_mixing(self, mixing: Mixing, later: list[list[Tradeoff]]) -> None:
        source_owner = self.plan.owners[self.original.space(mixing.source).name]
        problem = self._problem(mixing, source_owner, self._scoring_moments(mixing))
        owner = self._initial_owner(problem)
        forms = tradeoffs(problem, owner)
        if self.options.assignment == "munkres":
            price = price_for([forms, *later], self.budget)
            owner, forms = alternate(problem, self._capacities(len(owner)), owner, forms, price)
        price = price_for([forms, *later], self.budget)
        form = cheapest(forms, price)
        self.budget -= form.count(price)
        mixing_plan = mask_of(problem, form, owner, price)
        self.plan.owners[self.original.space(mixing.target).name] = owner
        self.plan.mixings[mixing.name] = mixing_plan
        weights = self._weights(mixing, mixing_plan, problem, owner)
        self.restructured = self.restructured.with_mixings({mixing.name: weights})
        self.log(
            f"{mixing.name}: {mixing_plan.form} form, "
            f"{self.plan.values_sent(self.original, mixing)} of {self._dense_values(mixing)} values sent"
        )

    def _weights(self, mixing: Mixing, plan: MixingPlan, problem: Problem, owner: np.ndarray) -> Mixing:
        everything_kept = self.plan.allowed(self.original, mixing).all() and self._exact_before(mixing)
        if self.options.method == "magnitude" or everything_kept:
            return prune(mixing, plan, problem.source_owner, owner)
        moments = problem.moments
        if self.options.method != "data":
            moments = measure_moments(self.original, self.restructured, mixing, self.samples)
        return adjust(mixing, moments, plan, problem.source_owner, owner)

    def _exact_before(self, mixing: Mixing) -> bool:
        """Whether nothing in front of ``mixing`` has been eliminated."""
        return all(self.plan.allowed(self.original, m).all() for m in _before(self.original, mixing))

    def _problem(self, mixing: Mixing, source_owner: np.ndarray, moments: Moments) -> Problem:
        source, target = self.original.space(mixing.source), self.original.space(mixing.target)
        # Hardly any worker is worth more than twice its even share of the whole budget.
        most = -(-2 * self.budget // (self.options.workers * source.values))
        metric = self.survey.metrics[mixing.name]
        return Problem(
            moments, metric, source_owner, self.options.workers, source.values, target.values, most
        )

    def _survey(self) -> Survey:
        if self.options.method != "data":
            return data_free_survey(self.original)
        self.log("measuring the inputs of every mixing and what its errors do to the output")
        return survey(self.original, self.samples, self.options.seed)

    def _scoring_moments(self, mixing: Mixing) -> Moments:
        """What errors are judged by: with the activations that the restructured network really has."""
        if self.options.method != "data" or self._exact_before(mixing):
            return self.survey.moments[mixing.name]
        return measure_moments(self.original, self.restructured, mixing, self.samples)

    def _initial_owner(self, problem: Problem) -> np.ndarray:
        neurons = len(problem.metric)
        if self.options.assignment == "contiguous":
            return contiguous_owners(neurons, self.part_weights)
        if self.options.assignment == "random":
            return random_owners(self._capacities(neurons), neurons, self.rng)
        return assign_rows(problem, problem.own(), self._capacities(neurons))

    def _capacities(self, neurons: int) -> np.ndarray:
        return capacities(neurons, self.part_weights)

    def _dense_values(self, mixing: Mixing) -> int:
        source = self.original.space(mixing.source)
        if self.plan.input_placement == "replicated" and mixing.source == self.original.input:
            return 0
        return source.neurons * source.values * (self.options.workers - 1)


def assign_rows(problem: Problem, supports: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """Owners of the rows, (m,), when worker q may use the neurons ``supports[q]``."""
    weight = np.diag(problem.metric)[:, None]
    return assign(weight * residual_costs(problem.moments, supports), capacity)


def alternate(
    problem: Problem, capacity: np.ndarray, owner: np.ndarray, forms: list[Tradeoff], price: float
) -> tuple[np.ndarray, list[Tradeoff]]:
    """Assign the rows anew to the supports found, and eliminate anew, while that helps.

    The objective, error plus ``price`` times the values sent, never rises.

    Args:
        problem: the mixing.
        capacity: of the workers in the target space, (P,).
        owner: of the rows, (m,).
        forms: their trade-offs.
        price: λ.

    Returns:
        owner and trade-offs, the best ones met.
    """
    for _ in range(ALTERNATIONS - 1):
        best = cheapest(forms, price)
        if best.form != "ghost":
            break
        supports = mask_of(problem, best, owner, price).ghosts | problem.own()
        new_owner = assign_rows(problem, supports, capacity)
        new_forms = tradeoffs(problem, new_owner)
        if cheapest(new_forms, price).objective(price) >= best.objective(price):
            break
        owner, forms = new_owner, new_forms
    return owner, forms


def _before(network: Network, mixing: Mixing) -> tuple[Mixing, ...]:
    mixings = network.mixings
    return mixings[: mixings.index(mixing)]
