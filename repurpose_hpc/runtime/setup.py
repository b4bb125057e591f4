"""Setup of a job: checks of its options, and the input.

All ranks agree on the refusal of an option.  The root opens the input and tells all the number of samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

from repurpose_hpc.fields import FieldError
from repurpose_hpc.io.samples import Samples, open_samples
from repurpose_hpc.model.comm_dtype import EXACT, SCALED
from repurpose_hpc.model.labels import understood
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.signals import Pieces, Signal
from repurpose_hpc.mpi.agreement import collectively, in_unison
from repurpose_hpc.mpi.groups import Groups
from repurpose_hpc.plan.files.origin import sweeps_of
from repurpose_hpc.plan.files.store import StoredPlan
from repurpose_hpc.plan.shard import Shard
from repurpose_hpc.process.system import age
from repurpose_hpc.runtime.exchange.choose import check_transport
from repurpose_hpc.runtime.options import RunOptions
from repurpose_hpc.runtime.resources import Formats
from repurpose_hpc.runtime.schedule.threads import check_threads, use_threads

if TYPE_CHECKING:
    from mpi4py import MPI

    from repurpose_hpc.runtime.recorder import Recorder


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


class Clock:
    """Seconds spent in named phases, added up in ``seconds``; ``with clock(phase): ...``.

    ``first_result`` is the age of the process at the end of its first forward; None: there was none yet.
    ``recorder`` records the phases, too, if there is one.
    """

    def __init__(self, *phases: str, recorder: Recorder | None = None) -> None:
        self.seconds = dict.fromkeys(phases, 0.0)
        self.first_result: float | None = None
        self.recorder = recorder

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        began = perf_counter()
        try:
            with self.recorder.span(phase) if self.recorder is not None else nullcontext():
                yield
        finally:
            self.seconds[phase] += perf_counter() - began

    def forward_ended(self) -> None:
        """To be called after every forward, or at least after the first."""
        if self.first_result is None:
            self.first_result = age()


class Setup(NamedTuple):
    """A job that can begin, with its plan, input and clock; the same on all ranks but for ``shard``.

    Attributes:
        job: with a batch size of at most ``samples``.
        formats: of weights and ghosts.
        stored: the plan.
        shard: of one of the hosted workers.
        samples: of the input.
        signal: of which they are the pieces; None: of none.
        comm: of the job.
        groups: of its ranks; each runs the plan on a share of the samples.
        clock: of this rank.
    """

    job: Job
    formats: Formats
    stored: StoredPlan
    shard: Shard
    samples: int
    signal: Signal | None
    comm: MPI.Comm
    groups: Groups
    clock: Clock


def settle(options: RunOptions, stored: StoredPlan, groups: Groups, comm: MPI.Comm) -> Formats:
    """The formats, once it is known that the job can run as it says; collective.

    Raises:
        SystemExit: on every rank, after a message: something cannot be done with this plan, or here.
    """
    formats = Formats(options.weights_dtype, options.comm_dtype or stored.plan.comm_dtype)
    with collectively(comm):
        _check_scales(formats, stored)
        _check_resume(options, stored)
        _check_signal(options)
        _check_sweeps(options, stored)
        if options.certify:
            _check_certify(options, formats)
    with in_unison(comm):
        check_transport(options.transport, groups)
        check_threads(options.threads, comm)
    if options.threads > 1:
        use_threads(options.threads)
    return formats


def _check_scales(formats: Formats, stored: StoredPlan) -> None:
    """Refuse a comm dtype for which the plan has no scales.

    Raises:
        FieldError: a scaled format, and it was made without data.
    """
    if formats.comm_dtype in SCALED and not stored.plan.has_scales:
        raise FieldError(
            "comm_dtype",
            f"expected shards with a scale for every ghost for {formats.comm_dtype}, found none in "
            f"{stored.directory}, made without calibration data; choose another one, or restructure with "
            "data",
        )


def _check_resume(options: RunOptions, stored: StoredPlan) -> None:
    """Refuse to verify outputs of an earlier run from which those of the network cannot be told.

    Raises:
        FieldError: both are asked for, and there is a back.
    """
    if options.resume and options.verify and stored.ends.back is not None:
        raise FieldError(
            "resume",
            "expected a run without verify, as a file has what the model makes of the network's outputs by "
            f"{', '.join(stored.ends.back.operators)}, not these; leave one of them out",
        )


def _check_signal(options: RunOptions) -> None:
    """Refuse to resume a signal: where pieces overlap, a file does not have all outputs of each.

    Raises:
        FieldError: both are asked for.
    """
    if options.signal and options.resume:
        raise FieldError("resume", "expected samples, got a signal, which is run in one go; leave it out")


def _check_sweeps(options: RunOptions, stored: StoredPlan) -> None:
    """Refuse to run sweeps as other sweeps, or with a bound for the exact order.

    Raises:
        FieldError: one of these is asked for.
    """
    sweeps = sweeps_of(stored)
    for field, value in (("exchange_late", options.exchange_late), ("certify", options.certify or None)):
        if sweeps is not None and value is not None:
            raise FieldError(
                field,
                f"expected shards for the exact order, found {stored.directory}, whose weights were adjusted "
                f"to {sweeps} sweeps with late exchanges, which is how they run; leave it out, or "
                "restructure without late",
            )


def _check_certify(options: RunOptions, formats: Formats) -> None:
    """Refuse to certify a run with rounded weights or ghosts, or with late ones.

    Raises:
        FieldError: a format is not EXACT, or exchanges are late.
    """
    if options.exchange_late is not None:
        raise FieldError(
            "certify",
            "expected a run in the exact order, which the bound is for, got one with late exchanges; leave "
            "one of them out",
        )
    for field, name in zip(formats._fields, formats, strict=True):
        if name != EXACT:
            raise FieldError(
                "certify",
                f"expected {field}={EXACT}, found {name}, whose rounding the bound does not cover; add "
                f"{field}={EXACT}, or leave certify=True out",
            )


def network_samples(job: Job, graph: Network, signal: Signal | None) -> Samples:
    """The input of a job as the network takes it; samples are as yet unread, a signal is read.

    Args:
        job, graph: of the run.
        signal: that the input is; None: it is samples.

    Raises:
        UserError: a file that the network cannot take.
    """
    file = open_samples(job.input)
    return graph.ends.feed(file, graph.input_shape) if signal is None else signal.pieces.samples(file)


class Opened(NamedTuple):
    """The input of a job.

    Attributes:
        file: the samples of the network, ``understood``, on the root; None elsewhere.
        samples: how many.
        signal: of which they are the pieces; None: of none.
    """

    file: Samples | None
    samples: int
    signal: Signal | None


def open_input(job: Job, shard: Shard, comm: MPI.Comm) -> Opened:
    """The input of the network; the root looks at the file, for all; collective."""
    file, signal, graph = None, None, shard.graph
    with collectively(comm):
        if comm.rank == 0:
            if job.options.signal:
                pieces = Pieces.of(graph)
                signal = Signal(pieces, pieces.length_in(open_samples(job.input)))
            file = understood(graph, network_samples(job, graph, signal))
    samples, signal = comm.bcast((file.samples if file is not None else None, signal), root=0)
    return Opened(file, samples, signal)
