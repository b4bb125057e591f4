"""Files that have their final name only when they are complete."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from repurpose_hpc.errors import UserError


def temporary_name(path: Path, pid: int) -> Path:
    """``.NAME.PID.tmp`` beside ``path``: what is written there replaces ``path`` when complete."""
    return path.with_name(f".{path.name}.{pid}.tmp")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what goes wrong while ``path`` is written into a message."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{path}: expected to be able to write there: {error}; choose another place or free some space"
        ) from None


def check_writable(path: Path) -> None:
    """Find out now, not at the end of a long run, that ``path`` cannot be written.

    Raises:
        UserError: its directory does not exist or is not writable, or it is a directory itself.
    """
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a directory")
        with tempfile.TemporaryFile(dir=path.parent):
            pass


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A block that writes a whole file under the name it is given; that file then replaces ``path``.

    Raises:
        UserError: it cannot be written.
    """
    temporary = temporary_name(path, os.getpid())
    with writing(path):
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file.

    Raises:
        UserError: it cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[dict]) -> None:
    """Write a whole table of comma-separated values; None is an empty field.

    Raises:
        UserError: it cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
