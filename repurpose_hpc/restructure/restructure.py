"""The method, in the order of the paper: assign, eliminate, adjust, propagate, mixing by mixing.

The mixings are first looked at with the activations of the original network: that yields owners chosen
for the whole network, and an estimate of what communication buys everywhere, hence one price λ.  Then
they are restructured in the order of execution, each on the activations that the ones before it
really produce; the price is set anew from what is left of the budget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from repurpose_hpc.data import Samples, check_width
from repurpose_hpc.model.network import Mixing, Network
from repurpose_hpc.plan.plan import (
    EVERYBODY,
    MixingPlan,
    Plan,
    contiguous_owners,
    dense_plan,
    input_owners,
    trimmed,
)
from repurpose_hpc.progress import PENDING
from repurpose_hpc.restructure.adjustment import adjust, prune
from repurpose_hpc.restructure.assignment import random_owners
from repurpose_hpc.restructure.balance import limit_ghosts, neuron_shares
from repurpose_hpc.restructure.checkpoint import Checkpoint
from repurpose_hpc.restructure.density import sparsify, spread_weights, weight_scores
from repurpose_hpc.restructure.forms import Problem, mask_of, mixed_tradeoff, tradeoffs
from repurpose_hpc.restructure.hypergraph import hypergraph_owners
from repurpose_hpc.restructure.options import DATA_FREE, METRIC_METHODS, Options
from repurpose_hpc.restructure.owners import Sweep, assign_rows, benefits
from repurpose_hpc.restructure.statistics import Moments, measure_moments
from repurpose_hpc.restructure.survey import Survey, data_free_survey, one_shot_survey, survey
from repurpose_hpc.restructure.team import ALONE, Team
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


def restructure(
    network: Network,
    samples: Samples,
    options: Options,
    log: Log,
    team: Team = ALONE,
    checkpoint: Checkpoint | None = None,
) -> Restructured:
    """Restructure ``network`` for ``options.workers`` workers; collective.

    Args:
        network: trained.
        samples: calibration data; labels are used only to tell a classifier.
        options: see there; with a budget.
        log: is given one line for each step.
        team: shares the work; the result does not depend on it.
        checkpoint: keeps finished mixings, and has those of an interrupted run.

    Raises:
        UserError: data of another width, or not finite; no room for the weights.
    """
    check_width(samples, network.inputs)
    if options.keeps_everything:
        # Not by elimination: that drops what the samples do not need, and other samples may.
        part_weights = options.machine().part_weights
        return Restructured(
            network, dense_plan(network, options.workers, options.input_placement, part_weights)
        )
    return _Restructuring(network, samples, options, log, team, checkpoint).run()


class _Restructuring:
    """One run: what has been decided so far, and the budgets that are left."""

    def __init__(
        self,
        network: Network,
        samples: Samples,
        options: Options,
        log: Log,
        team: Team,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.original, self.restructured = network, network
        self.samples, self.options, self.log = samples, options, log
        self.team, self.checkpoint = team, checkpoint
        machine = options.machine()
        self.speeds = machine.part_weights / machine.part_weights.sum()
        replicated = options.input_placement == "replicated"
        shares = neuron_shares(network, self.speeds, options.budget, replicated)
        self.machine = replace(machine, part_weights=shares)
        self.mixings = network.mixings
        input_space = network.space(network.input)
        owner = input_owners(input_space.neurons, options.input_placement, self.machine.part_weights)
        self.plan = Plan(options.workers, options.input_placement, {input_space.name: owner}, {})
        self.exact = True  # Whether every mixing so far is that of the original.
        self.budget = options.budget * sum(self._dense_cost(mixing) for mixing in self.mixings)
        self.weights_left = options.density * network.weight_count
        self.survey = self._survey()

    def run(self) -> Restructured:
        unit = "values" if self.options.link_costs is None else "units of link cost"
        self.log(f"budget: {self.budget:,.0f} {unit} per sample")
        owners = self._plan_owners()
        later = self._estimate(owners)
        shares = self._weight_shares()
        for number, mixing in enumerate(self.mixings):
            if not self._resume(mixing, owners):
                self._restructure_mixing(number, owners, later[number:], shares)
                self._save(mixing)
        return Restructured(self.restructured, self.plan)

    def _plan_owners(self) -> list[np.ndarray]:
        """Owners of the input and of the target of every mixing, before anything is eliminated."""
        owners, room = [self._source_owner(self.mixings[0])], []
        for number, mixing in enumerate(self.mixings):
            problem = self._problem(number, owners[-1], self.survey.moments[mixing.name])
            room.append(self._capacity(number, owners[-1]))
            owners.append(self._initial_owner(number, problem, room[-1]))
        if self.options.assignment != "munkres" or self.options.workers == 1:
            return owners
        self.log(f"choosing owners for the mixings before and behind them{PENDING}")
        moments = self.survey.moments
        return Sweep(
            lambda number, source: self._problem(number, source, moments[self.mixings[number].name]),
            [self._wide(mixing) for mixing in self.mixings],
            owners,
            room,
        ).run()

    def _estimate(self, owners: list[np.ndarray]) -> list[list[Tradeoff]]:
        """Trade-offs of every mixing if nothing before it had changed."""
        estimates = []
        for number, mixing in enumerate(self.mixings):
            self.log(f"estimating what communication buys: {mixing.name}{PENDING}")
            problem = self._problem(number, owners[number], self.survey.moments[mixing.name])
            estimates.append(tradeoffs(problem, owners[number + 1]))
        return estimates

    def _restructure_mixing(
        self, number: int, owners: list[np.ndarray], later: list[list[Tradeoff]], shares: list[int]
    ) -> None:
        mixing = self.mixings[number]
        source_owner, owner = self._source_owner(mixing), owners[number + 1]
        self.log(f"{mixing.name} ({number + 1} of {len(self.mixings)}): measuring{PENDING}")
        problem = self._problem(number, source_owner, self._scoring_moments(mixing))
        self.log(f"{mixing.name}: eliminating{PENDING}")
        # Where nothing has changed yet, the estimate is exact.
        forms = later[0] if number == 0 else tradeoffs(problem, owner)
        later = later[1:]
        price = price_for([forms, *later], self.budget)
        if self.options.assignment == "munkres":
            ahead = self._ahead(number, owners)
            owner, forms = alternate(
                problem, self._capacity(number, source_owner), owner, forms, price, ahead
            )
        if self.options.imbalance is not None:
            allowance = (1 + self.options.imbalance) * self.speeds
            price = price_for([forms, *later], self.budget)
            forms = [limit_ghosts(problem, owner, form, price, allowance) for form in forms]
        forms = self._with_mixed(problem, owner, forms, price_for([forms, *later], self.budget))
        price = price_for([forms, *later], self.budget)
        form = cheapest(forms, price)
        self.budget -= form.cost(price)
        owners[number + 1] = owner
        self.plan.owners[self.original.space(mixing.target).name] = owner
        self.plan.mixings[mixing.name] = mask_of(problem, form, owner, price)
        self.log(f"{mixing.name}: adjusting{PENDING}")
        weights = self._weights(number, problem, shares)
        if self.options.density < 1:
            mask = self.plan.mixings[mixing.name]
            self.plan.mixings[mixing.name] = trimmed(mask, weights.weights, source_owner, owner)
        self._finish(mixing, weights)
        self.log(
            f"{mixing.name}: {self.plan.mixings[mixing.name].form} form, "
            f"{self.plan.values_sent(self.original, mixing)} of "
            f"{self.plan.dense_values(self.original, mixing)} values sent"
        )

    def _with_mixed(
        self, problem: Problem, owner: np.ndarray, forms: list[Tradeoff], price: float
    ) -> list[Tradeoff]:
        """The forms, and where sums make sense beside ghosts, both together."""
        best = cheapest(forms, price)
        if best.sums or problem.only_ghosts:
            return forms
        return [*forms, mixed_tradeoff(problem, owner, best, price)]

    def _weights(self, number: int, problem: Problem, shares: list[int]) -> Mixing:
        mixing = self.mixings[number]
        mask = self.plan.allowed(self.original, mixing)
        if self.options.density < 1:
            holder = self.plan.holders(self.original, mixing)
            quota = self._weight_quota(number, shares)
            mask = sparsify(problem.moments, problem.metric, mask, holder, quota, self.team)
        if self.options.method == "magnitude" or (self.exact and mask.all()):
            return prune(mixing, mask)
        if self.options.method in METRIC_METHODS:
            return adjust(mixing, problem.moments, mask, self.survey.roots[mixing.name], self.team)
        moments = measure_moments(self.original, self.restructured, mixing, self.samples, self.team)
        return adjust(mixing, moments, mask, None, self.team)

    def _problem(self, number: int, source_owner: np.ndarray, moments: Moments) -> Problem:
        mixing = self.mixings[number]
        source, target = self.original.space(mixing.source), self.original.space(mixing.target)
        links = self.machine.link_costs
        room, own = self._room(number), self.machine.own_columns(source_owner)
        cheapest_link = links[links > 0].min(initial=np.inf) * source.values
        # Hardly any worker is worth more than twice its even share of the whole budget.
        affordable = np.ceil(2 * self.budget / (self.options.workers * cheapest_link))

        def most(rows: np.ndarray) -> np.ndarray:
            fitting = np.floor(room / np.maximum(rows, 1)) - own
            return np.clip(fitting, 0, min(affordable, source.neurons)).astype(np.int64)

        return Problem(
            moments=moments,
            metric=self.survey.metrics[mixing.name],
            source_owner=source_owner,
            ghost_costs=source.values * links,
            sum_costs=target.values * links,
            most=most,
            # What every worker has needs no sums; sums are held by others, whose memory is limited.
            only_ghosts=bool((source_owner == EVERYBODY).any() or np.isfinite(room).any()),
            team=self.team,
        )

    def _finish(self, mixing: Mixing, weights: Mixing) -> None:
        self.weights_left -= np.count_nonzero(weights.weights)
        self.exact = self.exact and np.array_equal(weights.weights, mixing.weights)
        self.restructured = self.restructured.with_mixings({mixing.name: weights})

    def _resume(self, mixing: Mixing, owners: list[np.ndarray]) -> bool:
        """Take ``mixing`` from the checkpoint; whether it was there."""
        if self.checkpoint is None:
            return False
        # One rank reads for all: others may not see the file.
        saved = self.team.map(self.checkpoint.load, [mixing.name])[0]
        if saved is None:
            return False
        self.log(f"{mixing.name}: finished by an earlier run")
        owners[self.mixings.index(mixing) + 1] = saved["owner"]
        self.plan.owners[self.original.space(mixing.target).name] = saved["owner"]
        self.plan.mixings[mixing.name] = MixingPlan(saved["ghosts"], saved["sums"])
        self.budget = float(saved["budget"])
        self._finish(mixing, replace(mixing, weights=saved["weights"], bias=saved["bias"]))
        return True

    def _save(self, mixing: Mixing) -> None:
        """Save a finished mixing, on the rank that does first tasks."""
        if self.checkpoint is None:
            return
        finished = next(each for each in self.restructured.mixings if each.name == mixing.name)
        arrays = {
            "owner": self.plan.owners[self.original.space(mixing.target).name],
            "ghosts": self.plan.mixings[mixing.name].ghosts,
            "sums": self.plan.mixings[mixing.name].sums,
            "weights": finished.weights,
            "bias": finished.bias,
            "budget": np.array(self.budget),
        }
        self.team.map(lambda name: self.checkpoint.save(name, arrays), [mixing.name])

    def _ahead(self, number: int, owners: list[np.ndarray]) -> np.ndarray:
        """What the next mixing gains from every owner of this one's rows, (m, P)."""
        rows = len(self.mixings[number].bias)
        if number + 1 == len(self.mixings) or not self._wide(self.mixings[number + 1]):
            return np.zeros((rows, self.options.workers))
        moments = self.survey.moments[self.mixings[number + 1].name]
        return benefits(self._problem(number + 1, owners[number + 1], moments), owners[number + 2])

    def _wide(self, mixing: Mixing) -> bool:
        """Whether inputs travel rather than sums, so that the owners of the source matter."""
        return len(mixing.bias) >= mixing.weights.shape[1]

    def _survey(self) -> Survey:
        if self.options.method in DATA_FREE:
            return data_free_survey(self.original)
        self.log(f"measuring the inputs of every mixing and what its errors do to the output{PENDING}")
        measured = survey(self.original, self.samples, self.options.seed, self.team)
        return one_shot_survey(measured) if self.options.method == "second-moment" else measured

    def _scoring_moments(self, mixing: Mixing) -> Moments:
        """What errors are judged by: with the activations that the restructured network really has."""
        if self.options.method not in METRIC_METHODS or self.exact:
            return self.survey.moments[mixing.name]
        return measure_moments(self.original, self.restructured, mixing, self.samples, self.team)

    def _initial_owner(self, number: int, problem: Problem, capacity: np.ndarray) -> np.ndarray:
        neurons, assignment = len(problem.metric), self.options.assignment
        if assignment == "contiguous":
            owner = contiguous_owners(neurons, self.machine.part_weights)
            fits = (np.bincount(owner, minlength=len(capacity)) <= capacity).all()
            return owner if fits else contiguous_owners(neurons, capacity)
        if assignment == "hypergraph":
            weights = self.mixings[number].weights
            return hypergraph_owners(weights, problem.source_owner, capacity, self.options.seed)
        if assignment == "random" or (problem.source_owner == EVERYBODY).all():
            # To a mixing whose inputs everybody has, all owners are alike: where the sweeps start from.
            return random_owners(capacity, neurons, np.random.default_rng([self.options.seed, number]))
        return assign_rows(problem, problem.own(), capacity, np.zeros((neurons, self.options.workers)))

    def _source_owner(self, mixing: Mixing) -> np.ndarray:
        return self.plan.owners[self.original.space(mixing.source).name]

    def _room(self, number: int) -> np.ndarray:
        """Weights of this mixing that each worker can hold: its part of the worker's memory, (P,)."""
        return self.machine.room * self.mixings[number].weights.size / self._size()

    def _size(self) -> int:
        return sum(mixing.weights.size for mixing in self.mixings)

    def _capacity(self, number: int, source_owner: np.ndarray) -> np.ndarray:
        return self.machine.capacity(len(self.mixings[number].bias), source_owner, self._room(number))

    def _dense_cost(self, mixing: Mixing) -> float:
        """Cost of the dense exchange; neurons of inner spaces count as shared out by the part weights."""
        source = self.original.space(mixing.source)
        if mixing.source == self.original.input:
            return source.values * self.machine.dense_cost(self._source_owner(mixing))
        return source.values * self.machine.typical_dense_cost(source.neurons)

    def _weight_shares(self) -> list[int]:
        """How many weights of each mixing would be kept if only the weights were limited."""
        if self.options.density == 1:
            return []
        known = self.survey
        scores = [weight_scores(known.moments[m.name], known.metrics[m.name]) for m in self.mixings]
        return spread_weights(scores, int(self.weights_left))

    def _weight_quota(self, number: int, shares: list[int]) -> np.ndarray:
        """Weights of this mixing that each worker may keep, by its speed, of those that are left, (P,)."""
        total = self.weights_left * shares[number] / max(sum(shares[number:]), 1)
        return np.floor(total * self.speeds).astype(np.int64)


