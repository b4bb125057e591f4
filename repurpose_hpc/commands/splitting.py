"""The command ``restructure`` with a transformer that is split as it is, for texts of any lengths.

One process reads the model, splits it and writes its shards.  The keys of the report are those of
``report.schema.SplitReport``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from repurpose_hpc.commands.parser import Given, make, refuse, restructure_options
from repurpose_hpc.commands.start import Context, RankContext
from repurpose_hpc.fields import Access, Declared, count, longest_text, option, path, precision, report_file
from repurpose_hpc.mpi.limits import mib
from repurpose_hpc.restructure.options import ROUND_COST, Options

if TYPE_CHECKING:
    from repurpose_hpc.model.network import Network
    from repurpose_hpc.model.texts import TextRules
    from repurpose_hpc.restructure.cut import Cut
    from repurpose_hpc.restructure.tokens.options import TokenOptions

# Of the options of restructuring those that count here.
_TAKEN = {"workers", "part_weights", "round_cost", "machine"}


@dataclass(frozen=True, kw_only=True)
class TokenShards(Declared):
    """Command line that makes shards of a transformer, for texts of any lengths."""

    model: Path = option(kind=path("MODEL_DIR"), positional=True, help="a transformer")
    out: Path = option(kind=path("shards", Access.REPLACES), metavar="DIR", help="gets plan and shards")
    longest: int | None = longest_text()
    dtype: str = precision(help="of the weights in the shards")
    report: Path | None = report_file()

    def check_places(self) -> None:
        """Refuse places that results cannot be written to.

        Raises:
            UserError: names the place.
        """
        from repurpose_hpc.io.atomic import check_writable
        from repurpose_hpc.plan.files.store import check_place

        if self.report is not None:
            check_writable(self.report)
        check_place(self.out)


@dataclass(frozen=True, kw_only=True)
class SplitArguments(TokenShards):
    """Command line with a transformer, and neither calibration nor lengths."""

    options: Options


def split_arguments(given: Given, ranks: int | None, settled: Sequence[str]) -> SplitArguments:
    """The command line.

    Args:
        given: the values on it.
        ranks: of the job; None: there is no launcher.
        settled: options that may have no effect here.

    Raises:
        UsageError: it is wrong.
    """
    refuse(
        given,
        [name for name in settled if name not in _TAKEN],
        "has no effect on a transformer that is split as it is; --calibration restructures it",
    )
    options = restructure_options({"round_cost": ROUND_COST, **given}, ranks)
    return make(SplitArguments, given, options=options)


def run(args: SplitArguments, context: Context) -> None:
    """Run the command; collective under a launcher, where the root does all.

    Args:
        args: see ``split_arguments``.
        context: of the start.

    Raises:
        UserError: in one process: the model cannot be read, or a result cannot be written.
        SystemExit: on every rank, after one message.
    """
    on_root(lambda: _run(args), context)


def on_root(work: Callable[[], None], context: Context) -> None:
    """Do what one process can do alone; collective under a launcher, where the root does it.

    Args:
        work: all of it.
        context: of the start.

    Raises:
        UserError: in one process, what ``work`` raises.
        SystemExit: on every rank, after one message.
    """
    if not isinstance(context, RankContext):
        work()
        return
    from repurpose_hpc.mpi.agreement import collectively

    with collectively(context.comm):
        if context.comm.rank == 0:
            work()


def _run(args: SplitArguments) -> None:
    import numpy as np

    from repurpose_hpc.model.importers.load import load_tokens
    from repurpose_hpc.model.importers.texts import rules_of
    from repurpose_hpc.plan.files.store import write_plan
    from repurpose_hpc.report import text as report
    from repurpose_hpc.restructure.exact import split_network

    began = perf_counter()
    args.check_places()
    network = load_tokens(args.model, args.longest)
    rules = rules_of(args.model, len(network.ends.embeddings))
    weights = args.options.part_weights
    parts = None if weights is None else np.array(weights)
    cut = split_network(network, args.options.workers, parts, args.options.round_cost)
    counted = ("workers", "part_weights", "round_cost")
    chosen = {name: getattr(args.options, name) for name in counted}
    write_plan(
        args.out,
        cut.network,
        cut.plan,
        origin(network, chosen, args.dtype),
        np.dtype(args.dtype).type,
        rules,
    )
    result = {
        **shards_report(network, cut, args.options, args.out, rules),
        "seconds": perf_counter() - began,
        "shards": str(args.out),
    }
    report.deliver(result, render(result), args.report)


def origin(network: Network, options: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """What shards were made from, for their plan.

    Args:
        network: of the model.
        options: that counted.
        dtype: of the weights in the shards.
    """
    import numpy as np

    from repurpose_hpc import __version__

    return {
        "model_fingerprint": network.fingerprint(),
        "versions": {"repurpose_hpc": __version__, "numpy": np.__version__},
        "weights": network.weight_count,
        "options": dict(options),
        "dtype": dtype,
    }


def shards_report(
    network: Network, cut: Cut, options: Options | TokenOptions, out: Path, rules: TextRules
) -> dict[str, Any]:
    """The report of shards that are written, but for place and time.

    Args:
        network: of the model.
        cut: it, split or restructured.
        options: that it was done with.
        out: directory of the shards.
        rules: that they keep.
    """
    from repurpose_hpc.plan.files.store import plan_files
    from repurpose_hpc.plan.masks import EVERYBODY
    from repurpose_hpc.plan.rounds import rounds_of

    plan = cut.plan
    plan_bytes, *shard_bytes = (path.stat().st_size for path in plan_files(out))
    made = [owner for name, owner in plan.owners.items() if name not in cut.network.input_spaces]
    is_common = any((owner == EVERYBODY).all() for owner in made)
    return {
        "workers": plan.workers,
        "part_weights": list(options.part_weights or (1.0,) * plan.workers),
        "stream": "common" if is_common else "owned",
        "longest": network.longest,
        "values_sent": int(cut.traffic_matrix().sum()),
        "bytes_sent": plan.bytes_sent(cut.network, plan.comm_dtype),
        "rounds": rounds_of(cut.network, plan),
        "round_cost": options.round_cost,
        "weights": network.weight_count,
        "plan_bytes": plan_bytes,
        "shard_bytes": shard_bytes,
        "tokenizer": bool(rules.tokenizer),
        "ends": list(rules.ends),
    }


def render(result: dict[str, Any]) -> str:
    """The report for people, several lines."""
    return aligned(shards_lines(result))


def shards_lines(result: dict[str, Any]) -> dict[str, str]:
    """The lines of ``shards_report``, place and time, by their names."""
    from repurpose_hpc.report.text import size

    stream = {"common": "everybody's", "owned": "of owners"}[result["stream"]]
    return {
        "split": f"for {count(result['workers'], 'worker')}, the stream {stream}; texts of up to "
        f"{count(result['longest'], 'token')}",
        "sent": f"{count(result['values_sent'], 'value')} ({size(result['bytes_sent'])}) for a token, in "
        f"{count(result['rounds'], 'round')}",
        "weights": f"{result['weights']:,}; shards of up to {mib(max(result['shard_bytes']))}, beside a plan "
        f"of {mib(result['plan_bytes'])}",
        "texts": "by the tokenizer in the shards" if result["tokenizer"] else "as token ids alone",
        "shards": f"{result['shards']}, in {result['seconds']:.1f} s",
    }


def aligned(lines: dict[str, str]) -> str:
    """Names in a column, and what is said of them."""
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines.items())
