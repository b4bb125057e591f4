"""Networks of retention fed with tokens: a state of each sequence is kept, and nothing of its tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.small_transformers import LONGEST, decoder, retentive, texts
from repurpose_hpc.errors import UserError
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.texts import keeps_states
from repurpose_hpc.restructure.exact import split_network
from repurpose_hpc.runtime.generation import Sampling, generate
from repurpose_hpc.runtime.tokens import Tokens, TokenSession

NETWORK = retentive(5)


def expected(ids: np.ndarray) -> np.ndarray:
    return forward(NETWORK.at(ids.size), ids[None]).reshape(ids.size, -1)


def session(workers: int = 3, **options) -> TokenSession:
    return TokenSession(split_network(NETWORK, workers), **{"slots": 3, "dtype": np.float64, **options})


@settings(max_examples=10, deadline=None)
@given(workers=st.integers(1, 6), chunk=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
def test_any_pieces_in_any_batches_are_the_same(workers, chunk, seed):
    """Also with more workers than there are heads."""
    opened, ids, rng = session(workers, chunk=chunk), texts(1, (9, 3, 14)), np.random.default_rng(seed)
    rows, done = [[] for _ in ids], [0, 0, 0]
    while any(first < text.size for first, text in zip(done, ids, strict=True)):
        counts = [min(int(rng.integers(0, 7)), text.size - done[slot]) for slot, text in enumerate(ids)]
        further = [
            Tokens(slot, ids[slot][done[slot] : done[slot] + count])
            for slot, count in enumerate(counts)
            if count
        ]
        for (slot, part), found in zip(further, opened.run(further), strict=True):
            rows[slot].append(found)
            done[slot] += part.size
    for text, found in zip(ids, rows, strict=True):
        np.testing.assert_allclose(np.concatenate(found), expected(text), rtol=0, atol=1e-12)


def test_float32_is_as_exact_as_it_is():
    (text,) = texts(2, (LONGEST,))
    (found,) = session(dtype=np.float32, chunk=7).run([Tokens(0, text)])
    np.testing.assert_allclose(found, expected(text), rtol=0, atol=1e-5 * np.abs(expected(text)).max())


def test_what_is_kept_does_not_grow_with_the_length():
    of_length = [session(1, longest=longest).kept_bytes for longest in (1, 4, LONGEST)]
    # Two layers of four heads with four neurons of keys and five of values, and three sequences.
    assert of_length == [2 * 4 * 4 * 5 * 3 * 8] * 3
    assert session(1, kept_dtype="int8").kept_bytes == of_length[0]
    attention = [TokenSession(split_network(decoder(5), 1), longest=n).kept_bytes for n in (1, 4)]
    assert attention[1] == 4 * attention[0]


def test_heads_with_norm_and_gate_send_what_they_add_to_the_stream_alone():
    """To the three others, in both halves of two blocks; states, norms of heads and gates are never sent."""
    cut = split_network(NETWORK, 4, round_cost=1e9)
    assert cut.traffic_matrix().sum() == 2 * 2 * NETWORK.inputs * 4 * 3


def test_a_state_is_forgotten_as_a_whole_or_not_at_all():
    opened, (text, *_) = session(), texts(2, (8,))
    opened.run([Tokens(1, text)])
    words = "0 or all 8 tokens .* got 3; forget all, and run the first 3 again"
    with pytest.raises(UserError, match=words):
        opened.forget(1, 3)
    assert opened.length(1) == 8
    opened.forget(1, 8)
    opened.forget(1)
    (again,) = opened.run([Tokens(1, text)])
    np.testing.assert_allclose(again, expected(text), rtol=0, atol=1e-12)
    assert keeps_states(NETWORK) and not keeps_states(decoder(5))


def test_the_most_probable_text():
    prompts = texts(4, (5, 1, 8))
    found = generate(session(), prompts, 7, Sampling())
    for prompt, ids in zip(prompts, found.ids, strict=True):
        whole = np.concatenate([prompt, ids])
        assert ids == expected(whole)[prompt.size - 1 : -1].argmax(axis=1).tolist()
