"""The picture of a scaling study; needs matplotlib, so commands import this module last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from repurpose_hpc.io.atomic import replacing
from repurpose_hpc.studies.scaling.table import DENSE, PHASES, RESTRUCTURED, ScalingTable
from repurpose_hpc.studies.table import Row

_COLOURS = {DENSE: "C0", RESTRUCTURED: "C1"}
_PHASE_COLOURS = dict(zip(PHASES, ("C2", "C4", "C5", "0.75"), strict=True))
_BAR = 0.36


def draw(path: Path, table: ScalingTable) -> bool:
    """Draw a column of panels for each batch size: speed-up, efficiency, where the time goes, what is sent.

    Points with more ranks than cores have hollow markers and hatched bars; failed ones are left out.

    Args:
        path: of the ``.png`` file; it appears when it is complete.
        table: of the study.

    Returns:
        whether there was anything to draw; ``path`` is untouched otherwise.

    Raises:
        UserError: it cannot be written.
    """
    rows = [row for row in table.rows if row["error"] is None]
    if not rows:
        return False
    batches = sorted({row["batch"] for row in rows})
    panels: tuple[Callable, ...] = (_speedup, _efficiency, _time, _volume, _messages)
    size = (1 + 4.2 * len(batches), 0.8 + 2.9 * len(panels))
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    grid = figure.subplots(len(panels), len(batches), squeeze=False)
    for column, batch in zip(grid.T, batches, strict=True):
        column[0].set_title(f"batch {batch}")
        for axes, panel in zip(column, panels, strict=True):
            panel(axes, [row for row in rows if row["batch"] == batch], table.study["kind"])
    figure.suptitle(f"{table.study['kind']} scaling")
    _legend(figure, rows, len(batches))
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
    return True


def _speedup(axes: Axes, rows: Sequence[Row], kind: str) -> None:
    ranks = sorted({row["ranks"] for row in rows})
    axes.plot(ranks, ranks, color="black", linestyle="--", linewidth=1, label="ideal")
    axes.axhline(1, color="black", linestyle=":", linewidth=1, label="best single process")
    _lines(axes, rows, "speedup")
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("speed-up over one process")


def _efficiency(axes: Axes, rows: Sequence[Row], kind: str) -> None:
    axes.axhline(1, color="black", linestyle="--", linewidth=1)
    _lines(axes, rows, "efficiency")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("speed-up / ranks" if kind == "strong" else "time on one rank / time")


def _volume(axes: Axes, rows: Sequence[Row], kind: str) -> None:
    _lines(axes, rows, "bytes")
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("bytes per forward")


def _messages(axes: Axes, rows: Sequence[Row], kind: str) -> None:
    _lines(axes, rows, "messages")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("messages per forward")


def _lines(axes: Axes, rows: Sequence[Row], quantity: str) -> None:
    """A line for each form; both begin with the only form of one rank."""
    for form, colour in _COLOURS.items():
        line = [row for row in rows if row["form"] == form or row["ranks"] == 1]
        line = [row for row in line if row[quantity] is not None]
        ranks, values = [row["ranks"] for row in line], [row[quantity] for row in line]
        axes.plot(ranks, values, color=colour, linewidth=1.5, label=form)
        for row in line:
            face = "white" if row["oversubscribed"] else colour
            axes.plot(row["ranks"], row[quantity], "o", color=colour, markerfacecolor=face, markersize=6)
    axes.set_xscale("log", base=2)
    _label_ranks(axes, rows, sorted({row["ranks"] for row in rows}))
    axes.grid(alpha=0.3)


def _time(axes: Axes, rows: Sequence[Row], kind: str) -> None:
    """Bars beside each other, dense left, made of the medians of the phases; whiskers from p10 to p90."""
    ranks = sorted({row["ranks"] for row in rows})
    for row in rows:
        shift = 0 if row["ranks"] == 1 else _BAR / 2 * (1 if row["form"] == RESTRUCTURED else -1)
        place, bottom = ranks.index(row["ranks"]) + shift, 0.0
        for phase, colour in _PHASE_COLOURS.items():
            hatch = "///" if row["oversubscribed"] else None
            height = 1e3 * row[phase]
            axes.bar(
                place,
                height,
                0.9 * _BAR,
                bottom,
                color=colour,
                hatch=hatch,
                edgecolor=_COLOURS[row["form"]],
                linewidth=1,
            )
            bottom += height
        spread = [1e3 * row[name] for name in ("seconds_p10", "seconds_p90")]
        axes.plot([place, place], spread, color="black", linewidth=1)
    _label_ranks(axes, rows, range(len(ranks)))
    axes.set_ylabel("time of a forward, ms")
    axes.grid(axis="y", alpha=0.3)


def _label_ranks(axes: Axes, rows: Sequence[Row], places: Sequence[int]) -> None:
    ranks = sorted({row["ranks"] for row in rows})
    axes.set_xticks(places, [str(number) for number in ranks])
    axes.minorticks_off()
    axes.set_xlabel("ranks")


def _legend(figure: Figure, rows: Sequence[Row], columns: int) -> None:
    """One legend for all panels, below them."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    for phase, colour in _PHASE_COLOURS.items():
        handles.append(Patch(color=colour))
        labels.append(phase.removesuffix("_seconds"))
    if any(row["oversubscribed"] for row in rows):
        handles.append(Patch(facecolor="white", edgecolor="black", hatch="///"))
        labels.append("hollow, hatched: more ranks than cores")
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, 1 + 2 * columns))
