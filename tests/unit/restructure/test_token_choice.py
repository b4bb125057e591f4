"""Forms of halves chosen together, beside the best of all combinations."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repurpose_hpc.restructure.support.reserve import BudgetTooSmall
from repurpose_hpc.restructure.tokens.choice import Budget, choose
from repurpose_hpc.restructure.tokens.forms import Choices


def make_choices(seed, halves, forms):
    """Random forms; the first of each half costs least of both and has the largest error."""
    rng = np.random.default_rng(seed)
    choices = []
    for _ in range(halves):
        error, values = rng.random(forms), rng.integers(1, 40, forms)
        rounds, loads = rng.integers(1, 3, forms), rng.uniform(1, 40, forms)
        error[0], values[0], rounds[0], loads[0] = 1.0, 0, 0, 0.5
        choices.append(Choices([None] * forms, error, values, rounds, loads))
    return choices, rng.uniform(0.1, 3, halves)


def totals(choices, sensitivity, round_cost, chosen):
    """Error, cost and multiply-adds."""
    picked = [
        (weight * each.error[place], each.values[place] + round_cost * each.rounds[place])
        + (each.multiply_adds[place],)
        for each, weight, place in zip(choices, sensitivity, chosen, strict=True)
    ]
    return np.sum(picked, axis=0)


def best_error(choices, sensitivity, round_cost, budget):
    """Of all combinations within the budget."""
    every = product(*(range(len(each.forms)) for each in choices))
    found = (totals(choices, sensitivity, round_cost, chosen) for chosen in every)
    return min(
        (error for error, cost, load in found if cost <= budget.cost and load <= budget.multiply_adds),
        default=None,
    )


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**32 - 1),
    halves=st.integers(1, 4),
    forms=st.integers(1, 5),
    round_cost=st.sampled_from([0.0, 10.0]),
    cost=st.floats(0, 100),
    load=st.floats(2, 100),
)
def test_the_best_of_all_within_the_budget(seed, halves, forms, round_cost, cost, load):
    """To a thousandth."""
    choices, sensitivity = make_choices(seed, halves, forms)
    budget = Budget(cost, load)
    chosen = choose(choices, sensitivity, round_cost, budget)
    error, spent, computed = totals(choices, sensitivity, round_cost, chosen)
    assert spent <= budget.cost and computed <= budget.multiply_adds
    assert error <= best_error(choices, sensitivity, round_cost, budget) * 1.002 + 1e-9


def test_errors_of_all_orders_of_magnitude():
    """What is left of large errors must not hide small ones from the solver."""
    choices, _ = make_choices(3, 4, 5)
    for power, choice in zip((1e6, 1.0, 1e-6, 1e-9), choices, strict=True):
        choice.error[:] *= power
    choices[0].error[1], choices[0].values[1], choices[0].multiply_adds[1] = 0.0, 1, 0.6
    budget = Budget(60.0, 70.0)
    error, *_ = totals(choices, np.ones(4), 0, choose(choices, np.ones(4), 0, budget))
    assert error <= best_error(choices, np.ones(4), 0, budget) * 1.002


def test_of_equal_errors_the_cheaper():
    choices = [Choices([None] * 2, np.zeros(2), np.array([9, 5]), np.array([1, 1]), np.array([3.0, 3.0]))]
    assert choose(choices, np.ones(1), 0.0, Budget(20.0, 9.0)) == [1]


@settings(max_examples=12)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_with_budget_for_all_nothing_is_lost(seed, halves):
    choices, sensitivity = make_choices(seed, halves, 6)
    chosen = choose(choices, sensitivity, 5.0, Budget(1e6, 1e6))
    assert chosen == [int(np.argmin(each.error)) for each in choices]


@settings(max_examples=12)
@given(st.integers(0, 2**32 - 1))
def test_what_does_not_matter_costs_nothing(seed):
    """A half of no sensitivity leaves the budget to the others."""
    choices, sensitivity = make_choices(seed, 2, 5)
    sensitivity[0] = 0
    budget = Budget(30.0, 45.0)
    alone = choose(choices[1:], sensitivity[1:], 0, Budget(30.0, 44.5))
    error = totals(choices, sensitivity, 0, choose(choices, sensitivity, 0, budget))[0]
    assert error <= totals(choices[1:], sensitivity[1:], 0, alone)[0] + 1e-12


def test_a_dearer_round_buys_fewer():
    """Two forms of one error: many values in one round, or few in two."""
    choices = [
        Choices([None] * 3, np.array([1.0, 0.0, 0.0]), np.array([0, 8, 4]), np.array([0, 1, 2]), np.ones(3))
    ]
    assert choose(choices, np.ones(1), 0.0, Budget(4.0, 9.0)) == [2]
    assert choose(choices, np.ones(1), 10.0, Budget(18.0, 9.0)) == [1]


@pytest.mark.parametrize("budget", [Budget(2.0, 100.0), Budget(100.0, 2.0)])
def test_a_budget_that_no_choice_keeps(budget):
    choices = [Choices([None], np.zeros(1), np.array([3]), np.array([1]), np.array([3.0]))]
    with pytest.raises(BudgetTooSmall, match="allow a larger comm_budget or load"):
        choose(choices, np.ones(1), 0.0, budget)


def test_an_exact_fit_of_the_budget():
    """Nothing is left over, of either."""
    choices = [
        Choices([None] * 2, np.array([1.0, 0.0]), np.array([0, 7]), np.array([0, 1]), np.array([1.0, 5.0]))
    ] * 2
    assert choose(choices, np.ones(2), 0.0, Budget(14.0, 10.0)) == [1, 1]
    assert sorted(choose(choices, np.ones(2), 0.0, Budget(13.0, 10.0))) == [0, 1]
    assert choose(choices, np.ones(2), 0.0, Budget(0.0, 10.0)) == [0, 0]
