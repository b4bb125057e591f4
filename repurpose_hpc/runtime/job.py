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

import numpy as np
from mpi4py import MPI

from repurpose_hpc import __version__
from repurpose_hpc.fields import FieldError
from repurpose_hpc.io.atomic import temporary_name
from repurpose_hpc.io.samples import Samples, open_samples
from repurpose_hpc.model.comm_dtype import EXACT, INT8
from repurpose_hpc.model.forward import Compute, apply_heads
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
from repurpose_hpc.runtime.exchange.choose import AUTO, check_way, choose_way, may_leave_out_zeros
from repurpose_hpc.runtime.loading import compile_kernels, has_maps, load_shards
from repurpose_hpc.runtime.options import RunOptions
from repurpose_hpc.runtime.program import Program, one_process
from repurpose_hpc.runtime.schedule.threads import check_threads, use_threads
from repurpose_hpc.runtime.setting import Formats
from repurpose_hpc.runtime.streams import (
    Input,
    NoOutput,
    OutputFile,
    OutputGather,
    ResumableOutputFile,
)
from repurpose_hpc.runtime.timing import Timing, measure


@dataclass(frozen=True, kw_only=True)
class Job(RunOptions):
    """What to run: files and options.

    Unless ``repeat`` is 0 and neither ``verify`` nor ``certify`` is set, the root reads every shard.

    Attributes:
        shards: directory of a plan.
        input: file of samples.
        output: file to write, which ``resume`` needs; None: none.
    """

    shards: Path
    input: Path
    output: Path | None

    @property
    def formats(self) -> Formats:
        """Of weights and ghosts; once ``comm_dtype`` is known."""
        return Formats(self.weights_dtype, self.comm_dtype)


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
        stored, shards = load_shards(job.shards, job.dtype, comm)
    job = _settle(job, stored, comm)
    with clock("jit"):
        zeros = may_leave_out_zeros(job.transport)
        compile_kernels(job.dtype, has_maps(shards[0].graph), comm, job.formats, zeros, job.threads)
    file, samples = _open_input(job, shards[0], comm)
    job = replace(job, batch_size=min(job.batch_size, samples))
    program = Program(
        shards,
        comm,
        job.batch_size,
        job.formats,
        threads=job.threads,
        micro_batches=job.micro_batches,
    )
    with collectively(comm):
        source = Input(job.input, program.input_columns, samples, job.dtype)

    ways, timing = _try_out(job, program, source, comm, clock)
    whole, single = _on_root_alone(job, stored, file, comm)
    compute = computing(shards[0].graph, stored.plan, job.comm_dtype)
    checks = _checks(job, file, whole, original, compute, comm)
    stream = Stream(job, program, source, checks, shards[0], stored, comm, clock)
    seconds = stream.run(leftovers)

    demands = result.demands(clock.first_result, comm)
    ranks = result.gather_ranks(program, clock.seconds, comm)
    program.free()
    if ranks is None:
        return None
    return {
        "ranks": comm.size,
        "workers": stored.plan.workers,
        "samples": samples,
        "batch_size": job.batch_size,
        "micro_batches": len(parts_of(job.batch_size, job.micro_batches)),
        "threads_per_rank": job.threads,
        **_formats(job),
        "exchange": program.way,
        **({"exchange_us": ways} if ways else {}),
        "input_placement": stored.plan.input_placement,
        **result.traffic(stored.plan, shards[0], ranks),
        **result.without_zeros(ranks),
        **result.weights(shards[0], ranks),
        **checks.results(),
        **result.latency(timing, single),
        "throughput": (samples - stream.done) / seconds,
        **({"resumed_samples": stream.done} if job.resume else {}),
        "seconds": result.slowest_seconds(ranks),
        **demands,
        "shards": str(job.shards),
        "output": None if job.output is None else str(job.output),
    }


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

    Args:
        job, program, source, comm, clock: of the run.
        checks: on the root; None elsewhere.
        shard: of any worker.
        stored: the plan.

    ``done`` is the number of samples that an earlier run has left.
    """

    def __init__(
        self,
        job: Job,
        program: Program,
        source: Input,
        checks: Checks | None,
        shard: Shard,
        stored: StoredPlan,
        comm: MPI.Comm,
        clock: Clock,
    ) -> None:
        self.job, self.program, self.source, self.checks = job, program, source, checks
        self.shard, self.stored, self.comm, self.clock = shard, stored, comm, clock
        self.output, self.done = NoOutput(), 0

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
                    self.checks.verify(self.job.dtype, self.job.formats)
                with self.clock("output"):
                    self.output.commit()
        finally:
            self.output.discard()
        return perf_counter() - began - self.clock.seconds["check"]

    def _open_output(self, leftovers: list[Path]) -> None:
        path = self.job.output
        if path is None:
            return
        temporary = temporary_name(path, self.comm.bcast(os.getpid(), root=0))
        leftovers.append(temporary)
        shape = self.source.samples, self.shard.graph.outputs
        with collectively(self.comm):
            if self.checks is not None and self.job.resume:
                key = _resume_key(self.job, self.stored)
                self.output = ResumableOutputFile(path, *shape, self.job.dtype, key)
            elif self.checks is not None:
                self.output = OutputFile(path, temporary, *shape, self.job.dtype)

    def _catch_up(self) -> None:
        """On the root, check what an earlier run has left; on all ranks, ``done``."""
        with collectively(self.comm):
            for outputs in self.output.read(self.job.batch_size):
                with self.clock("check"):
                    self.checks.add(outputs)
        self.done = self.comm.bcast(self.output.written, root=0)

    def _stream(self) -> None:
        """Batch after batch; what the root does with one and the reading of the next are agreed on."""
        batch_size = self.job.batch_size
        gather = OutputGather(self.comm, self.program.output_columns, self.job.dtype, batch_size)
        batches = islice(self.source.batches(batch_size), self.done // batch_size, None)
        outputs = None
        for _ in range(self.done, self.source.samples, batch_size):
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
        if outputs is None:
            return
        outputs = apply_heads(self.shard.graph, outputs)
        with self.clock("output"):
            self.output.append(outputs)
        with self.clock("check"):
            self.checks.add(outputs)


def _settle(job: Job, stored: StoredPlan, comm: MPI.Comm) -> Job:
    """``job`` with its comm dtype, once it is known that it can run as it says; collective.

    Raises:
        SystemExit: on every rank, after a message: something cannot be done with this plan, or here.
    """
    with collectively(comm):
        job = replace(job, comm_dtype=_comm_dtype(job, stored))
        _check_certify(job)
    with alike(comm):
        check_way(job.transport, comm)
        check_threads(job.threads, comm)
    if job.threads > 1:
        use_threads(job.threads)
    return job


def _comm_dtype(job: Job, stored: StoredPlan) -> str:
    """The format in which ghosts travel.

    Raises:
        FieldError: the plan has no scales for it.
    """
    comm_dtype = job.comm_dtype or stored.plan.wire
    if comm_dtype == INT8 and not stored.plan.has_scales:
        raise FieldError(
            "comm_dtype",
            f"expected shards with a scale for every ghost for {INT8}, found none in {stored.directory}, "
            "made without calibration data; choose another one, or restructure with data",
        )
    return comm_dtype


def _formats(job: Job) -> dict[str, str]:
    """In what numbers are computed, sent and kept, for the report."""
    stored = job.dtype.name if job.weights_dtype == EXACT else job.weights_dtype
    return {"dtype": job.dtype.name, "comm_dtype": job.comm_dtype, "weights_dtype": stored}


def _check_certify(job: Job) -> None:
    """Refuse to certify what is rounded on the way.

    Raises:
        FieldError: a format is not EXACT.
    """
    for field, found in zip(("weights_dtype", "comm_dtype"), job.formats, strict=True):
        if job.certify and found != EXACT:
            raise FieldError(
                "certify",
                f"expected {field}={EXACT}, found {found}, whose rounding the bound does not cover; add "
                f"{field}={EXACT}, or leave certify=True out",
            )


def _open_input(job: Job, shard: Shard, comm: MPI.Comm) -> tuple[Samples | None, int]:
    """The input file, on the root, and the number of samples, on every rank."""
    file = None
    with collectively(comm):
        if comm.rank == 0:
            file = open_samples(job.input)
            if not shard.graph.has_classes:
                file = replace(file, labels=None)
            check_input(file, shard.graph)
    return file, comm.bcast(file.samples if file is not None else None, root=0)


def _try_out(
    job: Job, program: Program, source: Input, comm: MPI.Comm, clock: Clock
) -> tuple[dict[str, float], Timing | None]:
    """On the first batch: what ``choose_way`` measured, and the timing by all ranks, on the root."""
    first = None
    if job.repeat or job.transport == AUTO:
        with collectively(comm):
            first = next(source.batches(job.batch_size))
    with alike(comm):
        ways = choose_way(program, job.transport, first, comm)
    if not job.repeat:
        return ways, None
    program.forward(first)
    clock.forward_ended()
    return ways, measure(program, first, job.repeat, comm)


def _on_root_alone(
    job: Job, stored: StoredPlan, file: Samples | None, comm: MPI.Comm
) -> tuple[Network | None, Timing | None]:
    """On the root, the whole restructured network and the timing of one process; the other ranks sleep."""
    whole = single = None
    with collectively(comm):
        if comm.rank == 0 and (job.verify or job.repeat or job.certify):
            whole = read_network(stored)
            if job.repeat:
                single = _time_single(job, whole, file)
    return whole, single


def _checks(
    job: Job,
    file: Samples | None,
    whole: Network | None,
    original: Network | None,
    compute: Compute,
    comm: MPI.Comm,
) -> Checks | None:
    """What the root finds out about the outputs; on the root."""
    checks = None
    with collectively(comm):
        if file is not None:
            certificate = Certificate(original, whole) if job.certify else None
            checks = Checks(
                file, job.batch_size, whole if job.verify else None, original, certificate, compute
            )
    return checks


def _resume_key(job: Job, stored: StoredPlan) -> str:
    """Of all that the outputs depend on; of the input only size and time, as it may be too large to hash."""
    about = job.input.stat()
    parts = (
        *(__version__, stored.plan.identity(), *stored.shard_sha256),
        *(about.st_size, about.st_mtime_ns, job.batch_size, job.micro_batches, job.dtype.name, *job.formats),
    )
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()


def _time_single(job: Job, whole: Network, file: Samples) -> Timing:
    program = one_process(whole, job.dtype, job.batch_size, job.formats, job.threads)
    first = next(Input(job.input, program.input_columns, file.samples, job.dtype).batches(job.batch_size))
    return measure(program, first, job.repeat, MPI.COMM_SELF)
