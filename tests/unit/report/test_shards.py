"""What is counted in shards: the same as counted one by one in the networks that they are of."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import ROOT
from helpers.small_graphs import convolutional_network, residual_network
from helpers.small_plans import (
    WIDTHS,
    pruned,
    random_network,
    random_plan,
    write_relayed_shards,
    write_shards,
)
from helpers.sparse_networks import sparse_chain
from repurpose_hpc import load_tokens, split_network
from repurpose_hpc.model.tiles import divisions, tiled
from repurpose_hpc.model.weights import dense
from repurpose_hpc.plan.files.store import open_plan, read_network, write_plan
from repurpose_hpc.plan.masks import EVERYBODY
from repurpose_hpc.plan.plan import dense_plan
from repurpose_hpc.plan.relays import relay_counts
from repurpose_hpc.plan.rounds import rounds_of
from repurpose_hpc.report.shards import MOST_CELLS, Mask, SortedNeurons, between, read_contents


def links_of(mixing):
    """Pairs of neurons with a weight between them, bool (m, n)."""
    W = dense(mixing.weights)
    return (W != 0).reshape(len(W), -1, mixing.taps).any(axis=2)


def blocks_one_by_one(links, target, source, workers):
    blocks = np.zeros((1 + workers, 1 + workers), int)
    for i, j in np.argwhere(links):
        blocks[target[i] + 1, source[j] + 1] += 1
    return blocks


@pytest.mark.parametrize("placement", ["replicated", "partitioned", "root"])
def test_links_are_those_of_the_network(tmp_path, placement):
    network, plan = write_shards(tmp_path / "shards", 3, placement)
    contents = read_contents(tmp_path / "shards")
    assert [mask.name for mask in contents.masks] == [mixing.name for mixing in network.mixings]
    for mask, mixing in zip(contents.masks, network.mixings, strict=True):
        source, target = plan.ends(network, mixing)
        links = links_of(mixing)
        blocks = blocks_one_by_one(links, target, source, 3)
        np.testing.assert_array_equal(mask.blocks, blocks)
        np.testing.assert_array_equal(
            mask.blocks_before, blocks_one_by_one(np.ones_like(links), target, source, 3)
        )
        crossing = [links[i, j] for i, j in np.ndindex(*links.shape) if -1 != source[j] != target[i]]
        assert between(mask.blocks).sum() == mask.cells[1].sum() == sum(crossing)
        assert mask.cells.sum() == links.sum() and mask.cells_before.sum() == links.size
        assert not mask.is_sparse


@pytest.mark.parametrize("make", [convolutional_network, residual_network])
def test_loads_and_traffic_are_those_of_the_plan(tmp_path, make):
    network = make()
    plan = random_plan(network, 4, "partitioned")
    network = pruned(network, plan)
    write_plan(tmp_path / "shards", network, plan, {})
    contents = read_contents(tmp_path / "shards")
    np.testing.assert_array_equal(contents.multiply_adds, plan.multiply_adds(network))
    assert contents.bytes_sent.sum() == plan.bytes_sent(network, plan.comm_dtype)
    np.testing.assert_array_equal(4 * contents.stored.traffic_matrix(), contents.bytes_sent)
    assert [layer.values for layer in contents.layers] == [
        plan.values_sent(network, mixing) for mixing in network.mixings
    ]
    files = [(tmp_path / "shards" / f"worker-{worker:04d}.h5").stat().st_size for worker in range(4)]
    assert (contents.memory > 0).all() and (contents.memory < files).all()


def test_relays_stand_for_their_layer(tmp_path):
    cut = write_relayed_shards(tmp_path / "shards", random_network(), 3)
    contents = read_contents(tmp_path / "shards")
    assert [mask.name for mask in contents.masks] == ["layer0", "layer1", "layer2"]
    counted = Counter[str]()
    for count in relay_counts(cut.network, cut.plan):
        counted[count.mixing] += count.values
    assert {layer.name: layer.relays for layer in contents.layers if layer.relays} == counted
    # Nothing pruned: every neuron goes to the two other workers.
    assert [layer.dense for layer in contents.layers] == [2 * width for width in WIDTHS[:-1]]
    assert sum(layer.values for layer in contents.layers) == cut.traffic_matrix().sum()
    assert [mask.relays for mask in contents.masks] == [layer.relays for layer in contents.layers]
    sending = [layer.round for layer in contents.layers if layer.values]
    assert sending == list(range(1, 1 + len(sending)))


def test_sparse_weights_are_counted_as_entries(tmp_path):
    network = sparse_chain(0)
    plan = random_plan(network.dense(), 2, "partitioned")
    write_plan(tmp_path / "shards", plan.pruned(network), plan, {})
    stored = read_network(open_plan(tmp_path / "shards"))
    for mask, mixing in zip(read_contents(tmp_path / "shards").masks, stored.mixings, strict=True):
        assert mask.is_sparse and mask.blocks.sum() == links_of(mixing).sum()


def test_neurons_of_all_workers_are_counted_once(tmp_path):
    cut = split_network(load_tokens(ROOT / "tests/data/transformers/llama"), 2)
    write_plan(tmp_path / "shards", cut.network, cut.plan, {})
    contents = read_contents(tmp_path / "shards")
    for mask, mixing in zip(contents.masks, cut.network.mixings, strict=True):
        source, target = cut.plan.ends(cut.network, mixing)
        links = links_of(mixing)
        np.testing.assert_array_equal(mask.blocks, blocks_one_by_one(links, target, source, 2))
    assert contents.unit == "token" and contents.stored.traffic_matrix().sum() > 0


@given(st.integers(1, MOST_CELLS + 50), st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**32))
def test_cells_hold_neurons_by_owner(m, n, workers, seed):
    draw = np.random.default_rng(seed)
    target, source = draw.integers(0, workers, m), draw.integers(EVERYBODY, workers, n)
    links = draw.random((m, n)) < 0.1
    mask = Mask("any", SortedNeurons(target, workers), SortedNeurons(source, workers))
    mask.add(np.arange(m), np.arange(n), links)
    rows, columns = np.lexsort((np.arange(m), target)), np.lexsort((np.arange(n), source))
    cells = np.zeros((2, min(m, MOST_CELLS), min(n, MOST_CELLS)), int)
    for (down, i), (across, j) in product(enumerate(rows), enumerate(columns)):
        crosses = source[j] not in (EVERYBODY, target[i])
        cells[int(crosses), down * cells.shape[1] // m, across * cells.shape[2] // n] += links[i, j]
    np.testing.assert_array_equal(mask.cells, cells)
    mask.add(np.arange(m), np.arange(n), ~links)
    np.testing.assert_array_equal(mask.cells, mask.cells_before)
    np.testing.assert_array_equal(mask.blocks, mask.blocks_before)


def test_parts_of_a_layer_by_position_are_one(tmp_path):
    """Under the name of the layer; all that crosses is in one of them."""
    network = residual_network()
    shapes = [shape for shape in network.positions_of.values() if shape]
    cut = tiled(network, 2, next(divisions(shapes, np.ones(3))))
    plan = dense_plan(cut, 3, "replicated", np.ones(3))
    write_plan(tmp_path / "shards", cut, plan, {})
    contents = read_contents(tmp_path / "shards")
    assert {layer.name for layer in contents.layers} >= {"c0", "c1", "c2", "last"}
    assert not any("@" in layer.name for layer in contents.layers)
    sent = sum(plan.values_sent(cut, mixing) for mixing in cut.mixings)
    assert sum(layer.values for layer in contents.layers) == sent
    assert max(layer.round for layer in contents.layers) == rounds_of(cut, plan)
