"""The assignment under capacities, against the square Munkres problem and against its own prices."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from repurpose_hpc.kernels import least_cost_owners
from repurpose_hpc.restructure.owners.assignment import assign

seeds = st.integers(0, 2**32 - 1)


def points(rng, m, P):
    """Squared distances in two dimensions, plus noise: low rank, and paths over many workers."""
    rows, workers = rng.standard_normal((m, 1, 2)), rng.standard_normal((P, 2))
    return ((rows - workers) ** 2).sum(2) + 0.01 * rng.random((m, P))


STRUCTURES = {
    "uniform": lambda rng, m, P: rng.random((m, P)),
    "bias": lambda rng, m, P: rng.random((m, P)) + 5 * rng.random(P),
    "points": points,
    "product": lambda rng, m, P: rng.random((m, 1)) * rng.random(P),
    "integers": lambda rng, m, P: rng.integers(0, 3, (m, P)).astype(float),
    "equal": lambda rng, m, P: np.full((m, P), 0.1),
    "repeated": lambda rng, m, P: rng.random((m // 4 + 1, P))[rng.integers(0, m // 4 + 1, m)],
    "scales": lambda rng, m, P: rng.random((m, P)) * 10 ** rng.uniform(-8, 8, (m, 1)),
    "offsets": lambda rng, m, P: rng.random((m, P)) + 1e6 * rng.standard_normal((m, 1)),
    "negative": lambda rng, m, P: rng.standard_normal((m, P)) - 3,
}
structures = st.sampled_from(sorted(STRUCTURES))


def total(costs, owner):
    return costs[np.arange(len(costs)), owner].sum()


def least_total(costs, capacities):
    seats = np.repeat(np.arange(len(capacities)), capacities)
    return total(costs, seats[linear_sum_assignment(costs[:, seats])[1]])


def rounding(costs):
    """What two sums of m costs may differ by, each of them being the least."""
    return 1e-12 * np.abs(costs).max(1, initial=0).sum()


def check_optimal(costs, capacities):
    owner = assign(costs, capacities)
    assert owner.dtype == np.int32 and owner.shape == (len(costs),)
    assert (np.bincount(owner, minlength=len(capacities)) <= capacities).all()
    assert total(costs, owner) == pytest.approx(least_total(costs, capacities), rel=0, abs=rounding(costs))


@given(seeds, st.integers(0, 40), st.integers(1, 8), st.integers(0, 10), structures)
def test_same_optimum_as_munkres(seed, m, P, slack, structure):
    """Some capacities are 0."""
    rng = np.random.default_rng(seed)
    capacities = rng.multinomial(m + slack, rng.dirichlet(np.full(P, 0.5)))
    check_optimal(STRUCTURES[structure](rng, m, P), capacities)


@given(seeds, st.integers(1, 5), st.integers(1, 3), st.integers(0, 2))
def test_least_of_all_assignments(seed, m, P, slack):
    rng = np.random.default_rng(seed)
    costs, capacities = rng.random((m, P)), rng.multinomial(m + slack, np.ones(P) / P)
    feasible = (
        candidate
        for candidate in itertools.product(range(P), repeat=m)
        if (np.bincount(candidate, minlength=P) <= capacities).all()
    )
    best = min(total(costs, candidate) for candidate in feasible)
    assert total(costs, assign(costs, capacities)) == pytest.approx(best)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("slack", [0, 150])
def test_same_optimum_as_munkres_mid_size(structure, slack):
    rng = np.random.default_rng(1)
    check_optimal(STRUCTURES[structure](rng, 600, 7), rng.multinomial(600 + slack, np.ones(7) / 7))


@pytest.mark.parametrize("structure", ["uniform", "points"])
def test_same_optimum_as_munkres_at_1500(structure):
    rng = np.random.default_rng(2)
    check_optimal(STRUCTURES[structure](rng, 1500, 7), np.array([0, 100, 200, 250, 250, 300, 400]))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_prices_prove_the_optimum(structure):
    """Where Munkres would be slow: no assignment costs less than the prices' lower bound."""
    rng = np.random.default_rng(3)
    m, P = 4096, 32
    costs, capacities = STRUCTURES[structure](rng, m, P), rng.multinomial(m + m // 50, np.ones(P) / P)
    owner, prices = least_cost_owners(costs, capacities)
    load = np.bincount(owner, minlength=P)
    assert (load <= capacities).all()
    assert (prices >= 0).all() and (prices[load < capacities] == 0).all()
    bound = (costs + prices).min(1).sum() - prices @ capacities
    assert total(costs, owner) == pytest.approx(bound, rel=0, abs=rounding(costs))


def test_same_costs_same_owners_whatever_their_layout():
    rng = np.random.default_rng(4)
    costs, capacities = rng.integers(0, 3, (200, 6)), np.full(6, 35)
    owner = assign(costs.astype(float), capacities)
    for same in (costs.astype(float), np.asfortranarray(costs, float), np.repeat(costs, 2, axis=1)[:, ::2]):
        assert np.array_equal(assign(same, capacities), owner)
    assert np.array_equal(assign(costs.astype(float), capacities.astype(np.int32)), owner)


def test_arguments_are_left_alone():
    costs, capacities = np.array([[1.0, 2.0], [1.0, 3.0]]), np.array([1, 1])
    assert assign(costs, capacities).tolist() == [1, 0]
    assert costs.tolist() == [[1, 2], [1, 3]] and capacities.tolist() == [1, 1]


def test_edges():
    assert assign(np.ones((5, 1)), np.array([5])).tolist() == [0] * 5
    assert assign(np.empty((0, 3)), np.zeros(3, int)).size == 0
    assert assign(np.array([[3.0, 1.0, 2.0]]), np.array([4, 0, 4])).tolist() == [2]  # m < P


@pytest.mark.parametrize("capacities", [[1, 1], [0, 0], [4, -1]])
def test_too_few_seats(capacities):
    with pytest.raises(ValueError, match="3 rows do not fit"):
        assign(np.ones((3, 2)), np.array(capacities))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_costs_must_be_finite(bad):
    costs = np.ones((3, 2))
    costs[1, 1] = bad
    with pytest.raises(ValueError, match="finite"):
        assign(costs, np.array([2, 2]))
