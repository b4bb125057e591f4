"""Embeddings: what the numbers of tokens stand for, of which a rank keeps what its workers read."""

from __future__ import annotations

import numpy as np


class Embeddings:
    """Columns of a table of embeddings.

    Args:
        table: (vocabulary, width).
        columns: of the table, those that a program takes, ascending but for workers that take the same.
        dtype: of the program.
        is_mapped: whether the table is in a file of which only the rows are read that are looked up.  Of one
            in memory a copy is kept of the columns, where these are fewer.
    """

    def __init__(self, table: np.ndarray, columns: np.ndarray, dtype: np.dtype, is_mapped: bool) -> None:
        self.vocabulary, width = table.shape
        if columns.size < width and not is_mapped:
            table, columns = np.ascontiguousarray(table[:, columns]), np.arange(columns.size)
        self._table, self._columns, self._dtype = table, columns, dtype

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """What a program takes for tokens, (columns, tokens).

        Args:
            ids: (tokens,) integers, from 0 to ``vocabulary`` - 1.
        """
        return np.ascontiguousarray(self._table[ids].T[self._columns], self._dtype)
