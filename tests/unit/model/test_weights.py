"""Weights, dense or sparse: the same numbers, whatever they are stored as."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.sparse_networks import dense_forward, sparse_chain
from repurpose_hpc.model import weights as w
from repurpose_hpc.model.activations import RELU
from repurpose_hpc.model.bound import spectral_norm
from repurpose_hpc.model.chain import chain
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.spec import IllegalNetwork, check
from repurpose_hpc.model.weights import SparseWeights


@st.composite
def arrays(draw):
    shape = draw(st.tuples(st.integers(0, 8), st.integers(1, 9)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    W = rng.standard_normal(shape) * (rng.random(shape) < draw(st.sampled_from([0, 0.2, 0.7, 1])))
    return W.astype(draw(st.sampled_from([np.float32, np.float64])))


@given(arrays(), st.data())
def test_sparse_weights_are_the_dense_ones(W, data):
    S = w.as_sparse(W)
    assert [*S.faults()] == [] and S.shape == W.shape and len(S) == len(W) and S.dtype == W.dtype
    np.testing.assert_array_equal(w.dense(S), W)
    assert S.size == w.nonzeros(S) == w.nonzeros(W)
    m, n = W.shape
    rows = np.array(data.draw(st.permutations(range(m))), np.int64)[: data.draw(st.integers(0, m))]
    columns = np.array(data.draw(st.permutations(range(n))), np.int64)[: data.draw(st.integers(0, n))]
    np.testing.assert_array_equal(w.dense(w.picked(S, rows, columns)), W[np.ix_(rows, columns)])
    mask = np.random.default_rng(0).random(W.shape) < 0.5
    for stored in (S, W):
        np.testing.assert_array_equal(w.dense(w.kept(stored, lambda i, j: mask[i, j])), np.where(mask, W, 0))
    factors = np.arange(m) - 1.0
    np.testing.assert_array_equal(w.dense(w.scaled(S, factors)), W * factors[:, None])
    x = np.random.default_rng(1).standard_normal((n, 3))
    np.testing.assert_allclose(S @ x, W @ x, atol=1e-6)
    np.testing.assert_allclose(S.T @ np.ones((m, 2)), W.T @ np.ones((m, 2)), atol=1e-6)
    order = w.alike_together(S)
    assert sorted(order) == [*range(m)]


@given(arrays())
def test_entries_come_in_order(W):
    for stored in (W, w.as_sparse(W)):
        found = [(i, j, v) for e in w.entries(stored) for i, j, v in zip(*e, strict=True)]
        assert found == [(i, j, W[i, j]) for i, j in np.argwhere(W)]


def test_numbers_too_small_for_a_dtype_are_no_entries():
    S = w.as_sparse(np.array([[1e-60, 1.0], [0.0, 2.0]]))
    small = S.astype(np.float32)
    assert small.size == 2 and [*small.faults()] == []


@pytest.mark.parametrize(
    "change",
    [
        {"columns": np.array([2, 1, 0], np.int32)},
        {"columns": np.array([0, 1, 9], np.int32)},
        {"columns": np.array([0, -1, 2], np.int32)},
        {"columns": np.array([0, 1, 2], np.int64)},
        {"starts": np.array([0, 2, 5], np.int64)},
        {"starts": np.array([1, 2, 3], np.int64)},
        {"starts": np.array([0, 4, 3], np.int64)},
        {"starts": np.array([0, 3], np.int64)},
        {"values": np.array([1.0, 0.0, 2.0])},
        {"values": np.array([1.0, 2.0])},
    ],
)
def test_what_is_no_weights_is_found(change):
    good = SparseWeights((2, 3), np.array([0, 2, 3], np.int64), np.array([0, 1, 2], np.int32), np.ones(3))
    assert [*good.faults()] == []
    assert [*replace(good, **change).faults()]
    network = chain([good], [np.zeros(2)], [RELU])
    bad = network.with_mixings({m.name: replace(m, weights=replace(good, **change)) for m in network.mixings})
    with pytest.raises(IllegalNetwork):
        check(bad)


def test_a_network_computes_and_differentiates_what_the_dense_one_does():
    network = sparse_chain(3)
    x = np.random.default_rng(0).standard_normal((20, network.inputs))
    np.testing.assert_allclose(forward(network, x), dense_forward(network, x), atol=1e-12)
    assert network.dense().weight_count == network.weight_count
    assert all(m.is_sparse for m in network.dense().stored_like(network).mixings)
    for sparse_one, dense_one in zip(network.mixings, network.dense().mixings, strict=True):
        assert spectral_norm(sparse_one) >= spectral_norm(dense_one) * (1 - 1e-12)
        g = np.random.default_rng(1).standard_normal((len(dense_one.bias), 5))
        source = np.random.default_rng(2).standard_normal((dense_one.weights.shape[1], 5))
        for ours, theirs in zip(sparse_one.vjp(g, g, source), dense_one.vjp(g, g, source), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_large_weights_that_are_nearly_all_zero_are_stored_sparse():
    rng = np.random.default_rng(0)
    few = rng.standard_normal((300, 400)) * (rng.random((300, 400)) < 0.03)
    many = rng.standard_normal((400, 300))
    network = chain([few, many], [np.zeros(300), np.zeros(400)], [RELU] * 2)
    assert [mixing.is_sparse for mixing in network.mixings] == [True, False]


def test_rows_that_are_alike_are_counted():
    pattern = np.array([[1, 1, 0], [0, 1, 1], [1, 1, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]])
    S = w.as_sparse(pattern * np.arange(1.0, 7)[:, None])
    ordered = w.picked(S, w.alike_together(S), np.arange(3))
    assert sorted(w.runs_of_alike(ordered).tolist()) == [1, 1, 1, 1, 2, 3]
    assert w.alike_share(S, 3) == 6 / 9 and w.alike_share(S, 4) == 0 and w.alike_share(S, 1) == 1
    for rows in (0, 2):
        assert w.alike_share(w.as_sparse(np.zeros((rows, 3))), 2) == 0
