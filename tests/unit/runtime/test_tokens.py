"""A transformer fed with tokens, and texts that it writes, in one process."""

import os
import signal
from dataclasses import replace
from mmap import PAGESIZE
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.small_transformers import LONGEST, VOCABULARY, decoder, texts
from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.builder import Builder
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.transformers.transformer import embedding
from repurpose_hpc.model.operations import UNLIMITED, Attention
from repurpose_hpc.model.texts import is_causal
from repurpose_hpc.restructure.exact import split_network
from repurpose_hpc.restructure.job import restructure_network
from repurpose_hpc.runtime.candidates import best
from repurpose_hpc.runtime.generation import Sampling, generate
from repurpose_hpc.runtime.pooling import Pool
from repurpose_hpc.runtime.sequences import Sequences
from repurpose_hpc.runtime.session import Session
from repurpose_hpc.runtime.tokens import Tokens, TokenSession

NETWORK = decoder(5)
CUT = split_network(NETWORK, 3)
GREEDY = Sampling()


def expected(ids, network=NETWORK):
    return forward(network.at(ids.size), ids[None]).reshape(ids.size, -1)


def resident():
    """Bytes of this process in memory."""
    return PAGESIZE * int(Path("/proc/self/statm").read_text().split()[1])


def session(**options):
    return TokenSession(CUT, **{"slots": 3, "dtype": np.float64, **options})


@pytest.mark.parametrize("is_interleaved", [False, True])
@pytest.mark.parametrize("workers", [2, 3, 5])
def test_heads_that_are_turned_stay_whole(workers, is_interleaved):
    """Also without any attention behind them, and with neurons of a head that stay."""
    builder, rng = Builder(), np.random.default_rng(0)
    W = rng.standard_normal((15, 4))
    x = builder.mixing("layer", builder.input("input", 4), W, np.zeros(15))
    y = builder.rotary("turned", x, 3, np.array([1.0, 0.1]), is_interleaved)
    tokens = rng.standard_normal((VOCABULARY, 4))
    network = replace(builder.build((y,), ("identity",), longest=LONGEST), ends=embedding(tokens))
    (text,) = texts(1, (9,))
    (found,) = TokenSession(split_network(network, workers), dtype=np.float64).run([Tokens(0, text)])
    np.testing.assert_allclose(found, expected(text, network), rtol=0, atol=1e-12)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells how much is in memory")
