"""Tables that scripts leave: rows of named values."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path


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
