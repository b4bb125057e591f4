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

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.progress import PENDING
from repurpose_hpc.io.samples import Samples, check_shape
from repurpose_hpc.model.comm_dtype import EXACT, INT8
from repurpose_hpc.model.forward import Compute
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.arrival import computing
from repurpose_hpc.plan.plan import (
    EVERYBODY,
    MixingPlan,
    Plan,
    contiguous_owners,
    dense_mixing_plan,
    dense_plan,
    input_owners,
    trimmed,
)
from repurpose_hpc.restructure.adjustment import adjust, prune
from repurpose_hpc.restructure.calibration.comm_dtype import measure_noise, measure_scales
from repurpose_hpc.restructure.calibration.moments import Moments
from repurpose_hpc.restructure.calibration.propagation import Current, Propagation
from repurpose_hpc.restructure.calibration.survey import Survey, data_free_survey, one_shot_survey, survey
from repurpose_hpc.restructure.checkpoint import Checkpoint
from repurpose_hpc.restructure.options import DATA_FREE, METRIC_METHODS, Options
from repurpose_hpc.restructure.owners.alternation import alternate
from repurpose_hpc.restructure.owners.assignment import assign, assign_groups, random_owners
from repurpose_hpc.restructure.owners.balance import limit_ghosts, neuron_shares
from repurpose_hpc.restructure.owners.costs import assignment_costs, benefits
from repurpose_hpc.restructure.owners.hypergraph import hypergraph_owners
from repurpose_hpc.restructure.owners.sweep import Around, Owners, Sweep, surroundings
from repurpose_hpc.restructure.support.density import sparsify, spread_weights, weight_scores
from repurpose_hpc.restructure.support.forms import Problem, mask_of, mixed_tradeoff, tradeoffs
from repurpose_hpc.restructure.support.tradeoff import Tradeoff, cheapest, price_for
from repurpose_hpc.restructure.team import ALONE, Team

Log = Callable[[str], None]


class BudgetTooSmall(UserError):
    """Less than what no restructuring can do without."""


