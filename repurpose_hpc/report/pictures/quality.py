"""Errors that restructuring has left."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from repurpose_hpc.report.pictures import style
from repurpose_hpc.report.pictures.picture import Chapter, Numbers, Picture, pictures_of
from repurpose_hpc.report.words import percent

# Layers that are drawn: those of the largest errors.
MOST_LAYERS = 40
# Keys, with and without those of held-out samples, and what they are called.
_QUALITIES = {
    "reference_accuracy": "accuracy, original",
    "accuracy": "accuracy, now",
    "reference_r2": "R², original",
    "r2": "R², now",
    "agreement": "class as before",
}
_DATA = ("calibration data", "held-out data")
_HELD_OUT = "_held_out"


@pictures_of(Chapter.QUALITY, "restructure")
def errors(report: dict[str, Any]) -> Iterator[Picture]:
    """Relative error of every layer, and of the outputs on calibration and held-out data."""
    layers = {layer["name"]: layer["relative_error"] for layer in report["layers"]}
    ends = {"outputs": report["output_error"]}
    if "output_error" + _HELD_OUT in report:
        ends["outputs, held out"] = report["output_error" + _HELD_OUT]
    worst = sorted(layers, key=lambda name: -layers[name])[:MOST_LAYERS]
    drawn = {name: error for name, error in layers.items() if name in worst}
    rows = [(name, error, "calibration") for name, error in {**layers, "outputs": ends["outputs"]}.items()]
    rows += [("outputs", error, "held out") for name, error in ends.items() if name != "outputs"]
    yield Picture(
        name="errors",
        title=_largest(layers, ends),
        note="Of what a layer computes from the restructured layers before it, relative to what it was; the "
        "outputs before softmax or the like. The weights were fitted to the calibration data, so that errors "
        "on these flatter.",
        numbers=Numbers("Relative errors", ("layer", "relative error", "data"), rows),
        draw=partial(_draw_errors, drawn, ends),
        height=style.rows_height(len(drawn) + len(ends), 1.1),
    )


def _largest(layers: dict[str, float], ends: dict[str, float]) -> str:
    held_out = ends.get("outputs, held out")
    of_outputs = f"the outputs are off by {percent(ends['outputs'])} on the calibration data"
    if held_out is not None:
        of_outputs += f" and {percent(held_out)} on held-out samples"
    if not layers or not max(layers.values()):
        return of_outputs[0].upper() + of_outputs[1:]
    worst = max(layers, key=lambda name: layers[name])
    return f"{worst} has the largest error, {percent(layers[worst])}; {of_outputs}"


def _draw_errors(layers: dict[str, float], ends: dict[str, float], figure: Figure) -> None:
    axes, nothing = figure.subplots(), 0.0
    everything = {**layers, **ends}
    calibration = [nothing if name == "outputs, held out" else error for name, error in everything.items()]
    held_out = [error if name == "outputs, held out" else nothing for name, error in everything.items()]
    parts = {"calibration data": calibration}
    if any(held_out):
        parts["held-out data"] = held_out
    told = [percent(error) for error in everything.values()]
    names = [name.removesuffix(", held out") for name in everything]
    style.bars(axes, names, parts, "relative error", told)
    style.legend(figure, axes)


@pictures_of(Chapter.QUALITY, "restructure")
def answers(report: dict[str, Any]) -> Iterator[Picture]:
    """Accuracy before and after, and agreement, on calibration and held-out data."""
    rows = [
        (text, report.get(key), report.get(key + _HELD_OUT))
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
        after, before = report[f"accuracy{suffix}"], report[f"reference_accuracy{suffix}"]
        return f"Accuracy is {after:.4f} on {data}, {before:.4f} before"
    return f"{percent(report[f'agreement{suffix}'])} of {data} keep their class"


def _draw_answers(rows: list[tuple[str, float | None, float | None]], figure: Figure) -> None:
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
