"""Halves of transformers, and networks that have none."""

import numpy as np
import pytest

from helpers.small_transformers import branching, decoder, encoder, normalised_behind, retentive
from repurpose_hpc.errors import UserError
from repurpose_hpc.model.operations import Attention, Mixing, Retention
from repurpose_hpc.restructure.exact import with_copied_outputs
from repurpose_hpc.restructure.tokens.halves import halves_of

BIASED = (
    "layers.queries",
    "layers.keys",
    "layers.values",
    "layers.attention.out",
    "layers.up",
    "layers.down",
)
NETWORKS = {
    "decoder": decoder(layers=3),
    "encoder": encoder(layers=3),
    "normalised behind": normalised_behind(layers=3),
    "without head norms": decoder(layers=3, family="qwen2", biased=BIASED),
    "all biased": decoder(layers=3, biased=BIASED),
    "centred": decoder(layers=3, centred=True, is_gated=False),
    "one head": decoder(layers=3, heads=1, groups=1),
    "retention": retentive(layers=3),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    return with_copied_outputs(NETWORKS[request.param])


def test_attention_and_perceptron_of_every_block_in_turn(network):
    halves = halves_of(network)
    names = [f"layers.{layer}.{half}" for layer in range(3) for half in ("attention.out", "down")]
    assert [half.name for half in halves] == names
    assert [half.is_divisible for half in halves] == [False, True] * 3
    for half in halves:
        assert sum(isinstance(op, Attention | Retention) for op in half.inner) == (not half.is_divisible)
        assert half.width == network.inputs and half.neurons == half.out.weights.shape[1]
        weights = [op.weights.size for op in half.inner if isinstance(op, Mixing) and not op.fixed]
        assert half.inner_multiply_adds() == sum(weights)


def test_all_weights_between_stream_and_stream_are_of_one_half(network):
    """Those of the outputs are of none."""
    found = [op.name for half in halves_of(network) for op in (*half.inner, half.out)]
    assert len(found) == len({*found})
    rest = {op.name for op in network.mixings if not op.fixed} - {*found}
    assert rest <= {maker.name for maker in network.mixings if maker.target in network.output_tensors}


def test_what_a_half_reads_makes_all_of_it(network):
    for half in halves_of(network):
        made = {half.read}
        for op in half.inner:
            assert {*op.sources} <= made
            made.add(op.target)
        assert half.out.source in made
        assert network.space_of[half.read] == network.space_of[half.out.target]


def test_the_metric_is_the_scale_of_the_normalisation_behind(network):
    """Positive, and of each half another; behind the last half it is that of the last normalisation."""
    metrics = [half.metric for half in halves_of(network)]
    assert all(metric.shape == (network.inputs,) and (metric > 0).all() for metric in metrics)
    assert len({metric.tobytes() for metric in metrics}) == len(metrics)
    for half in halves_of(network):
        behind = network.operations[network.operations.index(half.out) :]
        scales = [
            np.abs(op.scale[:, 0])
            for op in behind
            if hasattr(op, "scale") and network.space_of[op.target] == network.space_of[half.out.target]
        ]
        np.testing.assert_array_equal(half.metric, scales[0])


def test_what_a_half_adds(network):
    half, rng = halves_of(network)[1], np.random.default_rng(0)
    a = rng.standard_normal((half.neurons, 3, 2))
    expected = np.einsum("ij,jkl->ikl", half.out.weights, a) + half.out.bias[:, None, None]
    np.testing.assert_allclose(half.out_of(a), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_other_networks_are_refused_by_name(seed):
    """Or all that adds to their stream reads one tensor of it."""
    network = with_copied_outputs(branching(seed))
    try:
        halves = halves_of(network)
    except UserError as problem:
        assert "expected a transformer" in str(problem) and "without calibration data" in str(problem)
        return
    assert halves and all(half.read in network.space_of for half in halves)


def test_most_other_networks_are_refused():
    refused = 0
    for seed in range(20):
        try:
            halves_of(with_copied_outputs(branching(seed)))
        except UserError:
            refused += 1
    assert refused > 10


def test_a_stream_that_is_the_output_has_no_halves():
    """Without a copy of the outputs, what adds to the stream is named."""
    with pytest.raises(UserError, match=r"found layers\.0\.attention\.out.* to add to it otherwise"):
        halves_of(encoder())