@dataclass(frozen=True, eq=False)
class Restructured:
    """A network, cut for P workers.

    Attributes:
        network: the adjusted weights, float64, zero where workers no longer depend on each other.
        plan: owners and masks, and how ghosts travel.
    """

    network: Network
    plan: Plan

    def compute(self) -> Compute:
        """What computes operations as the workers do, with what the wire makes of ghosts."""
        return computing(self.network, self.plan, self.plan.wire)


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
        UserError: data of another shape, or not finite; no room for the weights.
        BudgetTooSmall: what is not trained sends more than the budget.
    """
    check_shape(samples, network.input_shape)
    if options.keeps_everything:
        return _whole(network, samples, options, team)
    return _Restructuring(network, samples, options, log, team, checkpoint).run()


def _whole(network: Network, samples: Samples, options: Options, team: Team) -> Restructured:
    """Nothing eliminated: not by elimination, which drops what the samples do not need, and others may."""
    plan = dense_plan(network, options.workers, options.input_placement, options.machine().part_weights)
    plan = replace(plan, wire=options.comm_dtype, scales={})
    mixings = list(network.mixings)
    current = Current(network, plan, {mixing.name for mixing in mixings})
    sources = (mixing.source for mixing in mixings)
    measure_scales(Propagation(network, mixings, samples, team), sources, current)
    return Restructured(network, plan)


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
        shares = neuron_shares(
            network, self.speeds, options.comm_budget, options.input_placement == "replicated"
        )
        self.machine = replace(machine, part_weights=shares)
        self.mixings = [mixing for mixing in network.mixings if not mixing.fixed]
        self.around = surroundings(network, self._wide)
        self.owners = self._undecided_owners()  # of the free spaces
        self.plan = Plan(options.workers, options.input_placement, {}, {}, {}, options.comm_dtype)
        self.settled: set[str] = set()  # Free spaces around which a mixing is finished or fixed.
        self.finished: set[str] = set()  # Mixings.
        self.propagation = Propagation(network, self.mixings, samples, team)
        self.exact = True  # Whether every mixing so far computes what that of the original does.
        exchanged = dict.fromkeys(mixing.source for mixing in network.mixings)
        self.budget = options.comm_budget * sum(map(self._dense_cost, exchanged))
        self.weights_left = options.density * network.weight_count
        self.survey = self._survey()

    def run(self) -> Restructured:
        unit = "values" if self.options.link_costs is None else "units of link cost"
        self.log(f"budget: {self.budget:,.0f} {unit} per sample")
        self._plan_owners()
        self._plan_fixed()
        later = self._estimate()
        shares = self._weight_shares()
        for number, mixing in enumerate(self.mixings):
            if self.options.comm_dtype == INT8:
                self._measure_scales(mixing)
            if not self._resume(mixing):
                self._restructure_mixing(number, later[number:], shares)
                self._save(mixing)
            self.settled.update(*map(self.original.parts, (mixing.source, mixing.target)))
        self._measure_scales(self.original.mixings[-1])
        self.plan.owners.update(self.original.derive(self.owners))
        return Restructured(self.restructured, self.plan)

    def _measure_scales(self, last: Mixing) -> None:
        """Of what is read by all mixings up to ``last``."""
        names = [mixing.name for mixing in self.original.mixings]
        read = self.original.mixings[: names.index(last.name) + 1]
        measure_scales(self.propagation, (mixing.source for mixing in read), self._current())

    def _undecided_owners(self) -> Owners:
        """Owners of the inputs, and of what only fixed mixings make."""
        owners, weights = {}, self.machine.part_weights
        for space in self.original.free_spaces:
            if space.name in self.original.input_spaces:
                owners[space.name] = input_owners(space.neurons, self.options.input_placement, weights)
            elif space.name not in self.around:
                owners[space.name] = contiguous_owners(space.neurons, weights)
        return owners

    def _plan_owners(self) -> None:
        """Owners of all spaces, before anything is eliminated."""
        room = {}
        undecided = {*self.around} - {*self.owners}
        for number, mixing in enumerate(self.mixings):
            for name in self.original.parts(mixing.source):
                if name not in self.owners:  # Made by fixed mixings, but tied to a target further on.
                    self.owners[name] = contiguous_owners(
                        self.around[name].neurons, self.machine.part_weights
                    )
            for name in self.original.parts(mixing.target):
                if name in undecided - {*room}:
                    room[name] = self._capacity(mixing, name)
                    self.owners[name] = self._initial_owner(number, self.around[name], room[name])
        self.room = room
        if self.options.assignment != "munkres" or self.options.workers == 1:
            return
        self.log(f"choosing owners for the mixings before and behind them{PENDING}")
        wide = [mixing for mixing in self.mixings if self._wide(mixing)]
        around = list(self.around.values())
        self.owners = Sweep(around, wide, self._surveyed_problem, self.owners, room).run()

    def _plan_fixed(self) -> None:
        """Of what is not trained, everything is sent that is used; the budget pays for it first."""
        owners = self.original.derive(self.owners)
        for mixing in self.original.mixings:
            if mixing.fixed:
                ends = [owners[self.original.space_of[end]] for end in (mixing.source, mixing.target)]
                sizes = [self.original.size(end) for end in (mixing.source, mixing.target)]
                everything = dense_mixing_plan(*ends, sizes[1] < sizes[0], np.arange(self.options.workers))
                self.plan.mixings[mixing.name] = trimmed(everything, mixing.links, *ends)
                # Its exchanges are those of these owners.
                self.settled.update(*map(self.original.parts, (mixing.source, mixing.target)))
        self.exact = not any(self._rounds(mixing) for mixing in self.original.mixings if mixing.fixed)
        whole, fixed = self.budget, sum(map(self._cost, self.plan.mixings))
        self.budget -= fixed
        if self.budget < 0:
            raise BudgetTooSmall(
                f"a communication budget of {self.options.comm_budget:.3g} is {whole:,.0f} per sample, "
                f"expected {fixed:,.0f} at least: sums of normalisations, and inputs that are added to other "
                "neurons, cannot be pruned; allow more communication, or take fewer workers"
            )

    def _cost(self, name: str) -> float:
        """Of what the plan sends for a mixing, at the prices of the links."""
        mixing = next(each for each in self.original.mixings if each.name == name)
        traffic = self._plan_so_far().traffic(self.original, mixing)
        return float((traffic * self.machine.link_costs).sum())

    def _estimate(self) -> list[list[Tradeoff]]:
        """Trade-offs of every mixing if nothing before it had changed."""
        estimates = []
        for mixing in self.mixings:
            self.log(f"estimating what communication buys: {mixing.name}{PENDING}")
            estimates.append(tradeoffs(*self._surveyed_problem(mixing, self.owners)))
        return estimates

    def _restructure_mixing(self, number: int, later: list[list[Tradeoff]], shares: list[int]) -> None:
        mixing = self.mixings[number]
        self.log(f"{mixing.name} ({number + 1} of {len(self.mixings)}): measuring{PENDING}")
        problem = self._problem(mixing, self.owners, self._scoring_moments(mixing))
        owner = self._owner(mixing.target)
        self.log(f"{mixing.name}: eliminating{PENDING}")
        # Where nothing has changed yet, the estimate is exact.
        forms = later[0] if number == 0 else tradeoffs(problem, owner)
        later = later[1:]
        price = price_for([forms, *later], self.budget)
        if self.options.assignment == "munkres" and self._is_free(mixing):
            space = self.original.space_of[mixing.target]
            owner, forms = alternate(problem, self.room[space], owner, forms, price, self._ahead(mixing))
            self.owners = {**self.owners, space: owner}
        if self.options.imbalance is not None:
            allowance = (1 + self.options.imbalance) * self.speeds
            price = price_for([forms, *later], self.budget)
            forms = [limit_ghosts(problem, owner, form, price, allowance) for form in forms]
        forms = self._with_mixed(problem, owner, forms, price_for([forms, *later], self.budget))
        price = price_for([forms, *later], self.budget)
        form = cheapest(forms, price)
        self.budget -= form.cost(price)
        self.plan.mixings[mixing.name] = mask_of(problem, form, owner, price)
        self.log(f"{mixing.name}: adjusting{PENDING}")
        weights = self._weights(number, problem, shares)
        mask = self.plan.mixings[mixing.name]
        self.plan.mixings[mixing.name] = trimmed(mask, weights.links, problem.source_owner, owner)
        self._finish(mixing, weights)
        plan = self._plan_so_far()
        self.log(
            f"{mixing.name}: {plan.mixings[mixing.name].form} form, "
            f"{plan.values_sent(self.original, mixing)} of "
            f"{plan.dense_values(self.original, mixing)} values sent"
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
        mixing, plan = self.mixings[number], self._plan_so_far()
        mask = plan.allowed(self.original, mixing) & mixing.links
        if self.options.density < 1:
            holder = plan.holders(self.original, mixing)
            quota = self._weight_quota(number, shares)
            mask = sparsify(problem.moments, problem.metric, mask, holder, quota, self.team)
        if self.options.method == "magnitude" or (self.exact and np.array_equal(mask, mixing.links)):
            return prune(mixing, mask)
        noise = measure_noise(self.propagation, mixing, self._current()) if self._rounds(mixing) else None
        if self.options.method in METRIC_METHODS:
            return adjust(mixing, problem.moments, mask, self.survey.roots[mixing.name], self.team, noise)
        return adjust(mixing, self._moments(mixing), mask, None, self.team, noise)

    def _rounds(self, mixing: Mixing) -> bool:
        """Whether anything that the mixing reads arrives rounded."""
        return self.options.comm_dtype != EXACT and self._plan_so_far().arriving(self.original, mixing).any()

    def _surveyed_problem(self, mixing: Mixing, owners: Owners) -> tuple[Problem, np.ndarray]:
        """The problem of a mixing as if nothing before it had changed, and the owners of its rows."""
        problem = self._problem(mixing, owners, self.survey.moments[mixing.name])
        return problem, self.original.gather(owners, mixing.target)

    def _problem(self, mixing: Mixing, owners: Owners, moments: Moments) -> Problem:
        links, values = self.machine.link_costs, self.original.values(mixing.source)
        source_owner = self.original.gather(owners, mixing.source)
        room, own = self._room(mixing) / mixing.taps, self.machine.own_columns(source_owner)
        cheapest_link = links[links > 0].min(initial=np.inf) * values
        # Hardly any worker is worth more than twice its even share of the whole budget.
        affordable = np.ceil(2 * max(self.budget, 0) / (self.options.workers * cheapest_link))

        def most(rows: np.ndarray) -> np.ndarray:
            fitting = np.floor(room / np.maximum(rows, 1)) - own
            return np.clip(fitting, 0, min(affordable, source_owner.size)).astype(np.int64)

        return Problem(
            moments=moments,
            metric=self.survey.metrics[mixing.name],
            source_owner=source_owner,
            ghost_costs=values * links,
            sum_costs=self.original.values(mixing.target) * links,
            most=most,
            # What every worker has needs no sums; sums are held by others, whose memory is limited.
            only_ghosts=bool((source_owner == EVERYBODY).any() or np.isfinite(room).any()),
            team=self.team,
            taps=mixing.taps,
            received=self._received(mixing, source_owner),
            links=None if mixing.links.all() else mixing.links,
        )

    def _received(self, mixing: Mixing, source_owner: np.ndarray) -> np.ndarray:
        """The ghosts that workers are sent anyhow, for finished mixings that read the same tensor."""
        received = np.zeros((self.options.workers, source_owner.size), bool)
        for other in self.original.mixings:
            if other.source == mixing.source and other.name in self.plan.mixings:
                received |= self.plan.mixings[other.name].ghosts
        return received

    def _finish(self, mixing: Mixing, weights: Mixing) -> None:
        self.finished.add(mixing.name)
        self.weights_left -= np.count_nonzero(weights.weights)
        self.exact = (
            self.exact and not self._rounds(mixing) and np.array_equal(weights.weights, mixing.weights)
        )
        self.restructured = self.restructured.with_mixings({mixing.name: weights})

    def _resume(self, mixing: Mixing) -> bool:
        """Take ``mixing`` from the checkpoint; whether it was there."""
        if self.checkpoint is None:
            return False
        # One rank reads for all: others may not see the file.
        saved = self.team.map(self.checkpoint.load, [mixing.name])[0]
        if saved is None:
            return False
        self.log(f"{mixing.name}: finished by an earlier run")
        for name in self.original.parts(mixing.target):
            self.owners = {**self.owners, name: saved[f"owner {name}"]}
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
            **{f"owner {name}": self.owners[name] for name in self.original.parts(mixing.target)},
            "ghosts": self.plan.mixings[mixing.name].ghosts,
            "sums": self.plan.mixings[mixing.name].sums,
            "weights": finished.weights,
            "bias": finished.bias,
            "budget": np.array(self.budget),
        }
        self.team.map(lambda name: self.checkpoint.save(name, arrays), [mixing.name])

    def _is_free(self, mixing: Mixing) -> bool:
        """Whether the owners of the rows are still open, and no other mixing's rows are theirs too."""
        space = self.original.space(mixing.target)
        if space.parts or space.name in self.settled:
            return False
        is_inside = space.name in self.original.parts(mixing.source)
        return len(self.around[space.name].makers) == 1 and not is_inside

    def _ahead(self, mixing: Mixing) -> np.ndarray:
        """What the mixings that read the target gain from every owner of its neurons, (m, P)."""
        around = self.around[self.original.space_of[mixing.target]]
        total = np.zeros((len(mixing.bias), self.options.workers))
        for user in around.users:
            problem, owner = self._surveyed_problem(user, self.owners)
            total += around.scatter(benefits(problem, owner), user.source)
        return total

    def _wide(self, mixing: Mixing) -> bool:
        """Whether inputs travel rather than sums, so that the owners of the source matter."""
        return self.original.size(mixing.target) >= self.original.size(mixing.source)

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
        return self._moments(mixing)

    def _moments(self, mixing: Mixing) -> Moments:
        return self.propagation.moments(mixing, self._current())

    def _initial_owner(self, number: int, around: Around, capacity: np.ndarray) -> np.ndarray:
        """Owners of a space that mixing ``number`` is the first to make."""
        mixing, assignment = self.mixings[number], self.options.assignment
        neurons, source_owner = around.neurons, self._owner(mixing.source)
        if assignment == "contiguous":
            owner = contiguous_owners(neurons, self.machine.part_weights)
            fits = (np.bincount(owner, minlength=len(capacity)) <= capacity).all()
            return owner if fits else contiguous_owners(neurons, capacity)
        if assignment == "hypergraph":
            index, weights = around.index[mixing.target], np.zeros((neurons, source_owner.size))
            strengths = (mixing.weights**2).reshape(len(mixing.bias), -1, mixing.taps).sum(axis=2)
            weights[index[index >= 0]] = np.sqrt(strengths[index >= 0])
            return hypergraph_owners(weights, source_owner, capacity, self.options.seed)
        alike = bool((source_owner == EVERYBODY).all())
        if assignment == "random" or (alike and around.groups is None):
            # To a mixing whose inputs everybody has, all owners are alike: where the sweeps start from.
            return random_owners(capacity, neurons, np.random.default_rng([self.options.seed, number]))
        problem = self._problem(mixing, self.owners, self.survey.moments[mixing.name])
        costs = around.scatter(assignment_costs(problem, problem.own()), mixing.target)

        def decide(costs: np.ndarray) -> np.ndarray:
            groups = around.groups
            return assign(costs, capacity) if groups is None else assign_groups(costs, capacity, groups)

        # By one rank, which compiles the kernel for all.
        return self.team.map(decide, [costs])[0]

    def _owner(self, tensor: str) -> np.ndarray:
        return self.original.gather(self.owners, tensor)

    def _current(self) -> Current:
        return Current(self.restructured, self._plan_so_far(), self.finished)

    def _plan_so_far(self) -> Plan:
        return replace(self.plan, owners=self.original.derive(self.owners))

    def _room(self, mixing: Mixing) -> np.ndarray:
        """Weights of this mixing that each worker can hold: its part of the worker's memory, (P,)."""
        return self.machine.room * mixing.weights.size / self._size()

    def _size(self) -> int:
        return sum(mixing.weights.size for mixing in self.mixings)

    def _capacity(self, mixing: Mixing, name: str) -> np.ndarray:
        """Neurons of the space ``name``, which ``mixing`` makes, that each worker can own, (P,)."""
        neurons = self.around[name].neurons
        return self.machine.capacity(neurons, self._owner(mixing.source), self._room(mixing) / mixing.taps)

    def _dense_cost(self, tensor: str) -> float:
        """Cost of a dense exchange of ``tensor``; inner spaces count as shared out by the part weights."""
        network, total = self.original, 0.0
        for name in network.parts(tensor):
            neurons = network.neurons_in(tensor, name)
            if name in network.input_spaces:
                total += self.machine.dense_cost(self.owners[name][neurons[neurons >= 0]])
            else:
                total += self.machine.typical_dense_cost(np.count_nonzero(neurons >= 0))
        return network.values(tensor) * total

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
