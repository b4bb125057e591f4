"""What is sent is selected once more, with what all workers lack in view (step 3.7)."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import small_plans
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.restructure import selection
from repurpose_hpc.restructure.adjustment import times_mean
from repurpose_hpc.restructure.calibration.moments import Moments
from repurpose_hpc.restructure.constraints import uniform_links
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.joint import SELECTION_TRUST, joint_problem
from repurpose_hpc.restructure.method import DATA
from repurpose_hpc.restructure.options import Options, method_for
from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.team import ALONE

seeds = st.integers(0, 2**32 - 1)
WORKERS = 3


def random_problem(rng, m=7, n=9):
    """A problem, the root of its metric, and owners of its rows; one worker may own none."""
    x = rng.standard_normal((n, 4 * n))
    H = x @ x.T / x.shape[1] + 0.1 * np.eye(n)
    L = rng.standard_normal((3, m))
    moments = Moments(H, rng.standard_normal((m, n)) @ H, np.ones(m), np.zeros(n), np.zeros(m))
    links = uniform_links(WORKERS)
    problem = MixingProblem(
        moments=moments,
        metric=L.T @ L,
        source_owner=rng.integers(WORKERS, size=n).astype(np.int32),
        ghost_costs=links,
        sum_costs=links,
        most_ghosts=lambda rows: np.full(WORKERS, n),
        only_ghosts=False,
        team=ALONE,
    )
    return problem, L, rng.integers(WORKERS, size=m).astype(np.int32)


def error(weights, moments, L):
    """Of weights, (m, n), above that of the best, in the metric with τ I."""
    apart, tau = moments.best - weights, times_mean(SELECTION_TRUST, L)
    return np.vdot((L.T @ L + tau * np.eye(len(apart))) @ apart, apart @ moments.H)


@given(seeds)
def test_a_change_of_one_workers_rows_counts_as_it_does_in_the_whole_error(seed):
    rng = np.random.default_rng(seed)
    problem, L, owner = random_problem(rng)
    H, weights = problem.moments.H, rng.standard_normal(problem.moments.R.shape)
    joint = joint_problem(problem, weights, L, owner)
    target = np.linalg.solve(H, joint.moments.R.T).T

    def alone(rows, changed):
        apart = changed[rows] - target[rows]
        return np.vdot(joint.metric[np.ix_(rows, rows)] @ apart, apart @ H)

    for q in range(WORKERS):
        rows = np.flatnonzero(owner == q)
        changed = weights.copy()
        changed[rows] += rng.standard_normal((rows.size, H.shape[0]))
        rise = error(changed, problem.moments, L) - error(weights, problem.moments, L)
        assert alone(rows, changed) - alone(rows, weights) == pytest.approx(rise, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("forms", [("ghosts",), ("ghosts", "sums"), ("ghosts", "sums", "relays")])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000), budget=st.sampled_from([0.05, 0.2, 0.4]))
def test_what_is_selected_again_is_better_and_costs_no_more(forms, seed, budget):
    found = []

    def watched(context, decisions, selected, mixing, problem, rank):
        again, fit = reselect(context, decisions, selected, mixing, problem, rank)
        fits = [selection._fitted(context, each, mixing, problem).mixing for each in (selected, again)]
        so_far = network.with_mixings(dict(decisions.finished))
        answers = [forward(so_far.with_mixings({mixing.name: each}), x) for each in fits]
        errors = [np.sum((forward(network, x) - each) ** 2) for each in answers]
        found.append((again is not selected, again.budget - selected.budget, errors[1] - errors[0]))
        return again, fit

    reselect = selection.reselect
    network = small_plans.random_network(seed, widths=(12, 20, 16, 5), head="identity")
    x = np.random.default_rng(seed).standard_normal((200, 12))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "reselect", watched)
        restructure(network, Samples.of(x), Options(WORKERS, budget, "partitioned", forms=forms))
    assert len(found) == 3
    for changed, left, rise in found:
        assert left >= -1e-9
        assert rise < 0 if changed else rise == 0


def test_something_is_selected_again():
    network = small_plans.random_network(1, widths=(12, 20, 16, 5), head="identity")
    samples = Samples.of(np.random.default_rng(1).standard_normal((200, 12)))
    options = Options(WORKERS, 0.3, "partitioned")
    once, again = (
        restructure(network, samples, options, method=replace(method_for(options), reselect=reselect))
        for reselect in (False, True)
    )
    assert once.plan.identity() != again.plan.identity()


def test_rows_adjusted_one_by_one_make_up_for_nothing():
    with pytest.raises(ValueError, match="rows adjusted together"):
        replace(DATA, compensation=0)