def test_what_is_kept_of_a_short_text_takes_little_memory():
    """However long texts may be: 256 MiB here, of which a token needs a page for each neuron."""
    neurons, longest = 512, 1 << 17
    before = resident()
    kept = Sequences(1, longest, 4, np.dtype(np.float32)).memory(8, neurons // 8)
    kept[..., :3] = 1
    assert resident() - before < 4 * neurons * PAGESIZE
    assert kept.nbytes == 4 * neurons * longest and not kept[..., 3:4].any()


def test_no_candidates_are_none_to_choose_from():
    with pytest.raises(ValueError, match="expected 1 or more candidates, got 0"):
        session().candidates([Tokens(0, texts()[0])], 0)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_any_pieces_in_any_batches_are_the_same(chunk, seed):
    opened, ids, rng = session(chunk=chunk), texts(1, (9, 3, 14)), np.random.default_rng(seed)
    rows = [[] for _ in ids]
    done = [0, 0, 0]
    while any(first < text.size for first, text in zip(done, ids, strict=True)):
        further = []
        for slot, text in enumerate(ids):
            count = min(int(rng.integers(0, 7)), text.size - done[slot])
            if count:
                further.append(Tokens(slot, text[done[slot] : done[slot] + count]))
        for (slot, part), found in zip(further, opened.run(further) if further else [], strict=True):
            rows[slot].append(found)
            done[slot] += part.size
    for text, found in zip(ids, rows, strict=True):
        np.testing.assert_allclose(np.concatenate(found), expected(text), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kept_dtype", "bits", "tolerance"), [("float16", 16, 2e-3), ("int8", 8, 5e-2)])
def test_keys_and_values_in_fewer_bits(kept_dtype, bits, tolerance):
    (text,) = texts(1, (14,))
    whole, few = (session(kept_dtype=kept_dtype, chunk=chunk) for chunk in (14, 3))
    plain = session()
    found, in_pieces = (opened.run([Tokens(1, text)])[0] for opened in (whole, few))
    # What is kept of a token does not depend on those that come with it.
    np.testing.assert_allclose(found, in_pieces, rtol=0, atol=1e-12)
    difference = np.abs(found - expected(text)).max() / np.abs(expected(text)).max()
    assert 1e-6 < difference < tolerance
    codes = plain.kept_bytes * bits // 64
    # A scale for the keys and the values of each token and head.
    heads = 2 * 2 * 2 if kept_dtype == "int8" else 0
    assert whole.kept_bytes == codes + 8 * heads * plain.slots * plain.longest


@pytest.mark.parametrize("weights_dtype", ["float16", "bfloat16", "int8"])
def test_weights_in_fewer_bits(weights_dtype):
    (text,) = texts(1, (14,))
    (found,) = session(weights_dtype=weights_dtype, dtype=np.float32).run([Tokens(0, text)])
    difference = np.abs(found - expected(text)).max() / np.abs(expected(text)).max()
    assert 1e-5 < difference < 5e-2


@pytest.mark.parametrize("name", ["kept_dtype", "weights_dtype"])
def test_other_formats_are_refused(name):
    with pytest.raises(UserError, match=f"{name}: expected one of float32"):
        session(**{name: "int4"})


def test_the_last_rows_alone_and_what_is_forgotten():
    opened, (text, *_) = session(), texts(2, (8,))
    (last,) = opened.run([Tokens(1, text)], pool=Pool.LAST)
    np.testing.assert_allclose(last, expected(text)[-1:], rtol=0, atol=1e-12)
    opened.forget(1, 3)
    assert opened.length(1) == 3
    (again,) = opened.run([Tokens(1, text[3:])])
    np.testing.assert_allclose(again, expected(text)[3:], rtol=0, atol=1e-12)
    opened.forget(1)
    (whole,) = opened.run([Tokens(1, text)])
    np.testing.assert_allclose(whole, expected(text), rtol=0, atol=1e-12)


def test_what_is_kept_is_the_share_of_the_heads():
    whole = TokenSession(split_network(NETWORK, 1), longest=10)
    # Two layers of two heads, keys and values of four numbers each.
    assert whole.kept_bytes == 2 * 2 * (4 + 4) * 10 * 4


REFUSED = {
    "outside the vocabulary": ([VOCABULARY], f"from 0 to {VOCABULARY - 1}"),
    "negative": ([-1], f"from 0 to {VOCABULARY - 1}"),
    "too long": ([1] * (LONGEST + 1), f"{LONGEST} tokens at most"),
    "no tokens": ([], "one or more integers"),
    "no integers": ([0.5], "one or more integers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused(name):
    ids, words = REFUSED[name]
    opened = session()
    with pytest.raises(UserError, match=words):
        opened.run([Tokens(0, np.array(ids))])
    assert opened.length(0) == 0


def test_other_arguments_are_refused():
    for options in ({"longest": LONGEST + 1}, {"slots": 0}, {"chunk": 0}):
        with pytest.raises(UserError, match="expected 1"):
            session(**options)
    with pytest.raises(UserError, match="transport: expected one of"):
        session(transport="post")


@pytest.mark.parametrize("slot", [-1, 3])
def test_other_slots_are_refused(slot):
    opened = session()
    calls = (lambda: opened.run([Tokens(slot, np.array([1]))]), lambda: opened.length(slot))
    for call in (*calls, lambda: opened.forget(slot)):
        with pytest.raises(UserError, match=f"slot from 0 to 2, got {slot}"):
            call()


@pytest.mark.parametrize("length", [-1, 4])
def test_no_more_is_forgotten_than_there_is(length):
    opened = session()
    opened.run([Tokens(1, np.array([1, 2, 3]))])
    with pytest.raises(UserError, match=f"0 to 3 tokens that are kept, got {length}"):
        opened.forget(1, length)
    assert opened.length(1) == 3


def test_a_sequence_has_one_entry_and_there_may_be_none():
    opened = session(chunk=3)
    with pytest.raises(UserError, match=r"one entry of a sequence, got slots \[1, 0, 1\]"):
        opened.run([Tokens(1, np.array([1, 2, 3])), Tokens(0, np.array([1])), Tokens(1, np.array([1]))])
    assert (opened.length(0), opened.length(1)) == (0, 0)
    assert opened.run([]) == []
    assert opened.run([Tokens(0, [1, 2])])[0].shape == (2, VOCABULARY)


def test_samples_that_are_no_sequences_are_refused():
    """Every token would be the first of its sequence."""
    ids = texts()[0][:, None]
    for call in (
        lambda: Session(CUT),
        lambda: restructure_network(NETWORK, Samples.of(ids), workers=2),
        lambda: forward(NETWORK, ids),
    ):
        with pytest.raises(UserError, match="network: expected one of samples, found one of tokens"):
            call()
    with pytest.raises(UserError, match="expected a network of tokens, found another"):
        TokenSession(split_network(NETWORK.at(3), 2))


def _encoder():
    network = decoder(6, layers=1, is_causal=False)
    assert {op.after for op in network.operations if isinstance(op, Attention)} == {UNLIMITED}
    return network


def test_where_tokens_see_later_ones_sequences_are_whole():
    network = _encoder()
    assert is_causal(NETWORK) and not is_causal(network)
    opened = TokenSession(split_network(network, 2), slots=2, chunk=5, dtype=np.float64)
    first, second = texts(3, (9, 20))
    found = opened.run([Tokens(0, first), Tokens(1, second)])
    for text, rows in zip((first, second), found, strict=True):
        np.testing.assert_allclose(rows, expected(text, network), rtol=0, atol=1e-12)
    with pytest.raises(UserError, match="whole sequences"):
        opened.run([Tokens(0, first[:1])])


def written(prompt, count, network=NETWORK):
    """The most probable tokens, each from the whole text so far."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(expected(np.array(ids), network)[-1].argmax()))
    return ids[len(prompt) :]


def test_the_most_probable_text():
    prompts = texts(4, (5, 1, 8))
    found = generate(session(), prompts, 7, GREEDY)
    assert found.ids == [written(prompt, 7) for prompt in prompts]
    assert (found.prompt_tokens, found.steps, found.is_interrupted) == (14, 6, False)


def test_a_text_ends_behind_a_token_that_ends_it():
    prompts = texts(4, (5, 1, 8))
    whole = [written(prompt, 7) for prompt in prompts]
    end = whole[0][2]
    cut = [ids[: ids.index(end) + 1] if end in ids else ids for ids in whole]
    assert generate(session(), prompts, 7, GREEDY, (end,)).ids == cut


def test_drawn_texts_depend_on_the_seed_and_on_their_place_alone():
    sampling, prompts = Sampling(temperature=1.5, seed=7), texts(4, (5, 1, 8))
    first = generate(session(), prompts, 9, sampling).ids
    assert generate(session(chunk=3), prompts, 9, sampling).ids == first
    assert generate(session(), prompts[:1], 9, sampling).ids == first[:1]
    assert generate(session(), prompts, 9, Sampling(temperature=1.5, seed=8)).ids != first


def test_tokens_are_drawn_with_their_probabilities():
    logits, rng = np.log([0.5, 0.1, 0.3, 0.1]).astype(np.float32), np.random.default_rng(0)

    def shares(**options):
        sampling = Sampling(**options)
        candidates = best(np.arange(4), logits, sampling.candidates(4))
        drawn = [sampling.choose(candidates, rng) for _ in range(4000)]
        return np.bincount(drawn, minlength=4) / 4000

    assert np.abs(shares(temperature=1.0) - [0.5, 0.1, 0.3, 0.1]).max() < 0.04
    flat = np.sqrt([0.5, 0.1, 0.3, 0.1])
    assert np.abs(shares(temperature=2.0) - flat / flat.sum()).max() < 0.04
    assert np.abs(shares(temperature=1.0, top_k=2) - [0.625, 0, 0.375, 0]).max() < 0.04
    assert np.abs(shares(temperature=1.0, top_p=0.6) - [0.625, 0, 0.375, 0]).max() < 0.04
    assert shares(temperature=1.0, top_p=0.5).tolist() == [1, 0, 0, 0]


def test_an_interrupt_ends_a_text_behind_a_token():
    def told(sequence, token):
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        seen.append(token)

    seen: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    found = generate(session(), texts(4, (5,)), 9, GREEDY, told=told)
    assert found.is_interrupted and found.ids == [written(texts(4, (5,))[0], 3)]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("count", "tokens", "words"), [(0, 3, "1 to 3 prompts"), (1, 0, "1 or more new"), (1, 99, "at most")]
)
def test_what_cannot_be_written_is_refused(count, tokens, words):
    with pytest.raises(UserError, match=words):
        generate(session(), texts(4, (5,) * count), tokens, GREEDY)


def test_logits_that_are_not_finite_are_no_text():
    output = NETWORK.mixings[-1]
    network = NETWORK.with_mixings({output.name: replace(output, weights=3e38 * np.sign(output.weights))})
    opened = TokenSession(split_network(network, 2))
    for sampling in (GREEDY, Sampling(temperature=1.0)):
        opened.forget(0)
        with pytest.raises(
            UserError, match="expected finite logits, found NaN or infinity in those of text 0"
        ):
            generate(opened, texts(4, (5,)), 3, sampling)
    opened = TokenSession(split_network(network, 2), dtype=np.float64)
    assert generate(opened, texts(4, (5,)), 3, GREEDY).ids == [written(texts(4, (5,))[0], 3, network)]


def test_an_encoder_writes_no_texts():
    with pytest.raises(UserError, match="tells the next token"):
        generate(TokenSession(split_network(_encoder(), 1)), texts(4, (5,)), 3, GREEDY)


def test_what_is_asked_for_wrongly_changes_nothing():
    opened, (text, *_) = session(), texts(2, (8,))
    opened.run([Tokens(1, text)])
    assert opened.run([]) == []
    with pytest.raises(UserError, match="one entry of a sequence"):
        opened.run([Tokens(0, text), Tokens(0, text)])
    for slot, length, words in ((1, -1, "0 to 8 tokens"), (3, 0, "slot from 0 to 2"), (-1, 0, "slot from 0")):
        with pytest.raises(UserError, match=words):
            opened.forget(slot, length)
    assert [opened.length(slot) for slot in range(3)] == [0, 8, 0]
    with pytest.raises(UserError, match="TokenSession"):
        Session(CUT)


def test_a_temperature_near_zero_takes_the_most_probable_token():
    prompts = texts(4, (5,))
    found = generate(session(), prompts, 5, Sampling(temperature=1e-310))
    assert found.ids == [written(prompts[0], 5)]


def test_logits_that_are_not_finite_end_a_text():
    broken = decoder(5).with_mixings(
        {m.name: replace(m, weights=np.sign(m.weights) * 3e38) for m in NETWORK.mixings if m.name == "output"}
    )
    opened = TokenSession(split_network(broken, 1), dtype=np.float32)
    with pytest.raises(UserError, match="finite logits"):
        generate(opened, texts(4, (5,)), 5, Sampling())
