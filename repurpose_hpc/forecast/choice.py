"""Which number of workers: forecasts of candidates without a plan, from an assumption or another plan.

*Ranks.*  Where a machine file has the rate of every rank, and they differ, the fastest ones run and the
others are left out; where several ranks share each of several nodes, the first ones run, as workers of a node
must stay together.  Whatever a rank's processor does takes as much longer as its rate is below that of the
first rank, which all other numbers were measured on.

*Preference.*  A forecast is not exact, and fewer ranks cost less: the fewest ranks are preferred whose time
is close to the shortest.  One process is among the candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from repurpose_hpc.fields import FieldError
from repurpose_hpc.forecast.demand import Demand, plan_demand
from repurpose_hpc.forecast.machine import MachineModel
from repurpose_hpc.forecast.scaled import (
    Profile,
    budget_profile,
    dense_profile,
    plan_profile,
    scaled_demand,
)
from repurpose_hpc.forecast.timeline import Clocks
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.plan import Plan

# Times that differ by less than this factor are taken for the same, as forecasts are hardly better; rates of
# ranks likewise.
NEAR, EVEN = 1.05, 1.25


@dataclass(frozen=True)
class Places:
    """The ranks of a machine file that workers run on.

    Attributes:
        ranks: their numbers there, one for each worker.
        left_out: the numbers of slower ones.
        rates: of ``ranks``, in any unit; None: they are even, or not known.
        slowness: see ``Clocks``; 1 where rates are even.
    """

    ranks: tuple[int, ...]
    left_out: tuple[int, ...] = ()
    rates: tuple[float, ...] | None = None
    slowness: tuple[float, ...] | float = 1.0


def places(machine: MachineModel, workers: int) -> Places:
    """The ranks on which so many workers would run.

    Raises:
        UserError: the rates of ranks differ, and there are fewer of them than workers.
    """
    rates = machine.all_ranks_gb_per_s
    if rates is None or max(rates) <= EVEN * min(rates):
        return Places(tuple(range(workers)))
    if workers > len(rates):
        raise FieldError(
            "machine",
            f"expected the rate of each of {workers} ranks, as those of the {len(rates)} in {machine.name} "
            f"differ; probe again with {workers}, or take ranks_at_most={len(rates)}",
        )
    by_speed = sorted(range(len(rates)), key=lambda rank: -rates[rank])
    if machine.network is not None and machine.ranks_per_node > 1:
        by_speed = list(range(len(rates)))
    ranks = tuple(sorted(by_speed[:workers]))
    chosen = tuple(rates[rank] for rank in ranks)
    left_out = tuple(sorted(by_speed[workers:]))
    return Places(ranks, left_out, chosen, tuple(rates[0] / rate for rate in chosen))


def candidates(most: int) -> list[int]:
    """Numbers of workers to forecast: 1, 2, 3, 4, 6, 8, 12 and so on, and ``most``."""
    numbers = {step << power for step in (2, 3) for power in range(most.bit_length())}
    return sorted({1, most, *(number for number in numbers if number < most)})


def preferred(seconds: Mapping[int, float]) -> int:
    """The fewest workers whose time is close to the shortest.

    Args:
        seconds: by number of workers.
    """
    limit = NEAR * min(seconds.values())
    return min(workers for workers, time in seconds.items() if time <= limit)


@dataclass(frozen=True, eq=False)
class Outlook:
    """Forecasts for a network on a machine, with a rank for every worker.

    Attributes:
        machine: with links for as many ranks as are asked for.
        batch: samples of a forward.
        original: the network that is to be restructured.
        network: one whose mixings are as sparse as ``profile`` says.
        placement: of the input.
        comm_dtype: in which ghosts travel.
    """

    machine: MachineModel
    batch: int
    original: Network
    network: Network
    profile: Profile
    placement: str
    comm_dtype: str

    def after(self, network: Network, plan: Plan) -> Outlook:
        """The same if other numbers of workers are as sparse as a network restructured for several."""
        return replace(self, network=network, profile=plan_profile(network, plan))

    def seconds(self, workers: int) -> float:
        """The time of a batch without a plan; for one worker that of the original in one process.

        Raises:
            UserError: see ``places``.
        """
        network, profile = self.network, self.profile
        if workers == 1:
            network, profile = self.original, dense_profile(self.original, self.placement)
        per_node, rates = self.machine.ranks_per_node, places(self.machine, workers).rates
        weights = None if rates is None else np.array(rates)
        return self._duration(
            scaled_demand(network, profile, self.placement, workers, per_node, self.comm_dtype, weights)
        )

    def plan_seconds(self, network: Network, plan: Plan) -> float:
        """The time of a batch through a restructured network."""
        return self._duration(plan_demand(network, plan, self.machine.ranks_per_node, plan.comm_dtype))

    def _duration(self, demand: Demand) -> float:
        slowness = np.asarray(places(self.machine, demand.ranks).slowness)
        return Clocks(demand, self.machine, self.batch, slowness).run()


def assumed(
    network: Network, machine: MachineModel, batch: int, placement: str, comm_budget: float, comm_dtype: str
) -> Outlook:
    """The outlook for a trained network if every mixing sends ``comm_budget`` of what it sends densely."""
    profile = budget_profile(network, placement, comm_budget)
    return Outlook(machine, batch, network, network, profile, placement, comm_dtype)
