"""Decisions that a restructuring has taken: an immutable value, and every step returns a new one.

It is all that an interrupted run needs to go on (``checkpoint``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.mapping import FrozenMapping
from repurpose_hpc.plan.masks import MixingPlan
from repurpose_hpc.plan.relays import Relays

# Free space -> owner of each of its neurons, (n,) int32.
Owners = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Decisions:
    """The state of a restructuring between two steps; the mappings are copies that cannot be written.

    Attributes:
        owners: of the free spaces decided so far.
        capacities: space -> the most neurons of each worker, (P,); of the spaces that mixings make.
        masks: mixing -> its plan; of fixed and of finished mixings.
        scales: source tensor -> scale of each neuron in int8, (n,) float32; those measured so far.
        finished: mixing -> the same with its final weights and bias.
        budget: values per sample, times the prices of their links, that may still be spent.
        weights_left: how many weights the mixings that are not finished may keep.
        exact: every mixing so far computes what that of the original does.
        shares: mixing -> the part of its weights that each worker should hold, (P,), where workers own whole
            branches; empty where every mixing is shared out as the speeds go.
        relays: mixing -> those that it has; the weights of finished ones are in its own as well.
        removed: free space -> the neurons that nobody computes, (n,) bool; see ``Plan``.
        outliers: source tensor -> its neurons that travel as float16, (n,) bool, if any do; see ``Plan``.
        is_careful: computation is planned without counting on neurons that later mixings may not need.
    """

    owners: Owners
    capacities: Mapping[str, np.ndarray]
    masks: Mapping[str, MixingPlan]
    scales: Mapping[str, np.ndarray]
    finished: Mapping[str, Mixing]
    budget: float
    weights_left: float
    exact: bool
    shares: Mapping[str, np.ndarray] = field(default_factory=dict)
    relays: Mapping[str, Relays] = field(default_factory=dict)
    removed: Mapping[str, np.ndarray] = field(default_factory=dict)
    outliers: Mapping[str, np.ndarray] = field(default_factory=dict)
    is_careful: bool = False

    def __post_init__(self) -> None:
        names = (
            "owners",
            "capacities",
            "masks",
            "scales",
            "finished",
            "shares",
            "relays",
            "removed",
            "outliers",
        )
        for name in names:
            object.__setattr__(self, name, FrozenMapping(getattr(self, name)))

    def with_owners(self, owners: Owners) -> Decisions:
        """Decide, or change, the owners of some spaces."""
        return replace(self, owners={**self.owners, **owners})

    def with_mask(self, name: str, mask: MixingPlan) -> Decisions:
        """Decide, or change, the plan of the mixing ``name``."""
        return replace(self, masks={**self.masks, name: mask})

    def with_relays(self, name: str, relays: Relays) -> Decisions:
        """Decide, or change, the relays of the mixing ``name``; where none are left, it has none."""
        changed = {**self.relays, name: relays}
        return replace(self, relays={name: left for name, left in changed.items() if len(left)})

    def with_weights(self, mixing: Mixing, exact: bool) -> Decisions:
        """Finish a mixing.

        Args:
            mixing: with its final weights and bias.
            exact: it computes what that of the original does if its inputs are those of the original.
        """
        relays = self.relays.get(mixing.name)
        kept = np.count_nonzero(mixing.W) + (0 if relays is None else relays.weight_count)
        return replace(
            self,
            finished={**self.finished, mixing.name: mixing},
            weights_left=self.weights_left - kept,
            exact=self.exact and exact,
        )

    def settled(self, network: Network) -> set[str]:
        """Free spaces around which a mixing is finished or fixed: their owners stay."""
        planned = (mixing for mixing in network.mixings if mixing.name in self.masks)
        ends = (end for mixing in planned for end in (mixing.source, mixing.target))
        return {part for end in ends for part in network.parts(end)}


def nothing_decided(owners: Owners, budget: float, weights: float) -> Decisions:
    """The first decisions of a run.

    Args:
        owners: of the spaces whose owners are given.
        budget: of communication, for the whole network.
        weights: that may be kept, in all.
    """
    return Decisions(owners, {}, {}, {}, {}, budget, weights, exact=True)
