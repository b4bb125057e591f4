"""What crosses between workers: from whom to whom, for which layer, in which round."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from repurpose_hpc.fields import count
from repurpose_hpc.report.pictures import style
from repurpose_hpc.report.pictures.picture import Chapter, Numbers, Picture, pictures_of
from repurpose_hpc.report.shards import LayerTraffic, ShardContents
from repurpose_hpc.report.sources import SHARDS
from repurpose_hpc.report.words import over_mean, percent, scaled

# Workers of which the table has each pair, and of which the picture has a square for each.
_MOST_PAIRS, _MOST_SQUARES = 64, 256
# Workers of which the number stands in each square.
_MOST_TOLD = 8
# Layers that are drawn: those that send most.
MOST_LAYERS = 40
# Above this, the largest over the mean is worth saying.
_UNEVEN = 1.05


@pictures_of(Chapter.TRAFFIC, SHARDS)
def matrix(shards: ShardContents) -> Iterator[Picture]:
    """The traffic matrix: bytes from every worker to every other one."""
    if shards.workers > 1:
        values = shards.stored.traffic_matrix()
        yield Picture(
            name="traffic",
            title=_receives_most(shards.bytes_sent, shards.unit),
            note="The row sends, the column receives. Bytes are those of a run in float32, a rank for each "
            "worker.",
            numbers=_pairs(values, shards) if shards.workers <= _MOST_PAIRS else _sums(values, shards),
            draw=partial(_draw_matrix, shards.bytes_sent, shards.unit),
            height=3.5,
        )


def _receives_most(sent: np.ndarray, unit: str) -> str:
    received = sent.sum(axis=0)
    if not received.any():
        return "Nothing crosses between workers"
    worker, ratio = int(received.argmax()), over_mean(received.tolist())
    amount = scaled(float(received[worker]), "B")
    if ratio <= _UNEVEN:
        return f"All workers receive about the same, {amount} per {unit} at most"
    return f"Worker {worker} receives most: {amount} per {unit}, {ratio:.2g} times the mean"


def _pairs(values: np.ndarray, shards: ShardContents) -> Numbers:
    rows: list[tuple[Any, ...]] = [(p, *map(int, row), int(row.sum())) for p, row in enumerate(values)]
    rows.append(("received", *map(int, values.sum(axis=0)), int(values.sum())))
    columns = ("from worker", *(f"to {q}" for q in range(shards.workers)), "sent")
    return Numbers(f"Values sent per {shards.unit}, from worker to worker", columns, rows)


def _sums(values: np.ndarray, shards: ShardContents) -> Numbers:
    both = zip(values.sum(axis=1).tolist(), values.sum(axis=0).tolist(), strict=True)
    rows: list[tuple[Any, ...]] = [(worker, *sums) for worker, sums in enumerate(both)]
    return Numbers(f"Values per {shards.unit} of each worker", ("worker", "sent", "received"), rows)


def _draw_matrix(sent: np.ndarray, unit: str, figure: Figure) -> None:
    axes, workers = figure.subplots(), len(sent)
    step = -(-workers // _MOST_SQUARES)
    firsts = np.arange(0, workers, step)
    squares = np.add.reduceat(np.add.reduceat(sent, firsts, axis=0), firsts, axis=1)
    image = axes.imshow(
        squares,
        cmap=style.AMOUNTS,
        vmin=0,
        interpolation="none",
        extent=(-0.5, workers - 0.5, workers - 0.5, -0.5),
    )
    if workers <= _MOST_TOLD:
        for (p, q), amount in np.ndenumerate(sent):
            dark = amount > 0.6 * sent.max()
            text = "–" if p == q else scaled(float(amount), "")
            axes.text(
                q, p, text.strip(), color="white" if dark else "black", ha="center", va="center", fontsize=8
            )
    axes.set_xlabel("to worker")
    axes.set_ylabel("from worker")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(9, integer=True))
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label(f"bytes per {unit}" + (f", {step} × {step} workers" if step > 1 else ""))
    bar.locator = MaxNLocator(5)


@pictures_of(Chapter.TRAFFIC, SHARDS)
def layers(shards: ShardContents) -> Iterator[Picture]:
    """Ghosts, relays and sums of every layer, and the round in which they travel."""
    if any(layer.values for layer in shards.layers):
        most = sorted(shards.layers, key=lambda layer: -layer.values)[:MOST_LAYERS]
        sending = [layer for layer in most if layer.values]
        drawn = [layer for layer in shards.layers if layer in sending]
        yield Picture(
            name="layers",
            title=_sends_most(shards),
            note="What travels in one round travels at the same time; rounds follow one after the other. "
            "Ghosts are neurons as they are, relays combinations of a worker's neurons, sums parts of output "
            "neurons.",
            numbers=Numbers(
                f"Values sent per {shards.unit} by layer; dense: with nothing pruned",
                ("layer", "round", "ghosts", "relays", "sums", "all", "dense"),
                [
                    (x.name, x.round or None, x.ghosts, x.relays, x.sums, x.values, x.dense)
                    for x in shards.layers
                ],
            ),
            draw=partial(_draw_layers, drawn, shards.unit),
            height=style.rows_height(len(drawn), 1.1),
        )


def _sends_most(shards: ShardContents) -> str:
    total, dense = (sum(getattr(x, name) or 0 for x in shards.layers) for name in ("values", "dense"))
    most = max(shards.layers, key=lambda layer: layer.values)
    rounds = count(max(layer.round for layer in shards.layers), "round")
    of_dense = f" ({percent(total / dense)} of {dense:,})" if dense else ""
    crossing = f"{total:,} values per {shards.unit}{of_dense} cross in {rounds}"
    return f"{crossing}; {most.name} sends most, {most.values:,}"


def _draw_layers(drawn: list[LayerTraffic], unit: str, figure: Figure) -> None:
    axes = figure.subplots()
    parts = {name: [getattr(layer, name) for layer in drawn] for name in ("ghosts", "relays", "sums")}
    told = [f"{layer.values:,}, round {layer.round}" for layer in drawn]
    style.bars(axes, [layer.name for layer in drawn], parts, f"values per {unit}", told)
    style.legend(figure, axes, 3)
