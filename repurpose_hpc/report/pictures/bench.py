"""Benchmarks: times of others over that of this package."""

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
    """A picture of each table: others beside this package."""
    for table, keys in _TABLES.items():
        rows = [row for row in report.get(table, []) if row["ratios"]]
        if rows:
            yield Picture(
                name=f"bench {table}",
                title=f"{table.capitalize()}: {_standing(rows)}",
                note="Time of each over that of this package: right of the line at 1 it is slower.",
                numbers=Numbers(
                    f"Medians and ratios of {table}",
                    (*keys, "candidate", "median, µs", "over ours"),
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
    return (
        f"others are slower in {slower} of {len(every)} comparisons; the least time beside this package's, "
        f"{least:.2f} times as long, is that of {name}"
    )


def _names(rows: Rows) -> list[str]:
    """The candidates beside this package, each once."""
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
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(rows)), [", ".join(cell(row[key]) for key in keys) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_ylabel(", ".join(keys))
    axes.set_xlabel("time over this package's")
    axes.grid()
    style.legend(figure, axes)
