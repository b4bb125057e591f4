"""Output layers that are the embeddings: the plan has their weights, and the shards say so."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from helpers.small_plans import assert_same
from helpers.small_transformers import VOCABULARY, decoder
from repurpose_hpc.errors import UserError
from repurpose_hpc.model.ends import Ends
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.files.blocks import tied_mixings
from repurpose_hpc.plan.files.store import open_plan, read_network, read_shard, shard_path, write_plan
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.restructure.exact import split_network

OUTPUT = "output"


def with_output(network: Network, W: np.ndarray) -> Network:
    mixing = next(mixing for mixing in network.mixings if mixing.name == OUTPUT)
    return network.with_mixings({OUTPUT: replace(mixing, weights=W)})


def test_a_layer_is_tied_where_its_numbers_are_those_of_the_embeddings():
    network = decoder(2)
    tokens = network.ends.front.constants["tokens"]
    assert tied_mixings(network) == {OUTPUT: "tokens"}
    assert tied_mixings(with_output(network, tokens.copy())) == {OUTPUT: "tokens"}
    other = tokens.copy()
    other[3, 1] = np.nextafter(other[3, 1], 9)
    assert tied_mixings(with_output(network, other)) == {}
    assert tied_mixings(replace(network, ends=Ends())) == {}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("round_cost", [0.0, 1e9])
@pytest.mark.parametrize("workers", [1, 3, VOCABULARY + 2])
def test_shards_are_those_of_a_layer_of_its_own(tmp_path, workers, round_cost, dtype):
    """The same blocks, to the last bit, whether workers own no, some, or all of the stream."""
    cut = split_network(decoder(2), workers, round_cost=round_cost)
    write_plan(tmp_path / "shards", cut.network, cut.plan, {}, dtype)
    stored = open_plan(tmp_path / "shards")
    for worker in range(workers):
        with h5py.File(shard_path(stored.directory, worker)) as file:
            assert {*file["blocks"][OUTPUT]} == {"bias"}
        found, expected = (
            read_shard(stored, worker),
            make_shard(cut.network, cut.plan, worker, dtype),
        )
        assert {*found.blocks} == {*expected.blocks}
        for name, block in expected.blocks.items():
            assert_same(found.blocks[name], block)
    mixings = [net.mixings for net in (read_network(stored), cut.network.astype(dtype))]
    for found, expected in zip(*mixings, strict=True):
        np.testing.assert_array_equal(found.weights, expected.weights)
        np.testing.assert_array_equal(found.bias, expected.bias)


def test_the_embeddings_are_stored_once(tmp_path):
    """Shards are smaller by the output layer, in all."""
    sizes = {}
    network = decoder(2, vocabulary=4000)
    for name, changed in (("tied", network), ("own", with_output(network, np.zeros((4000, 12)) + 0.1))):
        cut = split_network(changed, 2)
        write_plan(tmp_path / name, cut.network, cut.plan, {})
        sizes[name] = sum(path.stat().st_size for path in (tmp_path / name).iterdir())
    assert sizes["own"] - sizes["tied"] > 0.9 * 4000 * 12 * 4


def test_embeddings_of_another_width(tmp_path):
    """Also where no layer is tied to them."""
    network = decoder(2)
    cut = split_network(with_output(network, np.ones((VOCABULARY, 12))), 2)
    write_plan(tmp_path / "shards", cut.network, cut.plan, {})
    stored = open_plan(tmp_path / "shards")
    front = stored.ends.front
    constants = {"tokens": front.constants["tokens"][:, 1:]}
    with pytest.raises(UserError, match="the embeddings have 11 columns, .* 12 inputs"):
        read_shard(replace(stored, ends=Ends(replace(front, constants=constants))), 0)


def test_embeddings_that_do_not_fit(tmp_path):
    cut = split_network(decoder(2), 2)
    write_plan(tmp_path / "shards", cut.network, cut.plan, {})
    stored = open_plan(tmp_path / "shards")
    front = stored.ends.front
    for tokens in ({}, {"tokens": front.constants["tokens"][:-1]}):
        damaged = replace(stored, ends=Ends(replace(front, constants=tokens)))
        with pytest.raises(UserError, match="mixing output is tied to tokens, which the plan does not have"):
            read_shard(damaged, 0)
    constants = {"tokens": np.full_like(front.constants["tokens"], np.nan)}
    with pytest.raises(UserError, match="mixing output: its own_weights hold NaN"):
        read_shard(replace(stored, ends=Ends(replace(front, constants=constants))), 0)
