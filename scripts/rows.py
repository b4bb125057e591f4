"""Tables that scripts leave: rows of named values."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from statistics import mean


def write_csv(path: str | PathLike[str], rows: Sequence[dict]) -> None:
    """Write rows of the same names as a CSV file with a header."""
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)


def read_csv(path: str | PathLike[str]) -> list[dict[str, str]]:
    """Read what ``write_csv`` wrote; none if there is no file."""
    if not Path(path).exists():
        return []
    with open(path, newline="") as file:
        return [*csv.DictReader(file)]


def markdown(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of these columns."""
    head, *body = (f"| {' | '.join(cells)} |" for cells in (names, *rows))
    return "\n".join([head, "|" + "---|" * len(names), *body])


def mean_table(
    names: Sequence[str], rows: Sequence[Mapping[str, str]], keys: Sequence[str], formats: Mapping[str, str]
) -> str:
    """A Markdown table with a line for all rows that agree in ``keys``.

    Args:
        names: of its columns, those of ``keys`` first.
        rows: as ``read_csv`` gives them.
        keys: shown as they are.
        formats: name of a number -> how its mean is written.
    """
    lines = []
    for setting in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        found = [row for row in rows if tuple(row[key] for key in keys) == setting]
        means = {name: mean(float(row[name]) for row in found) for name in formats}
        lines.append((*setting, *(format(means[name], spec) for name, spec in formats.items())))
    return markdown(names, lines)
