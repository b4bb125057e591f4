"""Signals as they come and go: pieces out of blocks, and outputs joined from those of pieces."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.signals import Pieces, Signal
from repurpose_hpc.runtime.streams.outputs import Output


class Joined:
    """Joins what pieces of a signal, in order, have made.

    Args:
        pieces: how it is cut.
    """

    def __init__(self, pieces: Pieces) -> None:
        self._pieces, self._outputs = pieces, 0

    def add(self, start: int, output: np.ndarray, is_last: bool) -> np.ndarray:
        """What a piece adds, (new outputs, neurons).

        Args:
            start: of the piece in the signal.
            output: of the piece, (outputs, neurons).
            is_last: whether the signal ends with it.
        """
        new = output[self._pieces.kept(start, self._outputs, is_last)]
        self._outputs += len(new)
        return new


class SignalReader:
    """Cuts a signal that comes block by block, and joins the outputs; no more than a piece is kept.

    Args:
        pieces: how it is cut.
    """

    def __init__(self, pieces: Pieces) -> None:
        self._pieces, self._joined = pieces, Joined(pieces)
        self._kept: np.ndarray | None = None  # of the signal, from position _first on
        self._first = self._next = 0  # ... and where the next piece begins
        self._starts: list[int] = []  # of pieces that are being run

    def add(self, block: np.ndarray | None) -> np.ndarray | None:
        """The pieces that a block completes, (pieces, *shape); None: there are none.

        Raises:
            UserError: another shape than the signal has.
        """
        pieces = self._pieces
        block = np.asarray(block)
        block = block.reshape(pieces.whole(pieces.positions(block.shape, "blocks")))
        self._kept = block if self._kept is None else np.concatenate([self._kept, block], axis=pieces.axis)
        end = self._first + self._kept.shape[pieces.axis]
        starts = np.arange(self._next, end - pieces.length + 1, pieces.advance)
        found = self._cut(starts)
        if starts.size:
            self._next = int(starts[-1]) + pieces.advance
            # The last piece of all begins ``length`` before the end.
            begin = max(self._first, min(self._next, end - pieces.length))
            self._kept = np.split(self._kept, [begin - self._first], axis=pieces.axis)[1].copy()
            self._first = begin
        return found

    def end(self) -> np.ndarray:
        """The last piece, (1, *shape).

        Raises:
            UserError: the signal has too few positions, or ends between two steps.
        """
        pieces = self._pieces
        if self._kept is None:
            raise UserError("blocks: expected a signal, found no block at all; give at least one")
        length = self._first + self._kept.shape[pieces.axis]
        pieces.check(length, "blocks")
        found = self._cut(np.array([length - pieces.length]))
        assert found is not None
        return found

    def joined(self, y: np.ndarray | None, is_end: bool) -> np.ndarray:
        """The outputs that are new, (outputs, neurons), of those of the pieces, (pieces, ...)."""
        pieces = self._pieces
        rows = np.empty((0, pieces.outputs, pieces.neurons)) if y is None else pieces.by_time(y)
        new = [
            self._joined.add(start, output, is_end) for start, output in zip(self._starts, rows, strict=True)
        ]
        return np.concatenate([np.empty((0, pieces.neurons), rows.dtype), *new])

    def _cut(self, starts: np.ndarray) -> np.ndarray | None:
        """The pieces from these positions on."""
        self._starts = starts.tolist()
        assert self._kept is not None
        return self._pieces.cut(self._kept, starts - self._first) if starts.size else None


class SignalOutput:
    """``Output`` of a signal: a row of the file for each output along time, (outputs, neurons).

    Args:
        file: of the rows.
        signal: whose pieces come.
    """

    def __init__(self, file: Output, signal: Signal) -> None:
        self._file, self._pieces = file, signal.pieces
        self._starts, self._joined = signal.pieces.starts(signal.length), Joined(signal.pieces)
        self.written = 0

    def read(self, batch_size: int) -> Iterator[np.ndarray]:
        """The pieces of an earlier run: none."""
        return iter(())

    def append(self, rows: np.ndarray) -> None:
        """Write what the next pieces add, (pieces, values)."""
        for output in self._pieces.by_time(rows):
            start, is_last = self._starts[self.written], self.written == len(self._starts) - 1
            self._file.append(self._joined.add(int(start), output, is_last))
            self.written += 1

    def commit(self) -> None:
        """The file is complete: give it its name."""
        self._file.commit()

    def discard(self) -> None:
        """Close or remove what was not committed."""
        self._file.discard()
