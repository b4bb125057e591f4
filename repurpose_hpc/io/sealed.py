"""Files of ours that begin with a line of text: format, version, and SHA-256 of all that follows it.

The bytes are compared with it before any parser sees them: libraries may crash on damage.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from repurpose_hpc.io.arrays import read_npz
from repurpose_hpc.io.atomic import replacing

HEADER_BYTES = 512
# Of a file, read at a time.
_PIECE_BYTES = 1 << 20


def header(kind: str, version: int, sha256: str) -> bytes:
    """The line, filled up to ``HEADER_BYTES``."""
    return f"{kind} {version} {sha256}\n".encode().ljust(HEADER_BYTES, b"\0")


def sealed(kind: str, version: int, body: bytes | memoryview) -> bytes:
    """A whole file with the content ``body``."""
    return header(kind, version, hashlib.sha256(body).hexdigest()) + bytes(body)


def seal(file: IO[bytes], kind: str, version: int) -> None:
    """Write the line of an open file whose content stands behind ``HEADER_BYTES``."""
    line = header(kind, version, sha256_of(file, HEADER_BYTES))
    file.seek(0)
    file.write(line)


def sha256_of(file: IO[bytes], start: int = 0) -> str:
    """SHA-256 (hex) of the bytes from ``start`` on; the file is never in memory as a whole."""
    digest = hashlib.sha256()
    file.seek(start)
    while piece := file.read(_PIECE_BYTES):
        digest.update(piece)
    return digest.hexdigest()


def version_of(file: IO[bytes], kind: str) -> int | None:
    """The version in the first line; None: it is no file of this kind."""
    file.seek(0)
    match = re.match(rb"%s (\d+) " % kind.encode(), file.read(HEADER_BYTES))
    return int(match[1]) if match else None


def check_seal(file: IO[bytes], kind: str, version: int) -> None:
    """Refuse content that is not as it was written.

    Raises:
        ValueError: its SHA-256 is another one.
    """
    expected = header(kind, version, sha256_of(file, HEADER_BYTES))
    file.seek(0)
    if file.read(HEADER_BYTES) != expected:
        raise ValueError("its SHA-256 is not the one in its first line")


def write_arrays(path: Path, arrays: Mapping[str, Any], kind: str, version: int) -> None:
    """Write arrays as an archive behind a line.

    Raises:
        UserError: it cannot be written.
    """
    with replacing(path) as temporary, open(temporary, "w+b") as file:
        file.seek(HEADER_BYTES)
        np.savez(file, **arrays)
        seal(file, kind, version)


def read_arrays(path: Path, kind: str, version: int) -> dict[str, np.ndarray]:
    """The arrays of ``write_arrays``.

    Raises:
        ValueError, OSError, UserError: there are none, or they are damaged.
    """
    with open(path, "rb") as file:
        check_seal(file, kind, version)
    return read_npz(path)
