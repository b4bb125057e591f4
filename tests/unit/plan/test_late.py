"""Sweeps with late exchanges: how they converge, what they send, and that no work is done twice."""

import numpy as np
import pytest

from helpers.example_operations import NETWORKS
from helpers.small_graphs import transformer
from helpers.small_plans import pruned, random_network, random_plan
from repurpose_hpc.errors import UserError
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.spec import check
from repurpose_hpc.plan.late import late
from repurpose_hpc.plan.plan import PLACEMENTS
from repurpose_hpc.plan.rounds import rounds_of, waiting_mixings

WORKERS = 3
SAMPLES = [name for name in NETWORKS if name not in ("Attention", "Rotary")]


def case(network, placement="partitioned", seed=0, density=0.3):
    plan = random_plan(network, WORKERS, placement, seed, density)
    return pruned(network, plan), plan


def samples(network):
    return np.random.default_rng(5).normal(size=(4, network.inputs))


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", NETWORKS)
def test_after_all_sweeps_outputs_are_exact(name, placement):
    network, plan = case(NETWORKS[name](), placement)
    sweeps = rounds_of(network, plan) + 1
    x = samples(network)
    expected, found = forward(network, x), {}
    for count in (1, sweeps, sweeps + 2):
        result = late(network, plan, count)
        found[count] = forward(check(result.network(network)), x)
        assert rounds_of(result.graph, result.plan) <= count - 1
    np.testing.assert_allclose(found[sweeps], expected, rtol=0, atol=1e-10 * max(1, np.abs(expected).max()))
    np.testing.assert_allclose(found[sweeps + 2], found[sweeps], rtol=0, atol=1e-12)


def test_without_exchanges_every_worker_has_its_own_neurons_alone():
    network, plan = case(random_network(2), "replicated")
    result = late(network, plan, 1)
    alone = {}
    for mixing in network.mixings:
        source, target = plan.ends(network, mixing)
        inside = (source == target[:, None]) | (source < 0)
        alone[mixing.name] = type(mixing)(
            mixing.name, mixing.source, mixing.target, np.where(inside, mixing.W, 0), mixing.bias
        )
    x = samples(network)
    np.testing.assert_allclose(
        forward(result.network(network), x), forward(network.with_mixings(alone), x), atol=1e-14
    )


def test_a_sweep_is_jacobis():
    """Layer by layer, from the definition: the second sweep of a chain."""
    network, plan = case(random_network(3, (6, 9, 8, 5), "identity"), "replicated")
    x = samples(network).T

    def layer(mixing, own, others):
        source, target = plan.ends(network, mixing)
        inside = (source == target[:, None]) | (source < 0)
        y = np.where(inside, mixing.W, 0) @ own + mixing.bias[:, None]
        return y if others is None else y + np.where(inside, 0, mixing.W) @ others

    before, now = [None] * 4, []
    for _ in range(2):
        now = [x]
        for mixing, activation in zip(network.mixings, [*network.operations[1::2], None], strict=True):
            y = layer(mixing, now[-1], before[len(now) - 1])
            now.append(y if activation is None else activation.compute(y))
        before = now
    found = forward(late(network, plan, 2).network(network), x.T)
    np.testing.assert_allclose(found, now[-1].T, atol=1e-12)


def test_what_a_sweep_cannot_change_is_not_computed_again():
    network, plan = case(random_network(1, (6, 9, 9, 9, 4), "identity"), "replicated", density=1.0)
    assert len(waiting_mixings(network, plan)) == 3  # the first layer reads an input that everybody has
    assert rounds_of(network, plan) == 3
    counts = {}
    for sweeps in (2, 4):
        result = late(network, plan, sweeps)
        copies = [result.origins[mixing.name].op for mixing in result.graph.mixings]
        counts[sweeps] = [copies.count(mixing.name) for mixing in network.mixings]
        assert all(result.origins[name] == result.origins[twin] for name, twin in result.twins.items())
    # An inside and a between of every layer; of the third another inside, from which the last has its ghosts.
    assert counts == {2: [1, 2, 3, 2], 4: [1, 2, 2, 2]}


def test_common_neurons_are_refused():
    network = transformer()
    plan = random_plan(network, WORKERS, "replicated")
    owners = {name: np.where(owner == owner, -1, owner) for name, owner in plan.owners.items()}
    with pytest.raises(UserError, match="exchange_late: expected a network whose neurons have one owner"):
        late(network, type(plan)(WORKERS, "replicated", owners, plan.mixings), 2)
