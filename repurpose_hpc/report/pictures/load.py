"""What each worker computes and keeps in memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from repurpose_hpc.report.pictures import style
from repurpose_hpc.report.pictures.picture import Chapter, Numbers, Picture, pictures_of
from repurpose_hpc.report.shards import ShardContents
from repurpose_hpc.report.sources import SHARDS
from repurpose_hpc.report.words import over_mean, scaled

_MIB = 1 << 20
_UNEVEN = 1.02


@pictures_of(Chapter.LOAD, SHARDS)
def workers(shards: ShardContents) -> Iterator[Picture]:
    """Multiply-adds and memory of every worker."""
    work, memory = shards.multiply_adds.tolist(), (shards.memory / _MIB).tolist()
    received, sent = (shards.bytes_sent.sum(axis=axis).tolist() for axis in (0, 1))
    yield Picture(
        name="load",
        title=_most("Worker", "computes", work, f"multiply-adds per {shards.unit}"),
        note="Memory is that of weights and biases as they are in the shards.",
        numbers=Numbers(
            "Work, memory and traffic of each worker",
            ("worker", f"multiply-adds per {shards.unit}", "memory, MiB", "bytes sent", "bytes received"),
            list(zip(range(shards.workers), work, memory, sent, received, strict=True)),
        ),
        draw=partial(_draw, {f"multiply-adds\nper {shards.unit}": work, "memory, MiB": memory}, "worker"),
        height=3.6,
    )


@pictures_of(Chapter.LOAD, "infer")
def ranks(report: dict[str, Any]) -> Iterator[Picture]:
    """Weights of every rank, and how long it computed."""
    seconds = report.get("compute_seconds", [])
    # Every group has a copy of the weights; times are those of all ranks.
    panels = {"weights": report["load"] * report["groups"]}
    if not panels["weights"]:
        return
    title = _most("Rank", "holds", panels["weights"], "weights")
    if len(seconds) == len(panels["weights"]):
        panels["computing, s"] = seconds
        title = _most("Rank", "computes", seconds, "s in the whole run")
    yield Picture(
        name="ranks",
        title=title,
        note="Time is that of all forwards of the stream, without waiting for others." if seconds else "",
        numbers=Numbers(
            "Load of each rank",
            ("rank", *panels),
            list(zip(itertools.count(), *panels.values(), strict=False)),
        ),
        draw=partial(_draw, panels, "rank"),
        height=1.0 + 1.3 * len(panels),
    )


@pictures_of(Chapter.LOAD, "restructure")
def weights(report: dict[str, Any]) -> Iterator[Picture]:
    """Weights of every worker, where there is no more to know than the report."""
    held = report["weights_of_workers"]
    if held:
        yield Picture(
            name="weights",
            title=_most("Worker", "holds", held, "weights"),
            note="",
            numbers=Numbers("Weights of each worker", ("worker", "weights"), list(enumerate(held))),
            draw=partial(_draw, {"weights": held}, "worker"),
            height=2.3,
        )


def _most(who: str, does: str, amounts: Sequence[float], unit: str) -> str:
    number, ratio = int(np.argmax(amounts)), over_mean(amounts)
    amount = scaled(amounts[number], "").strip()
    if len(amounts) == 1:
        return f"The only {who.lower()} {does} {amount} {unit}"
    if ratio <= _UNEVEN:
        return f"Every {who.lower()} {does} about {amount} {unit}"
    return f"{who} {number} {does} most: {amount} {unit}, {ratio:.3g} times the mean"


def _draw(panels: dict[str, Sequence[float]], who: str, figure: Figure) -> None:
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (unit, values), colour in zip(grid, panels.items(), style.COLOURS, strict=False):
        style.columns(axes, values, unit, colour)
    grid[-1].set_xlabel(who)
