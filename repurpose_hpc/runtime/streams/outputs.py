"""The outputs of a run, batch by batch.

Each batch's outputs are gathered on the root by ``MPI_Gatherv``, in rank order, put into the order of the
samples and of the network's outputs, and appended to the output file, which has a temporary name until it is
complete.  A resumable output file outlives an interrupted run under that name, and the next run goes on after
the samples in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from repurpose_hpc.errors import Note, UserError
from repurpose_hpc.io.atomic import clear_remains, put_in_place, write_text, writing
from repurpose_hpc.io.lock import lock
from repurpose_hpc.io.reading import read_object
from repurpose_hpc.runtime.streams.rows import Rows, make_file, open_rows

if TYPE_CHECKING:
    from mpi4py import MPI


class Gathered(NamedTuple):
    """Data of the root: neurons of a group in the order of arrival, rows of each rank, memory for a batch."""

    neurons: np.ndarray
    rows: np.ndarray
    buffer: np.ndarray


class OutputGather:
    """Brings the outputs that the ranks hold to the root, in the order of the network.

    Every rank sends its rows to the root (``MPI_Gatherv``).

    Attributes:
        gathered: data of the root; None elsewhere.

    Args:
        comm: of the run; making and using this is collective.
        neurons: the output neurons of this rank, in the order of its rows.
        dtype: of the outputs.
        max_batch: samples in the largest batch, those of all groups.
        groups: of ranks in a row, as many in each, that have outputs of different samples.
    """

    def __init__(
        self, comm: MPI.Comm, neurons: np.ndarray, dtype: np.dtype, max_batch: int, groups: int = 1
    ) -> None:
        self.comm, self.groups = comm, groups
        self.gathered: Gathered | None = None
        neurons_of_ranks = comm.gather(neurons, root=0)
        if neurons_of_ranks is not None:
            rows = np.array([len(part) for part in neurons_of_ranks])
            order = np.concatenate(neurons_of_ranks[: comm.size // groups])
            self.gathered = Gathered(order, rows, np.empty(order.size * max_batch, dtype))

    def __call__(self, outputs: np.ndarray, samples: Sequence[int] = ()) -> np.ndarray | None:
        """Gather one batch.

        Args:
            outputs: rows of this rank, (its output neurons, its samples), C-contiguous.
            samples: of each group, in the order of the batch; where there are several.

        Returns:
            on the root (batch, outputs of the network), C-contiguous; None elsewhere.
        """
        if self.gathered is None:
            self.comm.Gatherv(outputs, None, root=0)
            return None
        neurons, rows, buffer = self.gathered
        of_groups = np.array(samples or [outputs.shape[1]])
        batch = int(of_groups.sum())
        received = buffer[: neurons.size * batch]
        counts = rows * np.repeat(of_groups, self.comm.size // self.groups)
        self.comm.Gatherv(outputs, (received, counts), root=0)
        ordered, first = np.empty((batch, neurons.size), received.dtype), 0
        for count in of_groups.tolist():
            block = received[neurons.size * first : neurons.size * (first + count)]
            ordered[first : first + count, neurons] = block.reshape(neurons.size, count).T
            first += count
        return ordered


def in_order(rows: np.ndarray, neurons: np.ndarray) -> np.ndarray:
    """Outputs as the network has them, (batch, outputs), C-contiguous.

    Args:
        rows: (outputs, batch), in any order.
        neurons: the output neuron of each row.
    """
    ordered = np.empty((rows.shape[1], neurons.size), rows.dtype)
    ordered[:, neurons] = rows.T
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

    Its space is taken at the start, and everything is on disk before the file gets its name.

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
            clear_remains(path)
            descriptor = open_rows(temporary, os.O_CREAT | os.O_EXCL)
            self._begin(descriptor, samples, outputs, dtype)

    def _begin(self, descriptor: int, samples: int, outputs: int, dtype: np.dtype) -> None:
        """Make the file that ``descriptor`` has open, without any rows; none is left if that fails."""
        try:
            offset = make_file(self.temporary, samples, outputs, dtype)
            self.rows = Rows(descriptor, offset, samples, outputs, dtype)
            self.rows.reserve()
        except BaseException:
            os.close(descriptor)
            self.temporary.unlink(missing_ok=True)
            raise

    def read(self, batch_size: int) -> Iterator[np.ndarray]:
        """The samples of an earlier run, (batch, outputs): none."""
        return iter(())

    def append(self, rows: np.ndarray) -> None:
        """Write the next samples, (batch, outputs)."""
        with writing(self.path):
            self.rows.write(self.written, rows)
        self.written += len(rows)

    def commit(self) -> None:
        """The file is complete: give it its name."""
        with writing(self.path):
            self.rows.sync()
            put_in_place(self.temporary, self.path)
        self.rows.close()  # and with it a lock: until now nobody else may go on with the file

    def discard(self) -> None:
        """Remove what was not committed."""
        self.rows.close()
        self.temporary.unlink(missing_ok=True)


class ResumableOutputFile(OutputFile):
    """An ``OutputFile`` that outlives its run: the next one with the same ``key`` goes on where it ended.

    Until ``commit`` its name is ``.NAME.resume``; one run at a time has a lock on it.  ``.NAME.resume.mark``
    beside it says what it belongs to, how many samples are complete, and their checksum.  It is brought up
    to date every ``MARK_SECONDS`` and at the end, after the samples are on disk, so that a process that is
    killed loses no more than that, and nothing that is damaged is gone on with.

    Args:
        path, samples, outputs, dtype: of an ``OutputFile``.
        key: of all that the outputs depend on.

    ``written`` is the number of samples that are there.
    """

    MARK_SECONDS = 1.0

    def __init__(self, path: Path, samples: int, outputs: int, dtype: np.dtype, key: str) -> None:
        self.path, self.temporary, self.written = path, path.with_name(f".{path.name}.resume"), 0
        self.mark = self.temporary.with_name(f"{self.temporary.name}.mark")
        # Checksum of so many samples.
        self._digest, self._digested = hashlib.sha256(), 0
        self._identity = {"key": key, "shape": [samples, outputs], "dtype": np.dtype(dtype).name}
        with writing(path):
            descriptor = self._locked()
            if not self._goes_on(descriptor, samples, outputs, dtype):
                self.mark.unlink(missing_ok=True)
                self._begin(descriptor, samples, outputs, dtype)
        self.marked = time.monotonic()

    def _locked(self) -> int:
        """A descriptor of the file, made if need be, that no other run has.

        Raises:
            UserError: another run has it.
        """
        try:
            return lock(self.temporary)
        except BlockingIOError:
            raise UserError(
                f"{self.path}: expected no other run that resumes it, found one at work on "
                f"{self.temporary}; wait for its end, or choose another --output"
            ) from None

    def _goes_on(self, descriptor: int, samples: int, outputs: int, dtype: np.dtype) -> bool:
        """True if the file has samples of this run, undamaged; they are then ``written``."""
        try:
            mark = read_object(self.mark)
            if {name: mark[name] for name in self._identity} != self._identity:
                return False
            written, rows = (
                int(mark["written"]),
                Rows(descriptor, int(mark["offset"]), samples, outputs, dtype),
            )
            if not 0 <= written <= samples or os.fstat(descriptor).st_size != rows.size:
                return False
            digest = hashlib.sha256()
            rows.add_to(digest, 0, written)
        except Exception:  # of a damaged mark
            return False
        if digest.hexdigest() != mark.get("sha256"):
            return False
        self.written, self.rows, self._digest, self._digested = written, rows, digest, written
        return True

    def read(self, batch_size: int) -> Iterator[np.ndarray]:
        """The samples that are there, (batch, outputs)."""
        for first in range(0, self.written, batch_size):
            with writing(self.path):
                rows = self.rows.read(first, min(first + batch_size, self.written))
            yield rows

    def append(self, rows: np.ndarray) -> None:
        """Write the next samples, (batch, outputs)."""
        super().append(rows)
        if time.monotonic() - self.marked > self.MARK_SECONDS:
            self._mark()

    def commit(self) -> None:
        """The file is complete: give it its name."""
        super().commit()
        self.mark.unlink(missing_ok=True)

    def discard(self) -> None:
        """Close what was not committed; it stays if there is anything in it."""
        if self.written and self.temporary.exists():
            with suppress(UserError):  # what cannot be noted is not gone on with
                self._mark()
            self.rows.close()
        else:
            self.mark.unlink(missing_ok=True)
            super().discard()

    def _mark(self) -> None:
        """Write down the number of complete samples, after they are on disk."""
        with writing(self.path):
            self.rows.sync()
            digest, written = self._digest.copy(), self.written
            self.rows.add_to(digest, self._digested, written)
        self._digest, self._digested = digest, written  # together: a signal may come at any time
        count = {"offset": self.rows.offset, "written": written, "sha256": digest.hexdigest()}
        write_text(self.mark, json.dumps({**self._identity, **count}))
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
