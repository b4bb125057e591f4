"""Embeddings, of which a rank keeps the columns that it takes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc.runtime.embeddings import Embeddings

VOCABULARY, WIDTH = 7, 5


@given(
    st.lists(st.integers(0, WIDTH - 1), max_size=2 * WIDTH),
    st.lists(st.integers(0, VOCABULARY - 1), max_size=9),
    st.booleans(),
)
def test_rows_are_those_of_the_table(columns, ids, is_mapped):
    """Also of workers that own nothing, or all the same."""
    table = np.random.default_rng(0).standard_normal((VOCABULARY, WIDTH))
    columns, ids = np.array(columns, np.int64), np.array(ids, np.int64)
    embeddings = Embeddings(table, columns, np.dtype(np.float32), is_mapped)
    rows = embeddings.rows(ids)
    assert embeddings.vocabulary == VOCABULARY and rows.dtype == np.float32 and rows.flags.c_contiguous
    np.testing.assert_array_equal(rows, table.astype(np.float32)[ids][:, columns].T)


@pytest.mark.parametrize("is_mapped", [True, False])
def test_of_a_table_in_memory_some_columns_are_kept(is_mapped):
    """Of one in a file no copy is made, as only what is looked up comes into memory."""
    table = np.ones((VOCABULARY, WIDTH))
    embeddings = Embeddings(table, np.array([1, 3]), table.dtype, is_mapped)
    table[:] = 2
    assert embeddings.rows(np.array([4])).tolist() == [[1 + is_mapped]] * 2
