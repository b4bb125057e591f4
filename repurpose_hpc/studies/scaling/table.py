"""The table of a scaling study: one row for each number of ranks, form and batch size.

``scaling.json`` has the origin of the study (``study``) and the rows (``points``); ``scaling.csv`` beside it
has the same rows.  Both are on disk as soon as a point is finished.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.atomic import check_writable, write_csv, write_text
from repurpose_hpc.io.reading import read_object
from repurpose_hpc.runtime import calls
from repurpose_hpc.studies.table import ResumableTable, Row, damaged

DENSE, RESTRUCTURED = "dense", "restructured"
KEY = ("ranks", "form", "batch")
PHASES = tuple(f"{phase}_seconds" for phase in calls.PHASES)
# Without which a row says nothing; the rest of ``COLUMNS`` is derived from them or for people.
_TIMES = ("seconds_median", "seconds_p10", "seconds_p90", "single_seconds")
# Ranks and samples, as MPI counts them.
_MOST = 2**31 - 1
# docs/scaling.md describes them.
COLUMNS = (
    *KEY,
    *("hosts", "oversubscribed", "weights"),
    *("seconds_median", "seconds_p10", "seconds_p90", "repeats"),
    *PHASES,
    *("single_seconds", "best_single_seconds", "speedup", "efficiency"),
    *("values", "dense_values", "messages", "bytes", "wire_bytes", "wire_packets"),
    *("relative_difference", "error"),
)


class ScalingTable(ResumableTable):
    """The rows of a scaling study, in memory and on disk.

    Args:
        path: of the ``.json`` file, whose directory exists; the rows in it are read.
        study: what all rows have in common; ``kind`` says whether the network grows.

    Raises:
        UserError: the table there is of another study or is not one, or nothing can be written there.
    """

    def __init__(self, path: Path, study: dict[str, Any]) -> None:
        check_writable(path)
        # As it is in the file, which knows no tuples.
        self.study = json.loads(json.dumps(study))
        super().__init__(path, KEY, _read(path, self.study))

    @property
    def rows(self) -> list[Row]:
        """All rows with the columns ``COLUMNS``, in the order of ranks, form and batch."""
        rows = [dict.fromkeys(COLUMNS) | self._rows[key] for key in sorted(self._rows)]
        return [row | self._derived(row) for row in rows]

    def put(self, ranks: int, form: str, rows: list[Row]) -> None:
        """Write down the findings of a launch, a row for each batch size, in place of earlier ones.

        Raises:
            UserError: the table cannot be written; the files are as they were before.
        """
        self.put_rows({"ranks": ranks, "form": form, **row} for row in rows)

    def save(self) -> None:
        """Write both files."""
        write_csv(self.path.with_suffix(".csv"), COLUMNS, self.rows)
        write_text(self.path, json.dumps({"study": self.study, "points": self.rows}, indent=1) + "\n")

    def summary(self) -> str:
        """The table for people, several lines."""
        lines = [f"{'ranks':>7} {'form':<13}{'batch':>6}  median (p10 to p90), ms    one process  speed-up"]
        for row in self.rows:
            mark = "*" if row["oversubscribed"] else " "
            label = f"{row['ranks']:>6}{mark} {row['form']:<13}{row['batch']:>6}"
            lines.append(f"{label}  {_times(row)}" if row["error"] is None else f"{label}  failed")
        if any(row["oversubscribed"] for row in self.rows):
            lines.append("* more ranks than cores: right results, but the ranks wait for each other's core")
        return "\n".join(lines)

    def _derived(self, row: Row) -> Row:
        """Comparison of a row with the best single process and, if the network grows, with one rank."""
        if row["error"] is not None:
            return {}
        best = self._best_single(row["ranks"], row["batch"])
        speedup = best / row["seconds_median"]
        if self.study["kind"] == "strong":
            efficiency = speedup / row["ranks"]
        else:
            one_rank = self._best_single(1, row["batch"])
            efficiency = None if one_rank is None else one_rank / row["seconds_median"]
        return {"best_single_seconds": best, "speedup": speedup, "efficiency": efficiency}

    def _best_single(self, ranks: int, batch: int) -> float | None:
        """The fastest of one process on the networks of a point; None: none was measured."""
        rows = (self.finished(ranks, form, batch) for form in (DENSE, RESTRUCTURED))
        return min((row["single_seconds"] for row in rows if row is not None), default=None)


def _times(row: Row) -> str:
    median, p10, p90, single = (
        1e3 * row[name] for name in ("seconds_median", "seconds_p10", "seconds_p90", "best_single_seconds")
    )
    return f"{median:>9.3f} ({p10:.3f} to {p90:.3f})".ljust(27) + f"{single:>12.3f}{row['speedup']:>10.2f}"


def _checked(row: Row) -> Row:
    """A row, if ``rows`` and ``summary`` can use it; else raises what damage leads to."""
    ranks, form, batch = (row[name] for name in KEY)
    whole = all(isinstance(number, int) and 1 <= number <= _MOST for number in (ranks, batch))
    if not whole or form not in (DENSE, RESTRUCTURED):
        raise ValueError(f"a row begins with {ranks!r}, {form!r}, {batch!r}")
    if unknown := {*row} - {*COLUMNS}:
        raise ValueError(f"a row has the unknown column {min(unknown)!r}")
    if row.get("error") is None:
        times = [row[name] for name in _TIMES]
        if not all(isinstance(seconds, (int, float)) and 0 < float(seconds) < math.inf for seconds in times):
            raise ValueError(f"its times are {times}")
    return row


def _read(path: Path, study: dict[str, Any]) -> list[Row]:
    if not path.exists():
        return []
    try:
        content = read_object(path)
        stored, rows = dict(content["study"]), [_checked(row) for row in content["points"]]
    except Exception as error:  # damage makes all kinds of them
        raise damaged(path, error, "move it away") from None
    for name, expected in study.items():
        if stored.get(name) != expected:
            raise UserError(
                f"{path}: expected a study with {name} {expected}, found one with {stored.get(name)}; choose "
                "another --out for each study"
            )
    return rows
