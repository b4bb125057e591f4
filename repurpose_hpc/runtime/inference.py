"""One inference run: load, compile, time, stream.

The order, on all ranks: the root reads the plan and broadcasts it; each rank reads the shards of
the workers that it hosts, and packs them; the kernels that this network calls are loaded from the
cache, or compiled, each by one rank of a node for all; the first batch is timed, by all ranks and
then by the root alone; all batches are streamed.  Groups of ranks that have a copy of the plan each all time
the first batch, at the same time, and share the stream.  Steps without communication are agreed on (see
``agreement``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from repurpose_hpc.fields import FieldError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.comm_dtype import EXACT
from repurpose_hpc.model.network import Network
from repurpose_hpc.mpi.agreement import collectively, in_unison
from repurpose_hpc.mpi.groups import Groups
from repurpose_hpc.plan.files.origin import as_it_was_cut, sweeps_of
from repurpose_hpc.plan.files.store import StoredPlan, read_network
from repurpose_hpc.plan.late import Late, late, without_sweeps
from repurpose_hpc.plan.relays import without_relays
from repurpose_hpc.plan.rounding import rounded_compute
from repurpose_hpc.plan.rounds import rounds_of
from repurpose_hpc.plan.shard import Shard
from repurpose_hpc.plan.stages import named_stages
from repurpose_hpc.runtime import result
from repurpose_hpc.runtime.buffers import parts_of
from repurpose_hpc.runtime.certificate import Certificate
from repurpose_hpc.runtime.checks import Checks
from repurpose_hpc.runtime.exchange.choose import AUTO, choose_transport
from repurpose_hpc.runtime.loading import load_shards, release_compiler
from repurpose_hpc.runtime.program import Program, one_process
from repurpose_hpc.runtime.recorder import Recorder
from repurpose_hpc.runtime.setup import Clock, Job, Setup, network_samples, open_input, settle
from repurpose_hpc.runtime.shards import one_by_one
from repurpose_hpc.runtime.streams.inputs import Input
from repurpose_hpc.runtime.streams.stream import Stream
from repurpose_hpc.runtime.timing import Timing, measure, measure_alone
from repurpose_hpc.runtime.verification import Verification

if TYPE_CHECKING:
    from mpi4py import MPI


class _FirstBatch(NamedTuple):
    """Times of the first batch, on which everything is tried.

    Attributes:
        exchange_us: by transport, those that were tried.
        parallel: of all ranks, on the root; None: elsewhere, or not timed.
        single: of one process, on the root.
    """

    exchange_us: dict[str, float]
    parallel: Timing | None
    single: Timing | None


def run(
    job: Job,
    original: Network | None,
    comm: MPI.Comm,
    imported: float = 0.0,
    recorder: Recorder | None = None,
) -> dict | None:
    """Run ``job``; collective.

    Args:
        job: the same on every rank.
        original: on the root, the network before restructuring, for its accuracy and ``certify``; None:
            not known.
        comm: in each group of the options at most as many ranks as the plan has workers.
        imported: seconds that the process had needed to import what it runs and to start MPI.
        recorder: of the batches of the stream; None: they are not recorded.

    Returns:
        on the root the numbers of the report (see ``repurpose_hpc.report``), None elsewhere.

    Raises:
        SystemExit: on every rank, after a message, if anything was wrong on any.
    """
    clock = Clock("import", "load", "jit", "input", "output", "check", recorder=recorder)
    clock.seconds["import"] = imported
    with in_unison(comm):
        groups = Groups(comm, job.options.groups)
    with clock("load"):
        stored, shards = load_shards(job.shards, job.options.dtype, comm, groups.count)
    if job.options.deterministic:
        shards = [one_by_one(shard) for shard in shards]
    formats = settle(job.options, stored, groups, comm)
    file, samples, signal = open_input(job, shards[0], comm)
    job = _with_batches_of_at_most(samples, job)
    setup = Setup(job, formats, stored, shards[0], samples, signal, comm, groups, clock)
    sweeps = _late(setup)
    program = _make_program(setup, shards if sweeps is None else [*map(sweeps.shard, shards)])
    _compile(setup, program)
    with collectively(comm):
        source = _open_source(setup, program, file)

    first_batch, network = _try_out(setup, program, source, file)
    checks = _checks(setup, file, network, original, sweeps)
    stream = Stream(setup, program, source, checks)
    if recorder is not None:
        recorder.begin(program)
    seconds = stream.run()
    if recorder is not None:
        recorder.end(program)
    report = _report(setup, program, checks, first_batch, stream.resumed, seconds)
    program.free()
    groups.free()
    return report


def _late(setup: Setup) -> Late | None:
    """The same network with late exchanges, if they are asked for; collective.

    Raises:
        SystemExit: on every rank, after a message: it has common neurons.
    """
    sweeps = setup.job.options.exchange_late
    if sweeps is None:
        return None
    with in_unison(setup.comm):
        return late(setup.shard.graph, setup.stored.plan, sweeps)


def _compile(setup: Setup, program: Program) -> None:
    """Compile what the forwards of the run call; collective.

    Ranks that have nothing left to do sleep until all others have their kernels, too.
    """
    size = setup.job.options.batch_size
    with setup.clock("jit"):
        for batch in dict.fromkeys((size, setup.samples % size or size)):
            program.prepare(batch)
            with collectively(setup.comm):
                pass
    release_compiler()


def _with_batches_of_at_most(samples: int, job: Job) -> Job:
    """``job`` with a batch size that is not larger than its input."""
    return replace(job, options=replace(job.options, batch_size=min(job.options.batch_size, samples)))


def _make_program(setup: Setup, shards: list[Shard]) -> Program:
    """This rank's program; collective."""
    options = setup.job.options
    return Program(
        shards,
        setup.groups.inside,
        options.batch_size,
        setup.formats,
        threads=options.threads,
        micro_batches=options.micro_batches,
        deterministic=options.deterministic,
    )


