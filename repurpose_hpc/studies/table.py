"""Tables that studies fill row by row and can continue after an interruption.

Rows are on disk before the next ones are computed.  A row whose column ``error`` is not empty has failed: it
counts as missing, so that the same command computes it again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import typed

Row = dict[str, Any]
"""Values by the names of the columns; None: an empty field."""


class ResumableTable(ABC):
    """Rows in memory and on disk.

    Args:
        path: of the file.
        key: names of the columns that identify a row; rows differ in one of them at least.
        rows: those that are on disk.
    """

    def __init__(self, path: Path, key: Sequence[str], rows: Iterable[Row]) -> None:
        self.path, self._key = path, tuple(key)
        self._rows: dict[tuple, Row] = {}
        self._add(rows)

    @abstractmethod
    def save(self) -> None:
        """Write all rows.

        Raises:
            UserError: they cannot be written; the files are as they were before.
        """

    def finished(self, *key: object) -> Row | None:
        """The row with these values of the key; None if it is not there, or failed."""
        row = self._rows.get(key)
        return row if row is not None and row.get("error") is None else None

    def put_rows(self, rows: Iterable[Row]) -> None:
        """Write rows down, in place of those with the same key.

        Raises:
            UserError: see ``save``.
        """
        self._add(rows)
        self.save()

    def _add(self, rows: Iterable[Row]) -> None:
        self._rows |= {tuple(row[name] for name in self._key): row for row in rows}


def damaged(path: Path, error: Exception, remedy: str) -> UserError:
    """The error for a file of a table that cannot be read."""
    return UserError(
        f"{path}: expected a table that this command has written, found a damaged one "
        f"({type(error).__name__}: {error}); {remedy}"
    )


def one_line(error: Exception) -> str:
    """The message of a failure for the column ``error``, with options where it names fields."""
    text = typed(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())
