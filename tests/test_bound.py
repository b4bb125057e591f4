"""The layer-wise bound of the output error, and the classes that it certifies."""

from dataclasses import replace

import numpy as np
import pytest
import small_plans
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc.data import open_samples
from repurpose_hpc.errors import UserError
from repurpose_hpc.model.activations import IDENTITY, KINDS, Activation, derivative, lipschitz
from repurpose_hpc.model.bound import OutputBound
from repurpose_hpc.model.network import Network, chain
from repurpose_hpc.model.reference import forward, trace
from repurpose_hpc.restructure.evaluation import evaluate
from repurpose_hpc.runtime.certificate import Certificate

activations = st.builds(Activation, st.sampled_from(KINDS), st.floats(-3, 3))


def disturbed(network: Network, scale: float, rng: np.random.Generator) -> Network:
    mixings = {}
    for mixing in network.mixings:
        noise = scale * rng.normal(size=mixing.weights.shape)
        mixings[mixing.name] = replace(mixing, weights=mixing.weights + noise)
    return network.with_mixings(mixings)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alpha", [-2.0, -0.5, 0.01, 3.0])
def test_lipschitz_constant_is_the_largest_slope(kind, alpha):
    activation = Activation(kind, alpha)
    slopes = np.abs(derivative(activation, np.linspace(-12, 12, 240_001)))
    assert slopes.max() <= lipschitz(activation) <= slopes.max() + 1e-5


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
    with pytest.raises(UserError, match="--certify: expected a network of 2 outputs or more, found 1"):
        Certificate(network, network)
