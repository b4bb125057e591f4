"""Accuracy against communication, of all methods of a study."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from repurpose_hpc.fields import count
from repurpose_hpc.report.pictures import style
from repurpose_hpc.report.pictures.picture import Chapter, Numbers, Picture, pictures_of
from repurpose_hpc.report.sources import STUDY
from repurpose_hpc.report.words import percent

Rows = list[dict[str, Any]]
# Columns in which lines of one diagram differ.
_LINE = ("method", "assignment", "input_placement", "seed")


@pictures_of(Chapter.QUALITY, STUDY)
def studies(rows: Rows) -> Iterator[Picture]:
    """A picture for each number of workers."""
    for workers in sorted({row["workers"] for row in rows}):
        points = [row for row in rows if row["workers"] == workers]
        quality = "test_output_error" if points[0]["test_accuracy"] is None else "test_accuracy"
        points = [row for row in points if row[quality] is not None and row["comm_fraction"] is not None]
        lines = _lines(points, quality)
        if lines:
            yield Picture(
                name=f"study of {workers} workers",
                title=_best(workers, lines, points[0], quality),
                note=f"To the left less is sent. {_compared(lines)}",
                numbers=_numbers(points, quality),
                draw=partial(_draw, lines, points[0]["test_reference_accuracy"], quality),
                height=3.0 + 0.2 * len(lines),
            )


def _lines(points: Rows, quality: str) -> dict[str, list[tuple[float, float]]]:
    """Fraction and quality of every point, by what tells lines apart; only those that send something."""
    lines = defaultdict(list)
    for row in points:
        if row["comm_fraction"] > 0:
            lines[_label(row, points)].append((row["comm_fraction"], row[quality]))
    return {label: sorted(line) for label, line in lines.items()}


def _compared(lines: Mapping[str, Sequence[object]]) -> str:
    """Whether there is anything to compare with, and how to get it."""
    if len(lines) > 1:
        return "All methods are measured on the same test data."
    return (
        "Measured on the test data. The study has no baseline to compare with; study --methods "
        "data,magnitude/contiguous has one."
    )


def _label(row: dict[str, Any], points: Rows) -> str:
    varying = [name for name in _LINE if name == "method" or len({other[name] for other in points}) > 1]
    return ", ".join(f"seed {row[name]}" if name == "seed" else str(row[name]) for name in varying)


def _best(
    workers: int, lines: dict[str, list[tuple[float, float]]], row: dict[str, Any], quality: str
) -> str:
    """What the lines have at the smallest fraction of the best of them there."""
    sign = -1 if quality == "test_output_error" else 1
    best = max(lines, key=lambda label: sign * lines[label][0][1])
    fraction, value = lines[best][0]
    others = [line[0][1] for label, line in lines.items() if label != best]
    what = "an output error of" if sign < 0 else "an accuracy of"
    original = (
        f" (original {row['test_reference_accuracy']:.4f})"
        if sign > 0 and row["test_reference_accuracy"]
        else ""
    )
    beside = (
        f"; the others have {min(others):.4f} to {max(others):.4f} at their least" if len(others) > 1 else ""
    )
    beside = f"; the other has {others[0]:.4f} at its least" if len(others) == 1 else beside
    reached = f"with {percent(fraction)} of the communication {best} has {what} {value:.4f}"
    return f"{count(workers, 'worker')}: {reached}{original}{beside}"


def _numbers(points: Rows, quality: str) -> Numbers:
    what = "output error" if quality == "test_output_error" else "accuracy"
    rows = [
        (_label(row, points), row["budget"], row["values_sent"], row["comm_fraction"], row[quality])
        for row in points
    ]
    columns = ("method", "budget", "values per sample", "communication fraction", f"{what}, test data")
    return Numbers(f"{what.capitalize()} on the test data against communication", columns, rows)


def _draw(
    lines: dict[str, list[tuple[float, float]]], reference: float | None, quality: str, figure: Figure
) -> None:
    axes = figure.subplots()
    if reference is not None:
        axes.axhline(reference, color=style.BLACK, linestyle="--", linewidth=1, label="original")
    points = {label: tuple(zip(*line, strict=True)) for label, line in lines.items()}
    style.curves(axes, {label: (x, y) for label, (x, y) in points.items()})
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("values sent, of the dense network's")
    axes.set_ylabel("output error, test data" if quality == "test_output_error" else "accuracy, test data")
    style.legend(figure, axes, 1 if max(map(len, lines)) > 18 else 2)
