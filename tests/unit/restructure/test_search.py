"""Searches of budgets on made-up trials: what they find, and in how many trials."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc.restructure.search import (
    LEAST_COMPUTE,
    RESOLUTION,
    WORTH,
    Pace,
    Tried,
    least_compute,
    least_time,
    least_values,
)

DENSE = 10_000


@given(st.integers(0, 2**32 - 1), st.integers(0, DENSE), st.floats(0, 1))
def test_no_more_trials_follow_than_were_said(seed, dense, share):
    """Each further trial takes at least one from the number; at the end none is left."""
    rng, pace = np.random.default_rng(seed), Pace(dense)
    said = []

    def meets(values):
        is_enough = bool(rng.random() < share)
        said.append(pace.follow(values, is_enough))
        return is_enough

    least_values(meets, dense)
    assert said[-1] == 0 and all(later < earlier for earlier, later in pairwise(said))
    assert said[0] <= 14


def test_one_trial_more_is_said_to_take_as_long_as_those_before(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("repurpose_hpc.io.progress.perf_counter", lambda: clock[0])
    pace = Pace(3)
    clock[0] = 20.0
    following = pace.follow(0, False)
    assert following == 3 and pace.left(following) == ", about 1 min 0 s left"
    clock[0] = 40.0
    assert pace.left(pace.follow(3, False)) == ""


class Trials:
    """A record of trials.

    Args:
        is_enough, seconds: functions of values and budget of computation.
        uses: part of the budget of computation that a network uses.
        sent: function of values, those that are really sent.
    """

    def __init__(self, is_enough, seconds, uses=1.0, sent=lambda values: values):
        self.is_enough, self.seconds, self.uses, self.sent, self.tried = is_enough, seconds, uses, sent, []

    def __call__(self, values, compute):
        self.tried.append((values, compute))
        return Tried(
            self.is_enough(values, compute),
            self.seconds(values, compute),
            self.uses * compute,
            self.sent(values),
        )

    def fastest(self):
        return min(self.seconds(*at) for at in self.tried if self.is_enough(*at))


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, DENSE),
    st.floats(0.05, 1),
    st.floats(0.1, 1),
    st.floats(0.01, 1),
)
def test_whatever_comes_of_trials(seed, dense, most, share, uses):
    """Nothing is monotone: the best trial is taken all the same, and no worse than the fewest values."""

    def draw(*at):
        return np.random.default_rng([seed, *np.frombuffer(np.array(at).tobytes(), np.uint32)]).random()

    trials = Trials(lambda *at: draw(1.0, *at) < share, lambda *at: draw(2.0, *at), uses)
    found = least_time(trials, dense, most)
    fewest = least_values(lambda values: trials.is_enough(values, most), dense)
    if fewest is None:
        assert found is None
        return
    assert found is not None and found in trials.tried and trials.is_enough(*found)
    assert trials.seconds(*found) == trials.fastest() <= trials.seconds(fewest, most)
    assert {(fewest, most), (dense, most)} <= set(trials.tried)
    assert len(trials.tried) == len(set(trials.tried))
    assert all(0 <= values <= dense and 0 < compute <= most for values, compute in trials.tried)
    tried = trials.tried
    trials.tried = []
    assert least_time(trials, dense, most) == found and trials.tried == tried


@given(st.floats(0.001, 0.9), st.floats(0.03, 0.9), st.floats(0.0, 100.0))
def test_least_computation_where_values_buy_none(values, compute, latency):
    """Nor do many trials go into what is not worth one."""

    def seconds(_, fraction):
        return latency + fraction

    trials = Trials(lambda v, f: v >= values * DENSE and f >= compute, seconds)
    found = least_time(trials, DENSE, 1.0)
    assert found is not None
    assert seconds(*found) <= max(RESOLUTION * compute + latency, WORTH * (compute + latency)) * (1 + 1e-9)
    assert len(trials.tried) <= 22


def test_more_values_where_they_save_more_computation():
    trials = Trials(lambda v, f: v * f >= 0.03 * DENSE, lambda v, f: v / DENSE + f)
    found = least_time(trials, DENSE, 1.0)
    # At best 2 √0.03 = 0.35; with the fewest values it is 1.03.
    assert found is not None and 0.346 <= trials.seconds(*found) < 0.4


def test_values_that_are_not_sent_are_no_room():
    trials = Trials(lambda v, f: v * f >= 0.01 * DENSE, lambda v, f: f, sent=lambda values: min(values, 200))
    found = least_time(trials, DENSE, 1.0)
    # 400 values are tried, since 200 are all sent.
    assert found is not None and found[0] == 400 == max({values for values, f in trials.tried if f < 1})
    assert len(trials.tried) <= 22


def test_nothing_pruned_competes():
    trials = Trials(lambda v, f: True, lambda v, f: 1 if v == DENSE else 2 + f)
    assert least_time(trials, DENSE, 1.0) == (DENSE, 1.0)


def test_computation_that_must_stay():
    trials = Trials(lambda v, f: v >= 100, lambda v, f: f)
    found = least_time(trials, DENSE, 0.5, computes_less=False)
    assert found is not None and 100 <= found[0] <= 110
    assert {compute for _, compute in trials.tried} == {0.5}


def test_a_worker_alone_computes_less():
    trials = Trials(lambda v, f: f >= 0.3, lambda v, f: f)
    found = least_time(trials, 0, 1.0)
    assert found is not None and found[0] == 0 and 0.3 <= found[1] <= 0.33


@pytest.mark.parametrize("has_network", [True, False])
def test_one_trial_where_there_is_no_room(has_network):
    tried = []

    def attempt(compute):
        tried.append(compute)
        return Tried(False, compute if has_network else 0, compute, 1)

    start = Tried(True, 0.5, 0.5, 1)
    assert least_compute(attempt, start) is start
    assert tried == [0.5 / RESOLUTION]


def test_an_end_where_everything_is_enough():
    tried = []

    def attempt(compute):
        tried.append(compute)
        return Tried(True, compute, compute, 1)

    assert LEAST_COMPUTE <= least_compute(attempt, Tried(True, 1, 1, 1)).compute < 2 * LEAST_COMPUTE
    assert len(tried) == len(set(tried)) <= 1 - math.log2(LEAST_COMPUTE)
    idle = Tried(True, 1, 0, 1)
    assert least_compute(attempt, idle) is idle
