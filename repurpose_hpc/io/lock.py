"""Locks, so that two runs that were given the same place do not spoil each other's work.

A lock ends with its process in whatever way that ends.  On a file system without locks nobody is kept out.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.atomic import followed, writing


def lock(path: Path) -> int:
    """A descriptor of a file, made if need be, that no other run has locked; closing it gives the lock back.

    Args:
        path: of the file, for reading and writing; links are not followed.

    Raises:
        BlockingIOError: another run has it.
        OSError: it cannot be made.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise
        except OSError:  # a file system without locks
            return descriptor
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
        os.close(descriptor)  # the run that had it has just finished with it


@contextmanager
def alone_at(path: Path) -> Iterator[None]:
    """A block during which no other run is in such a block for ``path``.

    Args:
        path: of a table that grows; ``.NAME.lock`` is beside it as long as the block takes.

    Raises:
        UserError: another run is at work on it, or nothing can be written there.
    """
    path = followed(path)
    beside = path.with_name(f".{path.name}.lock")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = lock(beside)
        except BlockingIOError:
            raise UserError(
                f"{path}: expected no other run that writes it, found one at work; wait for its end, or "
                "choose another --out"
            ) from None
    try:
        yield
    finally:
        beside.unlink(missing_ok=True)
        os.close(descriptor)
