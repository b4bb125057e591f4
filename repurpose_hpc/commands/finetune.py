"""The command ``finetune``: tune the weights of shards on the ranks that run them, and write new shards.

All ranks load their shards and open the data; the root has labels, or computes what the original network
makes of the samples.  For local losses all compute a share of that (``tuning.local``), for subnets all keep
the original (``tuning.rotation``).  Then all tune together (``tuning.driver``).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from repurpose_hpc import bundled
from repurpose_hpc.commands.infer import ShardArguments
from repurpose_hpc.commands.parser import SPIKING, Parser, make, refuse
from repurpose_hpc.commands.splitting import aligned
from repurpose_hpc.commands.table import described
from repurpose_hpc.errors import UsageError, UserError
from repurpose_hpc.fields import (
    Access,
    Declared,
    FieldError,
    count,
    integer,
    like,
    option,
    path,
    report_file,
    yes,
)
from repurpose_hpc.io.atomic import check_writable
from repurpose_hpc.io.lock import alone_at
from repurpose_hpc.io.progress import Progress
from repurpose_hpc.io.samples import Samples, open_samples
from repurpose_hpc.io.spooled import Spooled
from repurpose_hpc.model.importers.input_shapes import option_of_shapes, shapes_of
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.importers.nir.options import SpikingOptions
from repurpose_hpc.model.labels import understood
from repurpose_hpc.model.network import Network
from repurpose_hpc.mpi.agreement import collectively, in_unison
from repurpose_hpc.mpi.groups import Groups
from repurpose_hpc.plan.files.origin import as_it_was_cut
from repurpose_hpc.plan.files.store import StoredPlan, check_model, check_place
from repurpose_hpc.process.memory import give_back, keep_what_is_freed
from repurpose_hpc.process.system import peak_memory_mib
from repurpose_hpc.report import text as report
from repurpose_hpc.runtime.exchange.choose import check_transport
from repurpose_hpc.runtime.loading import LoadedShards, load_shards, release_compiler
from repurpose_hpc.runtime.options import RunOptions
from repurpose_hpc.runtime.resources import Formats
from repurpose_hpc.tuning.copies import Copies
from repurpose_hpc.tuning.driver import Epoch, Tuning, best_of, parted
from repurpose_hpc.tuning.local import LocalLosses, cuts_of
from repurpose_hpc.tuning.options import TuneOptions
from repurpose_hpc.tuning.passes import Passes
from repurpose_hpc.tuning.rotation import Rotations
from repurpose_hpc.tuning.run import Run
from repurpose_hpc.tuning.targets import Targets, of_labels, of_original, of_outputs

if TYPE_CHECKING:
    from mpi4py import MPI

    from repurpose_hpc.commands.start import RankContext


@dataclass(frozen=True, kw_only=True)
class Arguments(Declared):
    """Shards, data, and what outputs are compared with."""

    shards: Path = like(ShardArguments, "shards", help="written by restructure; they stay as they are")
    data: Path = option(
        kind=path("samples.npz"),
        metavar="DATA",
        help="samples to tune on: .npy, .npz (x, y) or .h5 (x, y)",
        more="samples to tune on, in any form that `infer --input` takes; every rank reads its columns of "
        "them, whatever the input placement",
    )
    out: Path = option(
        kind=path("tuned", Access.REPLACES), metavar="DIR", help="gets the shards of the best epoch"
    )
    labels: bool = option(
        False, kind=yes(), excludes="targets", help="compare outputs with y of DATA, labels or targets"
    )
    distill: Path | None = option(
        None,
        kind=path("model.npz"),
        metavar="MODEL",
        excludes="targets",
        default_text="the bundled network, for its shards",
        help="compare them with those of MODEL, which the shards were made from; this needs no labels",
    )
    local: bool = option(
        False,
        kind=yes(),
        excludes="way",
        help="compare activations, too, and send no derivatives from one layer back to the one before",
        more="compare activations with those of MODEL, too, and send no derivatives from one layer back to "
        "the one before ([below](#local-losses))",
    )
    rotate: int | None = option(
        None,
        kind=integer(1),
        metavar="K",
        excludes="way",
        help="tune among a random sample of MODEL's neurons, which is drawn anew every K steps",
        more="tune the neurons of each worker among a random sample of MODEL's other neurons, which is drawn "
        "anew every K steps; the last steps have none ([below](#rotating-subnets))",
    )
    input_shape: tuple[str, ...] = option_of_shapes()
    dtype: np.dtype | None = like(RunOptions, "dtype", None, default_text="that of the shards")
    report: Path | None = report_file()
    tuning: TuneOptions
    spiking: SpikingOptions = SpikingOptions()

    @property
    def needs_original(self) -> bool:
        """Whether all ranks do; labels are none of their choices."""
        return self.local or self.rotate is not None


def make_parser(speaks: bool) -> Parser:
    """The parser."""
    parser = Parser(speaks=speaks, **described("finetune"))
    parser.add(Arguments)
    parser.add(TuneOptions)
    parser.add(SpikingOptions, SPIKING)
    return parser


def parse(argv: Sequence[str], ranks: int | None = None, speaks: bool = True) -> Arguments:
    """The command line.

    Raises:
        UsageError: it is wrong.
    """
    given = make_parser(speaks).read(argv)
    if given.get("optimiser") != "sgd":
        refuse(given, ("momentum",), "belongs to --optimiser sgd")
    if given.get("labels"):
        reason = "needs what the original computes, and --labels are given instead of it"
        refuse(given, ("local", "rotate"), reason)
    spiking = make(SpikingOptions, given)
    return make(Arguments, given, tuning=make(TuneOptions, given), spiking=spiking)


def run(args: Arguments, context: RankContext) -> None:
    """Run the command; collective.

    Args:
        args: see ``parse``.
        context: of the start.

    Raises:
        SystemExit: on every rank, after one message: 2 for a wrong command line, 1 for other failures.
    """
    with ExitStack() as stack:
        with collectively(context.comm):
            if context.comm.rank == 0:
                _check_places(args)
                stack.enter_context(alone_at(args.out))
        _run(args, context.comm)


def _run(args: Arguments, comm: MPI.Comm) -> None:
    """The command, once results can be written; collective."""
    began, options = perf_counter(), args.tuning
    with in_unison(comm):
        groups = Groups(comm, options.groups)
        check_transport(options.transport, groups)
    loaded = load_shards(args.shards, args.dtype, comm, options.groups)
    samples = _samples(args.data, loaded.shards[0].graph, comm)
    tuned = _tune(args, loaded, samples, groups, comm)
    result = _report(args, loaded.stored, tuned, comm)
    with collectively(comm):
        if result is not None:
            result["seconds"]["total"] = perf_counter() - began
            report.deliver(result, render(result), args.report)
    tuned.tuning.free()
    groups.free()


def _check_places(args: Arguments) -> None:
    """Find out now that results cannot be written.

    Raises:
        UserError: names the place.
    """
    check_place(args.out)
    if args.report is not None:
        check_writable(args.report)


def _check_order(args: Arguments, stored: StoredPlan) -> None:
    """Refuse what compares layers of sweeps with those of the original.

    Raises:
        FieldError: it is asked for, of shards with late exchanges.
    """
    if args.needs_original and stored.plan.copies:
        raise FieldError(
            "local" if args.local else "rotate",
            "expected shards for the exact order, whose layers are those of the original, found "
            f"{stored.directory} with weights for late exchanges; leave it out",
        )


class _Tuned(NamedTuple):
    """What was tuned, to what, and what became of it; ``loss`` is known on the root."""

    tuning: Tuning
    loss: str | None
    epochs: list[Epoch]


def _tune(args: Arguments, loaded: LoadedShards, samples: Samples, groups: Groups, comm: MPI.Comm) -> _Tuned:
    """Tune, and write the shards; collective.

    Raises:
        SystemExit: on every rank, after a message.
    """
    stored, shards = loaded
    options, formats = args.tuning, Formats(comm_dtype=stored.plan.comm_dtype)
    copies = Copies(groups)
    keep_what_is_freed()  # in every step arrays of the same sizes are made
    with in_unison(comm):
        _check_order(args, stored)
    original = _original_of_all(args, stored, comm) if args.needs_original else None
    cuts = cuts_of(shards[0].graph, original) if original is not None and args.local else ()
    with in_unison(comm):
        parts = parted(samples.samples, options)
        passes = Passes(shards, copies.comm, options.share, formats, options.transport, cuts)
        rotations = None
        if original is not None and args.rotate is not None:
            rotations = Rotations(original, stored.plan, shards, passes, args.rotate, options.seed)
    with ExitStack() as stack:  # which closes what this rank has copied where another one could not
        with collectively(comm):
            spooled = stack.enter_context(Spooled(samples, passes.input_columns, passes.dtype))
        local, targets = None, None
        if original is not None and args.local:
            with in_unison(comm):
                local = LocalLosses(original, samples, passes, groups, options.batch_size)
            stack.enter_context(local)
        original = None  # which may be large
        with collectively(comm):
            if passes.is_root:
                targets = _targets(args, stored, shards[0].graph, samples, local, passes.dtype)
        release_compiler()
        give_back()  # what the original, and the kernels' compiler, have left
        tuning = Tuning(passes, spooled, targets, parts, options, copies, local, rotations)
        log, depends_on = Progress(speaks=comm.rank == 0), _depends_on(args, loaded, samples, comm)
        if targets is not None:
            log(f"{targets.name}, on {parts.rest.size:,} samples")
        epochs = Run(args.out, stored, shards, depends_on, log, comm).tune(tuning, options)
    return _Tuned(tuning, None if targets is None else targets.name, epochs)


def _samples(data: Path, graph: Network, comm: MPI.Comm) -> Samples:
    """The samples as the network takes them; collective.

    Raises:
        SystemExit: on every rank, after a message: they cannot be read, do not fit, or are others elsewhere.
    """
    found = []
    with collectively(comm):
        found.append(graph.ends.feed(open_samples(data), graph.input_shape))
    of_root = comm.bcast(found[0].samples, root=0)
    with collectively(comm):
        if found[0].samples != of_root:
            raise UserError(
                f"{data}: expected {of_root} samples as the first rank sees there, found {found[0].samples}; "
                "put the file where every node sees the same one"
            )
    return found[0]


def _targets(
    args: Arguments,
    stored: StoredPlan,
    graph: Network,
    samples: Samples,
    local: LocalLosses | None,
    dtype: np.dtype,
) -> Targets:
    """What outputs are compared with, on the root of a group.

    Raises:
        UserError: labels do not fit, or the original is not known.
    """
    samples = understood(graph, samples)
    if args.labels:
        return of_labels(graph, samples)
    if local is not None and local.outputs is not None:
        return of_outputs(graph, samples, local.outputs)
    return of_original(graph, samples, _original(args, stored), dtype, args.tuning.batch_size)


def _original_of_all(args: Arguments, stored: StoredPlan, comm: MPI.Comm) -> Network:
    """``_original`` on every rank, with the neurons that the shards have; collective.

    Raises:
        SystemExit: on every rank, after a message.
    """
    found = []
    with collectively(comm):
        found.append(as_it_was_cut(stored, _original(args, stored)))
    return found[0]


def _original(args: Arguments, stored: StoredPlan) -> Network:
    """The network that the shards were made from.

    Raises:
        UserError: it is another one, or not known.
    """
    shapes = shapes_of(args.input_shape)
    network = load_model(args.distill or bundled.MODEL, shapes, check=False, spiking=args.spiking)
    if args.distill is not None:
        instead = "" if args.needs_original else ", or give --labels"
        check_model(stored, network, args.distill, f"name the model that they were made from{instead}")
    elif stored.provenance.get("model_fingerprint") != network.fingerprint():
        others, found = ("", "none") if args.needs_original else (", or --labels", "neither")
        raise UsageError(
            f"expected --distill MODEL, the network that the shards were made from{others}, found {found}; "
            "add one"
        )
    return network


def _depends_on(args: Arguments, loaded: LoadedShards, samples: Samples, comm: MPI.Comm) -> dict[str, Any]:
    """What the result depends on besides the options: shards, data and targets; collective."""
    parts: dict[str, Any] = {}
    with collectively(comm):
        if comm.rank == 0:
            parts = {
                "shards_sha256": list(loaded.stored.shard_sha256),
                "dtype": loaded.shards[0].graph.mixings[0].bias.dtype.name,
                "data_sha256": samples.fingerprint(),
                "targets": "labels" if args.labels else "original",
                "local": args.local,
                "rotate": args.rotate,
            }
    return comm.bcast(parts, root=0)


def _report(args: Arguments, stored: StoredPlan, tuned: _Tuned, comm: MPI.Comm) -> dict[str, Any] | None:
    """The numbers of the report, on the root; collective: every rank sends it its own."""
    tuning, loss, epochs = tuned
    there, back = tuning.values_sent
    weights = 0.0 if tuning.rotations is None else tuning.rotations.weights
    mine = there, back, tuning.seconds, peak_memory_mib(), tuning.copies.bytes, weights
    of_ranks = comm.gather(mine, root=0)
    if of_ranks is None:
        return None
    best, options = best_of(epochs), args.tuning
    return {
        "ranks": comm.size,
        "groups": options.groups,
        "workers": stored.plan.workers,
        "samples": sum(map(len, tuning.parts)),
        "held_out_samples": tuning.parts.held_out.size,
        "batch_size": options.batch_size,
        "targets": loss,
        "local": [] if tuning.local is None else list(tuning.local.names),
        "optimiser": options.optimiser,
        "learning_rate": options.rate,
        "dtype": tuning.passes.dtype.name,
        "comm_dtype": stored.plan.comm_dtype,
        "exchange": options.transport,
        "values_sent": sum(rank[0] for rank in of_ranks) // options.groups,
        "values_sent_back": sum(rank[1] for rank in of_ranks) // options.groups,
        "rotate": args.rotate,
        "subnet_weights": sum(rank[5] for rank in of_ranks) / options.groups,
        "gradient_bytes": sum(rank[4] for rank in of_ranks),
        "best_epoch": best.epoch,
        "epochs": [asdict(epoch) for epoch in epochs],
        "seconds": {name: max(rank[2][name] for rank in of_ranks) for name in tuning.seconds},
        "peak_memory_mib": max(rank[3] for rank in of_ranks),
        "shards": str(args.out),
    }


def render(result: dict[str, Any]) -> str:
    """The report for people, several lines."""
    epochs = [Epoch(**each) for each in result["epochs"]]
    best, before = best_of(epochs), epochs[0]
    seconds = result["seconds"]
    names = ("input", "subnets", "passes", "loss", "wait")
    phases = ", ".join(f"{name} {seconds[name]:.1f}" for name in names if seconds[name])
    kept = "" if best.epoch else ": none was better, the shards are as they were"
    right = ""
    if best.held_out_accuracy is not None and before.held_out_accuracy is not None:
        right = f", {before.held_out_accuracy:.2%} -> {best.held_out_accuracy:.2%} of classes as wanted"
    sums = f"; {report.size(result['gradient_bytes'])} of gradients" if result["groups"] > 1 else ""
    groups = f" in {result['groups']} groups" if result["groups"] > 1 else ""
    subnets = {}
    if result["rotate"]:
        weights = f"{result['subnet_weights']:,.0f} weights of MODEL per step, not sent"
        subnets = {"subnets": f"every {count(result['rotate'], 'step')}; {weights}"}
    lines = {
        "ranks": f"{result['ranks']}{groups}, {count(result['workers'], 'worker')}",
        "samples": f"{result['samples']:,}, of which {result['held_out_samples']:,} were held out",
        "targets": result["targets"],
        "sent": f"{result['values_sent']:,} values per sample, and {result['values_sent_back']:,} back{sums}",
        **subnets,
        "held out": f"loss {before.held_out_loss:.5g} -> {best.held_out_loss:.5g}{right}",
        "best": f"epoch {best.epoch} of {epochs[-1].epoch}{kept}",
        "seconds": f"{seconds['total']:.1f}: {phases}",
        "memory": f"{result['peak_memory_mib']:.0f} MiB at most",
        "shards": result["shards"],
    }
    return aligned(lines)
