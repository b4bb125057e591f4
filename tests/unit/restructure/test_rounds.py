"""The price of rounds: which exchanges are left out, against all choices that there are."""

from dataclasses import replace
from itertools import chain, combinations, product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers import small_plans
from helpers.small_graphs import branching_network
from helpers.small_plans import WITHOUT_RELAYS
from repurpose_hpc.fields import FieldError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.plan.rounds import rounds_of
from repurpose_hpc.restructure.calibration.moments import Moments
from repurpose_hpc.restructure.constraints import uniform_links
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.job import restructure_network
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.support.forms import tradeoffs
from repurpose_hpc.restructure.support.forms.masks import mask_of
from repurpose_hpc.restructure.support.forms.mixed import with_mixed
from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.support.rounds import Member, worthwhile_rounds
from repurpose_hpc.restructure.support.tradeoff import Ranking, Tradeoff, cheapest, lowest_price, prices_of
from repurpose_hpc.restructure.team import ALONE

# Of a round: none, one that some exchanges are not worth, one that few are.
COSTS = (0.0, 60.0, 2000.0)

seeds = st.integers(0, 2**32 - 1)
X = np.random.default_rng(2).standard_normal((5, 24))
NETWORK = small_plans.random_network(5, widths=(24, 40, 30, 6), head="identity")


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    return Samples.of(rng.standard_normal((400, 24)) @ rng.standard_normal((24, 24)))


def random_forms(rng, count=2, most=3):
    """Forms of a mixing that leave the same error with nothing sent."""
    forms = []
    for _ in range(count):
        savings = np.sort(rng.exponential(1, rng.integers(1, most + 1)))[::-1]
        forms.append(Ranking(np.arange(savings.size), savings, rng.uniform(0.5, 2, savings.size)))
    silent = max(ranking.savings @ ranking.costs for ranking in forms) + rng.random()
    return [Tradeoff(silent - ranking.savings @ ranking.costs, [ranking], []) for ranking in forms]


def choices(forms):
    """Error and cost of every set of groups that one of the forms may send, also of none."""
    for form in forms:
        (ranking,) = form.ghosts
        numbers = range(ranking.groups.size)
        for kept in chain.from_iterable(combinations(numbers, size) for size in range(len(numbers) + 1)):
            avoided = sum(ranking.savings[i] * ranking.costs[i] for i in kept)
            yield form.silent_error - avoided, sum(ranking.costs[i] for i in kept)


def least(members, price, cost):
    """The least error plus price of values and of the round, over all sets of groups of all mixings."""
    return min(
        sum(error for error, _ in chosen)
        + price * sum(values for _, values in chosen)
        + price * cost * any(values for _, values in chosen)
        for chosen in product(*(list(choices(forms)) for forms in members))
    )


@given(seeds, st.floats(0.01, 3), st.floats(0.01, 20))
@settings(max_examples=50)
def test_a_round_is_there_where_that_is_best(seed, price, cost):
    rng = np.random.default_rng(seed)
    mixings = [random_forms(rng) for _ in range(2)]
    silent = sum(forms[0].silent_error for forms in mixings)
    gain = sum(Member(forms, 1.0).gain(price) for forms in mixings)
    assert silent - max(gain - price * cost, 0) == pytest.approx(least(mixings, price, cost))


@given(seeds, st.floats(0.01, 20))
def test_gains_and_values_fall_as_the_price_rises(seed, cost):
    rng = np.random.default_rng(seed)
    members = [Member(random_forms(rng), rng.uniform(0.25, 1)) for _ in range(3)]
    prices = np.sort(rng.uniform(0, 2, 30))
    gains = [sum(member.gain(price) for member in members) for price in prices]
    values = [
        (gain > price * cost) * sum(cheapest(member.forms, price).cost(price) for member in members)
        for price, gain in zip(prices, gains, strict=True)
    ]
    assert (np.diff(values) <= 1e-12).all()
    assert (np.diff(gains) <= 1e-12).all()


@given(seeds, st.floats(0, 10), st.floats(0.01, 10))
# At a price between those of the mixings that are left, one of these sends less.
@example(21047537, 7.0, 7.0)
@example(21047537, 7.0, 4.0)
def test_rounds_that_are_kept_are_worth_it_and_others_were_not(seed, budget, cost):
    rng = np.random.default_rng(seed)
    members = {
        round_: [Member(random_forms(rng), rng.uniform(0.25, 1)) for _ in range(count)]
        for round_, count in enumerate((1, 2, 1, 1))
    }
    costs = {0: cost, 1: cost, 2: 0.0, 3: 2 * cost}

    prices = prices_of([member.forms for each in members.values() for member in each])

    def price_of(rounds):
        forms = [member.forms for round_ in rounds for member in members[round_]]
        return lowest_price(prices, lambda price: sum(cheapest(f, price).cost(price) for f in forms), budget)

    def is_worth(round_, price):
        return sum(member.gain(price) for member in members[round_]) > price * costs[round_]

    kept = worthwhile_rounds(members, costs, budget)
    price, free = price_of(kept), price_of(costs)
    assert 2 in kept  # it is there anyhow
    assert all(is_worth(round_, price) for round_ in kept - {2})
    assert not any(is_worth(round_, free) for round_ in set(costs) - kept)
    # What was given up is there for the others, and the budget still holds.
    assert price <= free
    values = [cheapest(member.forms, price).cost(price) for round_ in kept for member in members[round_]]
    assert sum(values) <= budget * (1 + 1e-9)


