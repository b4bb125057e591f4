"""The table of a study: one row for each point, on disk as soon as the point is finished.

A point is a combination of options for one model and its data.  A file beside the table, of the same name
with ``.json``, has the origin of its rows, so that points of different models never meet in one table.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.atomic import check_writable, write_csv, write_text, writing
from repurpose_hpc.io.reading import read_object, reason_of
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.studies.table import ResumableTable, Row, damaged

SETTINGS = {
    "workers": int,
    "method": str,
    "assignment": str,
    "input_placement": str,
    "budget": float,
    "seed": int,
    "forms": str,
    "by_position": str,
}
# Columns that older tables do not have, and what they mean there.
_ADDED = {"by_position": "0"}
# Columns of options under another name than theirs.
_OPTIONS = {"budget": "comm_budget"}
# Keys of ``Comparison.findings``, for the calibration data and for the test data.
QUALITIES = (
    *("reference_accuracy", "accuracy", "agreement", "output_error"),
    *("reference_rmse", "rmse", "reference_r2", "r2"),
)
FINDINGS = {
    "values_sent": int,
    "dense_values": int,
    "comm_fraction": float,
    "weights_kept": int,
    **{f"{data}_{quality}": float for data in ("calibration", "test") for quality in QUALITIES},
    "seconds": float,
    "error": str,
}
_INPUTS = ("model", "calibration", "test")
COLUMNS = {**SETTINGS, **FINDINGS}
"""Names of the columns and the types of their values; an empty field is None."""


def settings(options: Options) -> Row:
    """The columns ``SETTINGS`` of a point; points differ in nothing else."""
    named = {name: getattr(options, _OPTIONS.get(name, name)) for name in SETTINGS}
    return named | {"forms": ",".join(options.may_travel), "by_position": str(options.by_position)}


class AccuracyTable(ResumableTable):
    """The rows of a study, in memory and on disk.

    Args:
        path: of the ``.csv`` file; its directory is made, and the rows in it are read.
        origin: ``version`` of this package, and for each of ``model``, ``calibration`` and ``test`` a
            dictionary with ``path`` and ``sha256``.

    Raises:
        UserError: the table there has another origin or is not one, or nothing can be written there.
    """

    def __init__(self, path: Path, origin: dict[str, Any]) -> None:
        with writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        check_writable(path)
        _claim(path, origin)
        super().__init__(path, tuple(SETTINGS), _read(path))

    @property
    def rows(self) -> list[Row]:
        """All rows, with the columns ``COLUMNS``."""
        return list(self._rows.values())

    def find(self, options: Options) -> Row | None:
        """The row of a point; None if it was not computed yet, or failed."""
        return self.finished(*settings(options).values())

    def put(self, options: Options, findings: Row) -> None:
        """Write down the findings for a point, in place of its earlier row if there is one.

        Args:
            options: the point.
            findings: some of the columns ``FINDINGS``; the others stay empty.

        Raises:
            UserError: the table cannot be written; the file is as it was before.
        """
        self.put_rows([{**dict.fromkeys(COLUMNS), **settings(options), **findings}])

    def take_over(self, other: AccuracyTable) -> None:
        """Write down the points that ``other`` has and this table has not.

        Raises:
            UserError: the table cannot be written.
        """
        own_rows = [row for row in self.rows if row["error"] is None]
        self.put_rows([row for row in other.rows if row["error"] is None] + own_rows)

    def save(self) -> None:
        """Write the file."""
        write_csv(self.path, COLUMNS, self.rows)


def _claim(path: Path, origin: dict[str, Any]) -> None:
    """Write the origin of a new table; refuse that of another one."""
    origin_path = path.with_suffix(".json")
    if origin_path.exists():
        _check_origin(path, _read_origin(origin_path), origin)
    elif path.exists():
        raise UserError(
            f"{path}: expected {origin_path.name} beside it, which says what it was made from, found none; "
            "choose another place or move the table away"
        )
    else:
        write_text(origin_path, json.dumps(origin, indent=2) + "\n")


def _read_origin(path: Path) -> dict[str, Any]:
    try:
        origin = read_object(path)
        if not all({"path", "sha256"} <= {*origin[name]} for name in _INPUTS):
            raise ValueError(f"it lacks paths or hashes of {', '.join(_INPUTS)}")
        return origin
    except Exception as error:  # damage makes all kinds of them
        raise UserError(
            f"{path}: expected what the table beside it was made from: {reason_of(error)}; "
            "choose another place or move both away"
        ) from None


def _check_origin(path: Path, stored: dict[str, Any], expected: dict[str, Any]) -> None:
    if stored.get("version") != expected["version"]:
        raise UserError(
            f"{path}: expected a table of version {expected['version']}, found one of version "
            f"{stored.get('version')}; choose another place or move the table away"
        )
    for name in _INPUTS:
        if stored[name]["sha256"] != expected[name]["sha256"]:
            raise UserError(
                f"{path}: expected a study of the {name} file {expected[name]['path']}, found one of "
                f"{stored[name]['path']} with other contents; choose another place for each study"
            )


def _read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [
                {name: kind(raw[name]) if raw[name] else None for name, kind in COLUMNS.items()}
                for raw in ({**_ADDED, **row} for row in csv.DictReader(file))
            ]
    except Exception as error:  # damage makes all kinds of them
        raise damaged(path, error, "move it away with its .json") from None
