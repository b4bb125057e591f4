"""The command ``restructure`` with a transformer and texts to calibrate it, for texts of any lengths.

One process does all.  The keys of the report are those of ``report.schema.RestructuredTextsReport``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from repurpose_hpc.commands.automatic import MachineSource, known_machine
from repurpose_hpc.commands.parser import Given, make, refuse, without_words
from repurpose_hpc.commands.splitting import (
    TokenShards,
    aligned,
    on_root,
    origin,
    shards_lines,
    shards_report,
)
from repurpose_hpc.commands.start import Context
from repurpose_hpc.errors import Note, UsageError, UserError
from repurpose_hpc.fields import count, declarations, like, option, path, typed
from repurpose_hpc.restructure.tokens.options import TokenOptions

if TYPE_CHECKING:
    from repurpose_hpc.forecast.machine import MachineModel
    from repurpose_hpc.model.network import Network
    from repurpose_hpc.restructure.tokens.promise import TokenOutcome


@dataclass(frozen=True, kw_only=True)
class TokenArguments(TokenShards):
    """Command line with a transformer and texts."""

    calibration: Path = option(
        kind=path("texts.npz"), metavar="DATA", help="texts like those that it will read"
    )
    machine: str | None = like(MachineSource, "machine", None)
    options: TokenOptions


def token_arguments(given: Given, ranks: int | None, settled: Sequence[str]) -> TokenArguments:
    """The command line.

    Args:
        given: the values on it.
        ranks: of the job; None: there is no launcher.
        settled: options of restructuring, of which some may have no effect here.

    Raises:
        UsageError: it is wrong.
    """
    taken = {*declarations(TokenOptions), "machine"}
    refuse(
        given,
        [name for name in settled if name not in taken],
        "has no effect on a transformer that is restructured with texts; --input-shape restructures it for "
        "samples of one length",
    )
    options = make(TokenOptions, without_words(given, ranks, forecasts=True))
    try:  # now, not at the end of a long run
        known_machine(given.get("machine"), options.workers)
    except UserError as error:
        raise UsageError(typed(error)) from None
    return make(TokenArguments, given, options=options)


def run(args: TokenArguments, context: Context) -> None:
    """Run the command; collective under a launcher, where the root does all.

    Args:
        args: see ``token_arguments``.
        context: of the start.

    Raises:
        UserError: in one process: model or texts cannot be read or do not fit, a promise cannot be kept, or
            a result cannot be written.
        SystemExit: on every rank, after one message.
    """
    on_root(lambda: _run(args), context)


def _run(args: TokenArguments) -> None:
    import numpy as np

    from repurpose_hpc.commands.transformer import open_transformer, read_calibration
    from repurpose_hpc.io.progress import Progress
    from repurpose_hpc.model.importers.texts import rules_of
    from repurpose_hpc.plan.files.store import write_plan
    from repurpose_hpc.report import text as report
    from repurpose_hpc.restructure.tokens.job import restructure_texts

    began = perf_counter()
    args.check_places()
    machine = known_machine(args.machine, args.options.workers)
    model = open_transformer(args.model, check=True, longest=args.longest)
    network = model.reference().network
    texts = read_calibration(args.calibration, model, network)
    rules = rules_of(args.model, model.vocabulary)
    dtype = np.dtype(args.dtype).type
    outcome = restructure_texts(network, texts, args.options, dtype, Progress(), rules.pooling)
    counts = {"texts": len(texts), "tokens": sum(text.size for text in texts)}
    provenance = {**_provenance(network, texts, outcome, args.dtype), **counts}
    write_plan(args.out, outcome.cut.network, outcome.cut.plan, provenance, dtype, rules)
    result = {
        **shards_report(network, outcome.cut, outcome.options, args.out, rules),
        **counts,
        **findings(network, outcome),
        **_forecast(network, texts, outcome, machine),
        "seconds": perf_counter() - began,
        "shards": str(args.out),
    }
    report.deliver(result, render(result), args.report)


def _provenance(network: Network, texts: Sequence, outcome: TokenOutcome, dtype: str) -> dict[str, Any]:
    from repurpose_hpc.restructure.tokens.job import texts_sha256

    return {
        **origin(network, asdict(outcome.options), dtype),
        "calibration_sha256": texts_sha256(texts),
        "findings": findings(network, outcome),
        "held_out": outcome.record,
    }


def findings(network: Network, outcome: TokenOutcome) -> dict[str, Any]:
    """What was sent of the dense values, and what became of texts, under the names of the report."""
    import numpy as np

    from repurpose_hpc.restructure.tokens.budget import dense_values, load_of

    plan, quality = outcome.cut.plan, outcome.quality
    dense, sent = dense_values(network, plan.workers), int(outcome.cut.traffic_matrix().sum())
    measured = asdict(quality)
    weights = np.array(outcome.options.part_weights or (1.0,) * plan.workers)
    names = ("reference_perplexity", "perplexity", "reference_accuracy", "accuracy")
    return {
        "dense_values": dense,
        "comm_fraction": sent / dense if dense else 0.0,
        "comm_budget": outcome.options.comm_budget,
        "comm_dtype": plan.comm_dtype,
        "load": load_of(network, outcome.cut, weights),
        "held_out_texts": quality.texts if outcome.record else 0,
        "measured_tokens": quality.tokens,
        "output_error": quality.output_error,
        **{name: measured[name] for name in names if measured[name] is not None},
        **({"trials": outcome.trials} if outcome.trials else {}),
    }


def _forecast(
    network: Network, texts: Sequence, outcome: TokenOutcome, machine: MachineModel | None
) -> dict[str, Any]:
    """Modelled times of a token, or a text, under the names of the report; a note if the original is faster.

    Of a decoder it is the last token of a text as long as the calibration texts are on average, of others
    such a text.
    """
    from repurpose_hpc.commands.forecasting import dense_cut
    from repurpose_hpc.forecast.tokens import Piece, piece_seconds
    from repurpose_hpc.model.texts import is_decoder

    if machine is None:
        return {}
    length = round(sum(text.size for text in texts) / len(texts))
    piece = Piece(1, length - 1) if is_decoder(network) else Piece(length, 0)
    workers = outcome.options.workers
    restructured, dense, single = (
        1e6 * piece_seconds(cut.network, cut.plan, machine, piece)
        for cut in (outcome.cut, dense_cut(network, workers), dense_cut(network, 1))
    )
    others = {"in one process": single, "split as it is": dense}
    faster = [f"{us:,.0f} µs {how}" for how, us in others.items() if workers > 1 and us < restructured]
    if faster:
        warnings.warn(
            f"by the forecast for {machine.name} the original is faster, {' and '.join(faster)} instead of "
            f"{restructured:,.0f} µs for {_words(*piece)}; take it as it is, or restructure for fewer "
            "rounds, with --round-cost",
            Note,
            stacklevel=2,
        )
    return {
        "machine": machine.name,
        "piece_tokens": piece.tokens,
        "context": piece.context,
        "modelled_us": restructured,
        "modelled_dense_us": dense,
        "modelled_single_process_us": single,
    }


def _words(tokens: int, context: int) -> str:
    """A piece of a sequence."""
    return f"a token behind {count(context, 'other')}" if context else f"a text of {count(tokens, 'token')}"


def render(result: dict[str, Any]) -> str:
    """The report for people, several lines."""
    lines = shards_lines(result)
    lines["sent"] += (
        f"; {result['comm_fraction']:.1%} of the {result['dense_values']:,} of dense tensor parallelism, as "
        f"{result['comm_dtype']}"
    )
    held_out = result["held_out_texts"]
    data = f"{held_out:,} held-out texts" if held_out else "the calibration texts themselves"
    lines["load"] = f"{result['load']:.2f} of an even share, on the busiest worker"
    lines["quality"] = f"on {data}: output error {result['output_error']:.4f}"
    if "perplexity" in result:
        lines["next token"] = (
            f"perplexity {result['perplexity']:.4g}, original {result['reference_perplexity']:.4g}; most "
            f"probable one right {result['accuracy']:.2%}, original {result['reference_accuracy']:.2%}"
        )
    if "trials" in result:
        lines["promise"] = (
            f"budget {result['comm_budget']:.4g}, the smallest of {result['trials']} tried that was enough "
            "there"
        )
    lines["time"] = "not forecast, as no machine is known; --machine names one, probe measures this one"
    if "machine" in result:
        lines["time"] = (
            f"{result['modelled_us']:,.0f} µs for {_words(result['piece_tokens'], result['context'])}, "
            f"with the original {result['modelled_dense_us']:,.0f} µs, and in one process "
            f"{result['modelled_single_process_us']:,.0f} µs; forecast for {result['machine']}"
        )
    return aligned({name: lines[name] for name in _ORDER if name in lines})


_ORDER = ("split", "sent", "load", "quality", "next token", "promise", "time", "weights", "texts", "shards")
