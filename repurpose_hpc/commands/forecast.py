"""The command ``forecast``: how long an inference takes on 1 to 10,000 ranks of a machine.

The keys of the report are those of ``forecast.summary``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repurpose_hpc.commands.forecasting import (
    PLAN,
    SINGLE,
    TokenForecastInput,
    open_token_model,
    open_token_shards,
)
from repurpose_hpc.commands.imported import holds_shards
from repurpose_hpc.commands.parser import SPIKING, make, parser_maker, refuse
from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import (
    Declared,
    declarations,
    integer,
    like,
    listed,
    option,
    path,
    report_file,
)
from repurpose_hpc.forecast.demand import Demand, plan_demand
from repurpose_hpc.forecast.machine import THIS_FILE, MachineModel, machine_file, read_machine
from repurpose_hpc.forecast.scaled import (
    Profile,
    budget_profile,
    dense_profile,
    plan_profile,
    scaled_demand,
)
from repurpose_hpc.forecast.summary import PARTS, conclude, render
from repurpose_hpc.forecast.timeline import Clocks, forecast
from repurpose_hpc.forecast.tokens import Piece
from repurpose_hpc.io.atomic import check_writable
from repurpose_hpc.model.comm_dtype import EXACT
from repurpose_hpc.model.importers.input_shapes import option_of_shapes, shapes_of
from repurpose_hpc.model.importers.load import load_model, takes_any_length
from repurpose_hpc.model.importers.nir.options import SpikingOptions
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.weights import ones_like
from repurpose_hpc.plan.files.store import hold_tokens, open_plan, read_network
from repurpose_hpc.plan.late import without_sweeps
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.plan.relays import without_relays
from repurpose_hpc.plan.stages import stages_of
from repurpose_hpc.report import text as report
from repurpose_hpc.restructure.cache import cache_directory
from repurpose_hpc.restructure.options import Options

if TYPE_CHECKING:
    from repurpose_hpc.commands.start import Context


RANKS = (*(1 << power for power in range(14)), 10_000)


SCALED = "scaled"


@dataclass(frozen=True, eq=False)
class ForecastInput:
    """A network whose time is forecast.

    Attributes:
        network: its weights matter only where there is a plan.
        unpruned: the network before restructuring; its weights are all there, whatever they are.
        placement: of the input.
        plan: that of shards; None: there are none.
        restructured, dense: how sparse its mixings are.
        comm_dtype: format in which ghosts travel, of both.
    """

    network: Network
    unpruned: Network
    placement: str
    plan: Plan | None
    restructured: Profile
    dense: Profile
    comm_dtype: str

    @property
    def workers(self) -> int | None:
        """Workers of the shards; None: there are none."""
        return self.plan.workers if self.plan else None

    @property
    def stages(self) -> int:
        """Stages of the plan; 1 without one."""
        return 1 if self.plan is None else len(stages_of(self.network, self.plan))

    @property
    def ranks(self) -> tuple[int, ...]:
        """Numbers of ranks to forecast for."""
        return (*RANKS, *([self.plan.workers] if self.plan else []))

    def demand(self, ranks: int, per_node: int) -> tuple[str, Demand]:
        """Basis of the forecast, and the demand of the restructured network for so many ranks."""
        if ranks == 1:
            return SINGLE, self.dense_demand(ranks, per_node)
        if self.plan is not None and self.plan.workers == ranks:
            return PLAN, plan_demand(self.network, self.plan, per_node, self.comm_dtype)
        return SCALED, self._scaled(self.network, self.restructured, ranks, per_node)

    def dense_demand(self, ranks: int, per_node: int) -> Demand:
        """The same if nothing is pruned."""
        return self._scaled(self.unpruned, self.dense, ranks, per_node)

    def _scaled(self, network: Network, profile: Profile, ranks: int, per_node: int) -> Demand:
        return scaled_demand(network, profile, self.placement, ranks, per_node, self.comm_dtype)


def run(args: Arguments, context: Context) -> None:
    """Run the command in this process.

    Args:
        args: see ``parse``.
        context: of the start.

    Raises:
        UserError: see ``predict``, or the report cannot be written.
    """
    if args.report is not None:
        check_writable(args.report)
    result = predict(args)
    report.deliver(result, render(result), args.report)


def predict(args: Arguments) -> dict[str, Any]:
    """The report.

    Raises:
        UserError: a file cannot be read, or the machine has no links for any number of ranks asked for.
    """
    machine = read_machine(args.machine, cache_directory() / THIS_FILE)
    subject = _open(args)
    ranks = _ranks({*(args.ranks or subject.ranks)}, machine)
    points = [_point(subject, machine, number, args.batch_size) for number in ranks]
    is_assumed = subject.workers is None and isinstance(subject, ForecastInput)
    return {
        "machine": machine.name,
        "machine_source": machine.source,
        "model": str(args.subject),
        "input_placement": subject.placement,
        "comm_dtype": subject.comm_dtype,
        "batch_size": args.batch_size,
        **(subject.piece._asdict() if isinstance(subject, TokenForecastInput) else {}),
        "workers": subject.workers,
        "comm_budget": args.comm_budget if is_assumed else None,
        "most_ranks": None if math.isinf(machine.most_ranks) else machine.most_ranks,
        "points": points,
        **conclude(points),
    }


def _open(args: Arguments) -> ForecastInput | TokenForecastInput:
    are_shards, piece = holds_shards(args.subject), Piece(args.tokens, args.context)
    if is_for_texts(args.subject, args.input_shape):
        if are_shards:
            return open_token_shards(args.subject, args.original, piece)
        return open_token_model(args.subject, piece)
    return open_shards(args.subject, args.comm_dtype) if are_shards else open_model(args)


def is_for_texts(subject: Path, input_shape: tuple[str, ...]) -> bool:
    """Whether shards or a model are those of a transformer for texts of any lengths.

    Args:
        subject: of either.
        input_shape: that is given for a model.
    """
    if holds_shards(subject):
        return hold_tokens(subject)
    return not input_shape and takes_any_length(subject)


def open_shards(directory: Path, comm_dtype: str | None) -> ForecastInput:
    """A restructured network with its plan; dense, all neurons go to all workers.

    Args:
        directory: of the shards.
        comm_dtype: format in which ghosts travel; None: that of the plan.

    Raises:
        UserError: the shards cannot be read, or are those of a single worker.
    """
    stored = open_plan(directory)
    plan = stored.plan
    if plan.workers == 1:
        raise UserError(
            f"{directory}: expected shards of 2 workers or more, which show how much they exchange, found "
            "those of 1; forecast the MODEL with a --comm-budget instead, or restructure for more workers"
        )
    network = read_network(stored)
    original = without_sweeps(without_relays(network, plan), plan)
    unpruned = original.with_mixings(
        {mixing.name: replace(mixing, weights=ones_like(mixing.weights)) for mixing in original.mixings}
    )
    placement = plan.input_placement
    profiles = plan_profile(network, plan), dense_profile(unpruned, placement)
    return ForecastInput(network, unpruned, placement, plan, *profiles, comm_dtype or plan.comm_dtype)


def open_model(args: Arguments) -> ForecastInput:
    """A trained network, restructured by assumption.

    Raises:
        UserError: it cannot be read.
    """
    shapes = shapes_of(args.input_shape)
    network = load_model(args.subject, shapes, check=False, spiking=args.spiking)
    placement = args.input_placement
    profiles = budget_profile(network, placement, args.comm_budget), dense_profile(network, placement)
    return ForecastInput(network, network, placement, None, *profiles, args.comm_dtype or EXACT)


def _ranks(numbers: set[int], machine: MachineModel) -> list[int]:
    machine.check_links(min(numbers))
    return sorted(number for number in numbers if number <= machine.most_ranks)


def _point(
    subject: ForecastInput | TokenForecastInput, machine: MachineModel, ranks: int, batch: int
) -> dict:
    basis, demand = subject.demand(ranks, machine.ranks_per_node)
    restructured = {} if demand is None else _described(demand, machine, batch)
    in_stages = isinstance(subject, ForecastInput) and basis == PLAN and subject.stages > 1
    if demand is not None and in_stages:
        restructured["period_us"] = 1e6 * Clocks(demand, machine, batch).period()
    return {
        "ranks": ranks,
        "basis": basis,
        **({"restructured": restructured} if restructured else {}),
        "dense": _described(subject.dense_demand(ranks, machine.ranks_per_node), machine, batch),
    }


def _described(demand: Demand, machine: MachineModel, batch: int) -> dict:
    times = asdict(forecast(demand, machine, batch))
    return {
        **{f"{part}_us": 1e6 * times[part] for part in ("total", *PARTS)},
        "values_sent": demand.values_sent,
        "messages": demand.messages,
    }


@dataclass(frozen=True, kw_only=True)
class Arguments(Declared):
    """The network and the machine to forecast for."""

    subject: Path = option(
        kind=path("shards"),
        positional=True,
        metavar="SHARDS|MODEL",
        help="a directory written by restructure, or a model to be restructured",
    )
    machine: str = machine_file()
    ranks: tuple[int, ...] | None = option(
        None,
        kind=listed(integer(1), "integers", (1, 64)),
        metavar="P,P,...",
        default_text="powers of two, 10,000, and the workers of SHARDS; with texts fewer",
        help="numbers of ranks",
    )
    batch_size: int = option(1, kind=integer(1), metavar="N", help="samples, or sequences, per forward")
    tokens: int = option(
        1, kind=integer(1), metavar="S", help="of a transformer for texts: tokens of a sequence at a time"
    )
    context: int = option(
        0, kind=integer(0), metavar="C", help="of one: tokens before them, whose keys and values are kept"
    )
    original: Path | None = option(
        None,
        kind=path("MODEL"),
        metavar="MODEL",
        help="of SHARDS of one that was restructured: the model that they were made of",
    )
    comm_budget: float = like(
        Options, "comm_budget", excludes="", help="of a MODEL: the communication fraction to assume"
    )
    input_placement: str = like(Options, "input_placement", help="of a MODEL: who can read the input")
    comm_dtype: str | None = like(
        Options,
        "comm_dtype",
        None,
        default_text=f"that of SHARDS, or {EXACT}",
        help="format in which ghost neurons travel",
    )
    input_shape: tuple[str, ...] = option_of_shapes()
    report: Path | None = report_file()
    spiking: SpikingOptions = SpikingOptions()


make_parser = parser_maker("forecast", Arguments, titled={SPIKING: SpikingOptions})


def parse(argv: Sequence[str], ranks: int | None = None, speaks: bool = True) -> Arguments:
    """The command line; for the arguments see ``commands.start``.

    Raises:
        UsageError: it is wrong.
    """
    given = make_parser(speaks).read(argv)
    subject, are_shards = given["subject"], holds_shards(given["subject"])
    if are_shards:
        restructured = f"has no effect: {subject} is restructured"
        settled = ("comm_budget", "input_placement", "input_shape", *declarations(SpikingOptions))
        refuse(given, settled, restructured)
    if is_for_texts(subject, given.get("input_shape", ())):
        split = "has no effect on a transformer for texts: its forecast assumes nothing"
        refuse(given, ("comm_budget", "input_placement", "comm_dtype"), split)
        refuse(given, () if are_shards else ("original",), "belongs to SHARDS")
    else:
        refuse(given, ("tokens", "context", "original"), "belongs to a transformer for texts of any lengths")
    return make(Arguments, given, spiking=make(SpikingOptions, given))
