"""Where the time of an inference goes: on every rank, from a trace, or by phase, from a report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from repurpose_hpc.report.pictures import style
from repurpose_hpc.report.pictures.picture import Chapter, Numbers, Picture, pictures_of
from repurpose_hpc.report.sources import TRACE
from repurpose_hpc.report.timeline import PHASES, Call, Timeline
from repurpose_hpc.report.words import microseconds, percent

# Ranks that are drawn, and calls of which each is a shape of its own; more are painted as one image.
_MOST_RANKS, _MOST_SHAPES = 32, 3000
# Rows of a table by rank and layer; of more it is by rank alone.
_MOST_ROWS = 1000
# The least part of the ranks' time at other batches that is spoken of: neighbours always overlap a little.
_NOTABLE = 0.1
_DOING = dict(zip(PHASES, ("computing", "packing", "starting messages", "waiting"), strict=True))
_PHASES = "Pack also unpacks what arrives; exchange starts messages; wait waits for them."


@pictures_of(Chapter.TIME, TRACE)
def inference(timeline: Timeline) -> Iterator[Picture]:
    """What every rank does at which time."""
    ranks = timeline.ranks
    drawn = ranks[:: -(-len(ranks) // _MOST_RANKS)]
    yield Picture(
        name="timeline",
        title=_waits_longest(timeline),
        note=f"Every bar is a call of one rank, from left to right in time. {_PHASES}"
        + (f" Of {timeline.batches} batches it is {timeline.name}." if timeline.batches > 1 else "")
        + (" What ranks do for other batches meanwhile is not drawn." if _elsewhere(timeline) else "")
        + (f" {len(drawn)} of the {len(ranks)} ranks are drawn." if len(drawn) < len(ranks) else ""),
        numbers=_numbers(timeline),
        draw=partial(_draw_timeline, timeline, drawn),
        height=style.rows_height(len(drawn), 1.2),
        is_wide=True,
    )


def _totals(calls: list[Call], key: Callable[[Call], Hashable]) -> dict[Any, dict[str, float]]:
    """Microseconds by phase, of the calls with each key."""
    totals: dict[Any, dict[str, float]] = defaultdict(lambda: dict.fromkeys(PHASES, 0.0))
    for call in calls:
        totals[key(call)][call.phase] += call.took
    return totals


def _elsewhere(timeline: Timeline) -> float:
    """The part of the ranks' time that goes to other batches meanwhile; 0 of little."""
    time = timeline.span * len(timeline.ranks)
    share = timeline.elsewhere / time if time else 0.0
    return share if share >= _NOTABLE else 0.0


def _waits_longest(timeline: Timeline) -> str:
    if share := _elsewhere(timeline):
        took = microseconds(timeline.span)
        return (
            f"A batch takes {took}; meanwhile ranks are at other batches for {percent(share)} of their time"
        )
    by_rank, span = _totals(timeline.calls, lambda call: call.rank), timeline.span
    rank = max(by_rank, key=lambda rank: by_rank[rank]["wait"])
    waits = by_rank[rank]["wait"]
    busy = sum(phases["compute"] for phases in by_rank.values()) / (len(by_rank) * span) if span else 0.0
    computing = f"computing takes {percent(busy)} of the ranks' time"
    if not waits:
        return f"The inference takes {microseconds(span)}; no rank waits; {computing}"
    return f"Rank {rank} waits longest: {microseconds(waits)} of {microseconds(span)}; {computing}"


def _numbers(timeline: Timeline) -> Numbers:
    """Times by rank and layer; by rank alone where that would be too many rows."""
    totals = _totals(timeline.calls, lambda call: (call.rank, call.layer))
    columns: tuple[str, ...] = ("rank", "layer")
    if len(totals) > _MOST_ROWS:
        totals, columns = _totals(timeline.calls, lambda call: (call.rank,)), ("rank",)
    rows = [(*key, *phases.values()) for key, phases in sorted(totals.items(), key=lambda item: item[0][0])]
    return Numbers("Time of one inference by phase, µs", (*columns, *PHASES), rows)


