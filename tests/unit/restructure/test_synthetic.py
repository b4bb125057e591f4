"""Synthetic networks of scaling studies: what is cut, and how much."""

import numpy as np
import pytest

from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.synthetic import cut_at_budget, random_network


@pytest.mark.parametrize(("budget", "placement"), [(0.0, "partitioned"), (0.05, "replicated")])
def test_weights_go_by_the_part_weights(budget, placement):
    network = random_network(width=200, layers=3, seed=0)
    cut, plan = cut_at_budget(network, Options(2, budget, placement, part_weights=(3.0, 1.0)))
    held = plan.weights_held(cut)
    assert held[0] / held.sum() == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("placement", ["replicated", "partitioned", "root"])
@pytest.mark.parametrize("budget", [0.0, 0.1, 1.0])
def test_the_largest_columns_are_kept_until_the_budget_is_used_up(placement, budget):
    network = random_network(width=31, layers=3, seed=0)
    cut, plan = cut_at_budget(network, Options(4, budget, placement))
    sent = sum(plan.values_sent(network, mixing) for mixing in network.mixings)
    dense = sum(plan.dense_values(network, mixing) for mixing in network.mixings)
    assert budget * dense - 1 < sent <= budget * dense
    kept, left_out = [], []
    for mixing, before in zip(cut.mixings, network.mixings, strict=True):
        allowed = plan.allowed(network, mixing)
        assert np.array_equal(mixing.weights, np.where(allowed, before.weights, 0))
        source, target = plan.owner(network, mixing.source), plan.owner(network, mixing.target)
        if (source < 0).any():
            assert allowed.all()  # a replicated input costs nothing
            continue
        for q in range(4):
            norms = np.square(before.weights[target == q]).sum(axis=0)[source != q]
            ghosts = plan.mixings[mixing.name].ghosts[q][source != q]
            kept += norms[ghosts].tolist()
            left_out += norms[~ghosts].tolist()
    assert max(left_out, default=0) <= min(kept, default=np.inf)
