"""Damaged files that reach what valid ones do not: found by scripts/fuzz_guided.py, small and harmless."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "data" / "seeds"
# Of a reader, by their paths in its folder.
Files = dict[str, bytes]


def packed(files: Files) -> bytes:
    """Files as one text."""
    return json.dumps({path: content.decode("latin-1") for path, content in files.items()}).encode()


def unpacked(text: bytes) -> Files:
    """The files in a text that is ``packed``."""
    return {path: content.encode("latin-1") for path, content in json.loads(text).items()}


def seeds(name: str) -> list[Files]:
    """What is kept for the reader ``name``."""
    place = _place(name)
    return (
        [unpacked(line) for line in lzma.decompress(place.read_bytes()).splitlines()]
        if place.exists()
        else []
    )


def keep(name: str, found: list[Files]) -> None:
    """Put ``found`` in the place of what is kept for the reader ``name``."""
    FOLDER.mkdir(exist_ok=True)
    _place(name).write_bytes(lzma.compress(b"\n".join(map(packed, found)), preset=6))


def _place(name: str) -> Path:
    return FOLDER / f"{name.replace(' ', '_')}.xz"
