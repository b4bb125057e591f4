"""Files that have their final name only when they are complete.

Temporary files are registered from when they are named until they are complete or removed, so that a command
that is aborted can remove all of its process (``remove_registered``).
"""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from repurpose_hpc.errors import UserError

_registered: set[Path] = set()


def temporary_name(path: Path, pid: int) -> Path:
    """``.NAME.PID.tmp`` beside ``path``: what is written there replaces ``path`` when complete."""
    return path.with_name(f".{path.name}.{pid}.tmp")


@contextmanager
def registered(*temporaries: Path) -> Iterator[None]:
    """Block during which files that are not complete may exist under these names.

    They may be another process's: an aborted job may kill the rank that writes a file before it can tidy up,
    so every rank registers the file.  They stay registered if an exception ends the block, for whoever
    aborts the command because of it.
    """
    _registered.update(temporaries)
    yield
    _registered.difference_update(temporaries)


def remove_registered() -> None:
    """Remove all temporary files that are registered; to be called where a command is aborted.

    A process on a machine that does not see such a file leaves it: its name, ``.NAME.PID.tmp``, says what it
    is.
    """
    while _registered:
        with suppress(OSError):
            _registered.pop().unlink(missing_ok=True)


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
    with writing(path), registered(temporary):
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


def write_csv(path: Path, columns: Collection[str], rows: Iterable[dict]) -> None:
    """Write a whole table of comma-separated values; None is an empty field.

    Raises:
        UserError: it cannot be written.
    """
    text = io.StringIO()
    writer: csv.DictWriter[str] = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
