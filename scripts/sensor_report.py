"""The results of the sensor experiment as figures and as a Markdown table (needs the extra ``plot``)."""

from __future__ import annotations

import csv
import re
from itertools import groupby
from pathlib import Path

NAME = "sensor_experiment"
TITLES = {"data_centre_us": "data centre: 125 TOPS, 150 GB/s", "edge_us": "edge: 0.5 TOPS, 100 MB/s"}
_TABLE = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- end of table -->)", re.DOTALL)


def write(results: Path) -> None:
    """Write both figures and the table in ``sensor_experiment.md``, from the CSV file beside them."""
    rows = sorted(read(results / f"{NAME}.csv"), key=lambda row: float(row["comm_budget"] or 0))
    draw(rows, {"comm_fraction": "values sent per sample / direct parallel"}, results / f"{NAME}.png")
    draw(
        rows,
        {key: f"modelled µs per inference\n({title})" for key, title in TITLES.items()},
        results / f"{NAME}_time.png",
    )
    page = results / f"{NAME}.md"
    page.write_text(_TABLE.sub(lambda _: markdown(rows), page.read_text(encoding="utf-8")), encoding="utf-8")


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none if there is no such file."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def draw(rows: list[dict[str, str]], axes: dict[str, str], path: Path) -> None:
    """Accuracy against each column of ``axes`` (column -> label), one panel for each.

    A method with several budgets is a line, one without a budget a single star.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(axes), figsize=(7 * len(axes), 5), squeeze=False, sharey=True, layout="constrained"
    )
    for panel, (column, label) in zip(panels[0], axes.items(), strict=True):
        for name, entries in _by_name(rows):
            found = sorted((float(row[column]), float(row["accuracy"])) for row in entries)
            panel.plot(*zip(*found, strict=True), "o-" if len(found) > 1 else "*", markersize=6, label=name)
        panel.set(xscale="log", xlabel=label)
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("accuracy on test samples")
    panels[0][-1].legend(loc="lower right")
    figure.savefig(path, dpi=120)


def markdown(rows: list[dict[str, str]]) -> str:
    """One line for every row of the results."""
    titles = (
        "",
        "budget",
        "fraction",
        "values sent",
        "weights, busiest",
        "accuracy",
        "data centre, µs",
        "edge, µs",
    )
    keys = ("name", "comm_budget", "comm_fraction", "values_sent", "busiest_weights", "accuracy", *TITLES)
    lines = [_line(titles), "|---" * len(titles) + "|"]
    lines += [_line([row[key] for key in keys]) for _, entries in _by_name(rows) for row in entries]
    return "\n".join(lines) + "\n"


def _by_name(rows: list[dict[str, str]]) -> list[tuple[str, list[dict[str, str]]]]:
    order = list(dict.fromkeys(row["name"] for row in rows))
    rows = sorted(rows, key=lambda row: order.index(row["name"]))
    return [(name, list(entries)) for name, entries in groupby(rows, key=lambda row: row["name"])]


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
