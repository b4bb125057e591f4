"""The input of a run, batch by batch.

Every rank reads the columns of the file that it must supply; nothing is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples, check_finite, open_samples


class Input:
    """The columns of the input file that this rank supplies.

    Args:
        path: the file of samples; opened only where there are columns to read.
        columns: input neurons, (n,) int64.
        samples: how many there are, as the root found.
        dtype: of the batches.
        feed: from the samples of the file to those of the network, such as ``Ends.feed``; where there is
            something to compute, this rank does so with whole samples.

    Raises:
        UserError: unreadable, or not the file that the root sees.
    """

    def __init__(
        self,
        path: Path,
        columns: np.ndarray,
        samples: int,
        dtype: np.dtype,
        feed: Callable[[Samples], Samples],
    ) -> None:
        self.columns, self.samples, self.dtype = columns, samples, dtype
        self.file = feed(open_samples(path)) if columns.size else None
        if self.file is not None and self.file.samples != samples:
            raise UserError(
                f"{path}: expected {samples} samples as the first rank sees there, found {self.file.samples}"
                "; put the file where every node sees the same one, or use --input-placement root"
            )

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        """The samples in order, neuron-major: (n, batch), C-contiguous; the last may have fewer.

        Raises:
            UserError: NaN, infinity, or the file ends early.
        """
        for batch in self._blocks(batch_size):
            yield np.ascontiguousarray(batch.T)

    def blocks(self, size: int, first: int = 0) -> Iterator[np.ndarray]:
        """The samples from ``first`` on, in order: (size, n), C-contiguous.

        Blocks begin at multiples of ``size``, but for the first; the last may have fewer samples.

        Raises:
            UserError: as of ``batches``.
        """
        begin = first // size * size
        for block in islice(self._blocks(size), begin // size, None):
            yield block[max(first - begin, 0) :]
            begin += size

    def _blocks(self, size: int) -> Iterator[np.ndarray]:
        """All samples, likewise."""
        if self.file is None:
            for first in range(0, self.samples, size):
                yield np.empty((min(size, self.samples - first), 0), self.dtype)
            return
        everything = np.array_equal(self.columns, np.arange(self.file.width))
        yield from finite_batches(self.file, size, None if everything else self.columns, self.dtype)

    def check_unchanged(self) -> None:
        """Refuse a file that was changed since it was opened.

        Raises:
            UserError: names it.
        """
        if self.file is not None:
            self.file.check_unchanged()


def finite_batches(
    file: Samples, batch_size: int, columns: np.ndarray | None, dtype: np.dtype
) -> Iterator[np.ndarray]:
    """``file.batches``, (batch, n), with NaN and infinity refused under their sample and column."""
    first = 0
    for batch in file.batches(batch_size, columns, dtype.type):
        check_finite(batch, file.name, first, columns)
        first += len(batch)
        yield batch
