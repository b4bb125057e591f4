"""Attention of tokens over the past of their sequences, and terms and turns by position, against NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repurpose_hpc import kernels
from repurpose_hpc.kernels import AttentionRule

TOLERANCE = {"float32": 3e-6, "float64": 1e-14}
dtypes = st.sampled_from(list(TOLERANCE))
seeds = st.integers(0, 2**32 - 1)
limits = st.one_of(st.just(-1), st.integers(0, 12))


def plain(function):
    """A kernel as Python executes it."""
    return getattr(function, "py_func", function)


def assert_close(actual, expected):
    size = max(np.abs(expected).max(initial=0), 1e-3)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[actual.dtype.name] * size)


def reference(queries, keys, values, rule, past):
    """(H, e, count) float64: of the last tokens of one sequence, over all of its keys (G, d, T)."""
    group = len(queries) // max(1, len(keys))
    keys, values = (np.repeat(x, group, axis=0).astype(np.float64) for x in (keys, values))
    scores = rule.scale * np.einsum("hci,hcj->hij", queries, keys)
    if rule.softcap:
        scores = rule.softcap * np.tanh(scores / rule.softcap)
    distance = np.arange(keys.shape[2]) - past - np.arange(queries.shape[2])[:, None]
    if rule.before >= 0:
        scores[:, distance < -rule.before] = -np.inf
    if rule.after >= 0:
        scores[:, distance > rule.after] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("hij,hcj->hci", weights / weights.sum(axis=-1, keepdims=True), values)


def encoded(numbers, kept):
    """Codes of numbers (G, d, ...) in a format, and the scales (G, ...) of int8."""
    if kept == np.int16:
        return numbers.astype(np.float16).view(np.int16), None
    if kept == np.int8:
        scales = np.abs(numbers).max(axis=1) / numbers.dtype.type(127)
        return np.rint(numbers / np.where(scales > 0, scales, 1)[:, None]).astype(np.int8), scales
    return numbers, None


def decoded(codes, scales):
    """The numbers that codes stand for, float64."""
    if codes.dtype == np.int16:
        return codes.view(np.float16).astype(np.float64)
    return codes.astype(np.float64) * (scales[:, None] if codes.dtype == np.int8 else 1)


@st.composite
def batches(draw):
    """Arguments of ``attend_tokens`` but out: pieces of some sequences, not in the order of their slots."""
    rng, dtype = np.random.default_rng(draw(seeds)), draw(dtypes)
    kept = draw(st.sampled_from([dtype, "int16", "int8"]))
    G, group = draw(st.integers(0, 3)), draw(st.integers(1, 3))
    d, e = draw(st.integers(1, 18)), draw(st.integers(1, 18))
    pieces = draw(
        st.lists(st.tuples(st.sampled_from([0, 1, 1, 2, 3, 8, 17, 40]), st.integers(0, 50)), max_size=5)
    )
    longest = max((count + past for count, past in pieces), default=1) + draw(st.integers(0, 3))
    slots = len(pieces) + draw(st.integers(0, 2))
    counts, pasts = np.array(pieces, np.int64).reshape(-1, 2).T
    sequences = np.column_stack(
        [counts.cumsum() - counts, counts, rng.permutation(slots)[: len(pieces)], pasts]
    )
    tokens = counts.sum()
    shapes = (
        (G * group, d, tokens),
        (G, d, tokens),
        (G, e, tokens),
        (G, d, slots, longest),
        (G, e, slots, longest),
    )
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    rule = AttentionRule(
        draw(st.sampled_from([0.3, 1.0])), draw(st.sampled_from([0.0, 2.0])), draw(limits), draw(limits)
    )
    coded = [encoded(past, np.dtype(kept)) for past in arrays[3:]]
    scales = np.array([scale for _, scale in coded]) if kept == "int8" else np.empty((2, 0, 0, 0), dtype)
    past = [codes for codes, _ in coded]
    return *arrays[:3], *past, scales, np.ascontiguousarray(sequences, np.int64), rule


def check_attention(attend_tokens, queries, keys, values, past_keys, past_values, scales, sequences, rule):
    """The result and the cache behind a call, against those of each sequence by itself."""
    expected = np.zeros((len(queries), values.shape[1], queries.shape[2]))
    kept, new_scales = [past_keys.copy(), past_values.copy()], scales.copy()
    for first, count, slot, past in sequences:
        if not count:
            continue
        own, T = slice(first, first + count), past + count
        known = []
        for number, (codes, numbers) in enumerate(zip(kept, (keys, values), strict=True)):
            codes[:, :, slot, past:T], scale = encoded(numbers[:, :, own], codes.dtype)
            if scale is not None:
                new_scales[number, :, slot, past:T] = scale
                scale = new_scales[number, :, slot, :T]
            known.append(decoded(codes[:, :, slot, :T], scale))
        expected[:, :, own] = reference(queries[:, :, own], *known, rule, past)
    out = np.full(expected.shape, np.nan, queries.dtype)
    attend_tokens(queries, keys, values, past_keys, past_values, scales, sequences, rule, out)
    assert_close(out, expected)
    np.testing.assert_array_equal(past_keys, kept[0])
    np.testing.assert_array_equal(past_values, kept[1])
    np.testing.assert_array_equal(scales, new_scales)


@given(batch=batches())
@settings(max_examples=120)
def test_attention_of_tokens(batch):
    check_attention(kernels.attend_tokens, *batch)


@given(batch=batches())
@settings(max_examples=10)
def test_plain_attention_of_tokens(batch):
    check_attention(plain(kernels.attend_tokens), *batch)


@pytest.mark.parametrize("attend_tokens", [kernels.attend_tokens, plain(kernels.attend_tokens)])
@pytest.mark.parametrize("tokens", [1, 20])
@pytest.mark.parametrize(
    ("kept", "number"), [("int16", 7e4), ("int16", np.nan), ("int8", np.inf), ("int8", np.nan)]
)
def test_what_a_format_cannot_hold_is_not_taken_for_something_else(attend_tokens, tokens, kept, number):
    x, sequences = np.ones((3, 1, 4, tokens), np.float32), np.array([[0, tokens, 0, 0]], np.int64)
    x[1, 0, 2, 0] = number
    past = [np.zeros((1, 4, 1, tokens), kept) for _ in range(2)]
    scales = np.zeros((2, 1, 1, tokens) if kept == "int8" else (2, 0, 0, 0), np.float32)
    out = np.empty((1, 4, tokens), np.float32)
    with np.errstate(invalid="ignore"):
        attend_tokens(*x, *past, scales, sequences, AttentionRule(1.0, 0.0, -1, 0), out)
    assert np.isnan(out).all()


@given(seed=seeds, dtype=dtypes, cuts=st.lists(st.integers(1, 39), max_size=6, unique=True))
@settings(max_examples=40)
def test_a_sequence_in_pieces_is_that_in_one(seed, dtype, cuts):
    """Causal, with a window: what is kept of a piece is what the next one needs."""
    rng, length, rule = np.random.default_rng(seed), 40, AttentionRule(0.4, 0.0, 11, 0)
    read = [
        rng.standard_normal((heads, size, length)).astype(dtype) for heads, size in ((4, 5), (2, 5), (2, 6))
    ]
    past = [np.full((2, size, 3, length), np.nan, dtype) for size in (5, 6)]
    scales = np.empty((2, 0, 0, 0), dtype)
    ends, out = [0, *sorted(cuts), length], []
    for start, end in zip(ends, ends[1:], strict=False):
        piece = [np.ascontiguousarray(x[:, :, start:end]) for x in read]
        out.append(np.empty((4, 6, end - start), dtype))
        sequences = np.array([[0, end - start, 1, start]], np.int64)
        kernels.attend_tokens(*piece, *past, scales, sequences, rule, out[-1])
    assert_close(np.concatenate(out, axis=2), reference(*read, rule, 0))
    for kept, whole in zip(past, read[1:], strict=True):
        np.testing.assert_array_equal(kept[:, :, 1], whole)
        assert np.isnan(kept[:, :, ::2]).all()


@given(
    seed=seeds,
    dtype=dtypes,
    heads=st.integers(0, 3),
    pairs=st.integers(0, 5),
    others=st.integers(0, 3),
    tokens=st.integers(0, 20),
    interleaved=st.sampled_from([0, 1]),
)
def test_turned_tokens(seed, dtype, heads, pairs, others, tokens, interleaved):
    """Complex numbers of pairs, times those of the angles."""
    rng, longest = np.random.default_rng(seed), 9
    x = rng.standard_normal((heads, 2 * pairs + others, tokens)).astype(dtype)
    positions = rng.integers(0, longest, tokens)
    angles = rng.uniform(-7, 7, (pairs, longest))
    cos, sin = np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)
    parts = (
        (slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2))
        if interleaved
        else (slice(pairs), slice(pairs, 2 * pairs))
    )
    turned = (x[:, parts[0]] + 1j * x[:, parts[1]]) * np.exp(1j * angles)[:, positions]
    expected = x.astype(np.float64)
    expected[:, parts[0]], expected[:, parts[1]] = turned.real, turned.imag
    for function in (kernels.turn_tokens, plain(kernels.turn_tokens)):
        out = np.full_like(x, np.nan)
        function(x, positions, cos, sin, interleaved, out)
        assert_close(out, expected)
        np.testing.assert_array_equal(out[:, 2 * pairs :], x[:, 2 * pairs :])


@given(seed=seeds, dtype=dtypes, neurons=st.integers(0, 9), tokens=st.integers(0, 40))
@pytest.mark.parametrize("in_place", [False, True])
def test_added_positions(in_place, seed, dtype, neurons, tokens):
    rng, longest = np.random.default_rng(seed), 7
    x = rng.standard_normal((neurons, tokens)).astype(dtype)
    table = rng.standard_normal((neurons, longest)).astype(dtype)
    positions = rng.integers(0, longest, tokens)
    expected = x + table[:, positions]
    for function in (kernels.add_positions, plain(kernels.add_positions)):
        source = x.copy()
        out = source if in_place else np.full_like(x, np.nan)
        function(source, positions, table, out)
        np.testing.assert_array_equal(out, expected)
