"""Results of commands: what of them is compared with a run that nothing has happened to."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import h5py

# Columns of the table of scaling that are the same in every run; of other tables all but the seconds.
_SAME = ("ranks", "form", "batch", "values", "error")


def content(place: Path) -> list[Any]:
    """What is the same in every right run: rows of tables, bytes of outputs and shards; that JSON is JSON."""
    if place.is_dir():
        return [(file.name, file.read_bytes()) for file in sorted(place.iterdir())]
    if place.suffix == ".csv":
        with open(place, newline="") as file:
            return [_comparable(row) for row in csv.DictReader(file)]
    if place.suffix == ".json":
        return [bool(json.loads(place.read_text()))]
    with h5py.File(place) as file:
        return [file["y"][()].tobytes()]


def _comparable(row: dict[str, str]) -> dict[str, str]:
    if "form" in row:
        return {name: row[name] for name in _SAME}
    return {name: value for name, value in row.items() if name != "seconds"}


def is_whole(place: Path, expected: list[Any]) -> bool:
    """Tell whether a result is that of a run that nothing has happened to; a table may have fewer rows.

    Args:
        place: of the result.
        expected: ``content`` of the other.
    """
    try:
        found = content(place)
        if place.suffix == ".csv":
            return all(row in expected for row in found if not row["error"])
    except (OSError, ValueError, KeyError):
        return False
    return found == expected
