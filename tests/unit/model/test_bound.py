"""The layer-wise bound of the output error, and the classes that it certifies."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import small_plans
from helpers.small_graphs import Draw, residual_network, square_window
from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import open_samples
from repurpose_hpc.model.activations import IDENTITY, KINDS, Activation, lipschitz
from repurpose_hpc.model.bound import OutputBound, spectral_norm
from repurpose_hpc.model.chain import chain
from repurpose_hpc.model.forward import forward, trace
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import whole_map
from repurpose_hpc.restructure.calibration.evaluation import evaluate
from repurpose_hpc.runtime.certificate import Certificate

activations = st.builds(Activation, st.sampled_from(KINDS), st.floats(-3, 3), st.floats(-3, 3)).filter(
    lambda activation: np.isfinite(lipschitz(activation)) and not any(activation.faults())
)


def disturbed(network: Network, scale: float, rng: np.random.Generator) -> Network:
    mixings = {}
    for mixing in network.mixings:
        noise = scale * rng.normal(size=mixing.weights.shape)
        mixings[mixing.name] = replace(mixing, weights=mixing.weights + noise)
    return network.with_mixings(mixings)


@st.composite
def pairs(draw) -> tuple[Network, Network, np.random.Generator]:
    """A random network and a copy with some weights changed a little or a lot."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    widths = draw(st.lists(st.integers(1, 6), min_size=2, max_size=5))
    between = [draw(activations) for _ in widths[1:]]
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    scale = draw(st.sampled_from([1e-6, 0.1, 10.0]))
    kept = [draw(st.booleans()) for _ in shapes]
    weights = [rng.standard_normal(shape) for shape in shapes]
    biases = [rng.standard_normal(m) for m, _ in shapes]
    other = [
        [
            a if keep else a + scale * rng.standard_normal(a.shape)
            for a, keep in zip(arrays, kept, strict=True)
        ]
        for arrays in (weights, biases)
    ]
    return chain(weights, biases, between), chain(*other, between), rng


@given(pairs())
def test_every_sample_is_within_its_bound(pair):
    original, restructured, rng = pair
    x = 3 * rng.standard_normal((50, original.inputs))
    tensors = trace(original, x.T)
    found = np.linalg.norm(forward(original, x) - forward(restructured, x), axis=1)
    rounding = 1e-12 * np.linalg.norm(forward(original, x), axis=1).max()
    assert (found <= OutputBound(restructured)(tensors) * (1 + 1e-9) + rounding).all()


OPERATIONS = {
    "max pool": lambda d, x: d.builder.pool("p", x, "max", square_window((6, 5), 3, 1, 1)),
    "average pool": lambda d, x: d.builder.pool("p", x, "average", square_window((6, 5), 3, 1, 1)),
    "global pool": lambda d, x: d.builder.pool("p", x, "average", whole_map((6, 5))),
    "depthwise": lambda d, x: d.depthwise("d", x, square_window((6, 5), 3, 2, 1)),
    "convolution": lambda d, x: d.mixing("c", x, 2, square_window((6, 5), 3, 2, 1)),
    "whole map": lambda d, x: d.mixing("c", x, 2, whole_map((6, 5))),
    "affine": lambda d, x: d.builder.affine("a", x, *d.rng.standard_normal((2, 3, 30))),
    "rearrange": lambda d, x: d.builder.rearrange("r", x, np.array([3, 3, -1, 9, 3]), (5,)),
    "select": lambda d, x: d.builder.select("s", (x, x), np.array([5, 0, 1, 0, 2, 2, 2])),
    "position table": lambda d, x: d.builder.position_table("t", x, d.rng.standard_normal((3, 30))),
    "rotary": lambda d, x: d.builder.rotary("r", x, 1, np.array([0.3])),
    "magnifying rotary": lambda d, x: d.builder.rotary("r", x, 1, np.array([0.3]), True, factor=-2.5),
    "broadcast": lambda d, x: d.builder.combine("b", x, d.mixing("g", x, 3, whole_map((6, 5))), "add"),
    "minimum": lambda d, x: d.builder.combine("b", x, d.mixing("g", x, 3, square_window((6, 5))), "minimum"),
    "residual": lambda d, x: d.builder.combine(
        "b", x, d.mixing("g", x, 3, square_window((6, 5))), "subtract"
    ),
}


def after_a_convolution(operation) -> Network:
    draw = Draw(1)
    first = draw.mixing("first", draw.builder.input("input", 2, (6, 5)), 3, square_window((6, 5)))
    return draw.builder.build((operation(draw, first),), ("identity",))


def check_bound(original: Network, changed: Network, x: np.ndarray) -> None:
    found = np.linalg.norm(forward(original, x) - forward(changed, x), axis=1)
    bounds = OutputBound(changed)(trace(original, x.T))
    assert (found <= bounds * (1 + 1e-9)).all()
    assert found.max() > 0


