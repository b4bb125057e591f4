"""The launches of a scaling study: one for each number of ranks and form."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import count
from repurpose_hpc.io.atomic import temporary_directory
from repurpose_hpc.io.progress import TimeLeft
from repurpose_hpc.io.reading import read_object, reading
from repurpose_hpc.restructure.team import Team
from repurpose_hpc.studies.launch import launch, launcher_words, reason
from repurpose_hpc.studies.scaling.study import ScalingStudy
from repurpose_hpc.studies.scaling.table import ScalingTable
from repurpose_hpc.studies.table import Row, one_line

Log = Callable[[str], None]


@dataclass(frozen=True)
class Launch:
    """Settings of the launches of a study.

    Attributes:
        launcher: see ``launch.launcher_words``.
        repeat: most forwards to time.
        seconds: fewer where they take longer.
        timeout: seconds after which a launch has failed.
    """

    launcher: str
    repeat: int
    seconds: float
    timeout: float

    def measure(
        self, shards: Path, ranks: int, batches: Sequence[int], dtype: str, report: Path
    ) -> list[Row]:
        """Run the command ``point``.

        Args:
            shards: directory of a plan.
            ranks: number of ranks.
            batches: samples per forward.
            dtype: to compute in.
            report: a file that all ranks can see, for the findings.

        Returns:
            the findings for each batch size.

        Raises:
            UserError: it failed.
        """
        options = {
            "shards": shards,
            "ranks": ranks,
            "batches": ",".join(map(str, batches)),
            "repeat": self.repeat,
            "seconds": self.seconds,
            "dtype": dtype,
            "report": report,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        program = [sys.executable, "-m", "repurpose_hpc", "point", *words]
        status, output = launch([*launcher_words(self.launcher, ranks), *program], self.timeout)
        if status or not report.exists():
            raise UserError(f"status {status}: {reason(output)}")
        return read_findings(report)


def read_findings(report: Path) -> list[Row]:
    """The rows in a report of the command ``point``.

    Raises:
        UserError: it cannot be read.
    """
    with reading(report, "report of a point", "measure it again"):
        return [dict(row) for row in read_object(report)["batches"]]


@dataclass(frozen=True, eq=False)
class Launches:
    """The launches of a study.

    Attributes:
        study: the networks and their shards.
        table: has every point on disk before the next one begins.
        launch: settings of all launches.
        team: shares the work of restructuring.
        log: is given the lines of progress.
    """

    study: ScalingStudy
    table: ScalingTable
    launch: Launch
    team: Team
    log: Log

    def run(self, points: Sequence[tuple[int, str]], batches: Sequence[int]) -> int:
        """Fill the table with those points that are not in it, or failed before.

        A point that fails is written down with its message, and the others are measured all the same.

        Args:
            points: ranks and form, in the order in which to measure them.
            batches: samples per forward.

        Returns:
            number of rows that have failed.

        Raises:
            UserError: the table cannot be written.
        """
        failed = done = 0
        left = TimeLeft(sum(bool(self._missing(*point, batches)) for point in points))
        for number, (ranks, form) in enumerate(points, 1):
            missing = self._missing(ranks, form, batches)
            if not missing:
                continue
            name = f"[{number}/{len(points)}] {count(ranks, 'rank')}, {form}"
            self.log(name)
            rows = self._measure(ranks, form, missing)
            self.table.put(ranks, form, rows)
            done += 1
            self.log(f"{name}: {_outcome(rows)}{left(done)}")
            failed += sum(bool(row.get("error")) for row in rows)
        return failed

    def _missing(self, ranks: int, form: str, batches: Sequence[int]) -> list[int]:
        """The batch sizes of a point that are not in the table."""
        return [batch for batch in batches if self.table.finished(ranks, form, batch) is None]

    def _measure(self, ranks: int, form: str, batches: Sequence[int]) -> list[Row]:
        """The rows of a point; of one that fails, its message for each batch size."""
        try:
            shards = self.study.shards(ranks, form, self.team, self.log)
            with temporary_directory(self.table.path.absolute()) as directory:
                report = directory / "point.json"
                return self.launch.measure(shards, ranks, batches, self.study.dtype.name, report)
        except Exception as error:
            return [{"batch": batch, "error": one_line(error)} for batch in batches]


def _outcome(rows: Sequence[Row]) -> str:
    """Findings of a launch, for the log."""
    if error := rows[0].get("error"):
        return error
    return ", ".join(f"{1e3 * row['seconds_median']:.3f} ms for {row['batch']}" for row in rows)
