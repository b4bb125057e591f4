"""One inference run: load, compile, time, stream.

The order, on all ranks: the root reads the plan and broadcasts it; each rank reads the shards of
the workers that it hosts; one rank per node compiles the kernels, then the others load them from
the cache; the first batch is timed, by all ranks and then by the root alone; all batches are
streamed.  Steps without communication are agreed on (see ``agreement``).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from repurpose_hpc import __version__
from repurpose_hpc.errors import UserError
from repurpose_hpc.io.atomic import temporary_name
from repurpose_hpc.io.samples import Samples, open_samples
from repurpose_hpc.model.comm_dtype import EXACT, INT8
from repurpose_hpc.model.forward import apply_heads
from repurpose_hpc.model.network import Network
from repurpose_hpc.mpi.agreement import alike, collectively
from repurpose_hpc.plan.arrival import computing
from repurpose_hpc.plan.files.store import StoredPlan, read_network
from repurpose_hpc.plan.shard import Shard
from repurpose_hpc.process.system import age
from repurpose_hpc.runtime import result
from repurpose_hpc.runtime.buffers import parts_of
from repurpose_hpc.runtime.certificate import Certificate
from repurpose_hpc.runtime.checks import Checks, check_input
from repurpose_hpc.runtime.context import Formats
from repurpose_hpc.runtime.exchange.choose import (
    AUTO,
    check_transport,
    choose_transport,
    needs_zeros_kernels,
)
from repurpose_hpc.runtime.loading import compile_kernels, has_maps, load_shards
from repurpose_hpc.runtime.options import RunOptions
from repurpose_hpc.runtime.program import Program, one_process
from repurpose_hpc.runtime.schedule.threads import check_threads, use_threads
from repurpose_hpc.runtime.streams import (
    Input,
    NoOutput,
    Output,
    OutputFile,
    OutputGather,
    ResumableOutputFile,
)
from repurpose_hpc.runtime.timing import Timing, measure, measure_alone

if TYPE_CHECKING:
    from mpi4py import MPI


@dataclass(frozen=True)
class Job:
    """Files and options of a run.

    Attributes:
        shards: directory of a plan.
        input: file of samples.
        output: file to write; None: none.
        options: of the run.
    """

    shards: Path
    input: Path
    output: Path | None
    options: RunOptions


class _Setup(NamedTuple):
    """A job, and what is known of it once it can begin; the same on all ranks but for ``shard``.

    Attributes:
        job: with a batch size of at most ``samples``.
        formats: of weights and ghosts.
        stored: the plan.
        shard: of one of the hosted workers.
        samples: of the input.
        comm: of the job.
        clock: of this rank.
    """

    job: Job
    formats: Formats
    stored: StoredPlan
    shard: Shard
    samples: int
    comm: MPI.Comm
    clock: Clock


class _Trial(NamedTuple):
    """Times of the first batch.

    Attributes:
        exchange_us: by transport, those that were tried.
        parallel: of all ranks, on the root; None: elsewhere, or not timed.
        single: of one process, on the root.
    """

    exchange_us: dict[str, float]
    parallel: Timing | None
    single: Timing | None


def run(
    job: Job, original: Network | None, comm: MPI.Comm, leftovers: list[Path], imported: float = 0.0
) -> dict | None:
    """Run ``job``; collective.

    Args:
        job: the same on every rank.
        original: on the root, the network before restructuring, for its accuracy and ``certify``; None:
            not known.
        comm: at most as many ranks as the plan has workers.
        leftovers: see ``agreement.aborting``.
        imported: seconds that the process had needed to import what it runs and to start MPI.

    Returns:
        on the root the numbers of the report (see ``repurpose_hpc.report``), None elsewhere.

    Raises:
        SystemExit: on every rank, after a message, if anything was wrong on any.
    """
    clock = Clock("import", "load", "jit", "input", "output", "check")
    clock.seconds["import"] = imported
    with clock("load"):
        stored, shards = load_shards(job.shards, job.options.dtype, comm)
    formats = _settle(job.options, stored, comm)
    _compile(job.options, formats, shards[0], clock, comm)
    file, samples = _open_input(job, shards[0], comm)
    job = _with_batches_of_at_most(samples, job)
    setup = _Setup(job, formats, stored, shards[0], samples, comm, clock)
    program = _make_program(setup, shards)
    with collectively(comm):
        source = Input(job.input, program.input_columns, samples, job.options.dtype)

    trial, network = _try_out(setup, program, source, file)
    checks = _checks(setup, file, network, original)
    stream = Stream(setup, program, source, checks)
    seconds = stream.run(leftovers)
    report = _report(setup, program, checks, trial, stream.done, seconds)
    program.free()
    return report


class Clock:
    """Seconds spent in named phases, added up in ``seconds``; ``with clock(phase): ...``.

    ``first_result`` is the age of the process at the end of its first forward; None: there was none yet.
    """

    def __init__(self, *phases: str) -> None:
        self.seconds = dict.fromkeys(phases, 0.0)
        self.first_result: float | None = None

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        began = perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += perf_counter() - began

    def forward_ended(self) -> None:
        """To be called after every forward, or at least after the first."""
        if self.first_result is None:
            self.first_result = age()


class Stream:
    """All batches through the program, from the input file to the output file.

    Ranks agree on every batch before it goes through; its outputs are gathered on the root.

    Args:
        setup: of the run.
        program, source: of this rank.
        checks: on the root; None elsewhere.

    ``done`` is the number of samples that an earlier run has left.
    """

    def __init__(self, setup: _Setup, program: Program, source: Input, checks: Checks | None) -> None:
        self.setup, self.program, self.source, self.checks = setup, program, source, checks
        self.job, self.comm, self.clock = setup.job, setup.comm, setup.clock
        self.output: Output = NoOutput()
        self.done = 0

    def run(self, leftovers: list[Path]) -> float:
        """Stream everything; collective.

        Returns:
            the seconds that it took, those of the checks not counted.
        """
        self._open_output(leftovers)
        began = perf_counter()
        try:
            self._catch_up()
            self._stream()
            with collectively(self.comm):
                if self.checks is not None:
                    self.checks.verify(self.job.options.dtype, self.setup.formats)
                with self.clock("output"):
                    self.output.commit()
        finally:
            self.output.discard()
        return perf_counter() - began - self.clock.seconds["check"]

    def _open_output(self, leftovers: list[Path]) -> None:
        path, options = self.job.output, self.job.options
        if path is None:
            return
        temporary = temporary_name(path, self.comm.bcast(os.getpid(), root=0))
        leftovers.append(temporary)
        shape = self.setup.samples, self.setup.shard.graph.outputs
        with collectively(self.comm):
            if self.checks is not None and options.resume:
                self.output = ResumableOutputFile(path, *shape, options.dtype, _resume_key(self.setup))
            elif self.checks is not None:
                self.output = OutputFile(path, temporary, *shape, options.dtype)

    def _catch_up(self) -> None:
        """On the root, check what an earlier run has left; on all ranks, set ``done``."""
        with collectively(self.comm):
            if self.checks is not None:
                for outputs in self.output.read(self.job.options.batch_size):
                    with self.clock("check"):
                        self.checks.add(outputs)
        self.done = self.comm.bcast(self.output.written, root=0)

    def _stream(self) -> None:
        """Batch after batch; what the root does with one and the reading of the next are agreed on."""
        batch_size, dtype = self.job.options.batch_size, self.job.options.dtype
        gather = OutputGather(self.comm, self.program.output_columns, dtype, batch_size)
        batches = islice(self.source.batches(batch_size), self.done // batch_size, None)
        outputs = None
        for _ in range(self.done, self.setup.samples, batch_size):
            with collectively(self.comm):
                self._take(outputs)
                with self.clock("input"):
                    inputs = next(batches)
            rows = self.program.forward(inputs)
            self.clock.forward_ended()
            with self.clock("output"):
                outputs = gather(rows)
        with collectively(self.comm):
            self._take(outputs)

    def _take(self, outputs: np.ndarray | None) -> None:
        """On the root, write and check a batch."""
        if outputs is None or self.checks is None:
            return
        outputs = apply_heads(self.setup.shard.graph, outputs)
        with self.clock("output"):
            self.output.append(outputs)
        with self.clock("check"):
            self.checks.add(outputs)


def _settle(options: RunOptions, stored: StoredPlan, comm: MPI.Comm) -> Formats:
    """The formats, once it is known that the job can run as it says; collective.

    Raises:
        SystemExit: on every rank, after a message: something cannot be done with this plan, or here.
    """
    formats = Formats(options.weights_dtype, options.comm_dtype or stored.plan.wire)
    with collectively(comm):
        _check_scales(formats, stored)
        if options.certify:
            _check_certify(formats)
    with alike(comm):
        check_transport(options.transport, comm)
        check_threads(options.threads, comm)
    if options.threads > 1:
        use_threads(options.threads)
    return formats


def _check_scales(formats: Formats, stored: StoredPlan) -> None:
    """Refuse a comm dtype for which the plan has no scales.

    Raises:
        UserError: int8, and it was made without data.
    """
    if formats.comm_dtype == INT8 and not stored.plan.has_scales:
        raise UserError(
            f"--comm-dtype {INT8}: expected shards with a scale for every ghost, found none in "
            f"{stored.directory}, made without calibration data; choose another format, or restructure with "
            "data"
        )


def _check_certify(formats: Formats) -> None:
    """Refuse to certify what is rounded on the way.

    Raises:
        UserError: a format is not EXACT.
    """
    for option, name in zip(("--weights-dtype", "--comm-dtype"), formats, strict=True):
        if name != EXACT:
            raise UserError(
                f"--certify: expected {option} {EXACT}, found {name}, whose rounding the bound does not "
                f"cover; add {option} {EXACT}, or leave --certify out"
            )


def _compile(options: RunOptions, formats: Formats, shard: Shard, clock: Clock, comm: MPI.Comm) -> None:
    """Compile the kernels of the run; collective."""
    with clock("jit"):
        zeros = needs_zeros_kernels(options.transport)
        compile_kernels(options.dtype, has_maps(shard.graph), comm, formats, zeros, options.threads)


def _open_input(job: Job, shard: Shard, comm: MPI.Comm) -> tuple[Samples | None, int]:
    """The input file, on the root, and the number of samples, on every rank; collective."""
    file = None
    with collectively(comm):
        if comm.rank == 0:
            file = open_samples(job.input)
            if not shard.graph.has_classes:
                file = replace(file, labels=None)
            check_input(file, shard.graph)
    return file, comm.bcast(file.samples if file is not None else None, root=0)


def _with_batches_of_at_most(samples: int, job: Job) -> Job:
    """``job`` with a batch size that is not larger than its input."""
    return replace(job, options=replace(job.options, batch_size=min(job.options.batch_size, samples)))


def _make_program(setup: _Setup, shards: list[Shard]) -> Program:
    """This rank's program; collective."""
    options = setup.job.options
    return Program(
        shards,
        setup.comm,
        options.batch_size,
        setup.formats,
        threads=options.threads,
        micro_batches=options.micro_batches,
    )


