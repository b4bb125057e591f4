"""Attention, its heads and masks, against plain loops."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.small_graphs import Draw
from repurpose_hpc.model.builder import Builder
from repurpose_hpc.model.operations import UNLIMITED, Attention
from repurpose_hpc.model.operations.operation import Shape
from repurpose_hpc.model.spec import IllegalNetwork


def looped(op: Attention, queries, keys, values, mask=None):
    """What the operation computes, one query at a time."""
    H, G, (_, batch, S), T = op.heads, op.groups, queries.shape, keys.shape[2]
    d, e = len(queries) // H, len(values) // G
    out = np.zeros((H * e, batch, S))
    for h, n, i in np.ndindex(H, batch, S):
        g, scores = h // (H // G), np.full(T, -np.inf)
        for j in range(T):
            if op.before != UNLIMITED and j < i - op.before or op.after != UNLIMITED and j > i + op.after:
                continue
            if len(op.seen) and not op.seen[h % len(op.seen), i, j]:
                continue
            score = op.scale * queries[h * d : h * d + d, n, i] @ keys[g * d : g * d + d, n, j]
            score = op.softcap * np.tanh(score / op.softcap) if op.softcap else score
            score += op.bias[h % len(op.bias), i, j] if len(op.bias) else 0
            scores[j] = score + (
                0 if mask is None else mask[h, n].reshape(-1, T)[i % (mask[h, n].size // T), j]
            )
        if np.isfinite(scores).any():
            weights = np.exp(scores - scores.max())
            out[h * e : h * e + e, n, i] = values[g * e : g * e + e, n] @ (weights / weights.sum())
    return out


@st.composite
def cases(draw):
    """An attention with all its sources."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    G, shared, d, e = (draw(st.integers(1, 3)) for _ in range(4))
    H, S, T, batch = G * shared, *(draw(st.integers(1, 5)) for _ in range(3))
    reach = st.sampled_from([UNLIMITED, 0, 1, 3])
    options = {"before": draw(reach), "after": draw(reach), "softcap": draw(st.sampled_from([0.0, 1.5]))}
    lead = draw(st.sampled_from([0, 1, H]))
    options["bias"] = rng.standard_normal((lead, S, T))
    options["seen"] = rng.random((draw(st.sampled_from([0, 1, H])), S, T)) < 0.7
    sources = [rng.standard_normal((n, batch, P)) for n, P in ((H * d, S), (G * d, T), (G * e, T))]
    if draw(st.booleans()):
        sources.append(rng.standard_normal((H, batch, draw(st.sampled_from([T, S * T])))))
    names = ("q", "k", "v", "m")[: len(sources)]
    return Attention("a", names, "y", H, G, float(rng.uniform(0.1, 2)), **options), sources


@given(cases())
def test_it_computes_what_loops_do(case):
    op, sources = case
    # A map of one position is a vector.
    given_sources = [x[:, :, 0] if x.shape[2] == 1 else x for x in sources]
    result, expected = op.compute(*given_sources), looped(op, *sources)
    np.testing.assert_allclose(result.reshape(expected.shape), expected, rtol=1e-10, atol=1e-12)


def test_a_head_has_one_owner_and_so_has_what_its_queries_share():
    draw = Draw(0)
    x = draw.builder.input("input", 5, (4,))
    network = draw.builder.build((draw.attention("a", x, heads=6, groups=2, sizes=(2, 3)),), ("identity",))
    owners = {space.name: np.arange(space.neurons) for space in network.free_spaces}
    (space,) = [name for name in owners if name not in network.input_spaces]
    assert owners[space].size == 2  # a neuron of the space is all that goes with a head of keys
    assert network.gather(owners, "a.queries.y").tolist() == [0] * 6 + [1] * 6
    assert network.gather(owners, "a.keys.y").tolist() == [0] * 2 + [1] * 2
    assert network.gather(owners, "a.y").tolist() == [0] * 9 + [1] * 9


def test_what_is_read_from_an_input_is_copied():
    """Neurons of an input may be nobody's own, and an attention is computed by the owner of its head."""
    builder = Builder()
    q, k, v = (builder.input(word, 4, (3,)) for word in "qkv")
    op = Attention("a", (q, k, v), "a.y", 2, 2, 1.0)
    network = builder.build((builder.attention(op),), ("identity",))
    (attention,) = [op for op in network.operations if isinstance(op, Attention)]
    assert not {*attention.sources} & {*network.input_tensors}


FAULTS = {
    "sources": ({}, 2, "2 sources"),
    "a multiple": ({"groups": 3}, 3, "multiple"),
    "heads that do not divide": ({"heads": 3, "groups": 3}, 3, "4, 4, 4"),
    "a bias of another shape": ({"bias": np.zeros((1, 2, 2))}, 3, "bias"),
    "truth as numbers": ({"seen": np.ones((1, 3, 3))}, 3, "truth"),
    "a negative reach": ({"before": -2}, 3, "-2 positions"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named(name):
    changes, count, words = FAULTS[name]
    op = replace(Attention("a", ("q", "k", "v"), "y", 2, 2, 1.0), **changes)
    faults = list(op.faults([Shape(4, (3,))] * count, Shape(4, (3,))))
    assert any(words in fault for fault in faults)


def test_keys_of_other_positions_than_values_are_refused():
    builder = Builder()
    tensors = [
        builder.input(word, 4, positions) for word, positions in (("q", (3,)), ("k", (5,)), ("v", (4,)))
    ]
    target = builder.attention(Attention("a", tuple(tensors), "a.y", 2, 2, 1.0))
    with pytest.raises(IllegalNetwork, match="joins queries"):
        builder.build((target,), ("identity",))
