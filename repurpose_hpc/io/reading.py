"""Files that others have written: whatever a parser makes of a damaged one becomes one message."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from repurpose_hpc.errors import UserError

WRITE_AGAIN = "check the file or write it again"


@contextmanager
def reading(path: str | Path, what: str = "data file", remedy: str = WRITE_AGAIN) -> Iterator[None]:
    """A block that parses a file, and does nothing else: parsers raise all kinds of exceptions on damage.

    Args:
        path: of the file, or what it is called.
        what: is expected there.
        remedy: what to do.

    Raises:
        UserError: the file is missing or cannot be parsed, or the block raises it.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        found = (
            "none" if str(error.filename) == str(path) or error.filename is None else f"no {error.filename}"
        )
        raise UserError(f"{path}: expected a {what}, found {found}; check the path") from None
    except MemoryError as error:
        reason = str(error) or "there is not enough memory for it"
        raise UserError(f"{path}: expected a readable {what}: {reason}; {remedy}") from None
    except Exception as error:
        raise UserError(f"{path}: expected a readable {what}: {reason_of(error)}; {remedy}") from None


def reason_of(error: Exception) -> str:
    """What an exception of a parser says, in one line; its kind where that is needed to understand it."""
    text = " ".join(str(error).split())
    if isinstance(error, (OSError, ValueError, EOFError, RuntimeError)) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def check_finite_length(path: Path) -> None:
    """Refuse a directory and a device, which may never end.

    Raises:
        OSError: it is one, or there is nothing.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        raise OSError("it is no file")


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; to be used in a block of ``reading``.

    Raises:
        OSError, ValueError, RecursionError: there is none.
    """
    check_finite_length(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ValueError("it is no text, so no JSON") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"it holds no object with keys but {type(content).__name__}")
    return content