def _try_out(
    setup: _Setup, program: Program, source: Input, file: Samples | None
) -> tuple[_Trial, Network | None]:
    """Times of the first batch, and on the root the restructured network, if it takes that; collective.

    While the root times the network in one process the other ranks sleep.
    """
    exchange_us, parallel = _time_all_ranks(setup, program, source)
    options, network, single = setup.job.options, None, None
    with collectively(setup.comm):
        if file is not None and (options.verify or options.repeat or options.certify):
            network = read_network(setup.stored)
            if options.repeat:
                single = _time_alone(setup, network)
    return _Trial(exchange_us, parallel, single), network


def _time_all_ranks(setup: _Setup, program: Program, source: Input) -> tuple[dict[str, float], Timing | None]:
    """Times of the transports that were tried, and on the root the timing of all ranks; collective."""
    options, comm, first = setup.job.options, setup.comm, None
    if options.repeat or options.transport == AUTO:
        with collectively(comm):
            first = next(source.batches(options.batch_size))
    with alike(comm):
        exchange_us = choose_transport(program, options.transport, first, comm)
    if first is None or not options.repeat:
        return exchange_us, None
    program.forward(first)
    setup.clock.forward_ended()
    return exchange_us, measure(program, first, options.repeat, comm)


def _time_alone(setup: _Setup, network: Network) -> Timing:
    """The timing of one process that has all of the network."""
    options = setup.job.options
    program = one_process(network, options.dtype, options.batch_size, setup.formats, options.threads)
    source = Input(setup.job.input, program.input_columns, setup.samples, options.dtype)
    return measure_alone(program, next(source.batches(options.batch_size)), options.repeat)


