"""Forecast times for numbers of ranks that are not at hand."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from repurpose_hpc.report.pictures import style
from repurpose_hpc.report.pictures.picture import Chapter, Numbers, Picture, pictures_of
from repurpose_hpc.report.words import count, microseconds

FORMS = ("restructured", "dense")
_PARTS = {"compute": "compute_us", "messages": "overhead_us", "latency": "latency_us", "bytes": "bytes_us"}


@pictures_of(Chapter.SCALING, "forecast")
def times(report: dict[str, Any]) -> Iterator[Picture]:
    """Time of a batch against the number of ranks, by form."""
    points = report["points"]
    forms = [form for form in FORMS if points and all(form in point for point in points)]
    for form in forms[:1]:
        best = report[form]
        faster = f", {best['speedup']:.3g} times as fast as one" if best["speedup"] is not None else ""
        yield Picture(
            name="forecast",
            title=f"Forecast for {report['machine']}: {count(best['best_ranks'], 'rank')} take least time, "
            f"{microseconds(best['best_us'])}{faster}; doubling pays up to {best['paying_ranks']:,}",
            note="Modelled, not measured.",
            numbers=Numbers(
                "Forecast time of a batch, µs",
                ("ranks", *(f"{name}, {part}" for name in forms for part in ("all", *_PARTS))),
                [(point["ranks"], *_row(point, forms)) for point in points],
            ),
            draw=partial(_draw, points, forms),
            height=3.2,
        )


def _row(point: dict[str, Any], forms: list[str]) -> list[float]:
    return [point[form][key] for form in forms for key in ("total_us", *_PARTS.values())]


def _draw(points: list[dict[str, Any]], forms: list[str], figure: Figure) -> None:
    axes = figure.subplots()
    ranks = [point["ranks"] for point in points]
    style.curves(axes, {form: (ranks, [point[form]["total_us"] for point in points]) for form in forms})
    style.ranks_axis(axes, ranks)
    axes.set_yscale("log")
    axes.set_ylabel("time of a batch, µs")
    style.legend(figure, axes)
