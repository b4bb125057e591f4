"""The input of a run, stretch by stretch.

Every rank reads the columns of the file that it must supply; nothing is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import tee

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.blocks import Stretch
from repurpose_hpc.io.samples import Samples, check_finite


class Input:
    """The columns of the input file that this rank supplies.

    Args:
        file: the samples of the network in it; None: there are no columns to read.
        columns: input neurons, (n,) int64.
        samples: how many there are, as the root found.
        dtype: of the batches.

    Raises:
        UserError: not the file that the root sees.
    """

    def __init__(self, file: Samples | None, columns: np.ndarray, samples: int, dtype: np.dtype) -> None:
        self.file, self.columns, self.samples, self.dtype = file, columns, samples, dtype
        if file is not None and file.samples != samples:
            raise UserError(
                f"{file.name}: expected {samples} samples as the first rank sees there, found {file.samples}"
                "; put the file where every node sees the same one, or use --input-placement root"
            )

    def batch(self, size: int) -> np.ndarray:
        """The first samples, neuron-major: (n, size), C-contiguous.

        Raises:
            UserError: NaN, infinity, or the file ends early.
        """
        return np.ascontiguousarray(next(self.blocks([Stretch(0, size)])).T)

    def blocks(self, stretches: Iterable[Stretch]) -> Iterator[np.ndarray]:
        """The samples of stretches, ascending: (samples, n) each, C-contiguous; none of an empty one.

        Raises:
            UserError: as of ``batch``.
        """
        lengths, read = tee(stretches)
        found = self._read(stretch for stretch in read if stretch.size)
        for stretch in lengths:
            yield next(found) if stretch.size else np.empty((0, self.columns.size), self.dtype)

    def _read(self, stretches: Iterable[Stretch]) -> Iterator[np.ndarray]:
        """Those of stretches that are not empty."""
        if self.file is None:
            for stretch in stretches:
                yield np.empty((stretch.size, 0), self.dtype)
            return
        everything = np.array_equal(self.columns, np.arange(self.file.width))
        yield from finite(self.file, stretches, None if everything else self.columns, self.dtype)

    def check_unchanged(self) -> None:
        """Refuse a file that was changed since it was opened.

        Raises:
            UserError: names it.
        """
        if self.file is not None:
            self.file.check_unchanged()


def finite(
    file: Samples, stretches: Iterable[Stretch], columns: np.ndarray | None, dtype: np.dtype
) -> Iterator[np.ndarray]:
    """``file.stretches``, (samples, n), with NaN and infinity refused under their sample and column."""
    places, read = tee(stretches)
    blocks = file.stretches(read, columns, dtype.type)
    for stretch, block in zip(places, blocks, strict=True):
        check_finite(block, file.name, stretch.first, columns)
        yield block