def _checks(
    setup: _Setup, file: Samples | None, restructured: Network | None, original: Network | None
) -> Checks | None:
    """The checks of the outputs, on the root; collective.

    Args:
        setup: of the run.
        file: the input, on the root; None elsewhere.
        restructured: what the ranks run, where it was needed.
        original: before restructuring, where it is known.
    """
    options, formats = setup.job.options, setup.formats
    compute = computing(setup.shard.graph, setup.stored.plan, formats.comm_dtype)
    checks = None
    with collectively(setup.comm):
        if file is not None:
            certificate = _certificate(original, restructured) if options.certify else None
            compared = restructured if options.verify else None
            checks = Checks(file, options.batch_size, compared, original, certificate, compute)
    return checks


def _certificate(original: Network | None, restructured: Network | None) -> Certificate:
    """The certificate of a run with ``certify``; the root has read the restructured network for it.

    Raises:
        UserError: the original is not known, or has no classes.
    """
    if original is None or restructured is None:
        raise UserError("--certify: expected the original network, to compare with; name it, or leave it out")
    return Certificate(original, restructured)


def _resume_key(setup: _Setup) -> str:
    """A key of all that the outputs depend on; of the input, which may be large, only size and time."""
    about, options, stored = setup.job.input.stat(), setup.job.options, setup.stored
    parts = (
        *(__version__, stored.plan.identity(), *stored.shard_sha256),
        *(about.st_size, about.st_mtime_ns, options.batch_size, options.micro_batches, options.dtype.name),
        *setup.formats,
    )
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()


