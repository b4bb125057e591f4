"""The command ``infer`` with a transformer: texts of any lengths, nothing pruned.

Every rank reads the model and keeps the part of its workers; of shards it reads these alone.  The root reads
the texts and sends them to all, and writes what comes of them.  The keys of the report are those of
``report.schema.TextsReport``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from repurpose_hpc.commands.parser import Given, make, refuse
from repurpose_hpc.commands.transformer import Reference, Transformer, open_transformer, read_texts
from repurpose_hpc.errors import UsageError
from repurpose_hpc.fields import (
    Access,
    Declared,
    choice,
    count,
    integer,
    longest_text,
    number,
    option,
    path,
    report_file,
    trace_file,
)
from repurpose_hpc.io.atomic import check_those_given, check_writable, followed, registered, temporary_name
from repurpose_hpc.io.progress import Countdown, Progress
from repurpose_hpc.model.texts import Pooling, check_texts
from repurpose_hpc.mpi.agreement import collectively, in_unison
from repurpose_hpc.process.memory import give_back
from repurpose_hpc.report import text as report
from repurpose_hpc.report import trace
from repurpose_hpc.runtime.encoding import TextVerification, encode, normalised, slots_for
from repurpose_hpc.runtime.options import RunOptions
from repurpose_hpc.runtime.pooling import Pool
from repurpose_hpc.runtime.recorder import Recorder
from repurpose_hpc.runtime.resources import Formats
from repurpose_hpc.runtime.streams.outputs import FiniteOutputs, NoOutput, Output, OutputFile
from repurpose_hpc.runtime.tokens import TokenSession

if TYPE_CHECKING:
    from mpi4py import MPI

    from repurpose_hpc.commands.start import RankContext

# Of the options of a run those that count here, and those that count for a model.
_TAKEN = {"batch_size", "verify", "dtype", "transport"}
_OF_MODEL = ("workers", "round_cost")


@dataclass(frozen=True, kw_only=True)
class TextArguments(Declared):
    """Command line with a transformer or its shards, and texts of any lengths."""

    model: Path | None = option(None, kind=path("MODEL_DIR"), positional=True, help="a transformer")
    shards: Path | None = option(None, kind=path("shards"), metavar="DIR", help="its shards")
    input: Path = option(kind=path("texts.txt"), metavar="DATA", help="texts")
    output: Path | None = option(None, kind=path("out.h5", Access.WRITES), metavar="OUT.h5", help="outputs")
    report: Path | None = report_file()
    trace: Path | None = trace_file()
    workers: int = option(kind=integer(1), metavar="P", help="parts of the transformer")
    round_cost: float | None = option(None, kind=number(least=0), help="price of a round")
    longest: int | None = longest_text()
    pool: str | None = option(
        None,
        kind=choice(*(pool.value for pool in Pool)),
        default_text="as its modules.json says",
        help="of a transformer's directory: a vector for each text, from the outputs of its tokens",
        more="with the directory of a transformer as MODEL, and no calibration: what is made of the outputs "
        "of a text's tokens ([texts](docs/transformers.md#texts-through-an-encoder))",
    )
    run: RunOptions


def text_arguments(given: Given, ranks: int, settled: Sequence[str]) -> TextArguments:
    """The command line.

    Args:
        given: the values on it.
        ranks: of the job.
        settled: options that have no effect here.

    Raises:
        UsageError: it is wrong.
    """
    is_model = "shards" not in given
    if not is_model and "model" in given:
        raise UsageError("MODEL has no effect: --shards are those of a transformer for texts; leave it out")
    taken = _TAKEN.union(_OF_MODEL if is_model else ())
    refuse(
        given,
        [name for name in settled if name not in taken],
        "has no effect on a transformer that runs as it is; --calibration and --input-shape restructure it"
        if is_model
        else "has no effect: --shards are those of a transformer for texts",
    )
    given = {"workers": ranks, **given}
    if given["workers"] < ranks:
        raise UsageError(
            f"--workers: expected {ranks} or more, one for each rank, got {given['workers']}; start fewer "
            "ranks"
        )
    return make(TextArguments, given, run=make(RunOptions, given))


def run(args: TextArguments, context: RankContext) -> None:
    """Run the command; collective.

    Args:
        args: see ``text_arguments``.
        context: of the start.

    Raises:
        SystemExit: on every rank, after one message.
    """
    comm, began = context.comm, perf_counter()
    texts: list[np.ndarray] = []
    with collectively(comm):
        if comm.rank == 0:
            _check_results(args)
        path = args.model if args.shards is None else args.shards
        assert path is not None
        model = open_transformer(path, check=comm.rank == 0, longest=args.longest)
        pooling = model.pooling() if args.pool is None else Pooling(args.pool, False)
        if comm.rank == 0:
            texts = read_texts(args.input, model)
            check_texts(texts, model.longest, model.vocabulary, model.padding)
    texts = comm.bcast(texts, root=0)
    recorder = None if args.trace is None else Recorder(comm)
    with in_unison(comm):
        session = _session(args, model, texts, comm)
        session.warm_up(texts[0])
    load_seconds = perf_counter() - began
    reference: Reference | None = None
    with collectively(comm):
        if args.run.verify and comm.rank == 0:
            reference = model.reference()
    del model  # a rank keeps its part, not the whole model
    give_back()
    if recorder is not None:
        recorder.begin(session.program)
    quality = _Encoding(args, reference, session, texts, pooling).run(comm)
    if recorder is not None:
        recorder.end(session.program)
    result = {**_result(session, texts, comm), "pool": pooling.pool, "load_seconds": load_seconds, **quality}
    session.close()
    with collectively(comm):
        if comm.rank == 0:
            trace.deliver(recorder, args.trace)
            report.deliver(result, render(result), args.report)


def _check_results(args: TextArguments) -> None:
    if args.output is not None:
        check_writable(args.output, text=False)
    check_those_given(args.report, args.trace)


def _session(
    args: TextArguments, model: Transformer, texts: Sequence[np.ndarray], comm: MPI.Comm
) -> TokenSession:
    return TokenSession(
        model.source(args.workers, args.round_cost),
        comm,
        slots=slots_for(texts, args.run.batch_size),
        longest=max(text.size for text in texts),
        chunk=args.run.batch_size,
        dtype=args.run.dtype.type,
        transport=args.run.transport,
    )


class _Encoding:
    """Runs all texts; the root writes what comes of them, and verifies it."""

    def __init__(
        self,
        args: TextArguments,
        reference: Reference | None,
        session: TokenSession,
        texts: Sequence[np.ndarray],
        pooling: Pooling,
    ) -> None:
        self._args, self._session, self._texts, self._pooling = args, session, texts, pooling
        self._pool, self._finite = Pool(pooling.pool), FiniteOutputs()
        self._verification = None
        if reference is not None:
            formats = Formats(comm_dtype=reference.comm_dtype)
            of_run = reference.network, args.run.dtype, formats, reference.compute
            self._verification = TextVerification(*of_run, self._pool, pooling.is_normalised)
        self._done, self._verifying = 0, 0.0

    def run(self, comm: MPI.Comm) -> dict[str, Any]:
        """Run; collective.  Seconds, and the difference from the reference, on the root."""
        began = perf_counter()
        path = self._args.output
        if path is None:
            self._run(NoOutput(), comm)
        else:
            path = followed(path)
            temporary = comm.bcast(temporary_name(path), root=0)
            with registered(temporary):
                self._run(self._opened(path, temporary, comm), comm)
        seconds = perf_counter() - began - self._verifying
        return {"seconds": seconds, **(self._verification.results() if self._verification else {})}

    def _opened(self, path: Path, temporary: Path, comm: MPI.Comm) -> Output:
        output: Output = NoOutput()
        with collectively(comm):
            if comm.rank == 0:
                texts = self._texts
                rows = sum(text.size for text in texts) if self._pool is Pool.NONE else len(texts)
                output = OutputFile(path, temporary, rows, self._session.graph.outputs, self._args.run.dtype)
        return output

    def _run(self, output: Output, comm: MPI.Comm) -> None:
        try:
            batch_size = self._args.run.batch_size
            countdown = Countdown(Progress(comm.rank == 0), "texts", len(self._texts))
            for group in encode(self._session, self._texts, batch_size, self._pool):
                with collectively(comm):
                    for rows in group or ():
                        self._take(rows, output)
                    countdown(self._done)
            with collectively(comm):
                if comm.rank == 0:
                    self._finite.warn(self._args.run.dtype)
                if self._verification is not None:
                    self._verification.check()
                output.commit()
        finally:
            output.discard()

    def _take(self, rows: np.ndarray, output: Output) -> None:
        """The outputs of the next text."""
        rows = normalised(rows) if self._pooling.is_normalised else rows
        output.append(rows)
        self._finite.add(rows)
        if self._verification is not None:
            began = perf_counter()
            with np.errstate(over="ignore", invalid="ignore"):  # said at the end
                self._verification.add(rows, self._texts[self._done])
            self._verifying += perf_counter() - began
        self._done += 1


def _result(session: TokenSession, texts: Sequence[np.ndarray], comm: MPI.Comm) -> dict[str, Any]:
    """What the report has of the job, on every rank; collective."""
    values, bytes_sent = session.sent()
    return {
        "ranks": comm.size,
        "workers": session.workers,
        "texts": len(texts),
        "lengths": [text.size for text in texts],
        "outputs": session.graph.outputs,
        "values_sent": values,
        "bytes_sent": bytes_sent,
        "rounds": session.program.rounds,
    }


def render(result: dict[str, Any]) -> str:
    """The report for people, several lines."""
    tokens, seconds = sum(result["lengths"]), result["seconds"]
    what = {"none": "for every token", "mean": "the mean of its tokens"}
    lines = {
        "texts": f"{result['texts']:,} of {count(tokens, 'token')} in all, {min(result['lengths'])} to "
        f"{max(result['lengths'])} each",
        "outputs": f"{result['outputs']} {what.get(result['pool'], 'of its ' + result['pool'] + ' token')}",
        "time": f"{seconds:.3g} s, {result['texts'] / seconds:.4g} texts/s, {tokens / seconds:.4g} tokens/s",
        "sent": f"{result['values_sent']:,} values ({report.size(result['bytes_sent'])}) for a token, in "
        f"{count(result['rounds'], 'round')}",
    }
    if "relative_difference" in result:
        lines["verified"] = f"within {result['relative_difference']:.2g} of the float64 reference"
    return report.aligned(lines.items())
