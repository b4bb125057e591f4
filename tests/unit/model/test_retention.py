"""Retention: the parallel, the chunked and the recurrent form beside each other, its gradient, its faults."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repurpose_hpc.kernels import retain
from repurpose_hpc.model.operations import Retention, Rows, Shape


def drawn(rng: np.random.Generator, heads: int, dtype: type = np.float64) -> Retention:
    decay = rng.uniform(0.01, 1, heads).astype(dtype)
    decay[0] = 1
    return Retention("op", ("q", "k", "v"), "y", decay, 0.6)


def recurrent(op: Retention, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Its definition, number by number in float64: q, k (heads, d, tokens), v (heads, e, tokens)."""
    y = np.zeros(v.shape)
    for h, decay in enumerate(op.decay.astype(float)):
        state, weight = np.zeros((q.shape[1], v.shape[1])), 0.0
        for t in range(v.shape[2]):
            state = decay * state + np.outer(k[h, :, t], v[h, :, t])
            weight = decay * weight + 1
            y[h, :, t] = op.scale * q[h, :, t] @ state / math.sqrt(weight)
    return y


def run(op: Retention, sources: list[np.ndarray], cuts: list[int]) -> np.ndarray:
    """What the kernel makes of one sequence in pieces, in slot 1 of states that hold anything."""
    q, k, v = sources
    states = np.full((op.heads, 2, q.shape[1], v.shape[1]), np.nan, q.dtype)
    parts, past = [], 0
    for count in cuts:
        new = [np.ascontiguousarray(x[:, :, past : past + count]) for x in sources]
        table = np.array([[0, 0, 0, 0], [0, count, 1, past]])
        parts.append(np.full(new[2].shape, np.nan, q.dtype))
        retain(*new, states, table, op.decay.astype(np.float64), op.scale, parts[-1])
        past += count
    return np.concatenate(parts, axis=2)


@settings(max_examples=25, deadline=None)
@given(
    heads=st.integers(1, 3),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    cuts=st.lists(st.integers(1, 90), min_size=1, max_size=4),
    seed=st.integers(0, 99),
    kind=st.sampled_from([(np.float64, 1e-12), (np.float32, 1e-5)]),
)
def test_the_parallel_the_chunked_and_the_recurrent_form_agree(heads, sizes, cuts, seed, kind):
    (d, e), (dtype, tolerance), tokens = sizes, kind, sum(cuts)
    rng = np.random.default_rng(seed)
    op = drawn(rng, heads, dtype)
    sources = [rng.standard_normal((heads, size, tokens)).astype(dtype) for size in (d, d, e)]
    expected = recurrent(op, *sources)
    parallel = op.compute(*(x.reshape(-1, 1, tokens) for x in sources)).reshape(expected.shape)
    scale = tolerance * np.abs(expected).max()
    for found in (parallel, run(op, sources, cuts), run(op, sources, [1] * tokens)):
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, rtol=0, atol=scale)


def test_sequences_in_a_batch_are_by_themselves():
    rng = np.random.default_rng(1)
    op = drawn(rng, 2)
    sources = [rng.standard_normal((2, 3, 9)) for _ in range(3)]
    states, out = np.full((2, 3, 3, 3), np.nan), np.empty((2, 3, 9))
    table = np.array([[0, 6, 2, 0], [6, 3, 0, 0], [0, 0, 0, 0]])
    retain(*sources, states, table, op.decay, op.scale, out)
    for part in (slice(0, 6), slice(6, 9)):
        expected = recurrent(op, *(x[:, :, part] for x in sources))
        np.testing.assert_allclose(out[:, :, part], expected, rtol=0, atol=1e-12)


def test_the_gradient_is_that_of_finite_differences():
    rng = np.random.default_rng(2)
    op = drawn(rng, 2)
    sources = [rng.standard_normal((neurons, 2, 5)) for neurons in (6, 6, 4)]
    g = rng.standard_normal((4, 2, 5))
    gradients = op.vjp(g, op.compute(*sources), *sources)
    for number, gradient in enumerate(gradients):
        direction = rng.standard_normal(gradient.shape)
        ends = []
        for side in (1e-6, -1e-6):
            moved = [*sources]
            moved[number] = sources[number] + side * direction
            ends.append((g * op.compute(*moved)).sum())
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx((gradient * direction).sum(), rel=1e-6)


def test_a_head_belongs_to_one_worker_and_is_by_itself():
    op = drawn(np.random.default_rng(3), 3)
    q, k, v = np.arange(6), np.arange(6, 12), np.arange(12, 24)
    for (left, right), rows in zip(op.ties(q, k, v), (q, k, v), strict=True):
        np.testing.assert_array_equal(left, np.repeat([0, 2, 4], rows.size // 3))
        np.testing.assert_array_equal(right, rows)
    np.testing.assert_array_equal(op.neurons(q, k, v), np.repeat([0, 2, 4], 4))
    rows = [Rows(np.arange(size // 3, size), np.zeros(2 * size // 3, int), size) for size in (12, 6, 6, 12)]
    np.testing.assert_array_equal(op.restricted(*rows).decay, op.decay[1:])


@pytest.mark.parametrize(
    ("changes", "shapes", "words"),
    [
        ({"decay": np.array([0.5, 1.5])}, (4, 4, 6, 6), "expected one above 0 and at most 1"),
        ({"decay": np.zeros(0)}, (4, 4, 6, 6), "for each head"),
        ({"decay": np.array([1, 2])}, (4, 4, 6, 6), "all float32 or all float64"),
        ({}, (4, 4, 5, 5), "cuts 4 and 5 neurons into 2 heads"),
        ({}, (4, 2, 6, 6), "joins queries"),
        ({}, (4, 4, 6, 4), "makes Shape"),
    ],
)
def test_a_retention_that_does_not_fit_is_refused(changes, shapes, words):
    op = replace(drawn(np.random.default_rng(4), 2), **changes)
    *sources, target = (Shape(neurons, (3,)) for neurons in shapes)
    assert any(words in fault for fault in op.faults(sources, target))
