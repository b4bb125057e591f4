"""The tensors of a GGUF file as numbers, computed one by one."""

from __future__ import annotations

from math import prod

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.importers.arrays import as_weights
from repurpose_hpc.model.importers.gguf.file import REMEDY, File


class Tensors:
    """Tensors by name.

    Args:
        file: that has them.
        heads: of layers whose rows are in the order of rotations of neighbours, by the middle of their names;
            they are put back into the order of rotations of halves.
    """

    def __init__(self, file: File, heads: dict[str, int]) -> None:
        self._file, self._heads = file, heads
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._file.tensors

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A tensor, float32.

        Raises:
            UserError: it is missing, has another shape, or is not finite.
        """
        import gguf

        path, stored = self._file.path, self._file.tensors.get(name)
        if stored is None:
            raise UserError(f"{path}: expected a tensor {name!r} of shape {shape}, found none; {REMEDY}")
        if stored.shape != shape:
            raise UserError(
                f"{path}: {name}: expected shape {shape} as the metadata say, found {stored.shape}; {REMEDY}"
            )
        self._read.add(name)
        content = self._file.content[stored.offset :][: prod(stored.rows)].reshape(stored.rows)
        array = np.array(gguf.dequantize(content, stored.type))
        heads = self._heads.get(name.split(".")[-2])
        return as_weights(array if heads is None else _halves(array, heads), f"{path}: {name}")

    def check_all_read(self) -> None:
        """Refuse tensors that nobody has asked for.

        Raises:
            UserError: names the first of them.
        """
        rest = sorted(self._file.tensors.keys() - self._read)
        if rest:
            raise UserError(
                f"{self._file.path}: expected the tensors of a model as its metadata describe it, found "
                f"{rest[0]!r} besides ({len(rest)} in all); such a part is not supported"
            )


def _halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of pairs (0, 1), (2, 3), ... of each head as the first halves of all pairs, then the second."""
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)
