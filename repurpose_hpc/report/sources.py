"""What a page is made of: shards, reports, tables and traces, told apart by what is in them.

All text in a source is *printable* from here on: control characters and halves of pairs, which neither HTML
nor SVG can hold, are replaced.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.invocation import KEY
from repurpose_hpc.io.reading import check_finite_length, read_object, reading
from repurpose_hpc.plan.files.store import PLAN_FILE, refuse_file
from repurpose_hpc.report.schema import REPORTS, problems
from repurpose_hpc.report.shards import read_contents
from repurpose_hpc.report.timeline import read_timeline
from repurpose_hpc.report.words import clean, printable

SHARDS, STUDY, SCALING, TRACE = "shards", "study", "scaling", "trace"
REMEDY = "name shards, a report, or a table of study or scaling, as the commands have written them"
# Tables that a directory may hold, and the columns by which a file is known.
TABLES = {"study.csv": STUDY, "scaling.json": SCALING}
_COLUMNS: dict[str, dict[str, type]] = {
    STUDY: {
        "workers": int,
        "method": str,
        "assignment": str,
        "input_placement": str,
        "budget": float,
        "seed": int,
        "values_sent": int,
        "comm_fraction": float,
        "test_reference_accuracy": float,
        "test_accuracy": float,
        "test_output_error": float,
        "error": str,
    },
    SCALING: {
        "ranks": int,
        "form": str,
        "batch": int,
        "oversubscribed": bool,
        "seconds_median": float,
        "compute_seconds": float,
        "pack_seconds": float,
        "exchange_seconds": float,
        "wait_seconds": float,
        "best_single_seconds": float,
        "speedup": float,
        "efficiency": float,
        "values": int,
        "bytes": int,
        "error": str,
    },
}


@dataclass(frozen=True, eq=False)
class Source:
    """A thing that a page shows.

    Attributes:
        name: as it was given.
        kind: ``SHARDS``, ``STUDY``, ``SCALING``, ``TRACE``, or a command of ``schema.REPORTS``.
        content: of shards their ``ShardContents``; of tables the rows; of a trace a ``Timeline``; the
            object of a report.
        origin: of a table what it is of, as its command has written it down; of a report and of a trace its
            command line, under ``command``; empty: it does not say.
    """

    name: str
    kind: str
    content: Any
    origin: Mapping[str, Any] = field(default_factory=dict)


def open_source(path: Path) -> Source:
    """Read a file, or a directory of shards or of a study.

    Raises:
        UserError: there is nothing that a page can show.
    """
    name = printable(str(path))
    if path.is_dir():
        if (path / PLAN_FILE).exists():
            return Source(name, SHARDS, read_contents(path))
        path = _table_in(path)
    refuse_file(path)
    with reading(path, "report", REMEDY):
        if path.suffix == ".csv":
            return Source(name, *_table(path))
        return Source(name, *_object(path, clean(read_object(path))))


def _table_in(directory: Path) -> Path:
    for name in TABLES:
        if (directory / name).exists():
            return directory / name
    raise UserError(
        f"{directory}: expected {PLAN_FILE} of shards, or {' or '.join(TABLES)}, found none of them; {REMEDY}"
    )


def _table(path: Path) -> tuple[str, list[dict[str, Any]], Mapping[str, Any]]:
    """Kind, rows and origin of a table of comma-separated values."""
    check_finite_length(path)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for kind, columns in _COLUMNS.items():
        if rows and {*columns} <= {*rows[0]}:
            found = ({name: _value(row[name], columns[name]) for name in columns} for row in rows)
            return kind, _finished(kind, found), _origin_beside(path)
    raise ValueError("it is no table of study or scaling, or has no rows")


def origin_file(path: Path) -> Path:
    """The file beside the table of a study that says what it is of."""
    return path.with_suffix(".json")


def _origin_beside(path: Path) -> Mapping[str, Any]:
    """What the table of a study says that it is of; empty: nothing is beside it."""
    beside = origin_file(path)
    return clean(read_object(beside)) if beside.exists() else {}


def _value(word: str | None, kind: Callable[[str], Any]) -> Any:
    if not word:
        return None
    return word == "True" if kind is bool else clean(kind(word))


def _object(path: Path, content: dict[str, Any]) -> tuple[str, Any, Mapping[str, Any]]:
    """Kind, content and origin of a JSON file."""
    if "traceEvents" in content:
        return TRACE, read_timeline(content["traceEvents"]), _command(content.get("otherData"))
    if {"study", "points"} <= content.keys():
        rows = ({name: row.get(name) for name in _COLUMNS[SCALING]} for row in content["points"])
        return SCALING, _finished(SCALING, rows), dict(content["study"])
    return *_report(path, content), _command(content)


def _command(content: object) -> dict[str, str]:
    """The command line in a report, or in what a trace says of itself; empty: there is none."""
    line = content.get(KEY) if isinstance(content, dict) else None
    return {KEY: line} if isinstance(line, str) else {}


def _finished(kind: str, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that have not failed.

    Raises:
        ValueError: there is none, or a value is not of the type of its column.
    """
    found = [row for row in rows if not row["error"]]
    if not found:
        raise ValueError("it has no row that has not failed")
    for row in found:
        for name, kind_of in _COLUMNS[kind].items():
            is_infinite = isinstance(row[name], float) and not math.isfinite(row[name])
            if is_infinite or (row[name] is not None and problems(row[name], kind_of)):
                raise ValueError(f"expected {kind_of.__name__} in column {name}, found {row[name]!r}")
    return found


def _report(path: Path, content: dict[str, Any]) -> tuple[str, Any]:
    """The command whose report this is.

    Raises:
        UserError: it is that of none, or not as the command writes it.
    """
    found = {command: problems(content, declared) for command, declared in REPORTS.items()}
    best = min(found, key=lambda command: len(found[command]))
    if not found[best]:
        return best, content
    if not any(content.keys() & get_type_hints(declared).keys() for declared in REPORTS.values()):
        raise UserError(f"{path}: expected a report of a command, found none of its keys; {REMEDY}")
    raise UserError(
        f"{path}: expected a report of this version's commands; the nearest is that of {best}, of which "
        f"{found[best][0]}; {REMEDY}"
    )