def _report(
    setup: _Setup, program: Program, checks: Checks | None, trial: _Trial, done: int, seconds: float
) -> dict | None:
    """The numbers of the report, on the root; collective.

    Args:
        setup, program, checks, trial: of the run.
        done: samples that an earlier run has left.
        seconds: that the others took.
    """
    job, options, comm = setup.job, setup.job.options, setup.comm
    demands = result.demands(setup.clock.first_result, comm)
    ranks = result.gather_ranks(program, setup.clock.seconds, comm)
    if ranks is None or checks is None:
        return None
    return {
        "ranks": comm.size,
        "workers": setup.stored.plan.workers,
        "samples": setup.samples,
        "batch_size": options.batch_size,
        "micro_batches": len(parts_of(options.batch_size, options.micro_batches)),
        "threads_per_rank": options.threads,
        **_formats(setup),
        "exchange": program.transport,
        **({"exchange_us": trial.exchange_us} if trial.exchange_us else {}),
        "input_placement": setup.stored.plan.input_placement,
        **result.traffic(setup.stored.plan, setup.shard, ranks),
        **result.without_zeros(ranks),
        **result.weights(setup.shard, ranks),
        **checks.results(),
        **result.latency(trial.parallel, trial.single),
        "throughput": (setup.samples - done) / seconds,
        **({"resumed_samples": done} if options.resume else {}),
        "seconds": result.slowest_seconds(ranks),
        **demands,
        "shards": str(job.shards),
        "output": None if job.output is None else str(job.output),
    }


def _formats(setup: _Setup) -> dict[str, str]:
    """The numbers in which the run computes, sends and keeps weights, for the report."""
    dtype, formats = setup.job.options.dtype.name, setup.formats
    stored = dtype if formats.weights_dtype == EXACT else formats.weights_dtype
    return {"dtype": dtype, "wire": formats.comm_dtype, "weights_dtype": stored}
