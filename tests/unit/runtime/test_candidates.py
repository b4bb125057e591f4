"""The largest outputs, found in parts, and the tokens chosen from them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc.runtime.candidates import best
from repurpose_hpc.runtime.generation import Sampling


@st.composite
def logits(draw):
    """A few different values, so that many are equal; zeros of both signs."""
    values = st.sampled_from([-2.5, -1.0, -0.0, 0.0, 1.5, 3.0])
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return np.array(draw(st.lists(values, min_size=1, max_size=12)), dtype)


def expected(logits, count):
    """Ids in the order of a stable sort."""
    return np.argsort(-logits, kind="stable")[:count]


def merged(logits, count, seed, parts):
    """The best of those of some parts, which have any ids in any order, perhaps none."""
    rng = np.random.default_rng(seed)
    owners = rng.integers(0, parts, logits.size)
    of_parts = []
    for part in range(parts):
        ids = rng.permutation(np.flatnonzero(owners == part))
        of_parts.append(best(ids, logits[ids], count))
    return best(*(np.concatenate(arrays) for arrays in zip(*of_parts, strict=True)), count)


@given(logits(), st.integers(1, 15), st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_the_best_of_parts_are_those_of_all(logits, count, seed, parts):
    ids = expected(logits, count)
    for found in (best(np.arange(logits.size), logits, count), merged(logits, count, seed, parts)):
        np.testing.assert_array_equal(found.ids, ids)
        np.testing.assert_array_equal(found.logits, logits[ids])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@given(logits(), st.integers(1, 4), st.integers(0, 2**32 - 1), st.integers(1, 5), st.data())
def test_a_number_that_is_not_finite_shows_wherever_it_is(value, logits, count, seed, parts, data):
    logits[data.draw(st.integers(0, logits.size - 1))] = value
    assert np.isnan(merged(logits, count, seed, parts).logits).all()


def chosen(sampling, logits, rng):
    """A token as it is drawn from all logits."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")[: sampling.top_k or None]
    probabilities = np.exp((logits[order].astype(np.float64) - logits.max()) / sampling.temperature)
    probabilities /= probabilities.sum()
    before = np.cumsum(probabilities) - probabilities
    probabilities[before >= sampling.top_p] = 0
    return int(order[rng.choice(order.size, p=probabilities / probabilities.sum())])


@given(
    logits(),
    st.builds(
        Sampling,
        temperature=st.sampled_from([0.0, 0.7, 3.0]),
        top_k=st.integers(0, 14),
        top_p=st.sampled_from([0.3, 0.9, 1.0]),
    ),
    st.integers(0, 2**32 - 1),
    st.integers(1, 5),
)
def test_candidates_choose_the_token_that_all_logits_do(logits, sampling, seed, parts):
    candidates = merged(logits, sampling.candidates(logits.size), seed, parts)
    first, second = (np.random.default_rng(seed) for _ in range(2))
    assert [sampling.choose(candidates, first) for _ in range(5)] == [
        chosen(sampling, logits, second) for _ in range(5)
    ]
