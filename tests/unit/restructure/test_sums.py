"""Partial sums: the rows of a worker are ranked together, as each would be by itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repurpose_hpc.restructure.support.elimination import eliminate
from repurpose_hpc.restructure.support.forms.sums import _eliminate_rows


@given(seed=st.integers(0, 10_000), inputs=st.integers(1, 15), rows=st.integers(1, 6))
@settings(max_examples=60)
def test_rows_together_are_eliminated_as_each_by_itself(seed, inputs, rows):
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((rows, inputs, 2 * inputs))
    gram, costs = factors @ factors.transpose(0, 2, 1), rng.uniform(0.5, 2, inputs)
    active = rng.random((rows, inputs)) < 0.8
    products = np.where(active, rng.standard_normal((rows, inputs)), 0)
    orders, rises = _eliminate_rows(gram, products, active, costs)
    for i in range(rows):
        kept, places = active[i, orders[i]], np.flatnonzero(active[i])
        if not places.size:
            continue
        Hinv = np.linalg.inv(gram[i][np.ix_(places, places)])
        own = np.zeros(places.size, bool)
        removed, avoided = eliminate(Hinv, products[i][None, places] @ Hinv, own, costs[places])
        assert (places[removed] == orders[i, kept]).all()
        assert rises[i, kept] == pytest.approx(avoided, rel=1e-5)
