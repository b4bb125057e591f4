"""The givens of a restructuring, which no step changes, and the problems that follow from them.

A step is a function of a ``CutContext`` and of the ``Decisions`` taken so far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from repurpose_hpc.io.progress import PENDING
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.comm_dtype import EXACT
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.masks import EVERYBODY
from repurpose_hpc.plan.plan import REPLICATED, Plan, tile_weights
from repurpose_hpc.restructure.calibration.divergence import Divergence
from repurpose_hpc.restructure.calibration.moments import Moments
from repurpose_hpc.restructure.calibration.probes import value_weights
from repurpose_hpc.restructure.calibration.propagation import CurrentNetwork, Propagation
from repurpose_hpc.restructure.calibration.statistics import Statistics, statistics_for, trained
from repurpose_hpc.restructure.constraints import Constraints
from repurpose_hpc.restructure.decisions import Decisions, Owners
from repurpose_hpc.restructure.method import Gram, Method
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.owners.shares import neuron_shares
from repurpose_hpc.restructure.owners.stages import constraints_for
from repurpose_hpc.restructure.owners.surroundings import Surroundings, surroundings
from repurpose_hpc.restructure.support.elimination import METRIC_TOLERANCE
from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.team import Team

# Is given a line for each step.
Log = Callable[[str], None]

# Of all weights: where more are zero, as in grouped convolutions and sparse layers, there are no relays,
# which know of no holes.  A few are by chance, above all in quantised models.
FEW_HOLES = 0.05

# What an error in any direction counts at least, relative to the mean, where it would be lost otherwise.
LEAST_DIRECTION = 1e-4


def silent(line: str) -> None:
    """Log nothing."""


@dataclass(frozen=True, eq=False)
class CutContext:
    """The givens of one run.

    Attributes:
        network: as it was trained.
        options: as a user gave them.
        samples: of the calibration data, how many.
        method: how it is restructured.
        constraints: limits and prices; the part weights in it are shares of the neurons.
        speeds: of the workers, relative, (P,), summing to 1.
        mixings: those that are not fixed, in the order of execution.
        surroundings: free space -> the mixings around it.
        statistics: of the original network (step 1).
        propagation: the calibration data on their way through both networks (step 5).
        divergence: of answers from those of the original.
        team: shares the work.
        log: is given one line for each step.
    """

    network: Network
    options: Options
    samples: int
    method: Method
    constraints: Constraints
    speeds: np.ndarray
    mixings: tuple[Mixing, ...]
    surroundings: Mapping[str, Surroundings]
    statistics: Statistics
    propagation: Propagation
    divergence: Divergence
    team: Team
    log: Log

    def is_wide(self, mixing: Mixing) -> bool:
        """True if inputs travel rather than sums, so that the owners of the source matter."""
        return is_wide(self.network, mixing)

    def room(self, mixing: Mixing) -> np.ndarray:
        """Weights of this mixing that each worker can hold: its part of the worker's memory, (P,)."""
        weights = self._weights_in(mixing)
        others = [other for other in self.mixings if np.array_equal(self._weights_in(other), weights)]
        total = sum(other.weights.size for other in others)
        return self.constraints.room * mixing.weights.size / total

    def _weights_in(self, mixing: Mixing) -> np.ndarray:
        """The part weights of the workers that share what a mixing makes, (P,), 0 of others."""
        return self.constraints.weights_in(self.network.parts(mixing.target)[0])

    def share(self, decisions: Decisions, mixing: Mixing) -> np.ndarray:
        """The part of the weights of a mixing that each worker should hold, (P,)."""
        if not self.constraints.within:
            return decisions.shares.get(mixing.name, self.speeds)
        speeds = self.speeds * (self._weights_in(mixing) > 0)
        return speeds / speeds.sum()

    def owner(self, decisions: Decisions, tensor: str) -> np.ndarray:
        """Owners of the neurons of ``tensor``, (n,)."""
        return self.network.gather(dict(decisions.owners), tensor)

    def plan(self, decisions: Decisions) -> Plan:
        """The plan, as far as it is decided."""
        options = self.options
        owners = self.network.derive(dict(decisions.owners))
        return Plan(
            options.workers,
            options.input_placement,
            owners,
            decisions.masks,
            decisions.scales,
            options.comm_dtype,
            removed=decisions.removed,
            outliers=decisions.outliers,
        )

    def current(self, decisions: Decisions) -> CurrentNetwork:
        """The restructured network, as far as it is decided."""
        plan = self.plan(decisions)
        network = plan.without_removed(self.network.with_mixings(dict(decisions.finished)))
        return CurrentNetwork(network, plan, decisions.finished.keys(), decisions.relays)

    def arrives_rounded(self, mixing: Mixing, decisions: Decisions) -> bool:
        """True if anything that the mixing reads arrives rounded."""
        plan = self.plan(decisions)
        arrives = mixing.name in decisions.relays or bool(plan.arriving(self.network, mixing).any())
        return plan.comm_dtype != EXACT and arrives

    def moments(self, mixing: Mixing, decisions: Decisions) -> Moments:
        """Moments of what really arrives at a mixing (step 1.1); collective."""
        return self.propagation.moments(mixing, self.current(decisions))

    def scoring_moments(self, mixing: Mixing, decisions: Decisions) -> Moments:
        """Moments by which steps 2 and 3 judge errors of a mixing (step 1.1); collective."""
        if self.method.gram is not Gram.MEASURED or decisions.exact:
            return self.statistics.moments[mixing.name]
        return self.moments(mixing, decisions)

    def original_problem(
        self, decisions: Decisions, mixing: Mixing, owners: Owners | None = None
    ) -> tuple[MixingProblem, np.ndarray]:
        """The problem of a mixing as if nothing before it had changed, and the owners of its rows, (m,).

        Args:
            decisions: taken so far.
            mixing: one of ``mixings``.
            owners: to be taken instead of those decided.
        """
        owners = decisions.owners if owners is None else owners
        problem = self.problem(decisions, mixing, owners, self.statistics.moments[mixing.name])
        return problem, self.network.gather(dict(owners), mixing.target)

    def problem(
        self, decisions: Decisions, mixing: Mixing, owners: Owners, moments: Moments
    ) -> MixingProblem:
        """The problem of a mixing with these owners and moments."""
        links, values = self.constraints.link_costs, self.network.values(mixing.source)
        source_owner = self.network.gather(dict(owners), mixing.source)
        room = self.room(mixing) / mixing.taps
        # What every worker has needs no sums; sums are held by others, whose memory is limited; values of one
        # bit are sent for less than any of their sums.
        all_travel = bool((source_owner != EVERYBODY).all() and np.isinf(room).all())
        all_travel &= mixing.source not in self.network.binary_tensors
        metric, crosses = self.statistics.metrics[mixing.name], self.constraints.crosses(self.network, mixing)
        return MixingProblem(
            moments=moments,
            metric=_with_all_directions(metric) if crosses else metric,
            source_owner=source_owner,
            ghost_costs=values * links,
            sum_costs=self.network.values(mixing.target) * links,
            most_ghosts=self._most_ghosts(decisions.budget, values, source_owner, room),
            # Nobody computes what is the next stage's to compute.
            only_ghosts=not (self.method.sums and all_travel)
            or self.constraints.crosses(self.network, mixing),
            relays=self.method.relays and all_travel and float(mixing.links.mean()) >= 1 - FEW_HOLES,
            team=self.team,
            taps=mixing.taps,
            received=self._received(decisions, mixing),
            links=None if mixing.links.all() else mixing.links,
            metric_tolerance=0.0 if crosses else METRIC_TOLERANCE,
        )

    def at_price(self, problem: MixingProblem, expected: float) -> MixingProblem:
        """The problem without what will hardly be paid for at λ as it is expected.

        Where rounds have a price, the problem as it is: without some of them λ falls.
        """
        return problem if self.options.round_cost else problem.at_least(expected)

    def _most_ghosts(
        self, budget: float, values: int, source_owner: np.ndarray, room: np.ndarray
    ) -> Callable[[np.ndarray], np.ndarray]:
        """``MixingProblem.most_ghosts``: the ghosts that fit into the memory and into the budget."""
        links, own_count = self.constraints.link_costs, self.constraints.own_columns(source_owner)
        cheapest_link = links[links > 0].min(initial=np.inf) * values
        # Hardly any worker is worth more than twice its even share of the whole budget; the first of a stage,
        # which own nothing of what they read, may be.
        receivers = self.options.workers if not self.constraints.within else 2
        affordable = np.ceil(2 * max(budget, 0) / (receivers * cheapest_link))

        def limit(rows: np.ndarray) -> np.ndarray:
            fitting = np.floor(room / np.maximum(rows, 1)) - own_count
            return np.clip(fitting, 0, min(affordable, source_owner.size)).astype(np.int64)

        return limit

    def _received(self, decisions: Decisions, mixing: Mixing) -> np.ndarray:
        """The ghosts that workers are sent anyhow, for planned mixings that read the same tensor."""
        neurons = self.network.space(mixing.source).neurons
        received = np.zeros((self.options.workers, neurons), bool)
        for reader in self.network.mixings:
            if reader.source == mixing.source and reader.name in decisions.masks:
                received |= decisions.masks[reader.name].ghosts
        return received


