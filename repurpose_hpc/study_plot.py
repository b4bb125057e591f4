"""The picture of a study; needs matplotlib, so commands import this module last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from repurpose_hpc.runtime.files import replacing
from repurpose_hpc.study_table import Row

# What tells lines apart, and how a legend says it.
_LINE = {
    "method": "{}",
    "assignment": "{} assignment",
    "input_placement": "{} input",
    "seed": "seed {}",
}
_MARKERS = "os^Dv<>P*X"


def draw(path: Path, rows: Sequence[Row]) -> bool:
    """Draw quality against communication: a panel for each number of workers, a line for each method.

    The quality is the accuracy on the test data, or their output error where they have no labels.  Points
    that failed, and those that send nothing, which have no place on a logarithmic axis, are left out.

    Args:
        path: of the ``.png`` file; it appears when it is complete.
        rows: of a ``study_table.Table``.

    Returns:
        whether there was anything to draw; ``path`` is untouched otherwise.

    Raises:
        UserError: it cannot be written.
    """
    rows = [row for row in rows if row["error"] is None and row["comm_fraction"] > 0]
    if not rows:
        return False
    workers = sorted({row["workers"] for row in rows})
    columns = math.ceil(math.sqrt(len(workers)))
    lines = -(-len(workers) // columns)
    figure = Figure(figsize=(1 + 4.5 * columns, 1.5 + 3.3 * lines), dpi=120, layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat
    varying = [name for name in _LINE if name == "method" or len({row[name] for row in rows}) > 1]
    styles = _styles(rows, varying)
    for axes in grid[len(workers) :]:
        axes.remove()
    for axes, number in zip(grid, workers, strict=False):
        _panel(axes, [row for row in rows if row["workers"] == number], varying, styles)
        axes.set_title(f"{number} workers")
    figure.suptitle(", ".join(_LINE[name].format(rows[0][name]) for name in _LINE if name not in varying))
    _legend(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
    return True


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
    for label, style in styles.items():
        line = sorted((row["comm_fraction"], row[quantity]) for row in rows if _label(row, varying) == label)
        axes.plot(*zip(*line, strict=True), linewidth=1.5, markersize=5, **style) if line else None
    axes.set_xscale("log")
    axes.set_xlabel("communication fraction (values sent / dense values)")
    axes.set_ylabel("output error, test data" if reference is None else "accuracy, test data")
    axes.label_outer()
    axes.grid(alpha=0.3, which="both")


def _legend(figure: Figure) -> None:
    """One legend for all panels, below them."""
    handles = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=min(len(handles), 3))
