"""The command ``generate``: a transformer continues texts, token by token.

Without a model it is the bundled one; without prompts that one begins a text of its own.  Every rank reads
the model and keeps the part of its workers; of shards it reads these alone.  The root reads the prompts,
chooses the tokens and prints the texts.  The keys of the report are those of
``report.schema.GenerateReport``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from repurpose_hpc import bundled
from repurpose_hpc.commands.parser import Given, Parser, make, refuse
from repurpose_hpc.commands.table import described
from repurpose_hpc.commands.transformer import Transformer, is_plan, open_transformer
from repurpose_hpc.errors import UsageError, UserError
from repurpose_hpc.fields import (
    Access,
    Declared,
    Kind,
    choice,
    count,
    integer,
    like,
    longest_text,
    number,
    option,
    path,
    precision,
    report_file,
    trace_file,
)
from repurpose_hpc.io.atomic import check_those_given
from repurpose_hpc.io.speech import says_json
from repurpose_hpc.io.token_ids import read_ids
from repurpose_hpc.model.comm_dtype import EXACT
from repurpose_hpc.model.importers.texts import Texts
from repurpose_hpc.model.texts import check_ids
from repurpose_hpc.mpi.agreement import collectively, in_unison
from repurpose_hpc.process.memory import give_back
from repurpose_hpc.report import text as report
from repurpose_hpc.report import trace
from repurpose_hpc.restructure.options import ROUND_COST
from repurpose_hpc.runtime.calls import PHASES
from repurpose_hpc.runtime.generation import Generated, Sampling, generate
from repurpose_hpc.runtime.options import RunOptions
from repurpose_hpc.runtime.recorder import Recorder
from repurpose_hpc.runtime.resources import KEPT_DTYPES
from repurpose_hpc.runtime.tokens import TokenSession

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpi4py import MPI

    from repurpose_hpc.commands.start import RankContext


def run(args: Arguments, context: RankContext) -> None:
    """Run the command; collective.

    Args:
        args: see ``parse``.
        context: of the start.

    Raises:
        SystemExit: on every rank, after one message.
    """
    comm, began = context.comm, perf_counter()
    with collectively(comm):
        if comm.rank == 0:
            check_those_given(args.report, args.trace)
        model = open_transformer(args.subject, check=comm.rank == 0, longest=args.longest)
        tokenizer = model.tokenizer() if args.prompt and comm.rank == 0 else None
        prompts = _prompts(args, tokenizer, model) if comm.rank == 0 else []
    prompts = comm.bcast(prompts, root=0)
    longest = max(prompt.size for prompt in prompts) + args.tokens - 1
    with collectively(comm):
        if longest > model.longest:
            raise UserError(
                f"expected {model.longest} tokens at most, as the model has positions, got a prompt of "
                f"{longest + 1 - args.tokens} and {args.tokens} new ones; shorten it, or ask for fewer"
            )
        ends, source = model.ending_tokens(), model.source(args.workers or comm.size, args.round_cost)
    with in_unison(comm):
        session = TokenSession(
            source,
            comm,
            slots=len(prompts),
            longest=longest,
            dtype=np.dtype(args.dtype).type,
            weights_dtype=args.weights_dtype,
            kept_dtype=args.kept_dtype,
        )
        del model, source  # a rank keeps its part, not the whole model
        give_back()
        session.warm_up(max(prompts, key=len)[:2])
    load_seconds = perf_counter() - began
    writer = _Writer(tokenizer, len(prompts)) if comm.rank == 0 and not says_json() else None
    sampling = Sampling(args.temperature, args.top_k, args.top_p, args.seed)
    told = writer.add if writer is not None else lambda sequence, token: None
    recorder = None if args.trace is None else Recorder(comm)
    with in_unison(comm):
        if recorder is not None:
            recorder.begin(session.program)
        found = generate(session, prompts, args.tokens, sampling, ends, comm, told)
    if recorder is not None:
        recorder.end(session.program)
    result = _result(found, session, comm, load_seconds)
    session.close()
    with collectively(comm):
        if writer is not None:
            writer.finish()
        if comm.rank == 0:
            trace.deliver(recorder, args.trace)
            report.deliver(result, render(result), args.report)


def _prompts(args: Arguments, tokenizer: Texts | None, model: Transformer) -> list[np.ndarray]:
    """The prompts as ids.

    Raises:
        UserError: a file cannot be read, or ids are outside the vocabulary; a text has no tokens.
    """
    if tokenizer is not None:
        prompts = [tokenizer.ids(text) for text in args.prompt]
    else:
        assert args.ids is not None
        prompts = read_ids(args.ids)
    for place, prompt in enumerate(prompts):
        if not prompt.size:
            raise UserError("expected prompts of one token or more, got an empty one; give it a word")
        check_ids(prompt, model.vocabulary, model.padding, f" of prompt {place}")
    return prompts


class _Writer:
    """Prints texts: a single one as it comes, several at the end.

    Args:
        tokenizer: None: ids are printed.
        prompts: how many.
    """

    def __init__(self, tokenizer: Texts | None, prompts: int) -> None:
        self._tokenizer = tokenizer
        self._ids: list[list[int]] = [[] for _ in range(prompts)]
        # Tokens of a single text that are printed, and those of them that were printed last.
        self._printed = self._before = 0

    def add(self, sequence: int, token: int) -> None:
        """A further token of a sequence."""
        self._ids[sequence].append(token)
        if len(self._ids) == 1:
            self._print()

    def finish(self) -> None:
        """The end of all."""
        if len(self._ids) > 1:
            for number, ids in enumerate(self._ids):
                print(f"[{number}] {self._text(ids)}")
        else:
            self._print(is_last=True)
            print()
        sys.stdout.flush()

    def _text(self, ids: list[int]) -> str:
        return " ".join(map(str, ids)) if self._tokenizer is None else self._tokenizer.text(ids)

    def _print(self, is_last: bool = False) -> None:
        """What is new in a text; a character of which only a part has come waits for the rest.

        How a token is written depends on the one before it, but not on the whole text.
        """
        ids = self._ids[0][self._before :]
        old, text = self._text(ids[: self._printed - self._before]), self._text(ids)
        if is_last or not text.endswith("\N{REPLACEMENT CHARACTER}"):
            print(text[len(old) :], end="", flush=True)
            self._before, self._printed = self._printed, len(self._ids[0])


def _result(found: Generated, session: TokenSession, comm: MPI.Comm, load_seconds: float) -> dict[str, Any]:
    """The report, on every rank; collective."""
    kept = comm.allgather(session.kept_bytes)
    values, bytes_sent = session.sent()
    slowest = np.max(comm.allgather([found.phases[phase] for phase in PHASES]), axis=0)
    tokens = sum(map(len, found.ids))
    steps = max(found.steps, 1)
    after_first = tokens - len(found.ids)
    return {
        "ranks": comm.size,
        "workers": session.workers,
        "prompts": len(found.ids),
        "prompt_tokens": found.prompt_tokens,
        "tokens": tokens,
        "interrupted": found.is_interrupted,
        "load_seconds": load_seconds,
        "prompt_seconds": found.prompt_seconds,
        "step_seconds": found.step_seconds,
        "tokens_per_second": after_first / found.step_seconds if after_first > 0 else 0.0,
        "step_us": {
            phase: float(seconds) / steps * 1e6 for phase, seconds in zip(PHASES, slowest, strict=True)
        },
        "values_sent": values,
        "bytes_sent": bytes_sent,
        "rounds": session.program.rounds,
        "kept_bytes": kept,
        "ids": found.ids,
    }


def render(result: dict[str, Any]) -> str:
    """The report for people, several lines."""
    phases = ", ".join(f"{phase} {time:.0f}" for phase, time in result["step_us"].items())
    lines = {
        "prompts": f"{result['prompts']} of {count(result['prompt_tokens'], 'token')} in all, read in "
        f"{result['prompt_seconds']:.3g} s",
        "text": f"{count(result['tokens'], 'token')}{' until it was interrupted' * result['interrupted']}, "
        f"{result['tokens_per_second']:.4g} tokens/s",
        "a step": f"{phases} µs",
        "sent": f"{result['values_sent']:,} values ({report.size(result['bytes_sent'])}) for a token, in "
        f"{count(result['rounds'], 'round')}",
        "kept": f"{max(result['kept_bytes']) / 2**20:.3g} MiB for what is kept of texts on a rank",
    }
    return report.aligned(lines.items())


_PROMPTS = Kind(
    noun="texts",
    parse=lambda word: (word,),
    accepts=lambda value: isinstance(value, tuple) and all(isinstance(each, str) for each in value),
    example=("Once upon a time",),
)


@dataclass(frozen=True, kw_only=True)
class Arguments(Declared):
    """A transformer, prompts, and how they are continued."""

    subject: Path = option(
        kind=path("MODEL_DIR"),
        positional=True,
        metavar="SHARDS|MODEL",
        help="causal transformer: a directory with config.json and .safetensors files, a .gguf or an .onnx "
        "file, or its shards as restructure wrote them",
    )
    prompt: tuple[str, ...] = option(
        (),
        kind=_PROMPTS,
        metavar="TEXT",
        repeated=True,
        excludes="prompts",
        help="text to continue, by the tokenizer of the model; once for each text",
    )
    ids: Path | None = option(
        None,
        kind=path("ids.npy", Access.READS),
        metavar="FILE",
        excludes="prompts",
        help="prompts as token ids, (prompts, tokens) integers",
    )
    longest: int | None = longest_text()
    tokens: int = option(64, kind=integer(1), metavar="N", help="new tokens of each text, at most")
    temperature: float = option(
        0.0,
        kind=number(least=0, example=0.8),
        metavar="T",
        help="draw tokens with logits divided by this; 0: always take the most probable one",
    )
    top_k: int = option(
        0, kind=integer(0), metavar="K", help="draw from the K most probable tokens; 0: from all"
    )
    top_p: float = option(
        1.0,
        kind=number(above=0, most=1, example=0.9),
        metavar="P",
        help="draw from the most probable tokens that have this probability together",
    )
    seed: int = option(0, kind=integer(0), help="of what is drawn")
    workers: int | None = option(
        None,
        kind=integer(1),
        metavar="P",
        default_text="as many as ranks",
        help="parts into which the transformer is split",
    )
    round_cost: float = option(
        ROUND_COST,
        kind=number(least=0, example=0.0),
        metavar="VALUES",
        help="price of a round of exchanges, in values of a token: decides whether neurons of the residual "
        "stream have owners, which sends less, or are everybody's, which takes fewer rounds",
    )
    dtype: str = precision()
    weights_dtype: str = like(RunOptions, "weights_dtype")
    kept_dtype: str = option(
        EXACT,
        kind=choice(*KEPT_DTYPES),
        help="how keys and values of earlier tokens are kept; float32: as they are; int8 with a scale for "
        "each token and head",
    )
    report: Path | None = report_file()
    trace: Path | None = trace_file()


FILLED_IN = {"subject": "the bundled one", "prompt": f"for the bundled MODEL: {bundled.PROMPT!r}"}


def make_parser(speaks: bool) -> Parser:
    """The parser."""
    parser = Parser(speaks=speaks, **described("generate"))
    parser.add(Arguments, filled_in=FILLED_IN)
    return parser


def parse(argv: Sequence[str], ranks: int = 1, speaks: bool = True) -> Arguments:
    """The command line.

    Raises:
        UsageError: it is wrong.
    """
    given: Given = make_parser(speaks).read(argv)
    if "subject" not in given:
        prompt = {} if "ids" in given else {"prompt": (bundled.PROMPT,)}
        given = {"subject": bundled.LANGUAGE, **prompt, **given}
    if "prompt" not in given and "ids" not in given:
        raise UsageError("expected --prompt TEXT or --ids FILE, what MODEL is to continue; add one")
    if is_plan(given["subject"]):
        refuse(given, ("workers", "round_cost"), f"has no effect: {given['subject']} is restructured")
    if given.get("workers") is not None and given["workers"] < ranks:
        raise UsageError(
            f"--workers: expected {ranks} or more, one for each rank, got {given['workers']}; start "
            "fewer ranks"
        )
    return make(Arguments, given)
