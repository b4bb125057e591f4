"""Tables that scripts leave: rows of named values."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from os import PathLike


def write_csv(path: str | PathLike[str], rows: Sequence[dict]) -> None:
    """Write rows of the same names as a CSV file with a header."""
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