def _draw_timeline(timeline: Timeline, ranks: list[int], figure: Figure) -> None:
    axes = figure.subplots()
    for number, phase in enumerate(PHASES):
        for place, rank in enumerate(ranks):
            calls = [call for call in timeline.calls if (call.rank, call.phase) == (rank, phase)]
            axes.broken_barh(
                [(call.began, call.took) for call in calls],
                (place - 0.4, 0.8),
                facecolor=style.COLOURS[number],
                hatch=style.HATCHES[number],
                edgecolor="white",
                linewidth=0.2,
                label=phase if place == 0 else None,
                rasterized=len(timeline.calls) > _MOST_SHAPES,
            )
    axes.set_yticks(range(len(ranks)), [f"rank {rank}" for rank in ranks])
    axes.set_ylim(len(ranks) - 0.4, -0.6)
    axes.set_xlim(0, timeline.span or 1)
    axes.set_xlabel("time, µs")
    axes.grid(axis="x")
    style.legend(figure, axes, len(PHASES))


@pictures_of(Chapter.TIME, "infer")
def phases(report: dict[str, Any]) -> Iterator[Picture]:
    """Medians of the phases of a forward, beside one process."""
    if "phases_us" in report:
        yield _phases(
            report["phases_us"],
            f"A forward of {_batch(report)} takes {microseconds(report['latency_us']['median'])}",
            report["single_process_latency_us"]["median"],
        )


def _batch(report: dict[str, Any]) -> str:
    size = min(report["batch_size"], report["samples"])
    return "one sample" if size == 1 else f"{size} samples"


@pictures_of(Chapter.TIME, "generate")
def steps(report: dict[str, Any]) -> Iterator[Picture]:
    """Phases of a step, in which every text gets a token."""
    total = sum(report["step_us"].values())
    yield _phases(report["step_us"], f"A step, a token for every text, takes {microseconds(total)}")


def _phases(times: dict[str, float], takes: str, single: float | None = None) -> Picture:
    total, longest = sum(times.values()), max(times, key=lambda name: times[name])
    beside = f"; one process needs {microseconds(single)}" if single is not None else ""
    share = f", {percent(times[longest] / total)} of it {_DOING[longest]}" if total else ""
    rows: list[tuple[Any, ...]] = [*times.items()] + ([("one process", single)] if single is not None else [])
    return Picture(
        name="phases",
        title=f"{takes}{share}{beside}",
        note=f"Medians on the slowest rank. {_PHASES}",
        numbers=Numbers("Time by phase, µs", ("phase", "time, µs"), rows),
        draw=partial(_draw_phases, times, single),
        height=2.2,
    )


def _draw_phases(times: dict[str, float], single: float | None, figure: Figure) -> None:
    axes = figure.subplots()
    names = ["slowest rank"] + (["one process"] if single is not None else [])
    parts = {phase: [us, 0.0][: len(names)] for phase, us in times.items()}
    if single is not None:
        parts["compute"] = [times["compute"], single]
    style.bars(axes, names, parts, "time, µs")
    style.legend(figure, axes)


@pictures_of(Chapter.TIME, "infer")
def whole_run(report: dict[str, Any]) -> Iterator[Picture]:
    """Seconds by phase of the whole run."""
    seconds = {name: value for name, value in report["seconds"].items() if value > 0}
    if seconds:
        longest = max(seconds, key=lambda name: seconds[name])
        yield Picture(
            name="seconds",
            title=f"Of the whole run {longest} takes longest, {microseconds(1e6 * seconds[longest])}",
            note="The maximum over the ranks of each phase, so that they do not add up.",
            numbers=Numbers(
                "Time of the run by phase", ("phase", "time, s"), list(report["seconds"].items())
            ),
            draw=partial(_draw_seconds, seconds),
            height=style.rows_height(len(seconds)),
        )


def _draw_seconds(seconds: dict[str, float], figure: Figure) -> None:
    told = [microseconds(1e6 * value) for value in seconds.values()]
    style.bars(figure.subplots(), list(seconds), {"time": list(seconds.values())}, "time, s", told)
