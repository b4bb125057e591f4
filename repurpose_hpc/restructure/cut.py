"""A network that was cut for P workers, with its plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from repurpose_hpc.model.forward import Compute
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.plan.relays import relay_counts
from repurpose_hpc.plan.rounding import rounded_compute


@dataclass(frozen=True, eq=False)
class Cut:
    """A restructured network.

    Attributes:
        network: the adjusted weights, zero where workers no longer depend on each other.
        plan: owners and masks, and how ghosts travel.
    """

    network: Network
    plan: Plan

    def compute(self) -> Compute:
        """A function that computes operations as the workers do, on ghosts as they arrive."""
        return rounded_compute(self.network, self.plan, self.plan.comm_dtype)

    def relays(self, mixing: str) -> int:
        """Values per sample that the relays of the mixing of that name take."""
        return sum(count.values for count in relay_counts(self.network, self.plan) if count.mixing == mixing)

    def removed(self, tensor: str) -> int:
        """Number of neurons of a tensor that nobody computes."""
        space = self.network.space_of[tensor]
        return int(self.plan.removed_neurons(self.network)[space].sum())

    def traffic_matrix(self) -> np.ndarray:
        """Values per sample that cross, of all mixings: (P, P) int64, [p, q] from worker p to q."""
        workers = self.plan.workers
        traffic = (self.plan.traffic(self.network, mixing) for mixing in self.network.mixings)
        return np.sum([np.zeros((workers, workers), np.int64), *traffic], axis=0)
