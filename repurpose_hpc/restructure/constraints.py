"""Limits and prices: how much each worker may own, and what sending costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.fields import FieldError
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.masks import EVERYBODY
from repurpose_hpc.plan.plan import capacities, contiguous_owners

if TYPE_CHECKING:
    from repurpose_hpc.restructure.options import Options

# Memory limits are counted in float32.
WEIGHT_BYTES = 4


@dataclass(frozen=True, eq=False)
class Constraints:
    """Limits of P workers, and prices of the links between them.

    Attributes:
        part_weights: relative shares of the neurons, (P,), >= 0.
        imbalance: a worker may own more than its share of the neurons by this fraction.
        link_costs: κ(p, q), of sending one value from p to q, (P, P); the diagonal is 0.
        room: weights that each worker can hold, (P,); inf where there is no limit.
        within: free space -> the workers that share it, bool (P,); all, of other spaces.
    """

    part_weights: np.ndarray
    imbalance: float
    link_costs: np.ndarray
    room: np.ndarray
    within: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def workers(self) -> int:
        """P."""
        return len(self.part_weights)

    def weights_in(self, space: str) -> np.ndarray:
        """The part weights of those that share a space, (P,), 0 of others."""
        return self.part_weights * self.within.get(space, True)

    def crosses(self, network: Network, mixing: Mixing) -> bool:
        """Whether a mixing reads what other workers make than those that share its target."""
        made = (name for name in network.parts(mixing.source) if name not in network.input_spaces)
        return any(
            not np.array_equal(self.weights_in(source), self.weights_in(target))
            for source in made
            for target in network.parts(mixing.target)
        )

    def capacity(self, space: str, m: int, source_owner: np.ndarray, room: np.ndarray) -> np.ndarray:
        """The most rows of a mixing that each worker may own, (P,) int64.

        Args:
            space: that they are neurons of.
            m: number of rows.
            source_owner: owners of its inputs, (n,).
            room: weights of this mixing that each worker can hold, (P,).

        Raises:
            FieldError: there is not enough room for all rows.
        """
        weights = self.weights_in(space)
        capacity = capacities(m, weights, self.imbalance)
        own_count = np.maximum(self.own_columns(source_owner), 1)
        limited = np.where(np.isinf(room), capacity, np.minimum(capacity, np.floor(room / own_count))).astype(
            np.int64
        )
        # Others may take over what a worker has no room for, as far as their own room goes.
        spare = np.where(np.isinf(room), m, np.floor(room / own_count)).astype(np.int64) - limited
        spare = np.where(weights > 0, np.maximum(spare, 0), 0)
        unseated = m - int(limited.sum())
        if unseated > spare.sum():
            raise FieldError(
                "memory_limits",
                f"expected room for {m} rows over {source_owner.size} inputs, found room for "
                f"{limited.sum() + spare.sum()} in all workers together; raise the limits or take "
                "more workers",
            )
        return limited + spare if unseated > 0 else limited

    def own_columns(self, source_owner: np.ndarray) -> np.ndarray:
        """Number of inputs that each worker owns or reads by itself, (P,)."""
        everybody = np.count_nonzero(source_owner == EVERYBODY)
        return everybody + np.bincount(source_owner[source_owner != EVERYBODY], minlength=self.workers)

    def dense_cost(self, owner: np.ndarray) -> float:
        """Cost of sending every neuron to every other worker, (neurons,) owners given."""
        return float(self.link_costs.sum(axis=1)[owner[owner != EVERYBODY]].sum())

    def typical_dense_cost(self, neurons: int) -> float:
        """``dense_cost`` of a space whose neurons are shared out by the part weights."""
        return self.dense_cost(contiguous_owners(neurons, self.part_weights))


def constraints_of(options: Options) -> Constraints:
    """The constraints that a user asks for, of all networks."""
    P = options.workers
    room = np.full(P, np.inf) if options.memory_limits is None else np.array(options.memory_limits) * 2.0**20
    return Constraints(
        part_weights=np.array(options.part_weights or (1.0,) * P, float),
        # Weights go with the square of the neurons.
        imbalance=math.sqrt(1 + (options.imbalance or 0.0)) - 1,
        link_costs=uniform_links(P) if options.link_costs is None else np.array(options.link_costs, float),
        room=room / WEIGHT_BYTES,
    )


def uniform_links(workers: int) -> np.ndarray:
    """κ = 1 between any two workers, (P, P)."""
    return 1.0 - np.eye(workers)


def node_links(workers: int, per_node: int, inside: float) -> np.ndarray:
    """κ, (P, P): ``inside`` between the workers of a node, ``per_node`` consecutive ones, else 1."""
    node = np.arange(workers) // per_node
    return np.where(node[:, None] == node, inside, 1.0) * uniform_links(workers)
