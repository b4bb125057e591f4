"""Rows in any order, on disk: a copy of samples, whose files can only be streamed, or what is computed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.reading import reason_of
from repurpose_hpc.io.samples import Samples, check_finite, check_range

# Of the samples, read at a time.
_BLOCK_BYTES = 1 << 20

_Rows = TypeVar("_Rows", bound="TemporaryRows")


class TemporaryRows:
    """Rows in a temporary file, to be written and read in any order.

    The file has no name: it is gone when it is closed, or when the process ends.  It lies where ``TMPDIR``
    says, which should be a disk.  A context manager, which closes it.

    Attributes:
        shape: (rows, columns).
        dtype: of the rows that are taken.
    """

    def __init__(self, name: str, shape: tuple[int, int], dtype: Any) -> None:
        """Makes the file.

        Args:
            name: of what is in it, for messages.
            shape: (rows, columns).
            dtype: in which they are written and read.

        Raises:
            UserError: there is no room for the file.
        """
        self.shape, self.dtype, self._stored, self._name = shape, np.dtype(dtype), np.dtype(dtype), name
        self._row_bytes = shape[1] * self._stored.itemsize
        with self._temporary():
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # closed with this object

    def write(self, rows: np.ndarray, first: int) -> None:
        """Write rows that follow each other.

        Args:
            rows: (count, columns), C-contiguous, in the type of the file.
            first: the place of the first.

        Raises:
            UserError: there is no room for them.
        """
        if rows.size:
            with self._temporary():
                self._write(_bytes_of(rows), first * self._row_bytes)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Rows in the order in which they are asked for.

        Args:
            indices: (count,) integers from 0, in any order, possibly repeated; rows that follow each
                other are read at once.

        Returns:
            (count, columns), ``dtype``, C-contiguous, of its own memory.

        Raises:
            IndexError: there is no such row.
        """
        if len(indices) and not (indices.min() >= 0 and indices.max() < self.shape[0]):
            raise IndexError(f"expected rows from 0 to {self.shape[0] - 1}, got {indices}")
        rows = np.empty((len(indices), self.shape[1]), self._stored)
        for first, last in _runs(indices):
            self._read(_bytes_of(rows[first:last]), int(indices[first]) * self._row_bytes)
        return rows.astype(self.dtype, copy=False)

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def __enter__(self: _Rows) -> _Rows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, data: memoryview, place: int) -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(self._file.fileno(), data[done:], place + done)

    def _read(self, data: memoryview, place: int) -> None:
        done = 0
        while done < len(data):
            count = os.preadv(self._file.fileno(), [data[done:]], place + done)
            if not count:
                raise EOFError(f"the temporary file ends at byte {place + done}")
            done += count

    @contextmanager
    def _temporary(self) -> Iterator[None]:
        """A block that makes or writes the file, and does nothing else."""
        try:
            yield
        except OSError as error:
            where = f" in {tempfile.tempdir}" if tempfile.tempdir else ""
            raise UserError(
                f"{self._name}: expected room for {self.shape[0] * self._row_bytes} bytes of it in a "
                f"temporary file{where}, found: {reason_of(error)}; set TMPDIR to a directory with more room"
            ) from None


class Spooled(TemporaryRows):
    """Some columns of samples in a temporary file, in the dtype of their own file."""

    def __init__(self, samples: Samples, columns: np.ndarray | None, dtype: Any) -> None:
        """Reads all samples once, a few at a time.

        Args:
            samples: streamed.
            columns: indices of the values wanted, integers, in any order and number; None for all.
            dtype: floating-point type to convert to.

        Raises:
            UserError: the samples cannot be read, a value is NaN, infinite or too large for ``dtype``, or
                there is no room for the copy.
        """
        width = samples.width if columns is None else len(columns)
        super().__init__(samples.name, (samples.samples, width), samples.dtype)
        self.dtype = np.dtype(dtype)
        try:
            if self._row_bytes:
                self._copy(samples, columns)
        except BaseException:
            self.close()
            raise

    def _copy(self, samples: Samples, columns: np.ndarray | None) -> None:
        first, count = 0, max(1, _BLOCK_BYTES // (samples.width * self._stored.itemsize))
        for block in samples.batches(count, columns, dtype=None):
            self._check(block, samples.name, first, columns)
            self.write(block, first)
            first += len(block)
        samples.check_unchanged()

    def _check(self, block: np.ndarray, name: str, first: int, columns: np.ndarray | None) -> None:
        """Refuse values here, where their place in the file is known, rather than when they are taken."""
        if block.dtype.kind == "f":
            check_finite(block, name, first, columns)
        if self.dtype.itemsize < block.dtype.itemsize:
            with np.errstate(over="ignore"):  # what becomes infinite is refused
                check_range(block, block.astype(self.dtype), name, first, columns)


def _bytes_of(rows: np.ndarray) -> memoryview:
    """The memory of C-contiguous rows."""
    return rows.reshape(-1).view(np.uint8).data


def _runs(indices: np.ndarray) -> Iterator[tuple[int, int]]:
    """Begin and end of stretches in which every index is one more than that before."""
    if len(indices):
        edges = np.flatnonzero(np.diff(indices) != 1) + 1
        yield from zip([0, *edges], [*edges, len(indices)], strict=True)
