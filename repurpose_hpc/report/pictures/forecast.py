"""Forecast times for numbers of ranks that are not at hand."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from repurpose_hpc.report.pictures import style
from repurpose_hpc.report.pictures.picture import Chapter, Numbers, Picture, pictures_of
from repurpose_hpc.report.words import microseconds

FORMS = ("restructured", "dense")
_PARTS = {"compute": "compute_us", "messages": "overhead_us", "latency": "latency_us", "bytes": "bytes_us"}


@pictures_of(Chapter.SCALING, "forecast")
def times(report: dict[str, Any]) -> Iterator[Picture]:
    """Time of a batch against the number of ranks, by form."""
    points = report["points"]
    forms = [form for form in FORMS if points and all(form in point for point in points)]
    for form in forms[:1]:
        yield Picture(
            name="forecast",
            title=f"Forecast for {report['machine']}: {_best(report[form])}",
            note="Modelled, not measured.",
            numbers=Numbers(
                "Forecast time of a batch, µs",
                ("ranks", *(f"{name}, {part}" for name in forms for part in ("all", *_PARTS))),
                [(point["ranks"], *_row(point, forms)) for point in points],
            ),
            draw=partial(_draw, points, forms),
            height=3.2,
        )


def _best(conclusion: dict[str, Any]) -> str:
    """The number of ranks with the shortest time, and up to which more pay."""
    ranks, time = conclusion["best_ranks"], microseconds(conclusion["best_us"])
    if ranks == 1:
        return f"1 rank is fastest, {time} a batch"
    faster = f", {conclusion['speedup']:.3g} times as fast as 1" if conclusion["speedup"] is not None else ""
    pays = f"doubling them pays up to {conclusion['paying_ranks']:,}"
    return f"{ranks:,} ranks are fastest, {time} a batch{faster}; {pays}"


def _row(point: dict[str, Any], forms: list[str]) -> list[float]:
    return [point[form][key] for form in forms for key in ("total_us", *_PARTS.values())]


def _draw(points: list[dict[str, Any]], forms: list[str], figure: Figure) -> None:
    axes = figure.subplots()
    ranks = [point["ranks"] for point in points]
    style.curves(axes, {form: (ranks, [point[form]["total_us"] for point in points]) for form in forms})
    style.ranks_axis(axes, ranks)
    if style.has_positive(point[form]["total_us"] for form in forms for point in points):
        axes.set_yscale("log")
    style.plain_numbers(axes.yaxis)
    axes.set_ylabel("time of a batch, µs")
    style.legend(figure, axes)
