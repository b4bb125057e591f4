"""The command ``restructure``: from a command line to shards and a report.

Without a launcher MPI is not even started, and threads share the work.  Under ``mpirun`` the ranks do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from repurpose_hpc.commands import restructuring, splitting
from repurpose_hpc.commands.automatic import MachineSource
from repurpose_hpc.commands.choosing import Choosing, WorkersOrAuto, choose, choosing_of
from repurpose_hpc.commands.imported import import_report
from repurpose_hpc.commands.parser import (
    SPIKING,
    Parser,
    add_restructuring,
    make,
    refuse,
    restructure_options,
)
from repurpose_hpc.commands.restructuring import TokenArguments, token_arguments
from repurpose_hpc.commands.splitting import SplitArguments, split_arguments
from repurpose_hpc.commands.staging import Staging, choose_stages, staging_of
from repurpose_hpc.commands.start import Context, RankContext
from repurpose_hpc.commands.table import described
from repurpose_hpc.errors import UsageError, UserError
from repurpose_hpc.fields import (
    Access,
    Declared,
    check_import,
    declarations,
    flag,
    integer,
    option,
    path,
    precision,
    report_file,
)
from repurpose_hpc.model.importers.input_shapes import option_of_shapes, shapes_of
from repurpose_hpc.model.importers.load import holds_tokens, takes_any_length
from repurpose_hpc.model.importers.nir.options import SpikingOptions
from repurpose_hpc.restructure.options import AUTO, Options
from repurpose_hpc.restructure.tokens.options import TokenOptions

if TYPE_CHECKING:
    from mpi4py import MPI

    from repurpose_hpc.io.samples import Samples
    from repurpose_hpc.model.network import Network
    from repurpose_hpc.restructure.team import Team


FEWEST_TO_TUNE = 50
"""Calibration samples with which ``--finetune`` begins."""


def run(args: AnyArguments, context: Context) -> None:
    """Run the command; collective under a launcher.

    Args:
        args: see ``parse``.
        context: of the start.

    Raises:
        UserError: in one process: the files do not fit, or a result cannot be written.
        SystemExit: on every rank, after one message.
    """
    if isinstance(args, SplitArguments):
        splitting.run(args, context)
    elif isinstance(args, TokenArguments):
        restructuring.run(args, context)
    elif isinstance(context, RankContext):
        _run_together(args, context.comm)
    else:
        _run_alone(args, context.threads)


def _run_alone(args: Arguments, threads: int) -> None:
    from repurpose_hpc.restructure.team import Team

    network, samples = _open(args, root=True)
    checked = _checked(args, network, samples)
    _finish(args, {**_restructure(args, network, samples, Team(threads=threads)), **checked})


def _run_together(args: Arguments, comm: MPI.Comm) -> None:
    """All ranks read and restructure; what only the root does is agreed on by all."""
    from repurpose_hpc.mpi.agreement import collectively, in_unison
    from repurpose_hpc.restructure.team import Team

    checked: dict[str, Any] = {}
    with collectively(comm):
        network, samples = _open(args, comm.rank == 0)
        if comm.rank == 0:
            checked = _checked(args, network, samples)
    with in_unison(comm):
        result = _restructure(args, network, samples, Team(comm))
    with collectively(comm):
        if comm.rank == 0:
            _finish(args, {**result, **checked})


def _open(args: Arguments, root: bool) -> tuple[Network, Samples]:
    # Imported after the command line is known to be right: SciPy takes its time.
    from repurpose_hpc.io.atomic import check_writable
    from repurpose_hpc.io.samples import open_samples
    from repurpose_hpc.model.importers.input_shapes import shapes_of
    from repurpose_hpc.model.importers.load import load_model

    if args.report is not None and root:
        check_writable(args.report)
    network = load_model(args.model, shapes_of(args.input_shape), check=False, spiking=args.spiking)
    samples = open_samples(args.calibration)
    if args.finetune is not None and samples.samples < FEWEST_TO_TUNE:
        raise UserError(
            f"--finetune: expected at least {FEWEST_TO_TUNE} calibration samples, of which some are held "
            f"out, found {samples.samples} in {samples.name}; give more, or leave it out"
        )
    return network, samples


def _checked(args: Arguments, network: Network, samples: Samples) -> dict[str, Any]:
    return import_report(args.model, network, samples, shapes_of(args.input_shape), args.check)


def _restructure(args: Arguments, network: Network, samples: Samples, team: Team) -> dict:
    import numpy as np

    from repurpose_hpc.io.progress import Progress
    from repurpose_hpc.restructure.job import Restructured, restructure_for, write_restructured

    began, refine = perf_counter(), None
    log, dtype = Progress(speaks=team.rank == 0), np.dtype(args.dtype)
    if args.finetune is not None:
        from repurpose_hpc.tuning.options import TuneOptions
        from repurpose_hpc.tuning.refinement import FineTuning

        options = TuneOptions(epochs=args.finetune, seed=args.options.seed)
        refine = FineTuning(options, lambda line: log(f"tuning: {line}"))

    def make(options: Options) -> Restructured:
        return restructure_for(args.out, network, samples, options, dtype.type, log, team, refine=refine)

    if args.choosing is not None:
        result = choose(args.choosing, network, make, log)
    elif args.staging is not None:
        result = choose_stages(args.staging, network, make, log)
    else:
        result = make(args.options)
    return {**write_restructured(args.out, result, team), "seconds": perf_counter() - began}


def _finish(args: Arguments, result: dict) -> None:
    from repurpose_hpc.report import text as report

    report.deliver(result, report.render_restructured(result), args.report)


@dataclass(frozen=True, kw_only=True)
class Arguments(Declared):
    """The files of the command, and with them ``options`` of restructuring.

    With ``choosing`` these are the ones for a single worker, with ``staging`` those for one stage; the others
    follow from it.
    """

    model: Path = option(
        kind=path("model.npz"),
        positional=True,
        help=".npz, .safetensors, .onnx, .nir, .gguf, or a directory of sparse matrices",
    )
    out: Path = option(
        kind=path("shards", Access.REPLACES), metavar="DIR", help="gets the plan and the shards"
    )
    calibration: Path = option(
        kind=path("samples.npz"), metavar="DATA", help="samples like those that the network will see"
    )
    input_shape: tuple[str, ...] = option_of_shapes()
    dtype: str = precision(help="of the weights in the shards")
    check: bool = check_import()
    finetune: int | None = option(
        None,
        kind=integer(1),
        metavar="EPOCHS",
        help="tune all weights to the original's outputs on the calibration data, at most so often",
        more="tune all weights to the original's outputs on the calibration data, at most so often, as "
        "[`finetune`](docs/finetuning.md) does with more data; a promise looks for the least that keeps it "
        "after that",
    )
    report: Path | None = report_file(help="what was done, for scripts")
    options: Options
    spiking: SpikingOptions = SpikingOptions()
    choosing: Choosing | None = None
    staging: Staging | None = None


AnyArguments = Arguments | SplitArguments | TokenArguments

FILLED_IN = {
    "workers": "the number of ranks",
    "comm_budget": "0.05; with texts 0.25",
    "round_cost": "0; of a transformer that is split as it is 3000",
    "calibration": "required but for a transformer that is split as it is",
}


def make_parser(speaks: bool) -> Parser:
    """The parser."""
    parser = Parser(speaks=speaks, **described("restructure"))
    parser.add(Arguments, filled_in=FILLED_IN)
    parser.add(WorkersOrAuto, "restructuring", FILLED_IN)
    add_restructuring(parser, FILLED_IN)
    parser.add(SpikingOptions, SPIKING)
    parser.add(TokenOptions, "restructuring")
    parser.add(SplitArguments, "texts")
    return parser


def parse(argv: Sequence[str], ranks: int | None = None, speaks: bool = True) -> AnyArguments:
    """The command line; for the arguments see ``commands.start``.

    Raises:
        UsageError: it is wrong.
    """
    given = make_parser(speaks).read(argv)
    is_for_texts = "input_shape" not in given
    of_auto = [name for name in declarations(WorkersOrAuto) if name != "workers"]
    settled = [*declarations(Options), *declarations(MachineSource), *of_auto, "check", "finetune"]
    settled += declarations(SpikingOptions)
    of_tokens = [name for name in declarations(TokenOptions) if name not in declarations(Options)]
    if "calibration" not in given:
        if not is_for_texts or not holds_tokens(given["model"]):
            raise UsageError(
                "expected --calibration DATA, samples like those that the network will see; add it"
            )
        return split_arguments(given, ranks, [*settled, *of_tokens])
    if is_for_texts and takes_any_length(given["model"]):
        return token_arguments(given, ranks, settled)
    refuse(given, ["longest", *of_tokens], "belongs to a transformer for texts, without --input-shape")
    spiking = make(SpikingOptions, given)
    if given.get("workers") == AUTO:
        choosing = choosing_of(given)
        return make(Arguments, given, options=choosing.options(1), choosing=choosing, spiking=spiking)
    refuse(given, ("ranks_at_most",), f"has no effect without {flag('workers')} {AUTO}")
    if given.get("stages") == AUTO:
        staging = staging_of(given, ranks, given.get("batch_size", 1))
        return make(Arguments, given, options=staging.options, staging=staging, spiking=spiking)
    refuse(given, of_auto, f"has no effect without {flag('workers')} {AUTO} or {flag('stages')} {AUTO}")
    return make(Arguments, given, options=restructure_options(given, ranks), spiking=spiking)