def _with_all_directions(metric: np.ndarray) -> np.ndarray:
    """The metric of a mixing whose workers own nothing of what they read, (m, m).

    There a direction that is not sent is lost altogether, so that none may count for nothing.
    """
    return metric + LEAST_DIRECTION * np.trace(metric) / len(metric) * np.eye(len(metric))


def is_wide(network: Network, mixing: Mixing) -> bool:
    """True for a mixing with no fewer outputs than inputs: inputs travel rather than sums."""
    return network.size(mixing.target) >= network.size(mixing.source)


def open_context(
    network: Network, samples: Samples, options: Options, method: Method, log: Log, team: Team
) -> CutContext:
    """Take in what is given, and measure the original network (step 1); collective."""
    constraints, mixings = constraints_for(network, options), tuple(trained(network))
    speeds = constraints.part_weights / constraints.part_weights.sum()
    replicated, tiles = options.input_placement == REPLICATED, tile_weights(network, options.workers)
    shares = neuron_shares(network, speeds, options.comm_budget, replicated)
    if method.needs_data:
        log(f"measuring the inputs of every mixing and what its errors do to the output{PENDING}")
    return CutContext(
        network=network,
        options=options,
        samples=samples.samples,
        method=method,
        constraints=replace(constraints, part_weights=shares, room=constraints.room - tiles),
        speeds=speeds,
        mixings=mixings,
        surroundings=surroundings(network, lambda mixing: is_wide(network, mixing)),
        statistics=statistics_for(method, network, samples, options, team),
        propagation=Propagation(network, mixings, samples, team),
        divergence=Divergence(network, samples, value_weights(network, options.output_weights)),
        team=team,
        log=log,
    )
