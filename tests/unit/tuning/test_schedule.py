"""Learning rates and orders of samples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc.tuning.schedule import rate, shuffled


def test_rates_of_a_run():
    rates = [rate(step, 8, 4, 2.0) for step in range(9)]
    falling = [1 + np.cos(np.pi * part / 4) for part in range(5)]
    np.testing.assert_allclose(rates, [0.5, 1, 1.5, 2, *falling], atol=1e-15)
    assert rates[4] == 2 and rates[-1] == 0


@given(steps=st.integers(1, 50), warm_up=st.integers(0, 60), peak=st.floats(1e-6, 10))
def test_rates_rise_then_fall(steps, warm_up, peak):
    """Whether or not the run is longer than its warm-up."""
    rates = np.array([rate(step, steps, warm_up, peak) for step in range(steps)])
    np.testing.assert_allclose(rates[0], peak / max(warm_up, 1), rtol=1e-15)
    assert (rates > 0).all() and (rates <= peak).all()
    assert (np.diff(rates[:warm_up]) > 0).all() and (np.diff(rates[warm_up:]) < 0).all()
    assert rate(steps, steps, warm_up, peak) == 0


@given(samples=st.integers(0, 200), seed=st.integers(0, 2**32), epoch=st.integers(0, 1000))
def test_an_epoch_has_every_sample_once_in_one_order(samples, seed, epoch):
    order = shuffled(samples, seed, epoch)
    np.testing.assert_array_equal(np.sort(order), np.arange(samples))
    np.testing.assert_array_equal(order, shuffled(samples, seed, epoch))


@pytest.mark.parametrize("other", [(3, 1), (2, 2), (2, 3)])
def test_seeds_and_epochs_differ(other):
    assert not np.array_equal(shuffled(100, 3, 2), shuffled(100, *other))
