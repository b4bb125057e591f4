"""``restructure --stages auto``: the number of stages by the forecasts of the plans that come out.

The network is restructured once for every number that divides the workers, and that its layers allow.  Of
each plan it is forecast how long after a batch the next one is done, and the one is taken that makes most
samples a second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from repurpose_hpc.commands.automatic import MachineSource, named_machine
from repurpose_hpc.commands.parser import Given, make, without_words
from repurpose_hpc.errors import UsageError, UserError
from repurpose_hpc.fields import FieldError, defaults, typed
from repurpose_hpc.forecast.machine import MachineModel
from repurpose_hpc.restructure.options import Options

if TYPE_CHECKING:
    from repurpose_hpc.model.network import Network
    from repurpose_hpc.restructure.job import Restructured


@dataclass(frozen=True)
class Staging:
    """What a number of stages is chosen by.

    Attributes:
        options: with one stage.
        machine: that the network will run on, a rank for every worker.
        batch: samples of a forward.
    """

    options: Options
    machine: MachineModel
    batch: int

    def with_stages(self, stages: int) -> Options:
        """The options with so many."""
        return replace(self.options, stages=stages)


def staging_of(given: Given, ranks: int | None, batch: int) -> Staging:
    """What a number of stages is to be chosen by.

    Args:
        given: values on the command line, ``stages`` the word AUTO.
        ranks: that restructure.
        batch: samples of a forward.

    Raises:
        UsageError: a value is missing or out of range, or too little is known of the machine.
    """
    options = make(Options, without_words({**given, "stages": 1}, ranks, forecasts=True))
    try:
        machine = named_machine(given.get("machine", defaults(MachineSource)["machine"]))
        machine.check_links(options.workers)
    except UserError as error:
        raise UsageError(typed(error)) from None
    return Staging(options, machine, batch)


def choose_stages(
    staging: Staging,
    network: Network,
    restructure: Callable[[Options], Restructured],
    log: Callable[[str], None],
) -> Restructured:
    """Restructure a network for the number of stages that is preferred; collective as ``restructure`` is.

    Args:
        staging: what by.
        network: trained.
        restructure: does it, with some options.
        log: is given a line for each forecast.

    Returns:
        the network, with the choice in its report and its provenance.
    """
    from repurpose_hpc.forecast.choice import preferred
    from repurpose_hpc.restructure.owners.stages import constraints_for

    points, cuts = [], {}
    for stages in divisors(staging.options.workers):
        options = staging.with_stages(stages)
        try:
            constraints_for(network, options)
        except FieldError:  # the layers cannot be divided so often
            break
        log(f"stages {stages}: restructuring")
        cut = cuts[stages] = restructure(options)
        points.append(_point(staging, cut, stages))
        log(f"stages {stages}: forecast {points[-1]['period_us']:,.0f} µs from batch to batch")
    chosen = preferred({point["stages"]: point["period_us"] for point in points})
    record = {
        "stages": chosen,
        "machine": staging.machine.name,
        "batch_size": staging.batch,
        "points": points,
    }
    cut = cuts[chosen]
    return replace(
        cut, report={**cut.report, "staging": record}, provenance={**cut.provenance, "staging": record}
    )


def divisors(workers: int) -> list[int]:
    """Numbers of stages into which the workers can be divided evenly, ascending."""
    return [stages for stages in range(1, workers + 1) if workers % stages == 0]


def _point(staging: Staging, cut: Restructured, stages: int) -> dict[str, Any]:
    """The forecast of a plan, and what the network lost."""
    from repurpose_hpc.forecast.choice import places
    from repurpose_hpc.forecast.demand import plan_demand
    from repurpose_hpc.forecast.timeline import Clocks

    machine = staging.machine
    demand = plan_demand(cut.network, cut.plan, machine.ranks_per_node, cut.plan.comm_dtype)
    slowness = np.asarray(places(machine, cut.plan.workers).slowness)

    def clocks() -> Clocks:
        return Clocks(demand, machine, staging.batch, slowness)

    return {
        "stages": stages,
        "period_us": 1e6 * clocks().period(),
        "forecast_us": 1e6 * clocks().run(),
        "output_error": cut.report["output_error"],
        "values_sent": cut.report["values_sent"],
    }
