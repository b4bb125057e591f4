"""The modelled time of a plan, by which promises choose."""

from __future__ import annotations

from dataclasses import dataclass

from repurpose_hpc.forecast.demand import plan_demand
from repurpose_hpc.forecast.machine import MachineModel
from repurpose_hpc.forecast.timeline import Clocks
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.plan import Plan


@dataclass(frozen=True)
class ModelledTime:
    """The time of one sample on a machine; a ``restructure.time_model.TimeModel``.

    Attributes:
        machine: with links for as many ranks as a plan has workers.
    """

    machine: MachineModel

    @property
    def name(self) -> str:
        """Name of the machine."""
        return self.machine.name

    def seconds(self, network: Network, plan: Plan) -> float:
        """Duration of a forward of one sample, with a rank for every worker.

        Args:
            network: restructured.
            plan: for ``network``.

        Raises:
            UserError: the machine has no links for so many ranks.
        """
        self.machine.check_links(plan.workers)
        demand = plan_demand(network, plan, self.machine.ranks_per_node, plan.comm_dtype)
        return Clocks(demand, self.machine, batch=1).run()
