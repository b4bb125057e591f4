"""The steps of restructuring, each against its definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc.model.network import Mixing
from repurpose_hpc.plan.plan import GHOST, PARTIAL, allowed, mixing_plan
from repurpose_hpc.restructure.adjustment import adjust
from repurpose_hpc.restructure.assignment import residual_costs
from repurpose_hpc.restructure.elimination import eliminate, select_candidates
from repurpose_hpc.restructure.forms import Problem, tradeoffs
from repurpose_hpc.restructure.restructure import alternate, assign_rows
from repurpose_hpc.restructure.statistics import MomentSums
from repurpose_hpc.restructure.tradeoff import Tradeoff, cheapest, falling, price_for

seeds = st.integers(0, 2**32 - 1)


def random_moments(rng, m=6, n=9, samples=60):
    mixing = Mixing("layer", "x", "y", rng.standard_normal((m, n)), rng.standard_normal(m))
    x = rng.standard_normal((n, n)) @ rng.standard_normal((n, samples)) + rng.standard_normal((n, 1))
    y = mixing.weights @ x + mixing.bias[:, None] + rng.standard_normal((m, samples))
    sums = MomentSums(mixing)
    for part in np.array_split(np.arange(samples), 3):
        sums.add(x[:, part], y[:, part])
    return mixing, sums.moments()


def residual(H, R, support):
    S = np.flatnonzero(support)
    return -np.vdot(R[:, S], np.linalg.solve(H[np.ix_(S, S)], R[:, S].T).T) if S.size else 0.0


@given(seeds)
def test_costs_are_least_squares_residuals(seed):
    rng = np.random.default_rng(seed)
    _, moments = random_moments(rng)
    supports = np.array([np.zeros(9, bool), rng.random(9) < 0.5, np.ones(9, bool)])
    costs = residual_costs(moments, supports)
    for q, support in enumerate(supports):
        for i, row in enumerate(moments.R):
            expected = moments.variance[i] + residual(moments.H, row[None], support)
            assert costs[i, q] == pytest.approx(expected, rel=1e-7, abs=1e-9)


@given(seeds)
def test_each_elimination_costs_what_refitting_without_it_would(seed):
    rng = np.random.default_rng(seed)
    _, moments = random_moments(rng)
    own = np.arange(9) < 3
    removed, costs = eliminate(moments.H, moments.R, own)
    assert sorted(removed) == [3, 4, 5, 6, 7, 8]
    remaining = np.ones(9, bool)
    for neuron, cost in zip(removed, costs, strict=True):
        before = residual(moments.H, moments.R, remaining)
        rises = {}
        for j in np.flatnonzero(remaining & ~own):
            without = remaining.copy()
            without[j] = False
            rises[j] = residual(moments.H, moments.R, without) - before
        assert cost == pytest.approx(rises[neuron], rel=1e-6, abs=1e-8)
        assert cost <= min(rises.values()) * (1 + 1e-6) + 1e-8
        remaining[neuron] = False


@given(seeds)
def test_candidates_are_those_of_forward_selection(seed):
    rng = np.random.default_rng(seed)
    _, moments = random_moments(rng)
    support = np.arange(9) < 2
    chosen = select_candidates(moments.H, moments.R, support.copy(), 4)
    for neuron in chosen:
        errors = {
            j: residual(moments.H, moments.R, support | (np.arange(9) == j))
            for j in range(9)
            if not support[j]
        }
        assert errors[neuron] == pytest.approx(min(errors.values()), rel=1e-6)
        support[neuron] = True


@given(st.lists(st.floats(0, 1), max_size=12))
def test_falling_never_rises_and_keeps_the_sum(savings):
    result = falling(np.array(savings))
    assert (np.diff(result) <= 1e-12).all()
    assert result.sum() == pytest.approx(sum(savings))


@given(seeds, st.integers(0, 40))
def test_price_meets_the_budget_and_is_the_lowest_that_does(seed, budget):
    rng = np.random.default_rng(seed)

    def random_tradeoff(form, floor):
        savings = [np.sort(rng.random(rng.integers(0, 6)))[::-1] for _ in range(3)]
        return Tradeoff(form, floor, [np.arange(s.size) for s in savings], savings, 1)

    mixings = [[random_tradeoff(GHOST, 0.0), random_tradeoff(PARTIAL, 0.3)], [random_tradeoff(GHOST, 0.1)]]
    price = price_for(mixings, budget)
    count = lambda price: sum(cheapest(forms, price).count(price) for forms in mixings)  # noqa: E731
    assert count(price) <= budget
    lower = [p for forms in mixings for form in forms for p in form.pooled() if p < price]
    assert not lower or count(max(lower)) > budget


@given(seeds)
def test_adjustment_is_optimal_on_the_support(seed):
    rng = np.random.default_rng(seed)
    mixing, moments = random_moments(rng)
    source, target = rng.integers(0, 3, 9), rng.integers(0, 3, 6)
    plan = mixing_plan(rng.random((3, 9)) < 0.3, rng.random((3, 6)) < 0.3, source, target)
    support = allowed(plan, source, target)
    adjusted = adjust(mixing, moments, plan, source, target)
    gradient = adjusted.weights @ moments.H - moments.R
    assert np.abs(gradient[support]).max(initial=0) < 1e-8 * np.abs(moments.R).max()
    assert not adjusted.weights[~support].any()
    np.testing.assert_allclose(adjusted.bias, moments.mean_y - adjusted.weights @ moments.mean_x)


@given(seeds, st.floats(0.001, 10))
def test_alternation_never_raises_the_objective(seed, price):
    rng = np.random.default_rng(seed)
    _, moments = random_moments(rng, m=8, n=8)
    root = rng.standard_normal((8, 8))
    problem = Problem(moments, root @ root.T, rng.permutation(np.repeat([0, 1], 4)), 2, 1, 1, 8)
    capacity = np.array([4, 4])
    owner = assign_rows(problem, problem.own(), capacity)
    forms = tradeoffs(problem, owner)
    before = cheapest(forms, price).objective(price)
    new_owner, new_forms = alternate(problem, capacity, owner, forms, price)
    assert cheapest(new_forms, price).objective(price) <= before
    assert (np.bincount(new_owner, minlength=2) <= capacity).all()
