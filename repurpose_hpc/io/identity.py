"""Files that must stay as they are while they are read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from repurpose_hpc.errors import UserError

# Parts of a large file that are looked at, and their length in bytes.
_PARTS, _PART_BYTES = 64, 1 << 16


class State(NamedTuple):
    """A file at one moment, as far as the file system tells: it differs when the content was changed."""

    path: Path
    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> State:
        """The state of the file that is there now.

        Raises:
            OSError: there is none.
        """
        about = os.stat(path)
        return cls(path, about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)

    def check(self) -> None:
        """Refuse a file that is not as it was.

        Raises:
            UserError: it was changed, replaced or removed.
        """
        try:
            now = State.of(self.path)
        except OSError as error:
            raise UserError(
                f"{self.path}: expected the file as it was at the start, found none: {error.strerror}; "
                "put it back and start again"
            ) from None
        if now != self:
            fields = ", ".join(
                name for name, a, b in zip(self._fields, self, now, strict=True) if a != b and name != "path"
            )
            raise UserError(
                f"{self.path}: expected the file as it was at the start, found another one ({fields} "
                "differ); start again when nothing writes to it"
            )


def identity(path: Path) -> str:
    """A text that tells a file from others, also of the same size and time: place, state, and parts of it.

    Raises:
        OSError: it cannot be read.
    """
    state, digest = State.of(path.resolve()), hashlib.sha256()
    last = max(0, state.size - _PART_BYTES)
    with open(path, "rb") as file:
        for place in sorted({last * part // (_PARTS - 1) for part in range(_PARTS)}):
            file.seek(place)
            digest.update(file.read(_PART_BYTES))
    return f"{state} {digest.hexdigest()}"