def alternate(
    problem: Problem,
    capacity: np.ndarray,
    owner: np.ndarray,
    forms: list[Tradeoff],
    price: float,
    ahead: np.ndarray,
) -> tuple[np.ndarray, list[Tradeoff]]:
    """Assign the rows anew to the supports found, and eliminate anew, while that helps.

    The objective, error plus ``price`` times the communication, minus what the next mixing gains from the
    owners, never rises.

    Args:
        problem: the mixing.
        capacity: of the workers in the target space, (P,).
        owner: of the rows, (m,).
        forms: their trade-offs.
        price: λ.
        ahead: what the next mixing gains if row i is worker q's, (m, P).

    Returns:
        owner and trade-offs, the best ones met.
    """

    def objective(owner: np.ndarray, forms: list[Tradeoff]) -> float:
        gained = float(ahead[np.arange(owner.size), owner].sum())
        return cheapest(forms, price).objective(price) - gained

    for _ in range(ALTERNATIONS - 1):
        best = cheapest(forms, price)
        if best.sums:
            break
        supports = mask_of(problem, best, owner, price).ghosts | problem.own()
        new_owner = assign_rows(problem, supports, capacity, ahead)
        new_forms = tradeoffs(problem, new_owner)
        if objective(new_owner, new_forms) >= objective(owner, forms):
            break
        owner, forms = new_owner, new_forms
    return owner, forms
