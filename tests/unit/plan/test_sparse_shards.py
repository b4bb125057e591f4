"""Shards with sparse weights: they come back as they were, and what no kernel may be given is refused."""

import h5py
import numpy as np
import pytest

from helpers.sparse_networks import sparse_chain
from repurpose_hpc.errors import UserError
from repurpose_hpc.io.sealed import version_of
from repurpose_hpc.plan.files.store import FORMAT, open_plan, read_network, read_shard, shard_path, write_plan
from repurpose_hpc.plan.masks import Pairs, all_pairs, allowed, allowed_count, fetched, holders
from repurpose_hpc.plan.plan import PLACEMENTS, dense_plan
from repurpose_hpc.plan.shard import make_shard

WORKERS = 4
PARTS = [np.ones(WORKERS), np.array([1.0, 0.0, 3.0, 2.0])]


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("parts", PARTS, ids=["even", "one owns nothing"])
def test_they_come_back_as_they_were(tmp_path, placement, parts):
    network = sparse_chain(1)
    plan = dense_plan(network, WORKERS, placement, parts)
    write_plan(tmp_path / "shards", network, plan, {}, np.float64)
    stored = open_plan(tmp_path / "shards")
    assert read_network(stored).fingerprint() == network.fingerprint()
    with open(shard_path(tmp_path / "shards", 0), "rb") as file:
        assert version_of(file, FORMAT) == 10
    for worker in range(WORKERS):
        sparse_one = read_shard(stored, worker)
        dense_one = make_shard(network.dense(), plan, worker, np.float64)
        for name, block in dense_one.blocks.items():
            for part in ("own_weights", "ghost_weights", "sum_weights"):
                found = getattr(sparse_one.blocks[name], part)
                np.testing.assert_array_equal(found.matrix.toarray(), getattr(block, part))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_plan_is_that_of_the_dense_network(placement):
    network = sparse_chain(2)
    plan, dense = (dense_plan(each, WORKERS, placement, PARTS[0]) for each in (network, network.dense()))
    assert plan.identity() == dense.identity()
    assert plan.weights_held(network).tolist() == dense.weights_held(network.dense()).tolist()
    for ours, theirs in zip(network.mixings, network.dense().mixings, strict=True):
        for loads in ("column_loads", "row_loads"):
            of_plan = getattr(plan, loads)
            np.testing.assert_array_equal(of_plan(network, ours), of_plan(network.dense(), theirs))
        meets = plan.arriving_weights(network, ours).matrix.toarray()
        np.testing.assert_array_equal(meets, plan.arriving_weights(network.dense(), theirs))


def test_pairs_are_entries_of_the_masks():
    rng, network = np.random.default_rng(0), sparse_chain(2)
    plan = dense_plan(network, WORKERS, "partitioned", PARTS[1])
    for mixing in network.mixings:
        source, target = plan.ends(network, mixing)
        mask, every = plan.mixings[mixing.name], all_pairs(source, target)
        some = Pairs(rng.integers(target.size, size=20), rng.integers(source.size, size=20))
        for function in (allowed, fetched, holders):
            whole = function(mask, source, target, every)
            np.testing.assert_array_equal(
                function(mask, source, target, some), whole[some.rows, some.columns]
            )
        assert allowed_count(mask, source, target) == allowed(mask, source, target, every).sum()


@pytest.mark.parametrize("name, value", [("columns", 99), ("columns", -1), ("starts", 99), ("values", 0.0)])
def test_damaged_entries_are_refused(tmp_path, monkeypatch, name, value):
    from repurpose_hpc.plan.files import blocks

    network = sparse_chain(1)
    write = blocks._write_sparse

    def damaged(group: h5py.Group, weights) -> None:
        write(group, weights)
        if weights.size > 1:
            group[name][1] = value

    monkeypatch.setattr(blocks, "_write_sparse", damaged)
    write_plan(tmp_path / "shards", network, dense_plan(network, 2, "root", np.ones(2)), {}, np.float64)
    with pytest.raises(UserError, match="damaged or incomplete"):
        read_shard(open_plan(tmp_path / "shards"), 0)
