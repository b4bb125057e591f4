"""The picture of a study; needs matplotlib, so commands import this module last."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from repurpose_hpc.fields import count
from repurpose_hpc.io.atomic import replacing
from repurpose_hpc.studies.table import Row

# Columns that tell lines apart, and their text in a legend.
_LINE = {
    "method": "{}",
    "assignment": "{} assignment",
    "input_placement": "{} input",
    "by_position": "{} layers by position",
    "seed": "seed {}",
}
_MARKERS = "os^Dv<>P*X"


def draw(path: Path, rows: Sequence[Row]) -> bool:
    """Draw quality against communication: a panel for each number of workers, a line for each method.

    The quality is the accuracy on the test data, or their output error where they have no labels.  Points
    that failed, and those that send nothing, which have no place on a logarithmic axis, are left out.

    Args:
        path: of the ``.png`` file; it appears when it is complete.
        rows: of an ``AccuracyTable``.

    Returns:
        whether there was anything to draw; ``path`` is untouched otherwise.

    Raises:
        UserError: it cannot be written.
    """
    rows = [row for row in rows if row["error"] is None and row["comm_fraction"] > 0]
    if not rows:
        return False
    varying = [name for name in _LINE if name == "method" or len({row[name] for row in rows}) > 1]
    figure = _figure(rows, varying)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
    return True


def _figure(rows: Sequence[Row], varying: list[str]) -> Figure:
    """The picture; a label says of a line what is ``varying``, the title what all have in common."""
    workers, styles = sorted({row["workers"] for row in rows}), _styles(rows, varying)
    columns = math.ceil(math.sqrt(len(workers)))
    lines = -(-len(workers) // columns)
    size = (1 + 4.5 * columns, 1 + 3.3 * lines + 0.25 * len(styles) / columns)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat
    for axes in grid[len(workers) :]:
        axes.remove()
    for axes, number in zip(grid, workers, strict=False):
        _panel(axes, [row for row in rows if row["workers"] == number], varying, styles)
        axes.set_title(count(number, "worker"))
    figure.suptitle(", ".join(_LINE[name].format(rows[0][name]) for name in _LINE if name not in varying))
    _legend(figure, columns)
    return figure


def _label(row: Row, varying: list[str]) -> str:
    return ", ".join(_LINE[name].format(row[name]) for name in varying)


def _styles(rows: Sequence[Row], varying: list[str]) -> dict[str, dict]:
    """Colour and marker of each line, the same in every panel."""
    labels = dict.fromkeys(_label(row, varying) for row in rows)
    return {
        label: {"color": f"C{index % 10}", "marker": marker, "label": label}
        for index, (label, marker) in enumerate(zip(labels, cycle(_MARKERS), strict=False))
    }


def _panel(axes: Axes, rows: Sequence[Row], varying: list[str], styles: dict[str, dict]) -> None:
    reference = rows[0]["test_reference_accuracy"]
    quantity = "test_output_error" if reference is None else "test_accuracy"
    if reference is not None:
        axes.axhline(reference, color="black", linestyle="--", linewidth=1, label="original")
    lines = defaultdict(list)
    for row in rows:
        lines[_label(row, varying)].append((row["comm_fraction"], row[quantity]))
    for label, points in lines.items():
        axes.plot(*zip(*sorted(points), strict=True), linewidth=1.5, markersize=5, **styles[label])
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("communication fraction (values sent / dense values)")
    axes.set_ylabel("output error, test data" if reference is None else "accuracy, test data")
    axes.tick_params(labelbottom=True, labelleft=True)  # which sharing the axes hides
    axes.grid(alpha=0.3)


def _legend(figure: Figure, columns: int) -> None:
    """One legend for all panels, below them; an entry may be as wide as a panel."""
    handles: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns)
