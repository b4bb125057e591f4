"""Part weights from rates of ranks, and from how long ranks computed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc.errors import UserError
from repurpose_hpc.runtime.balance import balance, part_weights
from repurpose_hpc.runtime.hosting import hosted_workers

RATES = st.lists(st.floats(0.05, 20), min_size=1, max_size=7)
# Of numbers of three digits, and of quotients of two of them.
ROUNDED, QUOTIENT = 0.005, 0.011


@given(RATES, st.integers(0, 9))
def test_ranks_with_these_part_weights_compute_equally_long(rates, more_workers):
    workers = len(rates) + more_workers
    weights = part_weights(rates, workers)
    assert len(weights) == workers and max(weights) == 1
    hosted = [hosted_workers(workers, len(rates), rank) for rank in range(len(rates))]
    seconds = [sum(weights[worker] for worker in hosted[rank]) / rate for rank, rate in enumerate(rates)]
    assert max(seconds) <= min(seconds) * (1 + QUOTIENT)
    for mine in hosted:
        assert len({weights[worker] for worker in mine}) == 1


@given(st.data(), RATES, st.integers(0, 9))
def test_the_suggestion_recovers_the_rates_whatever_the_loads(data, rates, more_workers):
    workers = len(rates) + more_workers
    load = data.draw(st.lists(st.integers(1, 10**9), min_size=len(rates), max_size=len(rates)))
    seconds = [work / rate for work, rate in zip(load, rates, strict=True)]
    found = balance(seconds, load, workers)
    assert found["suggested_part_weights"] == pytest.approx(list(part_weights(rates, workers)), rel=ROUNDED)
    assert found["compute_imbalance"] == pytest.approx(max(seconds) / np.mean(seconds))
    assert found["compute_seconds"] == seconds


def test_a_rank_of_half_the_speed():
    assert part_weights([10.0, 5.0], 2) == (1, 0.5)
    assert part_weights([10.0, 5.0], 3) == (1, 0.25, 0.25)  # the second rank hosts two workers
    assert part_weights([3.0, 3.0], 4) == (1, 1, 1, 1)
    equal_shares = balance([1.0, 2.0], [300, 300], 2)
    assert equal_shares["suggested_part_weights"] == [1, 0.5]
    assert equal_shares["compute_imbalance"] == pytest.approx(4 / 3)
    assert balance([1.0, 1.0], [400, 200], 2)["suggested_part_weights"] == [1, 0.5]


def test_a_rank_without_load_has_shown_no_rate():
    assert balance([1.0, 0.1, 2.0], [100, 0, 100], 3)["suggested_part_weights"] == [1, 0, 0.5]
    assert balance([1.0, 1.0], [0, 0], 2) == {}
    # Nothing was left to do by an earlier run.
    assert balance([0.0, 0.0], [100, 100], 2) == {}


def test_more_ranks_than_workers_are_refused():
    with pytest.raises(UserError, match="at most 2 ranks"):
        part_weights([1.0, 1.0, 1.0], 2)
