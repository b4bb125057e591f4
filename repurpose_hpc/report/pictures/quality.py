"""Errors that restructuring has left."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import isfinite
from typing import Any

from matplotlib.figure import Figure

from repurpose_hpc.report.pictures import style
from repurpose_hpc.report.pictures.picture import Chapter, Numbers, Picture, pictures_of
from repurpose_hpc.report.words import percent

# Layers that are drawn: those of the largest errors.
MOST_LAYERS = 40
_HELD_OUT = "_held_out"
# Of the width, left of 0, so that no marker there lies on a name.
_MARKER_ROOM = 0.03
# Keys, with and without those of held-out samples, and what they are called.
_QUALITIES = {
    "reference_accuracy": "accuracy, original",
    "accuracy": "accuracy, now",
    "reference_r2": "R², original",
    "r2": "R², now",
    "agreement": "class as before",
}
_DATA = ("calibration data", "held-out data")
Row = tuple[str, float, float | None]
"""A name, and its value on calibration and held-out data; None: there are none."""
Rows = list[Row]


@pictures_of(Chapter.QUALITY, "restructure")
def errors(report: dict[str, Any]) -> Iterator[Picture]:
    """Relative error of every layer and of the outputs in percent, on calibration and held-out data."""
    rows = [_in_percent(layer["name"], layer, "relative_error") for layer in report["layers"]]
    worst = sorted(rows, key=lambda row: -row[1])[:MOST_LAYERS]
    outputs = _in_percent("outputs", report, "output_error")
    drawn = [*(row for row in rows if row in worst), outputs]
    yield Picture(
        name="errors",
        title=_largest(rows, outputs),
        note="Of what a layer computes from the restructured layers before it, relative to what it was; the "
        "outputs before softmax or the like. The weights were fitted to the calibration data, so that errors "
        "on these flatter.",
        numbers=Numbers("Relative errors, %", ("layer", *_DATA), [*rows, outputs]),
        draw=partial(_draw_errors, drawn),
        height=style.rows_height(len(drawn), 1.1),
    )


def _in_percent(name: str, found: dict[str, Any], key: str) -> Row:
    calibration, held_out = found[key], found.get(key + _HELD_OUT)
    return name, 100 * calibration, None if held_out is None else 100 * held_out


def _largest(rows: Rows, outputs: Row) -> str:
    _, error, held_out = outputs
    of_outputs = f"the outputs are off by {_told(error)} on the calibration data"
    if held_out is not None:
        of_outputs += f" and {_told(held_out)} on held-out samples"
    name, largest, _ = max(rows, key=lambda row: row[1], default=("", 0.0, None))
    if not largest:
        return of_outputs[0].upper() + of_outputs[1:]
    return f"{name} has the largest error, {_told(largest)}; {of_outputs}"


def _told(error: float) -> str:
    """An error that is in percent already."""
    return percent(error / 100)


def _draw_errors(rows: Rows, figure: Figure) -> None:
    """A bar for the calibration data, and a marker in its row for the held-out data."""
    axes = figure.subplots()
    names, calibration, held_out = zip(*rows, strict=True)
    told = [_told(error) if other is None else "" for _, error, other in rows]
    style.bars(axes, names, {_DATA[0]: calibration}, "relative error, %", told)
    found = [(error, place) for place, error in enumerate(held_out) if error is not None and isfinite(error)]
    if found:
        places = tuple(zip(*found, strict=True))
        axes.plot(*places, "s", color=style.RED, markersize=6, clip_on=False, label=_DATA[1])
        most = 1.1 * max(axes.get_xlim()[1], *(error for error, _ in found))
        axes.set_xlim(-_MARKER_ROOM * most, most)
    style.legend(figure, axes)


@pictures_of(Chapter.QUALITY, "restructure")
def answers(report: dict[str, Any]) -> Iterator[Picture]:
    """Accuracy before and after, and agreement, on calibration and held-out data."""
    rows = [
        (text, report[key], report.get(key + _HELD_OUT))
        for key, text in _QUALITIES.items()
        if report.get(key) is not None
    ]
    yield Picture(
        name="answers",
        title=_kept(report),
        note="Held-out samples were not used to restructure; they are what to expect of others.",
        numbers=Numbers("Quality of the answers", ("quality", *_DATA), rows),
        draw=partial(_draw_answers, rows),
        height=style.rows_height(2 * len(rows), 1.0),
    )


def _kept(report: dict[str, Any]) -> str:
    """The accuracy, or without labels the agreement; on held-out data if there are any."""
    has_held_out = f"agreement{_HELD_OUT}" in report
    suffix, data = (_HELD_OUT, "held-out samples") if has_held_out else ("", "the calibration data")
    if f"accuracy{suffix}" in report:
        before = report.get(f"reference_accuracy{suffix}")
        beside = f", {before:.4f} before" if before is not None else ""
        return f"Accuracy is {report[f'accuracy{suffix}']:.4f} on {data}{beside}"
    return f"{percent(report[f'agreement{suffix}'])} of {data} keep their class"


def _draw_answers(rows: Rows, figure: Figure) -> None:
    axes = figure.subplots()
    names, *columns = zip(*rows, strict=True)
    for number, (label, values) in enumerate(zip(_DATA, columns, strict=True)):
        found = [(value, place) for place, value in enumerate(values) if value is not None]
        if found:
            axes.plot(
                *zip(*found, strict=True),
                style.MARKERS[number],
                color=style.COLOURS[number],
                markersize=6,
                label=label,
            )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("share")
    axes.grid()
    style.legend(figure, axes)
