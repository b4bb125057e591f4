"""What restructuring needs to know of a machine: how long a plan would take on it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.plan import Plan


@runtime_checkable
class TimeModel(Protocol):
    """A model of time; a dataclass of JSON values, which tell one model from another in caches and plans."""

    @property
    def name(self) -> str:
        """Name of the machine."""

    def seconds(self, network: Network, plan: Plan) -> float:
        """Duration of a forward of one sample, with a rank for every worker.

        Args:
            network: restructured.
            plan: for ``network``.
        """
