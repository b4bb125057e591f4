"""Curves of fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from repurpose_hpc.report.pictures import style
from repurpose_hpc.report.pictures.picture import Chapter, Numbers, Picture, pictures_of
from repurpose_hpc.report.words import percent

Epochs = list[dict[str, Any]]


@pictures_of(Chapter.TUNING, "finetune")
def epochs(report: dict[str, Any]) -> Iterator[Picture]:
    """Loss and accuracy behind every epoch."""
    if report["epochs"]:
        yield Picture(
            name="tuning",
            title=_improved(report),
            note="Epoch 0 is before anything was tuned. The loss of an epoch is the mean over its steps; "
            "held-out samples were not tuned on.",
            numbers=Numbers(
                "Loss and accuracy by epoch",
                ("epoch", "loss", "held-out loss", "held-out accuracy", "duration, s"),
                [tuple(epoch.values()) for epoch in map(_ordered, report["epochs"])],
            ),
            draw=partial(_draw, report["epochs"], report["best_epoch"]),
            height=4.0 if _has_accuracy(report["epochs"]) else 2.8,
        )


def _ordered(epoch: dict[str, Any]) -> dict[str, Any]:
    return {name: epoch[name] for name in ("epoch", "loss", "held_out_loss", "held_out_accuracy", "seconds")}


def _has_accuracy(epochs: Epochs) -> bool:
    return any(epoch["held_out_accuracy"] is not None for epoch in epochs)


def _improved(report: dict[str, Any]) -> str:
    by_number = {epoch["epoch"]: epoch for epoch in report["epochs"]}
    first, best = report["epochs"][0], by_number.get(report["best_epoch"], report["epochs"][0])
    if best is first:
        return "No epoch is better than before tuning, so that the shards stay what they were"
    before, after = first["held_out_loss"], best["held_out_loss"]
    fell = f" by {percent(1 - after / before)}" if before > 0 else ""
    accuracies = first["held_out_accuracy"], best["held_out_accuracy"]
    accuracy = (
        ""
        if None in accuracies
        else f"; held-out accuracy goes from {accuracies[0]:.4f} to {accuracies[1]:.4f}"
    )
    change = f"from {before:.4g} to {after:.4g} behind epoch {best['epoch']}"
    return f"The held-out loss falls{fell}, {change}{accuracy}"


def _draw(epochs: Epochs, best: int, figure: Figure) -> None:
    panels = 1 + _has_accuracy(epochs)
    grid = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    _draw_lines(grid[0], epochs, {"loss": "loss", "held-out loss": "held_out_loss"})
    grid[0].set_ylabel("loss")
    style.legend(figure, grid[0])
    if panels > 1:
        _draw_lines(grid[1], epochs, {"held-out accuracy": "held_out_accuracy"})
        grid[1].set_ylabel("held-out accuracy")
    for axes in grid:
        axes.axvline(best, color=style.GREY, linestyle=":", linewidth=1)
        axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
    grid[0].annotate(
        "best", (best, 1), (2, -2), xycoords=("data", "axes fraction"), textcoords="offset points", va="top"
    )
    grid[-1].set_xlabel("epoch")


def _draw_lines(axes: Any, epochs: Epochs, keys: dict[str, str]) -> None:
    lines = {}
    for name, key in keys.items():
        found = [(epoch["epoch"], epoch[key]) for epoch in epochs if epoch[key] is not None]
        if found:
            x, y = zip(*found, strict=True)
            lines[name] = (x, y)
    style.curves(axes, lines)
