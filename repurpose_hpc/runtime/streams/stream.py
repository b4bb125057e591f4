"""All batches of a run, from the input file through the program to the output file.

Ranks agree on every turn of blocks of batches before these go through the programs of the groups, and send
the outputs to the root, which writes and checks them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import numpy as np

from repurpose_hpc import __version__
from repurpose_hpc.io.atomic import followed, registered, temporary_name
from repurpose_hpc.io.blocks import Stretch
from repurpose_hpc.io.hdf5 import source_files
from repurpose_hpc.io.identity import identity
from repurpose_hpc.io.progress import Countdown, Progress
from repurpose_hpc.model.forward import apply_heads
from repurpose_hpc.model.signals import Signal
from repurpose_hpc.mpi.agreement import collectively
from repurpose_hpc.plan.stages import stages_of
from repurpose_hpc.runtime.checks import Checks
from repurpose_hpc.runtime.program import Program
from repurpose_hpc.runtime.setup import Setup
from repurpose_hpc.runtime.streams.blocks import shares, turn_size, turns
from repurpose_hpc.runtime.streams.inputs import Input
from repurpose_hpc.runtime.streams.joined import SignalOutput
from repurpose_hpc.runtime.streams.outputs import (
    FiniteOutputs,
    NoOutput,
    Output,
    OutputFile,
    OutputGather,
    ResumableOutputFile,
)


class Stream:
    """All batches through the program, from the input file to the output file.

    Args:
        setup: of the run.
        program, source: of this rank.
        checks: on the root; None elsewhere.

    ``resumed`` is the number of samples that an earlier run has left.
    """

    def __init__(self, setup: Setup, program: Program, source: Input, checks: Checks | None) -> None:
        self.setup, self.program, self.source, self.checks = setup, program, source, checks
        self.job, self.comm, self.clock = setup.job, setup.comm, setup.clock
        self.output: Output = NoOutput()
        self._finite = FiniteOutputs()
        self.resumed = self._taken = 0

    def run(self) -> float:
        """Stream everything; collective.

        Returns:
            the seconds that it took, those of the checks not counted.
        """
        path = self.job.output
        if path is None:
            return self._run()
        path = followed(path)
        temporary = self.comm.bcast(temporary_name(path), root=0)
        with registered(temporary):
            self._open_output(path, temporary)
            return self._run()

    def _run(self) -> float:
        began = perf_counter()
        try:
            self._catch_up()
            self._stream()
            with collectively(self.comm):
                self.source.check_unchanged()
                self._finite.warn(self.job.options.dtype)
                if self.checks is not None:
                    self.checks.verify()
                with self.clock("output"):
                    self.output.commit()
        finally:
            self.output.discard()
        return perf_counter() - began - self.clock.seconds["check"]

    def _open_output(self, path: Path, temporary: Path) -> None:
        options, graph = self.job.options, self.setup.shard.graph
        outputs, dtype = graph.packed(options.dtype)
        shape = self.setup.samples, outputs
        with collectively(self.comm):
            if self.checks is not None and self.setup.signal is not None:
                self.output = _signal_output(self.setup.signal, path, temporary, dtype)
            elif self.checks is not None and options.resume:
                self.output = ResumableOutputFile(path, *shape, dtype, _resume_key(self.setup))
            elif self.checks is not None:
                self.output = OutputFile(path, temporary, *shape, dtype)

    def _catch_up(self) -> None:
        """On the root, check what an earlier run has left; on all ranks, set ``resumed``."""
        with collectively(self.comm):
            if self.checks is not None:
                for packed in self.output.read(self.job.options.batch_size):
                    with self.clock("check"):
                        self._check(packed)
        self.resumed = self.comm.bcast(self.output.written, root=0)

    def _stream(self) -> None:
        """Turn after turn; what the root does with one and the reading of the next are agreed on.

        In a turn every group computes a block, or nothing; the root gets the outputs of all.
        """
        options, groups = self.job.options, self.setup.groups
        stages = stages_of(self.setup.shard.graph, self.setup.stored.plan)
        size = turn_size(self.setup, self.program, len(stages))
        gather = OutputGather(self.comm, self.program.output_columns, options.dtype, size, groups.count)

        def parts() -> Iterator[list[Stretch]]:
            for turn in turns(self.setup.samples, size, self.resumed):
                yield shares(turn, groups.count, options.batch_size)

        self._taken = self.resumed
        countdown = Countdown(Progress(self.checks is not None), "samples", self.setup.samples, self.resumed)
        blocks = self.source.blocks(part[groups.number] for part in parts())
        outputs = None
        for part in parts():
            with collectively(self.comm):
                self._take(outputs)
                countdown(self._taken)
                with self.clock("input"):
                    inputs = next(blocks)
            rows = self._compute(inputs)
            with self.clock("output"):
                outputs = gather(rows, [block.size for block in part])
        with collectively(self.comm):
            self._take(outputs)
            countdown(self._taken)

    def _compute(self, inputs: np.ndarray) -> np.ndarray:
        """This rank's rows of the outputs of a block, (columns, samples), batch by batch."""
        batch_size, columns = self.job.options.batch_size, self.program.output_columns.size
        rows = np.empty((columns, len(inputs)), self.job.options.dtype)
        for first in range(0, len(inputs), batch_size):
            batch = inputs[first : first + batch_size]
            goes_on = first + 2 * batch_size <= len(inputs)
            rows[:, first : first + len(batch)] = self.program.forward(batch.T, goes_on=goes_on)
            self.clock.forward_ended()
        return rows

    def _take(self, outputs: np.ndarray | None) -> None:
        """On the root, write and check a block."""
        if outputs is None or self.checks is None:
            return
        graph = self.setup.shard.graph
        self._taken += len(outputs)
        with self.clock("output"):
            outputs = apply_heads(graph, outputs)
            packed = graph.ends.packed(outputs)
            self.output.append(packed)
        with self.clock("check"):
            self._check(packed, outputs)

    def _check(self, packed: np.ndarray, outputs: np.ndarray | None = None) -> None:
        """Check outputs of the model, and those of the network where they are others, batch by batch."""
        assert self.checks is not None
        self._finite.add(packed)
        batch_size = self.job.options.batch_size
        for first in range(0, len(packed), batch_size):
            batch = slice(first, first + batch_size)
            self.checks.add(packed[batch], None if outputs is None else outputs[batch])


def _signal_output(signal: Signal, path: Path, temporary: Path, dtype: np.dtype) -> Output:
    """The file of a signal, whose pieces are the samples; for the other arguments see ``OutputFile``."""
    shape = signal.pieces.count(signal.length), signal.pieces.neurons
    return SignalOutput(OutputFile(path, temporary, *shape, dtype), signal)


def _resume_key(setup: Setup) -> str:
    """A key of all that the outputs depend on; of the input, which may be large, some parts."""
    options, stored = setup.job.options, setup.stored
    parts = (
        *(__version__, stored.plan.identity(), *stored.shard_sha256, *stored.ends.fingerprints()),
        *(options.batch_size, options.micro_batches, options.dtype.name, options.deterministic),
        *(identity(file) for file in (setup.job.input, *source_files(setup.job.input))),
        *setup.formats,
    )
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()
