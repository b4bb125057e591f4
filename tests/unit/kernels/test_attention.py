"""Attention, against plain NumPy in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repurpose_hpc import kernels
from repurpose_hpc.kernels import AttentionRule
from repurpose_hpc.kernels.jit import jit
from repurpose_hpc.kernels.llvm.row_products import add_rows, dot_rows
from repurpose_hpc.kernels.llvm.softmax import exponentiate, limit_scores
from repurpose_hpc.kernels.llvm.vectors import lanes
from repurpose_hpc.kernels.registry import REGISTRY

TOLERANCE = {"float32": 3e-6, "float64": 1e-14}
DTYPES = st.sampled_from(list(TOLERANCE))
ALL = AttentionRule(0.5, 0.0, -1, -1)


@jit
def compiled_exponentiate(scores, rows, largest, totals, factors):
    exponentiate(scores, rows, largest, totals, factors)


@jit
def compiled_limit_scores(scores, softcap):
    limit_scores(scores, softcap)


@jit
def compiled_add_rows(source, start, stride, count, weights, out):
    add_rows(source, start, stride, count, weights, out)


@jit
def compiled_dot_rows(source, start, stride, count, x, lane, out):
    dot_rows(source, start, stride, count, x, lane, out)


def reference(queries, keys, values, bias, rule):
    """(H, e, batch, S) float64, from whole matrices of scores."""
    group = len(queries) // max(1, len(keys))
    keys, values = (np.repeat(x, group, axis=0).astype(np.float64) for x in (keys, values))
    scores = rule.scale * np.einsum("hcni,hcnj->hnij", queries, keys)
    if rule.softcap:
        scores = rule.softcap * np.tanh(scores / rule.softcap)
    if bias.size:
        scores = scores + bias
    distance = np.arange(keys.shape[3]) - rule.past - np.arange(queries.shape[3])[:, None]
    if rule.before >= 0:
        scores[..., distance < -rule.before] = -np.inf
    if rule.after >= 0:
        scores[..., distance > rule.after] = -np.inf
    largest = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(largest == -np.inf, 0, largest))
    total = weights.sum(axis=-1, keepdims=True)
    return np.einsum("hnij,hcnj->hcni", weights / np.where(total == 0, 1, total), values)


def attended(queries, keys, values, bias, rule):
    out = np.full((len(queries), values.shape[1], *queries.shape[2:]), np.nan, queries.dtype)
    kernels.attend(queries, keys, values, bias, rule, out)
    return out


def assert_close(actual, expected):
    size = np.abs(expected).max(initial=0)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[actual.dtype.name] * max(size, 1e-3))


def nothing(T, dtype):
    return np.zeros((0, 1, 1, T), dtype)


lengths = st.one_of(st.integers(0, 20), st.sampled_from([33, 48, 49, 97, 128, 130, 257, 300]))


@st.composite
def problems(draw):
    """Arguments of ``attend`` but out, of either way: few queries and many."""
    rng, dtype = (
        np.random.default_rng(draw(st.integers(0, 2**32 - 1))),
        draw(st.sampled_from(list(TOLERANCE))),
    )
    G, group, d, e = (draw(st.integers(*limits)) for limits in ((0, 3), (1, 3), (0, 18), (0, 18)))
    N, S, T = draw(st.integers(0, 3)), draw(lengths), draw(lengths)
    H = G * group
    shape = tuple(draw(st.sampled_from([1, size])) for size in (H, N, S)) + (T,)
    bias = rng.standard_normal(shape).astype(dtype) if draw(st.booleans()) else nothing(T, dtype)
    bias[rng.random(bias.shape) < draw(st.sampled_from([0, 0.3, 1]))] = -np.inf
    limits = st.one_of(st.just(-1), st.integers(0, 12), st.just(150))
    rule = AttentionRule(
        draw(st.sampled_from([0.3, 1.0])),
        draw(st.sampled_from([0.0, 2.0])),
        draw(limits),
        draw(limits),
        draw(st.one_of(st.just(T - S), st.integers(-9, 9))),
    )
    shapes = (H, d, N, S), (G, d, N, T), (G, e, N, T)
    return *(rng.standard_normal(shape).astype(dtype) for shape in shapes), bias, rule


@given(problem=problems())
@settings(max_examples=200)
def test_attention(problem):
    assert_close(attended(*problem), reference(*problem))


@given(problem=problems())
@settings(max_examples=20)
def test_plain_attention(problem):
    expected = attended(*problem)
    out = np.full_like(expected, np.nan)
    getattr(kernels.attend, "py_func", kernels.attend)(*problem, out)
    assert_close(out, expected)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("S", [1, 3, 50])
def test_nothing_seen_gives_zeros(S, dtype):
    """By the rule, by the bias, and by both; a query that sees a key is not among them."""
    rng = np.random.default_rng(0)
    queries, keys, values = (rng.standard_normal((1, 4, 1, n)).astype(dtype) for n in (S, 70, 70))
    for rule, bias in (
        (ALL._replace(after=0, past=-60), nothing(70, dtype)),
        (ALL._replace(before=0, past=75), nothing(70, dtype)),
        (ALL, np.full((1, 1, 1, 70), -np.inf, dtype)),
    ):
        np.testing.assert_array_equal(attended(queries, keys, values, bias, rule), 0)
    found = attended(queries, keys, values, nothing(70, dtype), ALL._replace(after=0, past=1 - S))
    np.testing.assert_array_equal(found[..., : S - 1], 0)
    np.testing.assert_allclose(found[..., -1:], values[..., :1], rtol=1e-6)


@pytest.mark.parametrize("S", [1, 40])
def test_large_scores(S):
    """Scores that differ by more than any exponential holds, in every order, and those that are all alike."""
    rng = np.random.default_rng(1)
    queries, values = np.ones((1, 1, 1, S), np.float32), rng.standard_normal((1, 3, 1, 400), np.float32)
    for keys in (np.linspace(-3e4, 3e4, 400), np.linspace(3e4, -3e4, 400), np.full(400, 3e30)):
        problem = queries, keys.astype(np.float32).reshape(1, 1, 1, -1), values, nothing(400, np.float32), ALL
        assert_close(attended(*problem), reference(*problem))


@pytest.mark.parametrize("S", [1, 40])
def test_nan_is_seen_as_such(S):
    """In the results of the query that has one, and nowhere else."""
    rng = np.random.default_rng(2)
    queries, keys, values = (rng.standard_normal((2, 4, 2, n)) for n in (S, 70, 70))
    queries[1, 2, 0, S - 1] = np.nan
    found = np.isnan(attended(queries, keys, values, nothing(70, np.float64), ALL))
    expected = np.zeros_like(found)
    expected[1, :, 0, S - 1] = True
    np.testing.assert_array_equal(found, expected)


@given(problem=problems())
@settings(max_examples=60)
def test_bits_of_a_sample_do_not_depend_on_the_batch(problem):
    queries, keys, values, bias, rule = problem
    found = attended(*problem)
    for n in range(queries.shape[2]):
        alone = (np.ascontiguousarray(x[:, :, n : n + 1]) for x in (queries, keys, values))
        own = np.ascontiguousarray(bias[:, n : n + 1] if bias.shape[1] > 1 else bias)
        np.testing.assert_array_equal(attended(*alone, own, rule)[:, :, 0], found[:, :, n])


@pytest.mark.parametrize("heads", [1, 6])
def test_threads_compute_the_same_bits(heads):
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal((n, 4, 2, 70), np.float32) for n in (6, 3, 3)]
    arguments = *arrays, rng.standard_normal((heads, 1, 70, 70), np.float32), ALL
    expected, variant = attended(*arguments), REGISTRY.variant(kernels.attend)
    for threads in (1, 2, 3, 5):
        out = np.full_like(expected, np.nan)
        _, extra = variant.share(threads, *arguments, out)
        variant.function(*arguments, out, *extra)
        np.testing.assert_array_equal(out, expected)


@given(
    seed=st.integers(0, 99),
    rows=st.integers(0, 40),
    vectors=st.integers(1, 3),
    dtype=DTYPES,
)
def test_exponentials(seed, rows, vectors, dtype):
    """As the plain meaning, to the last digits, down to the smallest numbers."""
    rng, width = np.random.default_rng(seed), vectors * 16
    scores = (rng.standard_normal((40, 48)) * rng.choice([1, 20, 300])).astype(dtype)
    scores[rng.random(scores.shape) < 0.1] = -np.inf
    states = np.stack([rng.standard_normal(48), rng.random(48), np.zeros(48)]).astype(dtype)[:, :width]
    states[:2, rng.random(width) < 0.3] = [[-np.inf], [0]]
    expected = scores.copy(), states.copy()
    compiled_exponentiate(scores, rows, *(row for row in states))
    exponentiate(expected[0], rows, *(row for row in expected[1]))
    info = np.finfo(dtype)
    for actual, wanted in zip((scores, states), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=16 * info.eps, atol=16 * info.eps)
        # Without multiplications that round once, e^x has an error of up to |x| times the last digit.
        np.testing.assert_allclose(actual, wanted, rtol=1024 * info.eps, atol=16 * info.tiny)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_limits_of_scores(dtype):
    """To the last digits, of small scores and large ones."""
    sizes = np.concatenate([[0, np.inf], np.geomspace(1e-30, 1e3, 126)])
    scores = np.concatenate([sizes, -sizes]).astype(dtype)
    expected = (3 * np.tanh(scores.astype(np.float64) / 3)).astype(dtype)
    compiled_limit_scores(scores, 3.0)
    np.testing.assert_allclose(scores, expected, rtol=8 * np.finfo(dtype).eps, atol=0)


@given(seed=st.integers(0, 99), rows=st.integers(0, 19), count=st.integers(0, 50), dtype=DTYPES)
def test_products_with_rows(seed, rows, count, dtype):
    """As the plain meaning, and nothing behind the last number is looked at or written."""
    rng, stride = np.random.default_rng(seed), count + 3
    source = np.full(5 + rows * stride, np.nan, dtype)
    for r in range(rows):
        source[5 + r * stride : 5 + r * stride + count] = rng.standard_normal(count)
    weights, x, lane = (
        rng.standard_normal(size).astype(dtype) for size in (rows, 64, lanes(np.dtype(dtype)))
    )
    place = source, 5, stride, count
    added, dotted = np.ones(count + 1, dtype), np.full(rows, np.nan, dtype)
    expected = added.copy(), dotted.copy()
    compiled_add_rows(*place, weights, added)
    compiled_dot_rows(*place, x, lane, dotted)
    add_rows(*place, weights, expected[0])
    dot_rows(*place, x, lane, expected[1])
    for actual, wanted in zip((added, dotted), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=1e3 * np.finfo(dtype).eps)
