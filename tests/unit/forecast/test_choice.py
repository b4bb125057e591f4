"""The number of workers that is preferred, the ranks that they run on, and their forecasts."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.machines import PLAIN, with_network
from helpers.small_plans import pruned, random_network, random_plan
from repurpose_hpc.errors import UserError
from repurpose_hpc.forecast.choice import NEAR, assumed, candidates, places, preferred
from repurpose_hpc.forecast.demand import plan_demand
from repurpose_hpc.forecast.scaled import dense_profile, scaled_demand
from repurpose_hpc.forecast.timeline import forecast

NETWORK = random_network(widths=(64, 96, 96, 8))


def test_candidates():
    assert candidates(1) == [1]
    assert candidates(2) == [1, 2]
    assert candidates(5) == [1, 2, 3, 4, 5]
    assert candidates(20) == [1, 2, 3, 4, 6, 8, 12, 16, 20]


@given(st.dictionaries(st.integers(1, 64), st.floats(1e-6, 1), min_size=1))
def test_the_fewest_of_those_about_as_fast_as_the_fastest(seconds):
    chosen = preferred(seconds)
    assert seconds[chosen] <= NEAR * min(seconds.values())
    assert all(seconds[fewer] > NEAR * min(seconds.values()) for fewer in seconds if fewer < chosen)


def test_ranks_that_are_even_or_not_known_run_in_order():
    for rates in (None, (20.0, 19.0, 16.5)):
        found = places(replace(PLAIN, all_ranks_gb_per_s=rates), 2)
        assert (found.ranks, found.left_out, found.rates, found.slowness) == ((0, 1), (), None, 1.0)


def test_slower_ranks_are_left_out_first():
    machine = replace(PLAIN, all_ranks_gb_per_s=(10.0, 2.0, 20.0, 10.0))
    found = places(machine, 3)
    assert found.ranks == (0, 2, 3) and found.left_out == (1,)
    assert found.rates == (10, 20, 10) and found.slowness == (1, 0.5, 1)
    assert places(machine, 1).ranks == (2,)
    # Several ranks share a node: its workers stay together.
    assert places(replace(machine, ranks_per_node=2), 3).ranks == (0, 1, 2)
    with pytest.raises(UserError, match=r"expected the rate of each of 5 ranks, .* take ranks_at_most=4"):
        places(machine, 5)


def test_one_worker_is_the_original_in_one_process():
    outlook = assumed(NETWORK, PLAIN, 3, "replicated", 0.05, "float32")
    demand = scaled_demand(NETWORK, dense_profile(NETWORK, "replicated"), "replicated", 1, 1)
    assert outlook.seconds(1) == forecast(demand, PLAIN, 3).total


def test_a_plan_is_forecast_as_it_is_and_others_as_sparse_as_it():
    machine = with_network(latency_us=1, gb_per_s=0.1)
    plan = random_plan(NETWORK, 4, "partitioned")
    cut = pruned(NETWORK, plan)
    outlook = assumed(NETWORK, machine, 1, "partitioned", 0.01, "float32")
    exact = outlook.plan_seconds(cut, plan)
    assert exact == forecast(plan_demand(cut, plan, 1), machine, 1).total
    after = outlook.after(cut, plan)
    # A random plan sends a third of all, the assumption was a hundredth.
    assert outlook.seconds(4) < after.seconds(4) == pytest.approx(exact, rel=0.2)
    assert after.seconds(1) == outlook.seconds(1)


def test_unequal_ranks_share_out_the_work():
    """As their rates differ, all of them end at about the same time, sooner than with equal shares."""
    uneven = replace(PLAIN, all_ranks_gb_per_s=(30.0, 10.0))
    wide = random_network(widths=(400, 400, 400))
    outlook = assumed(wide, uneven, 1, "replicated", 1.0, "float32")
    single, both = outlook.seconds(1), outlook.seconds(2)
    # Together they are 4/3 as fast as the first alone; with equal shares they would be 2/3.
    assert single / both == pytest.approx(4 / 3, rel=0.1)


def test_more_ranks_than_the_cores_of_their_machine_take_turns():
    demand = scaled_demand(NETWORK, dense_profile(NETWORK, "replicated"), "replicated", 4, 1)
    alone = forecast(demand, PLAIN, 8)
    for cores, turns in ((1, 4), (2, 2), (4, 1), (8, 1), (None, 1)):
        shared = forecast(demand, replace(PLAIN, shared_cores=cores), 8)
        assert shared.compute == pytest.approx(turns * alone.compute)
