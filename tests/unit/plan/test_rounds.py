"""Rounds of exchanges: as many as mixings in a row have to wait, and no more."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from helpers.small_graphs import (
    Draw,
    branching_network,
    convolutional_network,
    residual_network,
    square_window,
)
from helpers.small_plans import random_plan
from repurpose_hpc.forecast.demand import plan_demand
from repurpose_hpc.model.operations import Window
from repurpose_hpc.model.tiles import Division, tiled
from repurpose_hpc.plan.plan import REPLICATED, dense_plan
from repurpose_hpc.plan.rounds import round_of, rounds_before, rounds_of, waiting_mixings

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


def test_parts_of_a_layer_are_done_together():
    """With stride 2 the first tile sees no halo; it keeps step all the same, so that nobody takes turns."""
    draw = Draw(0)
    tensor = draw.mixing("a", draw.builder.input("input", 2, (8, 3)), 3, square_window((8, 3), 1, pad=0))
    strided = Window((8, 3), (3, 1), (2, 1), (1, 1), (1, 0), (4, 3))
    tensor = draw.mixing("b", tensor, 3, strided)
    tensor = draw.mixing("c", tensor, 3, Window((4, 3), (3, 1), (1, 1), (1, 1), (1, 0), (4, 3)))
    network = draw.builder.build((tensor,), ("identity",))
    cut = tiled(network, 3, Division(2, ({8: (0, 4, 8), 4: (0, 2, 4)},)))
    plan = dense_plan(cut, 2, REPLICATED, np.ones(2))
    waiting = waiting_mixings(cut, plan)
    halos = {mixing.name for mixing in cut.mixings if mixing.name in waiting and "@to" in mixing.name}
    assert len([name for name in halos if name.startswith("a.")]) == 1
    rounds = rounds_before(cut, waiting)
    of = {mixing.name: rounds[mixing.target] for mixing in cut.mixings}
    assert (of["b@0"], of["b@1"], of["c@0"], of["c@1"]) == (1, 1, 2, 2)
    assert round_of(next(op for op in cut.operations if op.name == "b@0"), rounds, waiting) == 1
