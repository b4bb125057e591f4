"""What restructuring does to texts, beside what a text at a time in float64 gives."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.small_transformers import VOCABULARY, decoder, encoder, texts
from repurpose_hpc.errors import UserError
from repurpose_hpc.model.comm_dtype import EXACT
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.texts import is_decoder
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.exact import split_network
from repurpose_hpc.restructure.held_out import ONE_IN
from repurpose_hpc.restructure.tokens import quality
from repurpose_hpc.restructure.tokens.budget import dense_values
from repurpose_hpc.restructure.tokens.quality import held_out, measure

LENGTHS = (9, 1, 14, 9, 2, 24, 1)


def disturbed(network, amount, seed=0):
    """The network with other weights wherever they are trained, of owners that exchange ghosts."""
    rng, mixings = np.random.default_rng(seed), {}
    for mixing in network.mixings:
        if not mixing.fixed:
            noise = amount * rng.standard_normal(mixing.weights.shape)
            mixings[mixing.name] = replace(mixing, weights=mixing.weights + noise)
    return split_network(network.with_mixings(mixings), 3, round_cost=0)


def rows_of(network, text, compute):
    return forward(network.at(text.size), text[None], np.float64, compute).reshape(text.size, -1)


def naive(network, cut, given):
    """Output error, perplexities and accuracies from definitions, token by token."""
    from repurpose_hpc.model.forward import compute

    squares, losses, right = [], [[], []], [[], []]
    for text in given:
        pair = rows_of(network, text, compute), rows_of(cut.network, text, cut.compute())
        squares.append([np.sum((pair[1] - pair[0]) ** 2), np.sum(pair[0] ** 2)])
        for rows, loss, hits in zip(pair, losses, right, strict=True):
            for row, following in zip(rows[:-1], text[1:], strict=True):
                loss.append(-np.log(np.exp(row[following]) / np.exp(row).sum()))
                hits.append(row.argmax() == following)
    return np.sqrt(np.divide(*np.sum(squares, axis=0))), *np.exp(np.mean(losses, 1)), *np.mean(right, 1)


@pytest.mark.parametrize("chunk", [1, 1 << 24])
@pytest.mark.parametrize("comm_dtype", [EXACT, "bfloat16"])
def test_of_a_decoder(monkeypatch, chunk, comm_dtype):
    """Whatever goes through together; ghosts arrive as the plan says."""
    monkeypatch.setattr(quality, "_CHUNK", chunk)
    network, given = decoder(), texts(3, LENGTHS)
    cut = disturbed(network, 0.05)
    cut = Cut(cut.network, replace(cut.plan, comm_dtype=comm_dtype))
    found = measure(network, cut, given, np.float64)
    assert (found.texts, found.tokens, found.predicted) == (7, sum(LENGTHS), sum(LENGTHS) - 7)
    error, *others = naive(network, cut, given)
    assert found.output_error == pytest.approx(error) and error > 0.01
    measured = (found.reference_perplexity, found.perplexity, found.reference_accuracy, found.accuracy)
    assert measured == pytest.approx(others)
    assert found.perplexity_increase == pytest.approx(100 * (others[1] / others[0] - 1))
    assert found.accuracy_drop == pytest.approx(100 * (others[2] - others[3]))
    single = measure(network, cut, given)
    assert single.output_error == pytest.approx(error, rel=1e-3) and single != found


def test_rounded_ghosts_alone_are_an_error():
    network, given = decoder(), texts()
    cut = split_network(network, 3, round_cost=0)
    assert measure(network, cut, given).output_error == 0
    rounded = Cut(network, replace(cut.plan, comm_dtype="bfloat16"))
    assert 1e-4 < measure(network, rounded, given).output_error < 0.1


def test_of_an_encoder_nothing_is_predicted():
    network = encoder()
    cut = disturbed(network, 0.05)
    found = measure(network, cut, texts(), np.float64)
    assert found.predicted == 0 and found.perplexity is found.reference_accuracy is None
    errors = [
        [np.sum((rows_of(cut.network, text, cut.compute()) - y) ** 2), np.sum(y**2)]
        for text in texts()
        for y in [rows_of(network, text, split_network(network, 1).compute())]
    ]
    assert found.output_error == pytest.approx(np.sqrt(np.divide(*np.sum(errors, axis=0))))
    with pytest.raises(ValueError, match="nothing was predicted"):
        found.perplexity_increase  # noqa: B018
    with pytest.raises(ValueError, match="nothing was predicted"):
        found.accuracy_drop  # noqa: B018


def scaled_output(network, factor):
    """Its logits times a factor, if the output layer has no bias."""
    (layer,) = (mixing for mixing in network.mixings if mixing.target in network.output_tensors)
    other = replace(layer, weights=layer.weights * factor)
    return Cut(network.with_mixings({layer.name: other}), split_network(network, 1).plan)


def test_equal_logits_are_as_good_as_to_guess():
    network, given = decoder(), texts(1, (20, 20))
    found = measure(network, scaled_output(network, 0), given)
    assert found.perplexity == pytest.approx(VOCABULARY) and found.output_error == 1
    assert found.accuracy == pytest.approx(np.mean(np.concatenate([text[1:] for text in given]) == 0))


def test_large_logits_neither_overflow_nor_vanish():
    network = decoder()
    found = measure(network, scaled_output(network, 300), texts())
    assert found.perplexity > 1e30 and np.isfinite(found.output_error)
    assert found.accuracy == found.reference_accuracy
    assert measure(network, scaled_output(network, 1e6), texts()).perplexity == np.inf


def test_heads_are_not_applied():
    network = decoder()
    with_head = replace(network, heads=("softmax",))
    cut = disturbed(network, 0.05)
    assert measure(with_head, Cut(replace(cut.network, heads=("softmax",)), cut.plan), texts()) == measure(
        network, cut, texts()
    )


@pytest.mark.parametrize("of_original", [True, False])
def test_numbers_that_are_not_finite_are_refused(of_original):
    network = decoder()
    broken = scaled_output(network, np.inf)
    pair = (broken.network, Cut(network, broken.plan)) if of_original else (network, broken)
    with pytest.raises(UserError, match="original" if of_original else "restructured"):
        measure(*pair, texts())


def test_a_decoder_tells_the_next_token():
    assert is_decoder(decoder()) and is_decoder(decoder(layers=1, groups=4))
    assert not is_decoder(encoder())
    assert not is_decoder(decoder(is_causal=False))  # sees what it should tell
    assert not is_decoder(decoder(has_output=False))
    # As many states as tokens are not enough where others are behind.
    assert not is_decoder(replace(decoder(), output_tensors=(*decoder().output_tensors,) * 2))


@given(st.integers(0, 40), st.integers(0, 99))
def test_one_text_in_five_is_held_out(count, seed):
    given_texts = [np.array([number]) for number in range(count)]
    found = held_out(given_texts, seed)
    assert found.mask.shape == (count,) and len(found.held_out) == count // ONE_IN == found.mask.sum()
    assert [int(text[0]) for text in found.held_out] == np.flatnonzero(found.mask).tolist()
    assert [int(text[0]) for text in found.rest] == np.flatnonzero(~found.mask).tolist()


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("make", [decoder, encoder])
def test_dense_values_are_two_all_reduces_for_each_block(make, workers):
    network = make(layers=3)
    assert dense_values(network, workers) == 3 * 2 * 2 * network.inputs * (workers - 1)


def test_beside_outputs_that_are_all_zero_any_other_is_infinitely_off():
    network = decoder()
    zero = scaled_output(network, 0)
    assert measure(zero.network, zero, texts()).output_error == 0
    assert measure(zero.network, scaled_output(network, 1), texts()).output_error == np.inf