def test_by_hand():
    """Each of two mixings avoids 2 with one value; one more, whose round is there anyhow, sets the price."""

    def member(avoided, values, surviving=1.0):
        ranking = Ranking(np.arange(1), np.array([avoided / values]), np.array([values]))
        return Member([Tradeoff(0.0, [ranking], [])], surviving)

    useful, other = member(2.0, 1.0), member(6.0, 10.0)
    assert useful.gain(0.6) == pytest.approx(1.4)
    # At a price of 0.6, a round costs 1.8: more than either gains, less than both do, or one that lasts.
    assert worthwhile_rounds({0: [useful], 1: [useful], 2: [other]}, {0: 3, 1: 3, 2: 0}, 2) == {2}
    assert worthwhile_rounds({0: [useful, useful], 2: [other]}, {0: 3, 2: 0}, 2) == {0, 2}
    assert worthwhile_rounds({0: [member(2.0, 1.0, 0.5)], 2: [other]}, {0: 3, 2: 0}, 2) == {0, 2}
    # Values that the budget has for all are worth nothing, and so are rounds.
    assert worthwhile_rounds({0: [useful], 1: [useful]}, {0: 3, 1: 3}, 2) == {0, 1}
    # One is given up for the other, as there is one value.
    assert worthwhile_rounds({0: [useful], 1: [useful]}, {0: 3, 1: 3}, 1) == {1}


@given(seeds)
@settings(max_examples=30)
def test_silence_leaves_the_error_of_nothing_sent(seed):
    """In the forms whose errors are those of a worker's rows together."""
    rng = np.random.default_rng(seed)
    x, root, links = rng.standard_normal((12, 40)), rng.standard_normal((9, 9)), uniform_links(3)
    H = x @ x.T / 40 + 0.01 * np.eye(12)
    moments = Moments(H, rng.standard_normal((9, 12)) @ H, np.ones(9), np.zeros(12), np.zeros(9))
    owner, source_owner = (rng.integers(0, 3, size).astype(np.int32) for size in (9, 12))
    most = lambda rows: np.full(3, 12)  # noqa: E731
    problem = MixingProblem(moments, root @ root.T, source_owner, links, links, most, False, ALONE)
    pure = tradeoffs(problem, owner)
    problem = replace(problem, silent=True)
    (silent,) = forms = tradeoffs(problem, owner)
    assert silent.is_silent
    assert not pure[0].is_silent
    assert silent.objective(0.0) == pytest.approx(pure[0].silent_error)
    assert silent.cost(0.0) == 0
    assert with_mixed(problem, owner, forms, 0.0) == forms
    mask = mask_of(problem, silent, owner, 0.0)
    assert not mask.ghosts.any()
    assert not mask.sums.any()


@pytest.mark.parametrize(("placement", "rounds"), [("partitioned", [3, 2, 1]), ("replicated", [2, 1, 1])])
def test_exchanges_are_left_out_and_the_budget_holds(samples, placement, rounds):
    options = [Options(3, 0.3, placement, forms=WITHOUT_RELAYS, round_cost=cost) for cost in COSTS]
    cuts = [restructure(NETWORK, samples, each) for each in options]
    assert [rounds_of(cut.network, cut.plan) for cut in cuts] == rounds
    dense = sum(cuts[0].plan.dense_values(NETWORK, mixing) for mixing in NETWORK.mixings)
    assert max(cut.traffic_matrix().sum() for cut in cuts) <= 0.3 * dense
    # What the exchange that was left out had sent is there for others.
    if placement == "partitioned":
        assert cuts[1].traffic_matrix().sum() == cuts[0].traffic_matrix().sum() == int(0.3 * dense)
    for cut in cuts:
        # No weight is left that would need more than is sent.
        pruned = cut.plan.pruned(cut.network)
        np.testing.assert_array_equal(forward(pruned, X), forward(cut.network, X))


def test_branches_share_the_price_of_a_round():
    """One mixing in each of three branches sends, in one round."""
    network = branching_network()
    data = Samples.of(np.random.default_rng(1).standard_normal((200, network.inputs)))
    cut = restructure(network, data, Options(3, 0.05, "partitioned", round_cost=1000.0))
    sending = [mixing for mixing in network.mixings if cut.plan.traffic(network, mixing).any()]
    assert len(sending) == 3
    assert rounds_of(cut.network, cut.plan) == 1


def test_relays_pay_for_their_round(samples):
    forms = ("ghosts", "sums", "relays")
    options = [Options(3, 0.3, "partitioned", forms=forms, round_cost=cost) for cost in COSTS]
    cuts = [restructure(NETWORK, samples, each) for each in options]
    assert cuts[0].plan.relays
    assert [rounds_of(cut.network, cut.plan) for cut in cuts] == [3, 3, 2]


def test_a_promise_is_kept_with_fewer_rounds(samples):
    reports = [
        restructure_network(
            NETWORK, samples, workers=3, input_placement="partitioned", max_output_error=0.3, round_cost=cost
        ).report
        for cost in (0.0, 1000.0)
    ]
    assert [report["rounds"] for report in reports] == [3, 2]
    assert [report["round_cost"] for report in reports] == [0.0, 1000.0]
    assert all(report["output_error_held_out"] <= 0.3 for report in reports)


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (-1.0, "expected auto or a finite number, 0 or more"),
        (float("inf"), "finite"),
        ("auto", "words are for command lines"),
    ],
)
def test_prices_that_are_none(cost, message):
    with pytest.raises(FieldError, match=f"round_cost: .*{message}"):
        Options(2, round_cost=cost)
