"""Benchmarks: times of all candidates over that of one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from repurpose_hpc.report.pictures import style
from repurpose_hpc.report.pictures.picture import Chapter, Numbers, Picture, pictures_of
from repurpose_hpc.report.words import cell

# Tables of the reports, and the columns that tell their rows apart.
_TABLES = {
    "vector": ("n",),
    "batch": ("n", "batch"),
    "csr": ("n", "density", "columns"),
    "exchange": ("bytes",),
    "inference": ("n", "batch"),
    "stream": ("file", "batch"),
}
Rows = list[dict[str, Any]]


@pictures_of(Chapter.BENCH, "bench kernels", "bench exchange", "bench inference", "bench stream")
def ratios(report: dict[str, Any]) -> Iterator[Picture]:
    """A picture of each table."""
    for table, keys in _TABLES.items():
        rows = [row for row in report.get(table, []) if row["ratios"]]
        if rows:
            yield Picture(
                name=f"bench {table}",
                title=f"{table.capitalize()}: {_standing(rows)}",
                note=f"Times over that of {_base(rows)}: right of the line at 1 a candidate is slower. "
                f"Rows: {', '.join(keys)}.",
                numbers=Numbers(
                    f"Medians and ratios of {table}",
                    (*keys, "candidate", "median, µs", f"over {_base(rows)}"),
                    [
                        (*(row[key] for key in keys), *candidate)
                        for row in rows
                        for candidate in _candidates(row)
                    ],
                ),
                draw=partial(_draw, rows, keys),
                height=style.rows_height(len(rows), 1.0 + 0.1 * len(_names(rows))),
            )


def _candidates(row: dict[str, Any]) -> Iterator[tuple[str, float, float | None]]:
    for name, times in row["us"].items():
        yield name, times["median"], row["ratios"].get(name)


def _standing(rows: Rows) -> str:
    every = [(ratio, name) for row in rows for name, ratio in row["ratios"].items()]
    slower = sum(ratio >= 1 for ratio, _ in every)
    least, name = min(every)
    wins = f"{_base(rows)} is faster in {slower} of {len(every)} comparisons"
    return f"{wins}; the least time over its own is that of {name}, {least:.2f}"


def _base(rows: Rows) -> str:
    """The candidate that the others are compared with."""
    return next((name for name in rows[0]["us"] if name not in rows[0]["ratios"]), "the base")


def _names(rows: Rows) -> list[str]:
    """The candidates that are compared, each once."""
    return list(dict.fromkeys(name for row in rows for name in row["ratios"]))


def _draw(rows: Rows, keys: tuple[str, ...], figure: Figure) -> None:
    """A line for each row, a marker for each candidate."""
    axes = figure.subplots()
    for number, name in enumerate(_names(rows)):
        found = [(row["ratios"][name], place) for place, row in enumerate(rows) if name in row["ratios"]]
        axes.plot(
            *zip(*found, strict=True),
            style.MARKERS[number % len(style.MARKERS)],
            color=style.COLOURS[number % len(style.COLOURS)],
            label=name,
        )
    axes.axvline(1, color=style.BLACK, linewidth=1, linestyle="--")
    if style.has_positive(ratio for row in rows for ratio in row["ratios"].values()):
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(rows)), [", ".join(cell(row[key]) for key in keys) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(f"time over that of {_base(rows)}")
    axes.grid()
    style.legend(figure, axes)
