"""How pictures look: colours, sizes and kinds of diagrams that several of them share.

Colours are those of Okabe and Ito, which the colour-blind can tell apart.  Nothing is told by colour alone:
lines differ in their markers, parts of bars in their hatching.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from repurpose_hpc.report.words import scaled, short

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
BLACK, GREY = "#222222", "#767676"
COLOURS = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY, BLACK)
MARKERS = "os^Dv<>P*X"
HATCHES = ("", "///", "\\\\\\", "|||", "---", "+++")
AMOUNTS = "Blues"
"""Colour map of amounts: the darker, the more."""

# What a letter behind the longest bar takes, of its length.
_TEXT_ROOM = 0.045
# Labels of an axis of ranks, at most.
_MOST_LABELS = 5
# Inches: as wide as a phone's screen at 96 dots an inch, so that text keeps its size there; and of pictures
# that scroll.
WIDTH, WIDE = 3.75, 7.5
RC: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "repurpose-hpc",
    "text.parse_math": False,  # names from files are no formulas
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "text.color": BLACK,
    "axes.labelcolor": BLACK,
    "axes.edgecolor": GREY,
    "xtick.color": BLACK,
    "ytick.color": BLACK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "hatch.linewidth": 0.6,
    "figure.dpi": 96,
    "savefig.dpi": 200,
}

Series = Mapping[str, Sequence[float]]
"""Values by name."""


def bars(axes: Axes, names: Sequence[str], parts: Series, unit: str, told: Sequence[str] = ()) -> None:
    """Draw a horizontal bar for each name, made of parts.

    Args:
        axes: to draw on.
        names: of the bars, the first on top.
        parts: length of each part of each bar.
        unit: of the lengths.
        told: text behind each bar.
    """
    places, left = np.arange(len(names)), np.zeros(len(names))
    for number, (part, values) in enumerate(parts.items()):
        lengths = np.nan_to_num(finite(values))
        label = part if lengths.any() else None
        axes.barh(places, lengths, 0.7, left, label=label, **_part_style(number))
        left += lengths
    for place, end, text in zip(places, left, told, strict=bool(told)):
        axes.annotate(text, (end, place), (3, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.set_yticks(places, list(map(short, names)))
    axes.set_ylim(len(names) - 0.4, -0.6)
    room = 1.05 + _TEXT_ROOM * max(map(len, told), default=0)
    axes.set_xlim(0, max(left.max(initial=0), 1e-12) * room)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    plain_numbers(axes.xaxis)
    axes.set_xlabel(unit)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _part_style(number: int) -> dict[str, Any]:
    return {
        "color": COLOURS[number % len(COLOURS)],
        "hatch": HATCHES[number % len(HATCHES)],
        "edgecolor": "white",
        "linewidth": 0.5,
    }


def columns(axes: Axes, values: Sequence[float], unit: str, colour: str = BLUE) -> None:
    """Draw a column for each worker or rank, with a line at the mean."""
    heights = np.nan_to_num(finite(values))
    axes.bar(np.arange(heights.size), heights, 0.8, color=colour)
    mean = float(heights.mean()) if heights.size else 0.0
    axes.axhline(mean, color=BLACK, linewidth=0.9, linestyle="--")
    axes.annotate(
        "mean", (1, mean), (1, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center"
    )
    axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    plain_numbers(axes.yaxis)
    axes.set_xlim(-0.6, heights.size - 0.4)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(unit)
    axes.grid(axis="y")


def curves(axes: Axes, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> None:
    """Draw lines with markers, by name, of their places and values."""
    for number, (name, (x, y)) in enumerate(lines.items()):
        axes.plot(
            x,
            finite(y),
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=4.5,
            linewidth=1.4,
            label=short(name),
        )
    axes.grid()


def ranks_axis(axes: Axes, ranks: Sequence[int]) -> None:
    """Make the horizontal axis one of numbers of ranks, each twice as many as the one before."""
    numbers = np.array(sorted(set(ranks)))
    axes.set_xscale("log", base=2)
    # A label for each stretch that has room for one.
    stretch = np.floor(
        _MOST_LABELS * np.log(numbers / numbers[0]) / max(1e-9, np.log(numbers[-1] / numbers[0]))
    )
    shown = numbers[np.unique(stretch, return_index=True)[1]].tolist()
    axes.set_xticks(shown, [f"{number:,}" for number in shown])
    axes.minorticks_off()
    axes.set_xlabel("ranks")


def has_positive(values: Iterable[float]) -> bool:
    """Whether a logarithmic axis would have anything to show."""
    return bool((finite(list(values)) > 0).any())


def plain_numbers(axis: Axis) -> None:
    """Have numbers written with prefixes, also on logarithmic axes, whose own labels are formulas."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: scaled(value, "").strip()))


def legend(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """Put the legend of a diagram below the figure."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=columns)


def finite(values: Sequence[float]) -> np.ndarray:
    """Values as numbers to draw, float64; what is infinite is left out."""
    numbers = np.asarray(values, np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def rows_height(rows: int, more: float = 0.9) -> float:
    """Inches that so many bars need, and ``more`` for what is around them."""
    return more + 0.24 * rows
