"""Peers of the method for transformers are what they say, and run as they are computed."""

from dataclasses import replace

import block_pruning as block_pruning_module
import numpy as np
import pytest
import transformer_table
from block_pruning import block_pruning, updated
from sync_points import dense, drop_sync_points, sync_point_drop

from helpers.small_transformers import decoder, encoder, normalised_behind, texts
from repurpose_hpc.model.forward import forward, trace
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.files.store import write_plan
from repurpose_hpc.plan.masks import all_pairs
from repurpose_hpc.plan.masks import allowed as allowed_by
from repurpose_hpc.plan.rounds import rounds_of
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.exact import with_copied_outputs
from repurpose_hpc.restructure.tokens.budget import dense_values
from repurpose_hpc.restructure.tokens.halves import halves_of
from repurpose_hpc.restructure.tokens.quality import measure
from repurpose_hpc.runtime.tokens import Tokens, TokenSession

MAKERS = [decoder, encoder, normalised_behind]
CALIBRATION = texts(1, (9, 1, 14, 20, 11, 16) * 6)
ATTENTIONS = ["layers.0.attention.out", "layers.1.attention.out"]


def outputs(network, ids, **options):
    return forward(network.at(ids.size), ids[None], **options).reshape(ids.size, -1)


def check_same(found, expected, tolerance):
    for ids in texts():
        np.testing.assert_allclose(outputs(found, ids), outputs(expected, ids), rtol=0, atol=tolerance)


def check_runs(cut: Cut):
    """The runtime, one process for all workers, computes what the reference does."""
    session = TokenSession(cut, slots=3, dtype=np.float64)
    found = session.run([Tokens(slot, ids) for slot, ids in enumerate(texts())])
    session.close()
    for ids, rows in zip(texts(), found, strict=True):
        np.testing.assert_allclose(rows, outputs(cut.network, ids), rtol=0, atol=1e-12)


def values(cut):
    return int(cut.traffic_matrix().sum())


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("make", MAKERS)
def test_dense_is_the_network_itself(make, workers):
    network = make(3).astype(np.float64)
    cut = dense(network, workers)
    check_same(cut.network, network, 1e-12)
    check_runs(cut)
    assert values(cut) == dense_values(network, workers)
    assert rounds_of(cut.network, cut.plan) == (8 if workers > 1 else 0)


@pytest.mark.parametrize("make", MAKERS)
def test_dropped_sync_points_take_fewer_rounds_and_run(make):
    network = make(3)
    for count in (1, 2):
        cut = drop_sync_points(network, 4, ATTENTIONS[-count:])
        check_runs(cut)
        assert rounds_of(cut.network, cut.plan) == 8 - 2 * count
        is_behind = make is normalised_behind
        assert values(cut) == dense_values(network, 4) * (1 if is_behind else 1 - count / 4)


@pytest.mark.parametrize("workers", [2, 3, 8])
@pytest.mark.parametrize("make", MAKERS)
def test_a_perceptron_reads_what_its_own_heads_add(make, workers):
    """Behind the last attention, by hand: each worker alone goes on with its own heads."""
    network = make(3).astype(np.float64)
    attention, perceptron = halves_of(with_copied_outputs(network))[-2:]
    cut = drop_sync_points(network, workers, [attention.name])
    heads, neurons = (cut.plan.owner(cut.network, half.out.source) for half in (attention, perceptron))
    for ids in texts():
        a = np.zeros((perceptron.neurons, ids.size))
        for worker in range(workers):
            own = replace(attention.out, weights=attention.out.weights * (heads == worker))
            alone = network.with_mixings({own.name: own}).at(ids.size)
            tensors = trace(alone, network.ends.embeddings[ids].reshape(1, -1).T)
            of_worker = tensors[perceptron.out.source].reshape(perceptron.neurons, ids.size)
            a[neurons == worker] = of_worker[neurons == worker]

        def by_hand(op, *x, a=a):
            return op.compute(a.reshape(x[0].shape) if op.name == perceptron.name else x[0], *x[1:])

        expected = outputs(network, ids, compute=by_hand)
        np.testing.assert_allclose(outputs(cut.network, ids), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("budget", "dropped"), [(1.0, 0), (0.9, 1), (0.75, 1), (0.5, 2)])
def test_the_least_sensitive_sync_points_go_first(budget, dropped):
    network = decoder(3)
    cut = sync_point_drop(network, CALIBRATION, 4, budget)
    assert values(cut) == dense_values(network, 4) * (1 - dropped / 4)
    if dropped == 0:
        check_same(cut.network, network, 1e-5)
    if dropped == 1:  # which of two, and by what it adds to what was dropped before
        one, both = (
            measure(network, drop_sync_points(network, 4, names), CALIBRATION).perplexity
            for names in (ATTENTIONS[1:], ATTENTIONS)
        )
        nothing = measure(network, dense(network, 4), CALIBRATION).perplexity
        least = ATTENTIONS[1] if one / nothing <= both / one else ATTENTIONS[0]
        check_same(cut.network, drop_sync_points(network, 4, [least]).network, 0)


