"""Rounds of exchanges: as many as mixings in a row have to wait, and no more."""

from hypothesis import given
from hypothesis import strategies as st

from helpers.small_graphs import branching_network, convolutional_network, residual_network
from helpers.small_plans import random_plan
from repurpose_hpc.forecast.demand import plan_demand
from repurpose_hpc.plan.rounds import rounds_before, rounds_of

NETWORKS = [branching_network(), convolutional_network(), residual_network()]


def most_waits(network, tensor, waiting):
    """By brute force, over all paths from the inputs."""
    made = [op for op in network.operations if op.target == tensor]
    if not made:
        return 0
    (op,) = made
    return (op.name in waiting) + max(most_waits(network, source, waiting) for source in op.sources)


@given(st.data())
def test_a_tensor_is_complete_after_the_longest_path_of_waits(data):
    network = data.draw(st.sampled_from(NETWORKS))
    waiting = data.draw(st.sets(st.sampled_from([mixing.name for mixing in network.mixings])))
    rounds = rounds_before(network, waiting)
    assert rounds == {tensor: most_waits(network, tensor, waiting) for tensor in network.space_of}


def test_branches_share_rounds():
    """Two mixings in a row in each of three branches, one behind them: three rounds for seven mixings."""
    network = branching_network()
    names = [mixing.name for mixing in network.mixings]
    assert len(names) == 7
    assert max(rounds_before(network, names).values()) == 3


@given(st.sampled_from(NETWORKS), st.integers(0, 9), st.sampled_from([0.0, 0.02, 0.3]))
def test_a_plan_has_as_many_rounds_as_its_forecast(network, seed, density):
    plan = random_plan(network, 3, "partitioned", seed, density)
    rounds = rounds_of(network, plan)
    assert rounds == len(plan_demand(network, plan, per_node=1).exchanges)
    assert rounds == 0 or density > 0
