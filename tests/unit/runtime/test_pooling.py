"""A vector for a text, whatever pieces its tokens come in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc.runtime.pooling import Pool, joined, pooled, wanted

EXPECTED = {
    Pool.NONE: lambda y: y,
    Pool.FIRST: lambda y: y[:1],
    Pool.LAST: lambda y: y[-1:],
    Pool.MEAN: lambda y: y.mean(axis=0, keepdims=True),
}


@pytest.mark.parametrize("pool", Pool)
@given(sizes=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=4))
def test_pieces_make_the_vector_of_the_text(pool, sizes):
    rng = np.random.default_rng(0)
    texts = [rng.standard_normal((sum(pieces), 3)) for pieces in sizes]
    # All pieces of all texts in one batch.
    kept = [
        part[list(wanted(end - len(part), end, len(text), pool))]
        for text, pieces in zip(texts, sizes, strict=True)
        for part, end in zip(np.split(text, np.cumsum(pieces)[:-1]), np.cumsum(pieces).tolist(), strict=True)
    ]
    rows, columns = pooled(np.concatenate(kept).T, [len(part) for part in kept], pool)
    parts = iter(np.split(rows.T, np.cumsum(columns)[:-1]))
    for text, pieces in zip(texts, sizes, strict=True):
        found = joined([next(parts) for _ in pieces], pieces, pool)
        np.testing.assert_allclose(found, EXPECTED[pool](text), rtol=1e-12, atol=1e-12)