def test_less_than_the_sync_points_of_perceptrons_is_refused():
    with pytest.raises(ValueError, match="a half or more, got 0.4"):
        sync_point_drop(decoder(3), CALIBRATION, 4, 0.4)


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("make", MAKERS)
def test_where_all_may_cross_nothing_is_pruned(make, workers):
    network = make(3).astype(np.float64)
    cut = block_pruning(network, CALIBRATION, workers, 10.0)
    check_same(cut.network, network, 1e-10)
    check_runs(cut)


@pytest.mark.parametrize("budget", [0.75, 0.4])
@pytest.mark.parametrize("workers", [2, 3, 8])
@pytest.mark.parametrize("make", MAKERS)
def test_pruned_blocks_keep_the_budget_and_run(make, workers, budget):
    network = make(3)
    cut = block_pruning(network, CALIBRATION, workers, budget)
    check_runs(cut)
    assert 0.5 * budget < values(cut) / dense_values(network, workers) <= budget
    for mixing in cut.network.mixings:
        assert not mixing.weights[~cut.plan.allowed(cut.network, mixing)].any()


def test_updates_are_those_of_least_squares_on_the_texts():
    """Row by row, from the numbers themselves and not from moments, with a column for the bias."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((7, 7)) @ rng.standard_normal((7, 200)) + rng.standard_normal((7, 1))
    weights, bias = rng.standard_normal((5, 7)), rng.standard_normal(5)
    mixing, allowed = Mixing("layer", "x", "y", weights, bias), rng.random((5, 7)) < 0.6
    allowed[0], allowed[1] = True, False
    found = updated(mixing, allowed, np.cov(x, bias=True), x.mean(axis=1))
    assert not found.weights[~allowed].any()
    for row, columns in enumerate(allowed):
        known = np.vstack([x[columns], np.ones(200)]).T
        solved = np.linalg.lstsq(known, weights[row] @ x + bias[row], rcond=None)[0]
        np.testing.assert_allclose(found.weights[row, columns], solved[:-1], atol=1e-9)
        np.testing.assert_allclose(found.bias[row], solved[-1], atol=1e-9)


def test_saliency_is_what_removing_a_pair_adds_to_the_error():
    """Of each pair of the first layer that is pruned: the error of least squares without it."""
    network, workers = decoder(3), 3
    network, known = block_pruning_module._with_known_input(with_copied_outputs(network))
    plan = block_pruning_module._owned_plan(network, known, workers)
    rng = np.random.default_rng(0)
    layers = block_pruning_module._layers(network, plan)
    for layer in layers[:2]:
        n = network.space(layer.source).neurons
        root = rng.standard_normal((n, 2 * n))
        H, pairs = root @ root.T, layer.crossing(network, plan)
        saliency = layer.saliency(network, plan, H)
        for worker, neuron in np.argwhere(pairs)[::5]:
            mask = pairs.copy()
            mask[worker, neuron] = False
            error = 0.0
            for mixing in layer.mixings:
                ends = plan.ends(network, mixing)
                left = updated(
                    mixing, allowed_by(layer.plan(*ends, mask), *ends, all_pairs(*ends)), H, np.zeros(n)
                )
                difference = left.weights - mixing.weights
                error += np.sum(difference * (difference @ H))
            np.testing.assert_allclose(saliency[worker, neuron], error, rtol=1e-8)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("method", transformer_table.PEERS)
def test_peers_are_written_as_shards(method, make, tmp_path):
    cut = transformer_table.PEERS[method](make(3), CALIBRATION, 4, 0.5)
    write_plan(tmp_path / "shards", cut.network, cut.plan, {})
    session = TokenSession(tmp_path / "shards", slots=3)
    found = session.run([Tokens(slot, ids) for slot, ids in enumerate(texts())])
    for ids, rows in zip(texts(), found, strict=True):
        np.testing.assert_allclose(rows, outputs(cut.network, ids), rtol=0, atol=2e-5)


@pytest.mark.parametrize("method", transformer_table.PEERS)
def test_peers_are_rows_of_the_table(method):
    cuts = transformer_table._Cuts(decoder(3), CALIBRATION, 4, transformer_table.UNPOOLED)
    cut = cuts.cut(transformer_table.Point(method, 0.5, comm_dtype="int8"))
    sent = transformer_table._sent(decoder(3), cut)
    assert sent["fraction"] <= (1 if method == "dense" else 0.5)
    assert sent["bytes"] < 4 * sent["values"]
