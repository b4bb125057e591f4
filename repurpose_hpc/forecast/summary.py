"""Conclusions from forecasts for several numbers of ranks: the best, where more stop paying, a table.

The keys of the report, and units, are those of ``report.schema.ForecastReport``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise

from repurpose_hpc.fields import count
from repurpose_hpc.forecast.timeline import Times

FORMS = ("restructured", "dense")
# Of the total.
PARTS = tuple(field.name for field in fields(Times) if field.name != "total")
# Ranks pay if doubling them divides the time by 2 to this power, 1.41, or more.
PAYS = 0.5
# Microseconds that no forecast can tell from none.
_INSTANT = 1e-6


def marginal_efficiencies(ranks: Sequence[int], times: Sequence[float]) -> list[float | None]:
    """log(time before / time) / log(ranks / ranks before): 1 if doubling halves the time, 0 if it is in vain.

    None for the first number of ranks.
    """
    steps = pairwise(zip(ranks, times, strict=True))
    return [
        None,
        *(math.log(_ratio(previous, t)) / math.log(r / fewer) for (fewer, previous), (r, t) in steps),
    ]


def _ratio(before: float, after: float) -> float:
    """One time over another; 1 if both are 0, as those of networks without weights may be."""
    return max(before, _INSTANT) / max(after, _INSTANT)


def paying_ranks(ranks: Sequence[int], marginal: Sequence[float | None]) -> int:
    """Number of ranks up to which every step had a marginal efficiency of PAYS or more."""
    for fewer, efficiency in zip(ranks[:-1], marginal[1:], strict=True):
        if efficiency is not None and efficiency < PAYS:
            return fewer
    return ranks[-1]


def conclude(points: list[dict]) -> dict:
    """Conclusions of the report from ``points``, ascending, whose ``marginal`` are filled in."""
    ranks, conclusions = [point["ranks"] for point in points], {}
    for form in _forms(points):
        times = [point[form]["total_us"] for point in points]
        marginal = marginal_efficiencies(ranks, times)
        for point, efficiency in zip(points, marginal, strict=True):
            point[form]["marginal"] = efficiency
        best, has_single = min(times), ranks[0] == 1
        slower = [number for number, time in zip(ranks, times, strict=True) if time > times[0]]
        conclusions[form] = {
            "best_ranks": ranks[times.index(best)],
            "best_us": best,
            "speedup": _ratio(times[0], best) if has_single else None,
            "paying_ranks": paying_ranks(ranks, marginal),
            "slower_ranks": slower if has_single else None,
        }
    return conclusions


def _forms(points: list[dict]) -> list[str]:
    """Those that were forecast."""
    return [form for form in FORMS if form in points[0]]


def render(result: dict) -> str:
    """The report for people, several lines."""
    forms, comm_dtype = _forms(result["points"]), result["comm_dtype"]
    ranks = [point["ranks"] for point in result["points"]]
    ghosts = f", ghosts in {comm_dtype}" if comm_dtype else ""
    lines = [
        f"{result['machine']}: {result['machine_source']}",
        f"{result['model']}, {_sample(result)}{ghosts}; {_basis(result)}",
        "microseconds per batch, and what compute, overhead, latency and bytes have in it",
        "",
        *_table(result["points"], forms),
        "",
        *(_conclusion(form, result[form], result["batch_size"], ranks) for form in forms),
        *_in_stages(result),
    ]
    if result["most_ranks"]:
        most = count(result["most_ranks"], "rank")
        lines.append(f"no more than {most}: the machine file has no link that joins more")
    return "\n".join(lines)


def _in_stages(result: dict) -> list[str]:
    """How often a batch is done where they follow each other; of a plan with stages."""
    periods = [(point["ranks"], point.get("restructured", {}).get("period_us")) for point in result["points"]]
    return [
        f"in stages, {ranks:,} ranks do a batch every {_us(period)} µs where batches follow each other: "
        f"{1e6 * result['batch_size'] / period:,.0f} samples a second"
        for ranks, period in periods
        if period
    ]


def _sample(result: dict) -> str:
    """What goes through at a time."""
    if "tokens" not in result:
        return f"input {result['input_placement']}, batches of {result['batch_size']}"
    tokens, sequences = result["tokens"], result["batch_size"]
    of_one = f"{count(tokens, 'token')} behind {result['context']:,}"
    return f"{of_one} of {count(sequences, 'sequence')} at a time"


def _basis(result: dict) -> str:
    if "tokens" in result:
        return f"{count(result['workers'], 'rank')} as in the plan" if result["workers"] else "split as it is"
    if result["workers"]:
        return f"{count(result['workers'], 'rank')} as in the plan, others as sparse as it"
    return f"assumed: {result['comm_budget']:g} of the dense communication in every mixing"


def _table(points: list[dict], forms: Sequence[str]) -> list[str]:
    titles = ["time", *PARTS, "marginal"] * len(forms)
    are_both = len(forms) == len(FORMS)
    rows = [["ranks", "basis", *titles, *["dense/restr."] * are_both]]
    for point in points:
        cells = [cell for form in forms for cell in _cells(point[form])]
        gain = (
            [f"{_ratio(point['dense']['total_us'], point['restructured']['total_us']):.2f}"]
            if are_both
            else []
        )
        rows.append([f"{point['ranks']:,}", point["basis"], *cells, *gain])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return [_heads(widths, forms), *lines]


def _heads(widths: list[int], forms: Sequence[str]) -> str:
    """The names of the forms above their first columns."""
    column, line = 2, ""
    for form in forms:
        line = line.ljust(sum(widths[:column]) + 2 * column) + form
        column += len(PARTS) + 2
    return line


def _cells(times: dict) -> list[str]:
    marginal = "" if times["marginal"] is None else f"{times['marginal']:.2f}"
    return [*(_us(times[f"{part}_us"]) for part in ("total", *PARTS)), marginal]


def _us(us: float) -> str:
    return f"{us:,.0f}" if us >= 100 or us == 0 else f"{us:.3g}"


def _conclusion(form: str, conclusion: dict, batch: int, forecast: Sequence[int]) -> str:
    """One line; ``forecast``: the numbers of ranks that there are forecasts for."""
    speedup = f", {conclusion['speedup']:.2f} times faster than one" if conclusion["speedup"] else ""
    samples = "" if batch == 1 else f" ({_us(conclusion['best_us'] / batch)} µs per sample)"
    slower = spans(conclusion["slower_ranks"] or (), forecast)
    best = count(conclusion["best_ranks"], "rank")
    return (
        f"{form}: best with {best}, {_us(conclusion['best_us'])} µs{samples}{speedup}; adding ranks stops "
        f"paying at {conclusion['paying_ranks']:,}"
        f"{f'; one process is faster than {slower} ranks' if slower else ''}"
    )


def spans(chosen: Sequence[int], of: Sequence[int]) -> str:
    """Numbers of ranks in words, those that follow each other as ``2 to 10,000``.

    Args:
        chosen: some of ``of``, ascending.
        of: all that were forecast, ascending.
    """
    runs: list[list[int]] = []
    for number in chosen:
        if runs and of.index(number) == of.index(runs[-1][-1]) + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    # Two that follow each other are as short by themselves.
    ends = ([f"{run[0]:,} to {run[-1]:,}"] if len(run) > 2 else [f"{r:,}" for r in run] for run in runs)
    return ", ".join(text for texts in ends for text in texts)
