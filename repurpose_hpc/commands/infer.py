"""The command ``infer``: from a command line to a report.

The root finds the shards (those given, or those in the cache); if there are none, all ranks restructure
together.  Then all ranks run.  A transformer can run as it is: see ``encoding``.
``infer --shards`` imports neither SciPy nor ONNX, and of the restructuring only its options.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repurpose_hpc import bundled
from repurpose_hpc.commands import encoding
from repurpose_hpc.commands.automatic import MachineSource
from repurpose_hpc.commands.encoding import TextArguments, text_arguments
from repurpose_hpc.commands.imported import holds_shards, import_report
from repurpose_hpc.commands.parser import (
    SPIKING,
    Given,
    Parser,
    add_restructuring,
    make,
    refuse,
    restructure_options,
)
from repurpose_hpc.commands.table import described
from repurpose_hpc.errors import UsageError
from repurpose_hpc.fields import (
    Access,
    Declared,
    check_import,
    declarations,
    like,
    option,
    path,
    report_file,
    trace_file,
)
from repurpose_hpc.io.atomic import check_those_given, check_writable
from repurpose_hpc.io.progress import Progress
from repurpose_hpc.io.samples import open_samples
from repurpose_hpc.model.importers.input_shapes import option_of_shapes, shapes_of
from repurpose_hpc.model.importers.load import holds_tokens, load_model
from repurpose_hpc.model.importers.nir.options import SpikingOptions
from repurpose_hpc.model.network import Network
from repurpose_hpc.mpi.agreement import collectively, in_unison
from repurpose_hpc.mpi.groups import group_size
from repurpose_hpc.plan.files.store import check_model, hold_tokens, open_plan
from repurpose_hpc.process.threads import threads
from repurpose_hpc.report import text as report
from repurpose_hpc.report import trace
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.runtime.inference import run as run_job
from repurpose_hpc.runtime.options import RunOptions
from repurpose_hpc.runtime.recorder import Recorder
from repurpose_hpc.runtime.setup import Job

if TYPE_CHECKING:
    from mpi4py import MPI

    from repurpose_hpc.commands.start import RankContext


def run(args: Arguments, context: RankContext) -> None:
    """Run the command; collective.

    Args:
        args: see ``parse``.
        context: of the start.

    Raises:
        SystemExit: on every rank, after one message: 2 for a wrong command line, 1 for other failures.
    """
    if isinstance(args, TextArguments):
        encoding.run(args, context)
        return
    comm = context.comm
    prepared = Prepared(None, None, False)
    with collectively(comm):
        if comm.rank == 0:
            prepared = prepare(args, comm.size)
    shards, cached = comm.bcast((prepared.shards, prepared.cached), root=0)
    checked: dict[str, Any] = {}
    if isinstance(args, ModelArguments) and not cached:
        checked = restructure_together(args, shards, comm)
    job = Job(shards, args.input, args.output, args.run)
    recorder = None if args.trace is None else Recorder(comm)
    result = run_job(job, prepared.original, comm, context.started, recorder)
    with collectively(comm):
        if result is not None:
            result.update(cached=prepared.cached, blas_threads=threads(), **checked)
            trace.deliver(recorder, args.trace)
            report.deliver(result, report.render(result), args.report)


@dataclass(frozen=True, kw_only=True)
class Files(Declared):
    """Files of a run, and its options."""

    input: Path = option(
        kind=path("samples.npz"), metavar="DATA", help="samples: .npy, .npz (x, y) or .h5 (x, y)"
    )
    output: Path | None = option(
        None, kind=path("out.h5", Access.WRITES), metavar="OUT.h5", help="gets dataset y (samples, outputs)"
    )
    report: Path | None = report_file()
    trace: Path | None = trace_file()
    run: RunOptions
    spiking: SpikingOptions = SpikingOptions()


@dataclass(frozen=True, kw_only=True)
class ModelArguments(Files):
    """Command line with a model, which is restructured with ``options`` first."""

    model: Path = option(
        kind=path("model.npz"),
        positional=True,
        help=".npz, .safetensors, .onnx, .nir or .gguf; restructured first unless --shards says where it was "
        "done",
    )
    calibration: Path = option(
        kind=path("samples.npz"), metavar="DATA", help="samples to restructure MODEL with"
    )
    check: bool = check_import()
    input_shape: tuple[str, ...] = option_of_shapes()
    options: Options


@dataclass(frozen=True, kw_only=True)
class ShardArguments(Files):
    """Command line with shards; the model that they were made from is only compared with."""

    model: Path | None = like(ModelArguments, "model", None)
    input_shape: tuple[str, ...] = like(ModelArguments, "input_shape")
    shards: Path = option(
        kind=path("shards"),
        metavar="DIR",
        help="written by restructure",
        more="run these; with MODEL as well, the original's accuracy is reported beside; those of a "
        "transformer may be for texts of any lengths ([how](docs/transformers.md#shards))",
    )


Arguments = ModelArguments | ShardArguments | TextArguments


FILLED_IN = {
    "model": "the bundled network",
    "input": "the bundled samples",
    "calibration": "the bundled samples",
    "shards": "MODEL is restructured",
    "verify": "for the bundled network",
    "workers": "the number of ranks, of a group",
}


def make_parser(speaks: bool) -> Parser:
    """The parser."""
    parser = Parser(speaks=speaks, **described("infer"))
    for declared in (ShardArguments, ModelArguments, RunOptions):
        parser.add(declared, filled_in=FILLED_IN)
    add_restructuring(parser, FILLED_IN)
    parser.add(SpikingOptions, SPIKING)
    parser.add(TextArguments, "texts")
    return parser


def parse(argv: Sequence[str], ranks: int = 1, speaks: bool = True) -> Arguments:
    """The command line, with the bundled network and data filled in where no model is named.

    Raises:
        UsageError: it is wrong.
    """
    parser = make_parser(speaks)
    given = parser.read(argv)
    if "shards" not in given and "model" not in given:
        files = {"calibration": bundled.CALIBRATION, "input": bundled.TEST}
        given = {**files, "verify": True, **given, "model": bundled.MODEL}
        parser.check_files(given)
    if "input" not in given:
        raise UsageError("expected --input DATA, the samples to infer; add it")
    if _is_of_texts(given):
        settled = [*declarations(Options), *declarations(MachineSource), *declarations(RunOptions)]
        settled += ["check", "calibration", "input_shape", *declarations(SpikingOptions)]
        return text_arguments(given, ranks, settled)
    if "shards" not in given or holds_shards(given["shards"]):  # else it is not there, which is said later
        refuse(given, ("pool", "longest"), "belongs to a transformer that is not restructured")
    if "resume" in given and "output" not in given:
        raise UsageError("--resume needs --output OUT.h5, of which an interrupted run keeps a part; add it")
    run_options = make(RunOptions, given)
    if "shards" in given:
        _refuse_what_shards_settle(given)
        return make(ShardArguments, given, run=run_options, spiking=make(SpikingOptions, given))
    if "calibration" not in given:
        if not given["model"].exists():
            raise UsageError(
                f"MODEL: expected a file or a directory, found no {given['model']}; check the path"
            )
        raise UsageError("a MODEL needs --calibration DATA to be restructured, or --shards DIR; add one")
    workers = max(1, ranks // run_options.groups)
    options = restructure_options(given, workers, workers)
    spiking = make(SpikingOptions, given)
    return make(ModelArguments, given, run=run_options, options=options, spiking=spiking)


def _is_of_texts(given: Given) -> bool:
    """Whether a transformer is to run as it is, on texts of any lengths."""
    if "shards" in given:
        return hold_tokens(given["shards"])
    others = {"calibration", "input_shape"} & given.keys()
    return not others and "model" in given and holds_tokens(given["model"])


def _refuse_what_shards_settle(given: Given) -> None:
    # Shards can run with another comm dtype than that for which they were adjusted.
    restructuring = [*declarations(Options), *declarations(MachineSource)]
    settled = ("calibration", "check", *(name for name in restructuring if name != "comm_dtype"))
    refuse(given, settled, "has no effect: --shards are restructured already")
    if "model" not in given:
        refuse(given, ("input_shape", *declarations(SpikingOptions)), "belongs to a MODEL")
    if "certify" in given and "model" not in given:
        raise UsageError(
            "--certify needs MODEL, the network that --shards were made from, to compare with; add it"
        )


@dataclass(frozen=True)
class Prepared:
    """Findings of the root before the run.

    Attributes:
        shards: directory of the plan, where it is or will be.
        original: the network before restructuring; None: not known.
        cached: whether the plan was in the cache.
    """

    shards: Path | None
    original: Network | None
    cached: bool


def prepare(args: ModelArguments | ShardArguments, ranks: int) -> Prepared:
    """Find the shards, or where to make them; on the root alone.

    Raises:
        UserError: something in the files does not fit, or a result could not be written.
    """
    size = group_size(ranks, args.run.groups)
    if args.output is not None:
        check_writable(args.output, text=False)
    check_those_given(args.report, args.trace)
    if isinstance(args, ShardArguments):
        return _prepare_shards(args)
    network = _fitting_model(args.model, args)
    if args.options.workers < size:
        of_group = " of a group" if args.run.groups > 1 else ""
        raise UsageError(
            f"--workers: expected at least the number of ranks{of_group}, {size}, got "
            f"{args.options.workers}; start fewer ranks"
        )
    from repurpose_hpc.restructure.cache import look_up

    calibration = open_samples(args.calibration)
    shards, cached = look_up(network, calibration, args.options, args.run.dtype)
    return Prepared(shards, network, cached)


def _prepare_shards(args: ShardArguments) -> Prepared:
    """Check the shards against the model, where one is named."""
    if args.model is None:
        return Prepared(args.shards, None, cached=False)
    network = _fitting_model(args.model, args)
    remedy = "they belong to another model: name that, or leave it out"
    check_model(open_plan(args.shards), network, args.model, remedy)
    return Prepared(args.shards, network, cached=False)


def _fitting_model(model: Path, args: ModelArguments | ShardArguments) -> Network:
    network = load_model(model, shapes_of(args.input_shape), check=False, spiking=args.spiking)
    if not args.run.signal:  # a signal is cut into samples when all is settled
        network.ends.check(open_samples(args.input), network.input_shape)
    return network


def restructure_together(args: ModelArguments, shards: Path, comm: MPI.Comm) -> dict[str, Any]:
    """All ranks restructure the model and write ``shards``; collective.

    Returns:
        what the report says of the import, on the root.

    Raises:
        SystemExit: on every rank, after one message.
    """
    from repurpose_hpc.restructure.job import restructure_to
    from repurpose_hpc.restructure.team import Team

    checked: dict[str, Any] = {}
    with collectively(comm):
        shapes = shapes_of(args.input_shape)
        network = load_model(args.model, shapes, check=False, spiking=args.spiking)
        calibration = open_samples(args.calibration)
        if comm.rank == 0:
            checked = import_report(args.model, network, calibration, shapes, args.check)
    with in_unison(comm):
        log, dtype = Progress(speaks=comm.rank == 0), args.run.dtype.type
        # What it would measure is nowhere shown.
        restructure_to(shards, network, calibration, args.options, dtype, log, Team(comm), measures=False)
    return checked
