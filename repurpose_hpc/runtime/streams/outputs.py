"""The outputs of a run, batch by batch.

Each batch's outputs are gathered on the root by ``MPI_Gatherv``, in rank order, put into the order of the
network's outputs and appended to the output file, which has a temporary name until it is complete.  A
resumable output file outlives an interrupted run under that name, and the next run goes on after the samples
in it.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import h5py
import numpy as np

from repurpose_hpc.errors import Note
from repurpose_hpc.io.atomic import writing

if TYPE_CHECKING:
    from mpi4py import MPI


class _Gathered(NamedTuple):
    """Data of the root: neurons in the order of arrival, rows of each rank, memory for a batch."""

    neurons: np.ndarray
    rows: np.ndarray
    buffer: np.ndarray


class OutputGather:
    """Brings the outputs that the ranks hold to the root, in the order of the network.

    Every rank sends its rows to the root (``MPI_Gatherv``).

    Args:
        comm: of the run; making and using this is collective.
        neurons: the output neurons of this rank, in the order of its rows.
        dtype: of the outputs.
        max_batch: samples in the largest batch.
    """

    def __init__(self, comm: MPI.Comm, neurons: np.ndarray, dtype: np.dtype, max_batch: int) -> None:
        self.comm = comm
        self._gathered: _Gathered | None = None
        neurons_of_ranks = comm.gather(neurons, root=0)
        if neurons_of_ranks is not None:
            rows, order = np.array([len(part) for part in neurons_of_ranks]), np.concatenate(neurons_of_ranks)
            self._gathered = _Gathered(order, rows, np.empty(order.size * max_batch, dtype))

    def __call__(self, outputs: np.ndarray) -> np.ndarray | None:
        """Gather one batch.

        Args:
            outputs: rows of this rank, (its output neurons, batch), C-contiguous.

        Returns:
            on the root (batch, outputs of the network), C-contiguous; None elsewhere.
        """
        batch = outputs.shape[1]
        if self._gathered is None:
            self.comm.Gatherv(outputs, None, root=0)
            return None
        neurons, rows, buffer = self._gathered
        received = buffer[: neurons.size * batch]
        self.comm.Gatherv(outputs, (received, rows * batch), root=0)
        ordered = np.empty((batch, neurons.size), received.dtype)
        ordered[:, neurons] = received.reshape(-1, batch).T
        return ordered


class Output(Protocol):
    """Outputs as they are written.

    Attributes:
        written: samples that are there.
    """

    written: int

    def read(self, batch_size: int) -> Iterator[np.ndarray]:
        """The samples of an earlier run, (batch, outputs)."""

    def append(self, rows: np.ndarray) -> None:
        """Write the next samples, (batch, outputs)."""

    def commit(self) -> None:
        """The file is complete: give it its name."""

    def discard(self) -> None:
        """Close or remove what was not committed."""


class FiniteOutputs:
    """Counts the samples whose outputs are not all finite, and says so at the end."""

    def __init__(self) -> None:
        self._samples = self._count = 0
        self._first = ""

    def add(self, outputs: np.ndarray) -> None:
        """Look at the next samples, (batch, outputs)."""
        finite = np.isfinite(outputs)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            first = f"the first is {outputs[row, column]} in sample {self._samples + row}, output {column}"
            self._first = self._first or first
            self._count += np.count_nonzero(~finite.all(axis=1))
        self._samples += len(outputs)

    def warn(self, dtype: np.dtype) -> None:
        """A ``Note``, if there were any."""
        if self._count:
            warnings.warn(
                f"expected finite outputs of finite inputs, found NaN or infinity for {self._count} of "
                f"{self._samples} samples ({self._first}, counted from 0), computed in {dtype}; compare the "
                "input with the data that the model was trained with, or try --dtype float64",
                Note,
                stacklevel=2,
            )


class OutputFile:
    """An HDF5 file with dataset ``y`` (samples, outputs), under a temporary name until ``commit``.

    Args:
        path: the final name.
        temporary: ``temporary_name(path)``.
        samples, outputs: shape of ``y``.
        dtype: of ``y``.

    Raises:
        UserError: here, in ``append`` and in ``commit``: it cannot be written.
    """

    def __init__(self, path: Path, temporary: Path, samples: int, outputs: int, dtype: np.dtype) -> None:
        self.path, self.temporary, self.written = path, temporary, 0
        with writing(path):
            self.file = h5py.File(temporary, "w")
            self.file.create_dataset("y", (samples, outputs), dtype)

    def read(self, batch_size: int) -> Iterator[np.ndarray]:
        """The samples of an earlier run, (batch, outputs): none."""
        return iter(())

    def append(self, rows: np.ndarray) -> None:
        """Write the next samples, (batch, outputs)."""
        with writing(self.path):
            self.file["y"][self.written : self.written + len(rows)] = rows
        self.written += len(rows)

    def commit(self) -> None:
        """The file is complete: give it its name."""
        with writing(self.path):
            self.file.close()
            os.replace(self.temporary, self.path)

    def discard(self) -> None:
        """Remove what was not committed."""
        self.file.close()
        self.temporary.unlink(missing_ok=True)


class ResumableOutputFile(OutputFile):
    """An ``OutputFile`` that outlives its run: the next one with the same ``key`` goes on where it ended.

    Until ``commit`` its name is ``.NAME.resume``, and attributes of ``y`` say what it belongs to and how many
    samples are complete.  They are brought up to date every ``MARK_SECONDS`` and at the end, so that a
    process that is killed loses no more than that.

    Args:
        path, samples, outputs, dtype: of an ``OutputFile``.
        key: of all that the outputs depend on.

    ``written`` is the number of samples that are there.
    """

    MARK_SECONDS = 1.0

    def __init__(self, path: Path, samples: int, outputs: int, dtype: np.dtype, key: str) -> None:
        temporary = path.with_name(f".{path.name}.resume")
        try:
            self._reopen(path, temporary, key)
        except (OSError, KeyError):
            super().__init__(path, temporary, samples, outputs, dtype)
            with writing(path):
                self.file["y"].attrs.update(key=key, written=0)
        self.marked = time.monotonic()

    def _reopen(self, path: Path, temporary: Path, key: str) -> None:
        """Raises OSError or KeyError if there is nothing to go on with."""
        self.path, self.temporary, self.file = path, temporary, h5py.File(temporary, "r+")
        try:
            if self.file["y"].attrs["key"] != key:
                raise KeyError(key)
            self.written = int(self.file["y"].attrs["written"])
        except KeyError:
            self.file.close()
            raise

    def read(self, batch_size: int) -> Iterator[np.ndarray]:
        """The samples that are there, (batch, outputs)."""
        for first in range(0, self.written, batch_size):
            yield self.file["y"][first : min(first + batch_size, self.written)]

    def append(self, rows: np.ndarray) -> None:
        """Write the next samples, (batch, outputs)."""
        super().append(rows)
        if time.monotonic() - self.marked > self.MARK_SECONDS:
            self._mark()

    def commit(self) -> None:
        """The file is complete: give it its name."""
        with writing(self.path):
            del self.file["y"].attrs["key"], self.file["y"].attrs["written"]
        super().commit()

    def discard(self) -> None:
        """Close what was not committed; it stays if there is anything in it."""
        if self.file and self.written:
            self._mark()
            self.file.close()
        else:
            super().discard()

    def _mark(self) -> None:
        """Write down the number of complete samples, after they are on disk."""
        with writing(self.path):
            self.file.flush()
            self.file["y"].attrs.modify("written", self.written)
            self.file.flush()
        self.marked = time.monotonic()


class NoOutput:
    """``Output`` of ranks, and runs, that write no file."""

    written: int = 0

    def read(self, batch_size: int) -> Iterator[np.ndarray]:
        """Nothing to read."""
        return iter(())

    def append(self, rows: np.ndarray) -> None:
        """Nothing to do."""

    def commit(self) -> None:
        """Nothing to do."""

    def discard(self) -> None:
        """Nothing to do."""
