"""The model of time: by hand for two ranks, and what must hold for any."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.machines import PLAIN, with_network
from helpers.small_graphs import convolutional_network
from helpers.small_plans import pruned, random_network, random_plan
from repurpose_hpc.forecast.demand import plan_demand
from repurpose_hpc.forecast.machine import Link, Rates
from repurpose_hpc.forecast.scaled import dense_profile, scaled_demand
from repurpose_hpc.forecast.timeline import Clocks, forecast
from repurpose_hpc.plan.masks import MixingPlan, ghost_plan
from repurpose_hpc.plan.plan import Plan, contiguous_owners, single_worker_plan

# Two layers of 8 neurons, 2 ranks: rank 1 needs 3 neurons of rank 0, who needs 1 of rank 1.
WIDTHS = (6, 8, 8)


def _two_ranks():
    network = random_network(widths=WIDTHS)
    owner = contiguous_owners(8, np.ones(2))
    spaces = [space.name for space in network.spaces]
    owners = {spaces[0]: np.full(6, -1, np.int32), spaces[1]: owner, spaces[2]: owner}
    ghosts = np.zeros((2, 8), bool)
    ghosts[1, :3] = ghosts[0, 7] = True
    first, second = network.mixings
    mixings = {
        first.name: MixingPlan(np.ones((2, 6), bool), np.zeros((2, 8), bool)),
        second.name: ghost_plan(ghosts, owner, owner),
    }
    plan = Plan(2, "replicated", owners, mixings)
    return plan_demand(pruned(network, plan), plan, per_node=1)


def test_two_ranks_by_hand():
    machine = replace(
        with_network(latency_us=50, overhead_us=3, gap_us=2, gb_per_s=0.1), call_us=1, value_ns=10
    )
    machine = replace(machine, exchange_us=5, rank_us=0.5)
    batch = 100
    times = forecast(_two_ranks(), machine, batch)
    us = 1e-6

    def product(rows: int, depth: int) -> float:
        return us + 2e-9 * rows * depth * batch + 10e-9 * rows * batch

    pack = us + 10e-9 * 3 * batch  # rank 0 has most to send
    posted = product(4, 6) + pack + 5 * us + 2 * 0.5 * us + 3 * us
    arrived = posted + 50 * us + 2 * us + 4 * 3 * batch / 0.1e9
    computed = posted + product(4, 4)
    last = max(arrived, computed) + 3 * us + product(4, 3)
    assert arrived > computed
    assert times.total == pytest.approx(last)
    assert times.bytes == pytest.approx(4 * 3 * batch / 0.1e9)
    # With links that cost nothing rank 0 is the last: it packs more, and has one ghost.
    assert times.compute == pytest.approx(product(4, 6) + pack + product(4, 4) + product(4, 1))


def test_nothing_is_hidden_without_overlap():
    slow = with_network(latency_us=100)
    hidden, shown = (
        forecast(_two_ranks(), with_network(slow, overlap=overlap), 1000).total for overlap in (1.0, 0.0)
    )
    own = 2e-9 * 4 * 4 * 1000
    assert shown - hidden == pytest.approx(own)


def test_a_single_rank_only_computes():
    network = convolutional_network()
    demand = plan_demand(network, single_worker_plan(network), per_node=1)
    slow = with_network(latency_us=1e6, overhead_us=1e6, gap_us=1e6, gb_per_s=1e-6)
    times = forecast(demand, replace(slow, exchange_us=1e6, rank_us=1e6), 4)
    assert times.total == times.compute > 0
    assert (times.overhead, times.latency, times.bytes) == (0, 0, 0)


def test_ranks_of_a_node_share_its_link():
    network = random_network(widths=(64, 64, 64))
    profile = dense_profile(network, "partitioned")
    machine = with_network(gb_per_s=1e-3)
    bytes_of = {}
    for per_node in (1, 4):
        demand = scaled_demand(network, profile, "partitioned", 16, per_node)
        bytes_of[per_node] = forecast(demand, replace(machine, ranks_per_node=per_node), 1).bytes
    # 4 ranks send 12 others each, instead of one that sends 15 others.
    assert bytes_of[4] / bytes_of[1] == pytest.approx(4 * 12 / 15, rel=1e-3)


def test_ranks_of_a_node_share_its_memory():
    network = random_network(widths=(64, 64, 64))
    demand = scaled_demand(network, dense_profile(network, "replicated"), "replicated", 4, 4)
    slow = replace(PLAIN, memory=replace(PLAIN.memory, rank_gb_per_s=(0.01,), node_gb_per_s=(0.02,)))
    alone, together = (
        forecast(demand, replace(slow, ranks_per_node=per_node), 1).total for per_node in (1, 4)
    )
    assert together == pytest.approx(2 * alone)


def test_the_first_bytes_of_a_round_pass_at_once():
    """Up to all of them: then only what is behind them takes its time."""
    demand = _two_ranks()
    slow = with_network(gb_per_s=1e-6)
    most = max(traffic.bytes_out.max() for traffic in demand.exchanges)
    every, few, none = (
        forecast(demand, with_network(slow, burst_bytes=burst), 1).bytes for burst in (0, 1, most)
    )
    assert every > few > none == 0
    assert every - few == pytest.approx(1e-9 / 1e-6 * len(demand.exchanges))


def test_convolutions_have_rates_of_their_own():
    network = convolutional_network()
    demand = plan_demand(network, single_worker_plan(network), per_node=1)
    slow = replace(PLAIN, convolution=Rates((1,), (1,), ((0.1,),)))
    assert forecast(demand, slow, 1).total > 5 * forecast(demand, PLAIN, 1).total


NUMBERS = st.floats(0, 1000)
LINKS = st.builds(Link, NUMBERS, NUMBERS, NUMBERS, st.floats(1e-3, 100), st.floats(0, 1))


@settings(max_examples=40)
@given(
    seed=st.integers(0, 100),
    graph=st.booleans(),
    per_node=st.integers(1, 4),
    links=st.tuples(LINKS, LINKS),
    batch=st.sampled_from([1, 7, 256]),
    scale=st.floats(1, 100),
)
def test_dearer_links_never_make_it_faster(seed, graph, per_node, links, batch, scale):
    network = convolutional_network(seed) if graph else random_network(seed)
    plan = random_plan(network, 5, "partitioned", seed)
    demand = plan_demand(pruned(network, plan), plan, per_node)
    machine = replace(PLAIN, call_us=1, ranks_per_node=per_node, local=links[0], network=links[1])
    times = forecast(demand, machine, batch)
    slack = 1e-9 * times.total
    assert times.total == pytest.approx(times.compute + times.overhead + times.latency + times.bytes)
    assert min(times.compute, times.overhead, times.latency, times.bytes) >= -slack
    for name in ("latency_us", "overhead_us", "gap_us"):
        dearer = with_network(machine, **{name: scale * getattr(links[1], name)})
        assert forecast(demand, dearer, batch).total >= times.total - slack
    slower = with_network(machine, gb_per_s=links[1].gb_per_s / scale)
    assert forecast(demand, slower, batch).total >= times.total - slack
    less_hidden = with_network(machine, overlap=links[1].overlap / scale)
    assert forecast(demand, less_hidden, batch).total >= times.total - slack
    for name in ("exchange_us", "rank_us", "value_ns"):
        assert forecast(demand, replace(machine, **{name: scale}), batch).total >= times.total - slack
    assert forecast(demand, machine, 2 * batch).total >= times.total - slack


def _two_stages():
    """Three layers of 8 neurons: rank 0 makes the first two, rank 1 the third, of all 8 neurons."""
    network = random_network(widths=(6, 8, 8, 8))
    spaces, first, second = (
        [space.name for space in network.spaces],
        np.zeros(8, np.int32),
        np.ones(8, np.int32),
    )
    owners = dict(zip(spaces, [np.full(6, -1, np.int32), first, first, second], strict=True))
    sources = [owners[name] for name in spaces]
    mixings = {
        mixing.name: ghost_plan(
            np.ones((2, source.size), bool) & (np.arange(2)[:, None] == target[0]), source, target
        )
        for mixing, source, target in zip(network.mixings, sources[:-1], sources[1:], strict=True)
    }
    plan = Plan(2, "replicated", owners, mixings)
    return plan_demand(pruned(network, plan), plan, per_node=1)


def test_stages_have_the_pace_of_the_slowest():
    """Rank 0 makes two layers for a batch, and begins the next one while rank 1 makes the third."""
    demand, batch = _two_stages(), 100
    machine = replace(with_network(latency_us=50, gb_per_s=1000), call_us=1, value_ns=10)
    busy, last = Clocks(demand, machine, batch), Clocks(demand, machine, batch)
    busy.run()
    assert busy.clock[0] < busy.clock[1]
    # Both meet for the latency of the message, and what is sent takes no time.
    assert last.period() == pytest.approx(busy.clock[0] + 50e-6, rel=0.02)
    assert last.period() < forecast(demand, machine, batch).total


def test_no_pace_is_faster_than_the_link():
    demand, batch = _two_stages(), 100
    machine = with_network(latency_us=0, gb_per_s=1e-4)
    carrying = 4 * 8 * batch / 1e5
    assert carrying <= Clocks(demand, machine, batch).period() == pytest.approx(carrying, rel=0.01)


@given(seed=st.integers(0, 10), workers=st.integers(1, 5), batch=st.integers(1, 300))
@settings(max_examples=20)
def test_batches_that_follow_each_other_take_about_as_long_as_alone_without_stages(seed, workers, batch):
    network = random_network(seed)
    plan = random_plan(network, workers, "partitioned", seed)
    demand = plan_demand(pruned(network, plan), plan, per_node=2)
    machine = with_network(latency_us=30, overhead_us=2, gb_per_s=0.5)
    period, alone = Clocks(demand, machine, batch).period(), Clocks(demand, machine, batch).run()
    assert 0.5 * alone < period < 2 * alone
