"""Measured scaling curves."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from repurpose_hpc.fields import count
from repurpose_hpc.report.pictures import style
from repurpose_hpc.report.pictures.picture import Chapter, Numbers, Picture, pictures_of
from repurpose_hpc.report.sources import SCALING
from repurpose_hpc.report.timeline import PHASES
from repurpose_hpc.report.words import microseconds, percent

Rows = list[dict[str, Any]]
_CROWDED = " Where markers are hollow there were more ranks than cores, which wait for each other's core."


@pictures_of(Chapter.SCALING, SCALING)
def curves(rows: Rows) -> Iterator[Picture]:
    """Speed-up over the best process, a picture for each batch size."""
    for batch in sorted({row["batch"] for row in rows}):
        points = [row for row in rows if row["batch"] == batch and row["speedup"] is not None]
        if points:
            yield Picture(
                name=f"scaling at batch {batch}",
                title=_fastest(points, batch),
                note="Speed-up is over the fastest single process; below 1 that one is faster."
                + (_CROWDED if any(point["oversubscribed"] for point in points) else ""),
                numbers=_numbers(points),
                draw=partial(_draw_speedup, points),
                height=3.2,
            )


@pictures_of(Chapter.SCALING, SCALING)
def shares(rows: Rows) -> Iterator[Picture]:
    """Phases of a forward, a bar for each number of ranks and form."""
    for batch in sorted({row["batch"] for row in rows}):
        points = [row for row in rows if row["batch"] == batch and row["wait_seconds"] is not None]
        if points:
            worst = max(points, key=_waiting)
            yield Picture(
                name=f"scaling phases at batch {batch}",
                title=f"Batch {batch}: with {count(worst['ranks'], 'rank')}, {worst['form']}, "
                f"{percent(_waiting(worst))} of the time goes into waiting and messages, the largest share",
                note="Medians on the slowest rank.",
                numbers=Numbers(
                    f"Time of a forward by phase, batch {batch}, ms",
                    ("ranks", "form", *PHASES),
                    [(p["ranks"], p["form"], *_milliseconds(p).values()) for p in points],
                ),
                draw=partial(_draw_phases, points),
                height=style.rows_height(len(points), 1.1),
            )


def _milliseconds(row: dict[str, Any]) -> dict[str, float]:
    return {phase: 1e3 * row[f"{phase}_seconds"] for phase in PHASES}


def _waiting(row: dict[str, Any]) -> float:
    """Share of the phases in which nothing is computed."""
    times = _milliseconds(row)
    total = sum(times.values())
    return 1 - times["compute"] / total if total else 0.0


def _fastest(points: Rows, batch: int) -> str:
    best = max(points, key=lambda row: row["speedup"])
    time = microseconds(1e6 * best["seconds_median"])
    return (
        f"Batch {batch}: fastest with {count(best['ranks'], 'rank')}, {best['form']}: {time}, "
        f"{best['speedup']:.2f} times as fast as one process"
    )


def _numbers(points: Rows) -> Numbers:
    rows = [
        (
            p["ranks"],
            p["form"],
            1e3 * p["seconds_median"],
            p["speedup"],
            p["efficiency"],
            p["values"],
            p["bytes"],
        )
        for p in points
    ]
    columns = (
        "ranks",
        "form",
        "median, ms",
        "speed-up",
        "efficiency",
        "values per sample",
        "bytes per batch",
    )
    return Numbers(f"Time of a forward, batch {points[0]['batch']}", columns, rows)


def _draw_speedup(points: Rows, figure: Figure) -> None:
    axes = figure.subplots()
    ranks = sorted({row["ranks"] for row in points})
    axes.plot(ranks, ranks, color=style.GREY, linestyle="--", linewidth=1, label="ideal")
    axes.axhline(1, color=style.BLACK, linestyle=":", linewidth=1, label="best single process")
    lines = {}
    for form in dict.fromkeys(row["form"] for row in points if row["ranks"] > 1):
        line = [row for row in points if row["form"] == form or row["ranks"] == 1]
        lines[form] = ([row["ranks"] for row in line], [row["speedup"] for row in line])
    style.curves(axes, lines or {"one rank": (ranks, [row["speedup"] for row in points])})
    crowded = [(row["ranks"], row["speedup"]) for row in points if row["oversubscribed"]]
    if crowded:
        axes.plot(*zip(*crowded, strict=True), "w.", markersize=3.5, zorder=5, label="_none")
    style.ranks_axis(axes, ranks)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.set_ylabel("speed-up over one process")
    style.legend(figure, axes)


def _draw_phases(points: Rows, figure: Figure) -> None:
    axes = figure.subplots()
    times = [_milliseconds(row) for row in points]
    parts = {phase: [each[phase] for each in times] for phase in PHASES}
    told = [f"{1e3 * row['seconds_median']:.3g} ms" for row in points]
    style.bars(axes, [f"{row['ranks']}, {row['form']}" for row in points], parts, "time, ms", told)
    axes.set_ylabel("ranks, form")
    style.legend(figure, axes)
