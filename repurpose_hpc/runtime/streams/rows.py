"""Rows of the one data set of an HDF5 file, written where they lie in it.

HDF5 makes the file: data set ``y``, contiguous, its place settled.  From then on rows are written and read
by calls of the operating system, whose failures are seen at once; HDF5 would keep rows in its memory, and an
error when it lets go of them can get lost.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import h5py
import numpy as np

NAME = "y"
# Of a file, read at a time.
_PIECE_BYTES = 1 << 20


class Rows:
    """The rows of an open file.

    Args:
        descriptor: of the file, for reading and writing; this object closes it.
        offset: of the first row in the file, bytes.
        samples, outputs: shape of the data set.
        dtype: of it.
    """

    def __init__(self, descriptor: int, offset: int, samples: int, outputs: int, dtype: np.dtype) -> None:
        self._descriptor, self.offset = descriptor, offset
        self.samples, self.outputs, self.dtype = samples, outputs, np.dtype(dtype)

    @property
    def size(self) -> int:
        """Size of the file."""
        return self.offset + self.samples * self._row_bytes

    @property
    def _row_bytes(self) -> int:
        return self.outputs * self.dtype.itemsize

    def reserve(self) -> None:
        """Take the space for all rows.

        Raises:
            OSError: there is not enough.
        """
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._descriptor, 0, self.size)
        else:  # macOS: a write that finds no space fails by itself
            os.ftruncate(self._descriptor, self.size)

    def write(self, first: int, rows: np.ndarray) -> memoryview:
        """Write rows (n, outputs) from row ``first`` on; the bytes that were written.

        Raises:
            OSError: not all of them could be written, or nobody would find them.
        """
        contiguous = np.ascontiguousarray(rows, self.dtype)
        data = contiguous.reshape(-1).view(np.uint8).data
        place, done = self.offset + first * self._row_bytes, 0
        while done < len(data):
            done += os.pwrite(self._descriptor, data[done:], place + done)
        if not os.fstat(self._descriptor).st_nlink:
            raise OSError("the file was removed while it was written")
        return data

    def read(self, first: int, last: int) -> np.ndarray:
        """Rows ``first`` to ``last``, the latter not included, (n, outputs).

        Raises:
            OSError: the file ends before.
        """
        data = self.read_bytes(self.offset + first * self._row_bytes, (last - first) * self._row_bytes)
        return np.frombuffer(data, self.dtype).reshape(last - first, self.outputs)

    def read_bytes(self, place: int, count: int) -> bytes:
        """``count`` bytes of the file from ``place`` on.

        Raises:
            OSError: the file ends before.
        """
        parts, end = [], place + count
        while place < end:
            part = os.pread(self._descriptor, end - place, place)
            if not part:
                raise OSError(f"the file ends at byte {place}, before {end}")
            parts.append(part)
            place += len(part)
        return b"".join(parts)

    def add_to(self, digest: hashlib._Hash, first: int, last: int) -> None:
        """Add rows ``first`` to ``last`` to a checksum, with what stands before the rows if ``first`` is 0.

        Raises:
            OSError: the file ends before.
        """
        begin = self.offset + first * self._row_bytes if first else 0
        end = self.offset + last * self._row_bytes
        for place in range(begin, end, _PIECE_BYTES):
            digest.update(self.read_bytes(place, min(_PIECE_BYTES, end - place)))

    def sync(self) -> None:
        """See that everything is on disk.

        Raises:
            OSError: it is not.
        """
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file; it may be closed already."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


def make_file(path: Path, samples: int, outputs: int, dtype: np.dtype) -> int:
    """Write the file at ``path``, which exists, without its rows; the offset of the first, bytes.

    Raises:
        OSError: it cannot be written.
    """
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    # The caller holds a lock of its own.
    with h5py.File(path, "w", locking=False) as file:
        space, kind = h5py.h5s.create_simple((samples, outputs)), h5py.h5t.py_create(np.dtype(dtype))
        dataset = h5py.h5d.create(file.id, NAME.encode(), kind, space, properties)
        file.flush()
        offset: int = dataset.get_offset()
    return offset


def open_rows(path: Path, flags: int = 0) -> int:
    """A descriptor of ``path`` for reading and writing; links are not followed."""
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW | flags, 0o666)