def _open_source(setup: Setup, program: Program, file: Samples | None) -> Input:
    """The input that a program takes; opened where it supplies something and that was not yet done.

    Args:
        setup: of the run.
        program: that takes it.
        file: the input, on the root; None elsewhere.

    Raises:
        UserError: see ``network_samples`` and ``Input``.
    """
    job, columns = setup.job, program.input_columns
    if columns.size and file is None:
        file = network_samples(job, setup.shard.graph, setup.signal)
    return Input(file if columns.size else None, columns, setup.samples, job.options.dtype)


def _try_out(
    setup: Setup, program: Program, source: Input, file: Samples | None
) -> tuple[_FirstBatch, Network | None]:
    """Times of the first batch, and on the root the restructured network, if it takes that; collective.

    While the root times the network in one process the other ranks sleep.
    """
    exchange_us, parallel = _time_all_ranks(setup, program, source)
    options, network, single = setup.job.options, None, None
    with collectively(setup.comm):
        if file is not None and (options.verify or options.repeat or options.certify):
            network = read_network(setup.stored)
            if options.repeat:
                single = _time_alone(setup, network, file)
    return _FirstBatch(exchange_us, parallel, single), network


def _time_all_ranks(setup: Setup, program: Program, source: Input) -> tuple[dict[str, float], Timing | None]:
    """Times of the transports that were tried, and on the root the timing of all ranks; collective."""
    options, comm, batch = setup.job.options, setup.comm, None
    if options.repeat or options.transport == AUTO:
        with collectively(comm):
            batch = source.batch(options.batch_size)
    with in_unison(comm):
        exchange_us = choose_transport(program, options.transport, batch, setup.groups)
    if batch is None or not options.repeat:
        return exchange_us, None
    program.forward(batch)
    setup.clock.forward_ended()
    return exchange_us, measure(program, batch, options.repeat, comm)


def _time_alone(setup: Setup, network: Network, file: Samples) -> Timing:
    """The timing of one process that has all of the network, which needs no relays and no sweeps."""
    options, plan = setup.job.options, setup.stored.plan
    network = without_sweeps(without_relays(network, plan), plan)
    program = one_process(network, options.dtype, options.batch_size, setup.formats, options.threads)
    source = _open_source(setup, program, file)
    return measure_alone(program, source.batch(options.batch_size), options.repeat)


