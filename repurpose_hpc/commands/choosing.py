"""``restructure --workers auto``: the number of workers by forecast, then by the plan that comes out.

All candidates are forecast as if every mixing sent the budget's fraction of what it sends densely.  The one
that is preferred is restructured, and forecast by its plan; the others are forecast again, as sparse as it.
Where one of them is preferred now, it is restructured as well, and so on, ``MOST_TRIED`` times at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from repurpose_hpc.commands.automatic import MachineSource, named_machine
from repurpose_hpc.commands.parser import Given, refuse, restructure_options
from repurpose_hpc.errors import UsageError, UserError
from repurpose_hpc.fields import Declared, declarations, defaults, integer, like, option, typed
from repurpose_hpc.forecast.machine import MachineModel
from repurpose_hpc.restructure.options import AUTO, Options, or_auto

if TYPE_CHECKING:
    from repurpose_hpc.forecast.choice import Outlook
    from repurpose_hpc.model.network import Network
    from repurpose_hpc.restructure.job import Restructured

# Numbers of workers that are restructured for, before the best of them is taken.
MOST_TRIED = 3
ASSUMED, PLAN, SCALED, SINGLE = "assumed", "plan", "scaled", "single"
# What belongs to a number of workers that is known, or changes the network before it is cut.
_NEED_A_NUMBER = ("part_weights", "memory_limits", "by_position", "lossless", "stages", "late")


@dataclass(frozen=True, kw_only=True)
class WorkersOrAuto(Declared):
    """The number of workers, which may be left to a forecast, and what this is for."""

    workers: int | str = like(
        Options,
        "workers",
        kind=or_auto(integer(1)),
        metavar="P|auto",
        help="parts of the network; auto: as many as are fastest by the forecast for --machine",
        more="parts of the network; any number, also more than the network has outputs. `auto`: as many as "
        "are fastest by the forecast for `--machine`, one if nothing is faster than one process "
        "([how](docs/choosing.md#let-the-forecast-choose))",
    )
    ranks_at_most: int | None = option(
        None,
        kind=integer(1),
        metavar="N",
        default_text="the ranks of probe",
        help="with --workers auto: ranks that there are",
        more="with `--workers auto`: ranks that there are",
    )
    batch_size: int = option(
        1,
        kind=integer(1),
        metavar="N",
        help="with --workers auto or --stages auto: samples per forward",
        more="with `--workers auto` or `--stages auto`: samples per forward, as `infer` will run it",
    )


@dataclass(frozen=True)
class Choosing:
    """What a number of workers is chosen by.

    Attributes:
        given: the values on the command line.
        machine: that the network will run on.
        most: workers.
        batch: samples of a forward.
    """

    given: Given
    machine: MachineModel
    most: int
    batch: int

    def options(self, workers: int) -> Options:
        """The options for so many workers, each on a rank of its own."""
        given = {**self.given, "workers": workers}
        per_node = self.machine.ranks_per_node
        if self.machine.network is not None and 1 < per_node < workers:
            given.setdefault("link_costs", f"nodes:{per_node}")
        options = restructure_options(given, None)
        rates = self._places(workers).rates
        if rates is None:
            return options
        # Imported where it is needed: it brings Numba along.
        from repurpose_hpc.runtime.balance import part_weights

        return replace(options, part_weights=part_weights(rates, workers))

    def record(self, workers: int) -> dict[str, Any]:
        """What there is to say of so many workers, beside times; keys of ``report.schema.Choice``."""
        places = self._places(workers)
        return {
            "workers": workers,
            "ranks_at_most": self.most,
            "machine": self.machine.name,
            "batch_size": self.batch,
            "ranks": list(places.ranks),
            "left_out": list(places.left_out),
            "workers_per_node": min(self.machine.ranks_per_node, workers),
        }

    def _places(self, workers: int) -> Any:
        from repurpose_hpc.forecast.choice import places

        return places(self.machine, workers)


def choosing_of(given: Given) -> Choosing:
    """What a number of workers is to be chosen by.

    Args:
        given: values on the command line, ``workers`` the word AUTO.

    Raises:
        UsageError: something cannot be meant together with it, or too little is known of the machine.
    """
    refuse(given, _NEED_A_NUMBER, f"needs a number of workers, which {AUTO} does not know yet")
    if not str(given.get("link_costs", "nodes:")).startswith("nodes:"):
        refuse(given, ("link_costs",), f"FILE needs a number of workers, which {AUTO} does not know yet")
    name = given.get("machine", defaults(MachineSource)["machine"])
    rest = {field: value for field, value in given.items() if field not in declarations(WorkersOrAuto)}
    # Else it is refused, as for numbers of workers.
    if not {"round_cost": AUTO, "minimise": "time"}.items() & rest.items():
        rest.pop("machine", None)
    try:
        machine = named_machine(name)
        most = given.get("ranks_at_most") or _ranks_of(machine)
        machine.check_links(most, "ask for fewer with ranks_at_most")
        # More would take turns, of which a forecast does not know the cost.
        most = min(most, machine.shared_cores or most)
        choosing = Choosing(rest, machine, most, given.get("batch_size", 1))
        for workers in (1, most):  # now, not in the middle of a long run
            choosing.options(workers)
    except UserError as error:
        raise UsageError(typed(error)) from None
    return choosing


def _ranks_of(machine: MachineModel) -> int:
    """The ranks that were measured.

    Raises:
        UsageError: they are not known.
    """
    if machine.all_ranks_gb_per_s is not None:
        return len(machine.all_ranks_gb_per_s)
    if not math.isinf(machine.most_ranks):
        return int(machine.most_ranks)
    raise UsageError(
        f"expected --ranks-at-most N, as {machine.name} does not say how many ranks there are; add it"
    )


def choose(
    choosing: Choosing,
    network: Network,
    restructure: Callable[[Options], Restructured],
    log: Callable[[str], None],
) -> Restructured:
    """Restructure a network for the number of workers that is preferred; collective as ``restructure`` is.

    Args:
        choosing: what by.
        network: trained.
        restructure: does it, with some options.
        log: is given a line for each forecast of a plan.

    Returns:
        the network, with the choice in its report and its provenance.
    """
    from repurpose_hpc.forecast.choice import assumed, candidates, preferred

    options = choosing.options(1)
    outlook = assumed(
        network,
        choosing.machine,
        choosing.batch,
        options.input_placement,
        options.comm_budget,
        options.comm_dtype,
    )
    points = {workers: _point(outlook, workers, ASSUMED) for workers in candidates(choosing.most)}
    tried: dict[int, Restructured] = {}
    while True:
        known = points if len(tried) < MOST_TRIED else {number: points[number] for number in (1, *tried)}
        workers = preferred({number: point["forecast_us"] for number, point in known.items()})
        if workers in tried:
            break
        expected = points[workers]
        log(f"workers {workers}: forecast {_us(expected)} for a batch of {choosing.batch}")
        cut = tried[workers] = restructure(choosing.options(workers))
        if workers > 1:
            seconds = outlook.plan_seconds(cut.network, cut.plan)
            points[workers] = {**expected, "basis": PLAN, "forecast_us": 1e6 * seconds}
            log(f"workers {workers}: forecast {_us(points[workers])} by the plan, {_us(expected)} before")
            outlook = outlook.after(cut.network, cut.plan)
            others = [number for number, point in points.items() if point["basis"] in (ASSUMED, SCALED)]
            points |= {number: _point(outlook, number, SCALED) for number in others}
    choice = {
        **choosing.record(workers),
        "forecast_us": points[workers]["forecast_us"],
        "single_process_us": points[1]["forecast_us"],
        "points": [points[number] for number in sorted(points)],
    }
    cut = tried[workers]
    return replace(
        cut, report={**cut.report, "choice": choice}, provenance={**cut.provenance, "choice": choice}
    )


def _point(outlook: Outlook, workers: int, basis: str) -> dict[str, Any]:
    """The forecast for a number of workers, of which there is no plan."""
    basis = SINGLE if workers == 1 else basis
    return {"workers": workers, "basis": basis, "forecast_us": 1e6 * outlook.seconds(workers)}


def _us(point: dict[str, Any]) -> str:
    return f"{point['forecast_us']:,.0f} µs"
