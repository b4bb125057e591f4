"""Losses against SciPy, and their gradients against differences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, log_softmax, rel_entr, softmax

from repurpose_hpc.errors import UserError
from repurpose_hpc.tuning.losses import binary_cross_entropy, cross_entropy, distillation, squared_error


def plain_cross_entropy(outputs, wanted):
    return -log_softmax(outputs, axis=1)[np.arange(len(outputs)), wanted].mean()


def plain_distillation(outputs, wanted):
    return rel_entr(softmax(wanted, axis=1), softmax(outputs, axis=1)).sum(axis=1).mean()


def plain_binary_cross_entropy(outputs, wanted):
    return -np.log(np.where(wanted == 1, expit(outputs), expit(-outputs))).sum(axis=1).mean()


def plain_squared_error(outputs, wanted):
    return (np.linalg.norm(outputs - wanted, axis=1) ** 2).mean()


PLAIN = {
    cross_entropy: plain_cross_entropy,
    distillation: plain_distillation,
    binary_cross_entropy: plain_binary_cross_entropy,
    squared_error: plain_squared_error,
}
LOSSES = pytest.mark.parametrize("loss", PLAIN, ids=lambda loss: loss.__name__)


def wanted_of(loss, rng, batch, outputs):
    if loss is cross_entropy:
        return rng.integers(0, outputs, batch)
    if loss is binary_cross_entropy:
        return rng.integers(0, 2, (batch, outputs))
    return rng.standard_normal((batch, outputs))


def differences(function, x, step=1e-5):
    """The gradient of ``function`` at ``x`` by central differences."""
    slope = np.empty_like(x)
    for place in np.ndindex(x.shape):
        values = []
        for sign in (1, -1):
            moved = x.copy()
            moved[place] += sign * step
            values.append(function(moved))
        slope[place] = (values[0] - values[1]) / (2 * step)
    return slope


@LOSSES
@given(seed=st.integers(0, 2**32 - 1), batch=st.integers(1, 5), outputs=st.integers(1, 6))
def test_value_and_gradient(loss, seed, batch, outputs):
    rng = np.random.default_rng(seed)
    x, wanted = 3 * rng.standard_normal((batch, outputs)), wanted_of(loss, rng, batch, outputs)
    value, gradient = loss(x, wanted)
    assert isinstance(value, float)
    np.testing.assert_allclose(value, PLAIN[loss](x, wanted), rtol=1e-10, atol=1e-12)
    slope = differences(lambda moved: loss(moved, wanted).value, x)
    np.testing.assert_allclose(gradient, slope, rtol=1e-6, atol=1e-8)


@LOSSES
def test_single_precision_is_that_of_the_outputs_only(loss):
    """The mean is as exact as in float64, and the gradient rounded once."""
    rng = np.random.default_rng(1)
    x, wanted = rng.standard_normal((300, 7)).astype(np.float32), wanted_of(loss, rng, 300, 7)
    before = x.copy()
    single, double = loss(x, wanted), loss(x.astype(np.float64), wanted)
    assert single.gradient.dtype == np.float32 and double.gradient.dtype == np.float64
    assert single.value == double.value
    np.testing.assert_array_equal(single.gradient, double.gradient.astype(np.float32))
    np.testing.assert_array_equal(x, before)


@LOSSES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_logits(loss, dtype):
    x = np.array([[1e4, -1e4, 0], [-3e4, 3e4, 3e4]], dtype)
    wanted = {
        cross_entropy: np.array([1, 1]),
        distillation: np.zeros((2, 3)),
        binary_cross_entropy: np.array([[0, 1, 0], [1, 1, 1]]),
        squared_error: x + 1,
    }[loss]
    value, gradient = loss(x, wanted)
    expected = {
        cross_entropy: (2e4 + np.log(2)) / 2,
        distillation: (1e4 + 2e4 + np.log(2)) / 2 - np.log(3),
        binary_cross_entropy: (2e4 + np.log(2) + 3e4) / 2,
        squared_error: 3,
    }[loss]
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    assert np.isfinite(gradient).all()


def test_small_losses_are_not_lost():
    np.testing.assert_allclose(binary_cross_entropy(np.array([[50.0]]), np.array([[1]])).value, np.exp(-50))
    x = np.array([[3.0, -1, 200]])
    value, gradient = distillation(x, x)
    assert value == 0 and not gradient.any()


def test_outputs_that_are_masked_out():
    """-infinity is a share of 0."""
    x, wanted = np.array([[1.0, -np.inf, 2.0]]), np.array([[0.5, -np.inf, 1.0]])
    plain = plain_distillation(x[:, ::2], wanted[:, ::2])
    np.testing.assert_allclose(distillation(x, wanted).value, plain, rtol=1e-12)
    assert cross_entropy(x, np.array([1])).value == np.inf


@LOSSES
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_outputs_have_no_finite_loss(loss, bad):
    rng = np.random.default_rng(2)
    x, wanted = rng.standard_normal((3, 4)), wanted_of(loss, rng, 3, 4)
    x[1, 2] = bad
    value = loss(x, wanted).value
    assert np.isnan(value) if np.isnan(bad) else not np.isfinite(value)


@LOSSES
def test_another_shape_is_refused(loss):
    """One that NumPy would repeat among them."""
    for shape in [(3, 1), (1, 4), (2, 4), (4,), (3, 4, 1)]:
        with pytest.raises(UserError, match=r"loss: expected what is wanted in shape \(3.*check the labels"):
            loss(np.zeros((3, 4)), np.zeros(shape, int))


@pytest.mark.parametrize("wanted", [[0, -1, 2], [0, 4, 2]])
def test_a_class_without_an_output_is_refused(wanted):
    with pytest.raises(UserError, match=rf"classes from 0 to 3 as the network has 4 .* found {wanted[1]};"):
        cross_entropy(np.zeros((3, 4)), np.array(wanted))


def test_classes_are_integers():
    with pytest.raises(UserError, match="classes that are integers, found type float64"):
        cross_entropy(np.zeros((3, 4)), np.zeros(3))