def _checks(
    setup: Setup,
    file: Samples | None,
    restructured: Network | None,
    original: Network | None,
    sweeps: Late | None,
) -> Checks | None:
    """The checks of the outputs, on the root; collective.

    Args:
        setup: of the run.
        file: the input, on the root; None elsewhere.
        restructured: what the ranks run, in the exact order, where it was needed.
        original: before restructuring, where it is known.
        sweeps: what they run instead; None: that.
    """
    options, formats = setup.job.options, setup.formats
    graph, plan = setup.shard.graph, setup.stored.plan
    if sweeps is not None:
        graph, plan = sweeps.graph, sweeps.plan
        restructured = None if restructured is None else sweeps.network(restructured)
    compute = rounded_compute(graph, plan, formats.comm_dtype)
    checks = None
    with collectively(setup.comm):
        if file is not None:
            certificate = _certificate(original, restructured, setup.stored) if options.certify else None
            verification = None
            if options.verify and restructured is not None:
                verification = Verification(restructured, options.dtype, formats, compute)
            checks = Checks(setup.shard.graph, file, options.batch_size, original, certificate, verification)
    return checks


def _certificate(original: Network | None, restructured: Network | None, stored: StoredPlan) -> Certificate:
    """The certificate of a run with ``certify``; the root has read the restructured network for it.

    Raises:
        UserError: the original is not known, or has no classes.
    """
    if original is None or restructured is None:
        raise FieldError(
            "certify", "expected the original network, to compare with; name it, or leave it out"
        )
    return Certificate(as_it_was_cut(stored, original), without_relays(restructured, stored.plan))


def _report(
    setup: Setup,
    program: Program,
    checks: Checks | None,
    first_batch: _FirstBatch,
    resumed: int,
    seconds: float,
) -> dict | None:
    """The numbers of the report, on the root; collective.

    Args:
        setup, program, checks, first_batch: of the run.
        resumed: samples that an earlier run has left.
        seconds: that the others took.
    """
    job, comm = setup.job, setup.comm
    demands = result.demands(setup.clock.first_result, comm)
    ranks = result.gather_ranks(program, setup.clock.seconds, comm)
    if ranks is None or checks is None:
        return None
    groups = setup.groups.count
    return {
        **_circumstances(setup),
        "exchange": program.transport,
        **({"exchange_us": first_batch.exchange_us} if first_batch.exchange_us else {}),
        "input_placement": setup.stored.plan.input_placement,
        **result.traffic(setup.stored.plan, setup.shard, ranks, groups),
        **result.without_zeros(ranks, groups),
        **result.weights(setup.stored.plan, setup.shard, ranks[: len(ranks) // groups]),
        **result.balance_of(ranks, setup.stored.plan.workers, groups),
        **checks.results(),
        **result.latency(first_batch.parallel, first_batch.single),
        **result.forecast(
            setup.stored.provenance, comm.size // groups, job.options.batch_size, first_batch.parallel
        ),
        "throughput": (setup.samples - resumed) / seconds,
        **({"resumed_samples": resumed} if job.options.resume else {}),
        **_sweeps(setup),
        **_signal(setup),
        **named_stages(setup.shard.graph, setup.stored.plan),
        "seconds": result.slowest_seconds(ranks),
        **demands,
        "shards": str(job.shards),
        "output": None if job.output is None else str(job.output),
    }


def _sweeps(setup: Setup) -> dict[str, int]:
    """The keys of a report of late exchanges."""
    if (sweeps := sweeps_of(setup.stored)) is not None:
        return {"sweeps": sweeps}
    if setup.job.options.exchange_late is None:
        return {}
    exact = 1 + rounds_of(setup.shard.graph, setup.stored.plan)
    return {"sweeps": setup.job.options.exchange_late, "sweeps_exact": exact}


def _signal(setup: Setup) -> dict[str, dict[str, int]]:
    """The keys of a report of a signal."""
    if setup.signal is None:
        return {}
    pieces, length = setup.signal
    return {
        "signal": {
            "positions": length,
            "outputs": pieces.count(length),
            "piece": pieces.length,
            "advance": pieces.advance,
        }
    }


def _circumstances(setup: Setup) -> dict[str, object]:
    """The keys of the report that are known before the run: numbers of ranks and samples, and formats."""
    options, formats = setup.job.options, setup.formats
    dtype = options.dtype.name
    return {
        "ranks": setup.comm.size,
        "groups": setup.groups.count,
        "workers": setup.stored.plan.workers,
        "samples": setup.samples,
        "batch_size": options.batch_size,
        "micro_batches": len(parts_of(options.batch_size, options.micro_batches)),
        "threads_per_rank": options.threads,
        "deterministic": options.deterministic,
        "dtype": dtype,
        "comm_dtype": formats.comm_dtype,
        "weights_dtype": dtype if formats.weights_dtype == EXACT else formats.weights_dtype,
    }