@pytest.mark.parametrize("name", OPERATIONS)
def test_bound_holds_behind_every_operation_even_for_the_worst_sample(name):
    """The worst difference of the bias, the same everywhere, and samples with a large value in one place."""
    original = after_a_convolution(OPERATIONS[name])
    first, rng = original.mixings[0], np.random.default_rng(2)
    x = np.concatenate([rng.standard_normal((20, 60)), 1e3 * np.eye(60)])
    for moved in ({"bias": first.bias + 0.1}, {"weights": first.weights * 1.01}):
        check_bound(original, original.with_mixings({"first": replace(first, **moved)}), x)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), activations, st.sampled_from([1e-6, 0.1, 10.0]))
def test_bound_holds_for_residual_networks(seed, activation, scale):
    rng = np.random.default_rng(seed)
    original = residual_network(seed, activation=activation)
    changed = disturbed(original, scale, rng)
    x = rng.standard_normal((20, original.inputs))
    found = np.linalg.norm(forward(original, x) - forward(changed, x), axis=1)
    rounding = 1e-12 * np.linalg.norm(forward(original, x), axis=1).max()
    assert (found <= OutputBound(changed)(trace(original, x.T)) * (1 + 1e-9) + rounding).all()


def test_convolution_is_bounded_by_its_matrix():
    for window in (square_window((4, 5), 3, 2, 1), square_window((4, 5), 1, 1, 0), whole_map((4, 5))):
        draw = Draw(4)
        draw.mixing("c", draw.builder.input("input", 2, (4, 5)), 3, window)
        network = draw.builder.build(("c.y",), ("identity",))
        matrix = (forward(network, np.eye(40)) - forward(network, np.zeros((1, 40)))).T
        exact, bound = np.linalg.norm(matrix, 2), spectral_norm(network.mixings[0])
        assert exact <= bound * (1 + 1e-9)
        if window.kernel != (3, 3):
            assert bound == pytest.approx(exact)


def test_products_have_no_bound(tmp_path):
    def gate(draw, x):
        return draw.builder.combine("gated", x, draw.mixing("gate", x, 3, whole_map((6, 5))), "multiply")

    original = after_a_convolution(gate)
    np.save(tmp_path / "x.npy", np.random.default_rng(5).standard_normal((9, 60)))
    samples = open_samples(tmp_path / "x.npy")
    assert evaluate(original, disturbed(original, 0.1, np.random.default_rng(6)), samples)["bound"] is None
    assert evaluate(original, original, samples)["bound"] == 0


def test_bound_of_a_single_mixing_and_of_an_isometry_is_the_error():
    rng = np.random.default_rng(0)
    W, V, b = rng.standard_normal((5, 4)), rng.standard_normal((5, 4)), np.zeros(5)
    x = rng.standard_normal((4, 9))
    isometry = 2 * np.linalg.qr(rng.standard_normal((5, 5)))[0]
    for after in ([], [isometry]):
        biases, kinds = [b] * (1 + len(after)), [IDENTITY] * (1 + len(after))
        tensors = trace(chain([W, *after], biases, kinds), x)
        bounds = OutputBound(chain([V, *after], biases, kinds))(tensors)
        size = 2 if after else 1
        np.testing.assert_allclose(bounds, size * np.linalg.norm((W - V) @ x, axis=0))


@given(pairs())
def test_nothing_changed_nothing_bounded(pair):
    original, _, rng = pair
    assert not OutputBound(original)(trace(original, rng.standard_normal((original.inputs, 5)))).any()


@pytest.mark.parametrize("scale", [1e-3, 0.3])
def test_reported_bound_is_above_the_output_error(tmp_path, scale):
    original = small_plans.random_network()
    changed = disturbed(original, scale, np.random.default_rng(3))
    small_plans.write_samples(tmp_path / "x.npz", 100)
    findings = evaluate(original, changed, open_samples(tmp_path / "x.npz"))
    assert 0 < findings["output_error"] <= findings["bound"] < 100 * findings["output_error"]


def test_certified_samples_keep_their_class():
    original = small_plans.random_network()
    rng = np.random.default_rng(4)
    x = rng.normal(size=(500, original.inputs))
    shares = []
    for scale in (0, 1e-4, 1e-3, 1):
        changed = disturbed(original, scale, rng)
        certificate = Certificate(original, changed)
        outputs = forward(changed, x, np.float32)
        parts = (slice(200), slice(200, 500))
        certified = np.concatenate([certificate.add(x[part], outputs[part]) for part in parts])
        assert certificate.share == certified.mean()
        same = outputs.argmax(axis=1) == forward(original, x).argmax(axis=1)
        assert same[certified].all()
        shares.append(certificate.share)
    assert not same.all()
    assert shares[0] == 1 > shares[1] > shares[2] > 0 == shares[3]


def test_a_class_that_the_run_does_not_give_is_not_certified():
    original = small_plans.random_network()
    x = np.random.default_rng(5).normal(size=(20, original.inputs))
    outputs = forward(original, x)
    outputs[3] = np.roll(outputs[3], 1)
    assert np.flatnonzero(~Certificate(original, original).add(x, outputs)).tolist() == [3]


def test_a_single_output_has_no_class():
    network = small_plans.random_network(widths=(4, 1))
    with pytest.raises(
        UserError,
        match="certify: expected a network with one output, .* found 1 outputs of 1 values",
    ):
        Certificate(network, network)
