"""Normalisations that become one step, and what only looks like one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.small_transformers import decoder, encoder
from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.builder import Builder
from repurpose_hpc.model.forward import forward_middle
from repurpose_hpc.model.operations import pointwise
from repurpose_hpc.plan.plan import single_worker_plan
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.restructure.exact import split_network
from repurpose_hpc.runtime.lowering.normalisation import Group, local_normalisations
from repurpose_hpc.runtime.program import Program, one_process

WIDTH = 12


def found(network):
    """Those of a process that has the whole network."""
    return local_normalisations([make_shard(network, single_worker_plan(network), 0)], None)


def normalised(builder, x, groups=1, centred=True, **changes):
    """A normalisation of groups of neurons as importers write it, or with something changed."""
    size, window = builder.neurons(x) // groups, pointwise(changes.get("positions", ()))
    members = np.repeat(np.eye(groups, dtype=np.float32), size, axis=1)
    rng = np.random.default_rng(0)

    def total(name, tensor):
        weights = members / size
        if changes.get("uneven") == name:
            weights[0, 0] *= 2
        bias = np.full(groups, changes.get("biased", 0) if name == "variance" else 0, np.float32)
        return builder.mixing(name, tensor, weights, bias, window, True)

    def given_to_all(name, tensor):
        weights = np.ascontiguousarray(members.T) * (2 if changes.get("doubled") == name else 1)
        return builder.mixing(name, tensor, weights, np.zeros(len(weights), np.float32), window, True)

    if centred:
        mean = given_to_all("mean.spread", total("mean", x))
        x = builder.combine("centred", x, mean, "subtract")
    squares = builder.elementwise("squares", x, Activation("square"))
    variance = total("variance", squares)
    if changes.get("early"):
        variance = given_to_all("inverse.spread", variance)
    scale = np.full((builder.neurons(variance), 1), changes.get("scaled", 1), np.float32)
    shift = np.full((builder.neurons(variance), 1), 0.5, np.float32)
    shift[0] += changes.get("unequal", 0)
    raised = builder.affine("raised", variance, scale, shift)
    inverse = builder.elementwise("inverse", raised, Activation("power", changes.get("exponent", -0.5)))
    if not changes.get("early"):
        inverse = given_to_all("inverse.spread", inverse)
    sources = (inverse, x) if changes.get("turned") else (x, inverse)
    product = builder.combine("normalised", *sources, changes.get("kind", "multiply"))
    scale, shift = (rng.standard_normal((builder.neurons(x), 1)).astype(np.float32) for _ in range(2))
    tensors = {"squares": squares, "variance": variance, "normalised": product, "centred": x}
    return builder.affine("norm", product, scale, shift), tensors


def network_of(groups=1, also=None, activation=None, **changes):
    """A layer, a normalisation, and a layer; ``also``: a tensor inside that is an output as well."""
    rng, builder = np.random.default_rng(1), Builder()

    def layer(name, x, outputs):
        W = rng.standard_normal((outputs, builder.neurons(x))).astype(np.float32)
        bias = rng.standard_normal(outputs).astype(np.float32)
        return builder.mixing(name, x, W, bias, pointwise(positions))

    positions = changes.get("positions", ())
    x = layer("first", builder.input("input", 5, positions), WIDTH)
    y, tensors = normalised(builder, x, groups, **changes)
    if activation:
        y = builder.elementwise("activation", y, Activation(activation))
    outputs = (layer("last", y, 7), *([tensors[also]] if also else []))
    return builder.build(outputs, ("identity",) * len(outputs))


def assert_exact(network, batch):
    """A process computes what the reference does, whatever becomes one step."""
    X = np.random.default_rng(batch).standard_normal((network.inputs, batch)).astype(np.float32)
    out = one_process(network, np.dtype(np.float32), batch).forward(X)
    np.testing.assert_allclose(out.T, forward_middle(network, X.T), rtol=0, atol=2e-5)


@given(
    groups=st.sampled_from([1, 2, 3, 4, 12]),
    centred=st.booleans(),
    early=st.booleans(),
    turned=st.booleans(),
    activation=st.sampled_from([None, "relu"]),
    positions=st.sampled_from([(), (3,), (5, 17)]),
    batch=st.integers(1, 70),
)
def test_what_importers_write_is_one_step(groups, centred, early, turned, activation, positions, batch):
    changes = {"centred": centred, "early": early, "turned": turned, "positions": positions}
    network = network_of(groups, None, activation, **changes)
    ((normalisation, of_workers),) = found(network)
    weight = float(np.float32(1) / np.float32(WIDTH // groups))
    assert of_workers == [Group(WIDTH // groups, weight)]
    assert normalisation.is_centred == centred and normalisation.epsilon == 0.5
    assert_exact(network, batch)


@pytest.mark.parametrize(
    "changes",
    [
        {"uneven": "mean"},
        {"uneven": "variance"},
        {"doubled": "mean.spread"},
        {"doubled": "inverse.spread"},
        {"biased": 0.25},
        {"scaled": 2},
        {"unequal": 0.25, "early": True},
        {"unequal": 0.25, "groups": 3},
        {"exponent": -1},
        {"kind": "add"},
        {"also": "squares"},
        {"also": "variance"},
        {"also": "normalised"},
    ],
    ids=str,
)
def test_what_only_looks_like_one_is_none(changes):
    network = network_of(**changes)
    assert not found(network)
    for batch in (1, 9):
        assert_exact(network, batch)


def test_what_else_reads_the_difference_from_the_mean_has_it():
    """Then the mean stays a step of its own, and only the rest is one."""
    network = network_of(also="centred")
    ((normalisation, _),) = found(network)
    assert not normalisation.is_centred
    assert_exact(network, 9)


@pytest.mark.parametrize("make", [decoder, encoder])
def test_those_of_transformers_are_found_but_for_the_first(make):
    """Two in each block and one behind them, where the first reads the input and its copy; two of heads."""
    sizes = [of_workers[0].size for _, of_workers in found(make(3, layers=3))]
    assert sorted(sizes) == [4] * 6 + [12] * 6


@pytest.mark.parametrize(("round_cost", "local"), [(0, 4), (1e9, 8)])
def test_workers_that_share_a_stream_need_each_other(round_cost, local):
    """Where rounds are dear each has all of the stream; heads have one owner in any case."""
    cut = split_network(encoder(5), 3, round_cost=round_cost)
    shards = [make_shard(cut.network, cut.plan, worker) for worker in range(3)]
    assert len(local_normalisations(shards, None)) == local


def test_a_deterministic_program_adds_up_in_one_order():
    """With products as other mixings, of which a report says the same but for the format."""
    shard = make_shard(network_of(3), single_worker_plan(network_of(3)), 0)
    reports = [Program([shard], deterministic=is_so).blocks for is_so in (True, False)]
    formats = [[block.pop("format") for block in blocks] for blocks in reports]
    assert formats == [["dense"] * 6, ["dense", *["normalisation"] * 4, "dense"]]
    assert reports[0] == reports[1]
