"""Networks split as they are: owners, and a stream that has owners or is everybody's."""

import numpy as np
import pytest

from helpers.small_graphs import residual_network
from helpers.small_transformers import VOCABULARY, decoder, encoder
from repurpose_hpc.errors import UserError
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.operations import Attention
from repurpose_hpc.plan.masks import EVERYBODY
from repurpose_hpc.plan.rounds import rounds_of
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.restructure.exact import common_spaces, split_network
from repurpose_hpc.runtime.lowering.blocks import weights_of

OWNED, COMMON = 0.0, 1e9


@pytest.mark.parametrize("round_cost", [OWNED, COMMON])
@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_a_head_has_one_owner(workers, round_cost):
    network = decoder(heads=6, groups=3)
    plan = split_network(network, workers, round_cost=round_cost).plan
    for op in network.operations:
        if isinstance(op, Attention):
            keys = plan.owner(network, op.sources[1]).reshape(3, -1)
            queries = plan.owner(network, op.sources[0]).reshape(3, -1)
            assert (keys == keys[:, :1]).all() and (queries == keys[:, :1]).all()
            assert keys.min() >= 0 and len(np.unique(keys)) == min(workers, 3)


def test_a_round_for_each_half_of_a_block_where_the_stream_is_everybodys():
    network = decoder(layers=3)
    width, workers = network.inputs, 4
    common, owned = (split_network(network, workers, round_cost=cost).plan for cost in (COMMON, OWNED))
    assert rounds_of(network, common) == 2 * 3
    sent = {mixing.name: common.values_sent(network, mixing) for mixing in network.mixings}
    # Whoever has a head, or a part of the perceptron, sends the whole stream to all others; worker 0 always.
    assert {name: values for name, values in sent.items() if values} == {
        **{f"layers.{layer}.attention.out": 2 * width * (workers - 1) for layer in range(3)},
        **{f"layers.{layer}.down": workers * width * (workers - 1) for layer in range(3)},
    }
    assert rounds_of(network, owned) > 3 * 2 * 3
    assert sum(owned.values_sent(network, mixing) for mixing in network.mixings) < sum(sent.values())


def test_the_stream_and_means_of_it_are_common_and_nothing_else():
    network = decoder(layers=1)
    common = common_spaces(network)
    of = {tensor: network.space_of[tensor] for tensor in network.space_of}
    assert of["layers.0.attention.sum.y"] in common and of["norm.variance.y"] in common
    assert not {of["output.y"], of["layers.0.up.y"], *network.input_spaces} & common
    owners = split_network(network, 3, round_cost=COMMON).plan.owners
    assert all((owners[name] == EVERYBODY).all() for name in common)


def test_the_outputs_of_a_common_stream_have_owners():
    """As of an encoder: what everybody has would be given several times."""
    network = encoder(7)
    assert common_spaces(network) == set()
    cut = split_network(network, 3, round_cost=COMMON)
    (output,) = cut.network.output_tensors
    copies = cut.plan.owners[cut.network.space_of[output]]
    assert set(copies) == {0, 1, 2}
    assert rounds_of(cut.network, cut.plan) < rounds_of(network, split_network(network, 3, round_cost=0).plan)
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (2, 9))
    expected, found = (forward(each.at(9), ids) for each in (network, cut.network))
    np.testing.assert_array_equal(found, expected)


def test_other_networks_keep_their_owners():
    network = residual_network()
    plan = split_network(network, 3, round_cost=COMMON).plan
    assert all((owner >= 0).all() for name, owner in plan.owners.items() if name not in network.input_spaces)


@pytest.mark.parametrize(
    ("workers", "weights", "cost"),
    [(0, None, 1), (2.5, None, 1), (True, None, 1), (2, [1.0], 1), (2, [1, 0], 1), (2, None, -1)],
)
def test_other_numbers_are_refused(workers, weights, cost):
    with pytest.raises(UserError, match="expected 1 or more workers"):
        split_network(decoder(layers=1), workers, weights, cost)


@pytest.mark.parametrize("round_cost", [0, COMMON])
def test_what_every_worker_has_counts_for_each(round_cost):
    """Weights held and multiplied are those of the blocks that shards have."""
    network = encoder(layers=1)
    cut = split_network(network, 3, round_cost=round_cost)
    shards = [make_shard(cut.network, cut.plan, worker) for worker in range(3)]
    blocks = [[shard.blocks[name] for name in shard.blocks] for shard in shards]
    held = [sum(np.count_nonzero(part) for block in own for part in weights_of(block)) for own in blocks]
    assert cut.plan.weights_held(cut.network).tolist() == held
    assert cut.plan.multiply_adds(cut.network).tolist() == held


def test_capacities_are_kept():
    network = decoder(heads=6, groups=6)
    owner = split_network(network, 2, np.array([2.0, 1.0])).plan.owner(network, "layers.0.keys.y")
    assert np.bincount(owner).tolist() == [16, 8]
