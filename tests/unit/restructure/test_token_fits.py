"""What stands for y = W a + b leaves what is forecast, and no other numbers that cross leave less."""

from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.restructure.tokens import fits
from repurpose_hpc.restructure.tokens.fits import Moments, Shape, fit, most_active, unexplained
from repurpose_hpc.restructure.tokens.halves import Half
from repurpose_hpc.restructure.tokens.method import FULL, TokenMethod

TOKENS = 60
# So little that what is fitted is the regression itself.
NEXT_TO_NONE = 1e-13


class Case(NamedTuple):
    """A half, tokens of x and a, and its neurons in the order in which they are shared."""

    half: Half
    x: np.ndarray
    a: np.ndarray
    order: np.ndarray

    def covariance(self):
        return self.moments(np.concatenate([self.x, self.a])).covariance

    def fitted(self, shape, method=FULL):
        shared = np.sort(self.order[: shape.shared])
        rest = np.setdiff1d(np.arange(self.half.neurons), shared)
        y = self.half.out.weights[:, rest] @ self.a[rest]
        moments = self.moments(np.concatenate([self.x, self.a[shared], y]))
        return fit(self.half, moments, shape, shared, method)

    def left(self, y_hat):
        """Mean square over tokens, in the metric."""
        errors = self.half.metric[:, None] * (self.half.out_of(self.a) - y_hat)
        return float((errors**2).sum() / self.x.shape[1])

    def total(self):
        """What is to be explained, at most."""
        y = self.half.out_of(self.a)
        return self.left(y.mean(axis=1, keepdims=True)) + 1e-30

    @staticmethod
    def moments(vectors):
        return Moments(lambda: np.array_split(vectors, 3, axis=1))


def make_case(seed=0, width=4, neurons=6, noise=0.5):
    """Neurons that x tells something of; without noise, all."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((width, TOKENS)) + rng.standard_normal((width, 1))
    a = np.tanh(rng.standard_normal((neurons, width)) @ x) + noise * rng.standard_normal((neurons, TOKENS))
    weights, bias = rng.standard_normal((width, neurons)), rng.standard_normal(width)
    half = Half("x", (), Mixing("out", "a", "y", weights, bias), rng.uniform(0.1, 3, width), True)
    return Case(half, x, a, most_active(half, a.var(axis=1)))


CASES = st.builds(
    make_case,
    seed=st.integers(0, 2**32 - 1),
    width=st.integers(1, 6),
    neurons=st.integers(1, 9),
    noise=st.sampled_from([0.01, 0.5, 2.0]),
)


@st.composite
def shaped(draw):
    """A case, and any shape of it; where all of y crosses, there is nothing else."""
    case = draw(CASES)
    width = draw(st.integers(0, case.half.width))
    if width == case.half.width:
        return case, Shape(width, 0, False)
    return case, Shape(width, draw(st.integers(0, case.half.neurons)), draw(st.booleans()))


@pytest.fixture(autouse=True, scope="module")
def _next_to_no_ridge():
    with mock.patch.object(fits, "RIDGE", NEXT_TO_NONE):
        yield


def known_of(case, shape):
    """What every worker has of a token, and 1: rows."""
    shared = np.sort(case.order[: shape.shared])
    x = case.x if shape.predicts else case.x[:0]
    return np.concatenate([np.ones((1, TOKENS)), x, case.a[shared]])


def residual(y, known):
    """What is left of y by least squares on what is known."""
    return y - (np.linalg.lstsq(known.T, y.T, rcond=None)[0].T @ known)


@given(shaped())
def test_a_fit_leaves_what_was_forecast(case_and_shape):
    case, shape = case_and_shape
    forecast = unexplained(case.half, case.covariance(), shape, case.order)[shape.width]
    found = case.left(case.fitted(shape).apply(case.half, case.x, case.a))
    assert found == pytest.approx(forecast, rel=1e-6, abs=1e-8 * case.total())


@given(shaped())
def test_as_little_as_a_reduced_rank_regression(case_and_shape):
    """The tail of the singular values of what is not known already, by NumPy's lstsq and svd."""
    case, shape = case_and_shape
    rest = case.order[shape.shared :]
    E = residual(case.half.out.weights[:, rest] @ case.a[rest], known_of(case, shape))
    values = np.linalg.svd(case.half.metric[:, None] * E, compute_uv=False)
    left = unexplained(case.half, case.covariance(), shape, case.order)
    expected = [float((values[width:] ** 2).sum() / TOKENS) for width in range(case.half.width + 1)]
    np.testing.assert_allclose(left, expected, rtol=1e-6, atol=1e-8 * case.total())


@given(shaped(), st.integers(0, 2**32 - 1))
def test_no_other_numbers_leave_less(case_and_shape, seed):
    case, shape = case_and_shape
    rest = case.order[shape.shared :]
    z = np.random.default_rng(seed).standard_normal((shape.width, rest.size)) @ case.a[rest]
    y = case.half.out_of(case.a)
    y_hat = y - residual(y, np.concatenate([known_of(case, shape), z]))
    best = case.left(case.fitted(shape).apply(case.half, case.x, case.a))
    # More numbers than y has neurons tell no more; so many as the rest has neurons tell all of them.
    if shape.width < rest.size:
        assert best <= case.left(y_hat) * (1 + 1e-6) + 1e-8 * case.total()


@given(shaped())
def test_weights_are_those_of_least_squares(case_and_shape):
    case, shape = case_and_shape
    found = case.fitted(shape)
    if shape.width == case.half.width:
        return
    rest = found.rest(case.half)
    z = found.C @ case.half.out.weights[:, rest] @ case.a[rest]
    y = case.half.out_of(case.a)
    expected = y - residual(y, np.concatenate([known_of(case, shape), z]))
    scale = np.abs(y).max()
    np.testing.assert_allclose(found.apply(case.half, case.x, case.a), expected, atol=1e-5 * scale)


@given(CASES)
def test_more_never_leaves_more(case):
    covariance, slack = case.covariance(), 1e-8 * case.total()
    left = {
        (shared, predicts): unexplained(case.half, covariance, Shape(0, shared, predicts), case.order)
        for shared in range(case.half.neurons + 1)
        for predicts in (False, True)
    }
    for (shared, predicts), each in left.items():
        assert len(each) == case.half.width + 1 and each[-1] == 0
        assert (np.diff(each) <= 0).all() and (each >= 0).all()
        assert (left[shared, True] <= left[shared, False] + slack).all()
        if shared:
            assert (each <= left[shared - 1, predicts] + slack).all()


@given(CASES)
def test_of_full_width_it_is_y(case):
    D = case.half.width
    found = case.fitted(Shape(D, 0, False))
    y_hat = found.apply(case.half, case.x, case.a)
    np.testing.assert_allclose(y_hat, case.half.out_of(case.a), rtol=1e-12, atol=1e-12)
    shapes = found.C.shape, found.U.shape, found.A.shape, found.V.shape, found.bias.shape
    assert shapes == ((D, D), (D, D), (D, 0), (D, 0), (D,))


@given(shaped())
def test_all_neurons_shared_leave_nothing(case_and_shape):
    case, shape = case_and_shape
    found = case.fitted(Shape(min(shape.width, case.half.width - 1), case.half.neurons, shape.predicts))
    assert case.left(found.apply(case.half, case.x, case.a)) <= 1e-8 * case.total()


@given(shaped())
def test_shapes_and_signs_of_weights(case_and_shape):
    """Eigenvectors may have either sign; what crosses has that of its largest entry, always."""
    case, shape = case_and_shape
    found, D = case.fitted(shape), case.half.width
    assert found.C.shape == (shape.width, D) and found.U.shape == (D, shape.width)
    if shape.width == D:
        return
    assert found.V.shape == (D, shape.shared) and found.A.shape == (D, D * shape.predicts)
    directions = found.C / case.half.metric
    np.testing.assert_allclose(directions @ directions.T, np.eye(shape.width), atol=1e-9)
    assert (directions.max(axis=1) >= np.abs(directions).max(axis=1) - 1e-12).all()
    again = case.fitted(shape)
    np.testing.assert_array_equal(again.C, found.C)
    np.testing.assert_array_equal(again.U, found.U)


@given(shaped())
def test_neurons_of_the_stream_in_the_place_of_directions(case_and_shape):
    """Those of which most is left; the rest is fitted, and leaves no less than directions do."""
    case, shape = case_and_shape
    found = case.fitted(shape, TokenMethod(rotates=False))
    assert ((found.C == 0) | (found.C == 1)).all() and (found.C.sum(axis=1) == 1).all()
    assert (np.diff(found.C.argmax(axis=1)) > 0).all()
    left = case.left(found.apply(case.half, case.x, case.a))
    forecast = unexplained(case.half, case.covariance(), shape, case.order)[shape.width]
    assert left >= forecast * (1 - 1e-6) - 1e-8 * case.total()


@given(shaped())
def test_without_adjustment_the_rest_is_what_it_was(case_and_shape):
    case, (width, shared, _) = case_and_shape[0], vars(case_and_shape[1]).values()
    if width == case.half.width:
        return
    found = case.fitted(Shape(width, shared, False), TokenMethod(adjusts=False, rotates=False))
    y, crossing = case.half.out.weights @ case.a, found.C.sum(axis=0)[:, None] == 1
    of_shared = case.half.out.weights[:, found.shared] @ case.a[found.shared]
    expected = np.where(crossing, y, of_shared) + case.half.out.bias[:, None]
    np.testing.assert_allclose(found.apply(case.half, case.x, case.a), expected, atol=1e-9)


@pytest.mark.parametrize("predicts", [False, True])
@pytest.mark.parametrize("shared", [0, 2])
def test_the_ridge_costs_little(shared, predicts):
    with mock.patch.object(fits, "RIDGE", 1e-5):
        case, shape = make_case(3), Shape(2, shared, predicts)
        forecast = unexplained(case.half, case.covariance(), shape, case.order)[2]
        found = case.left(case.fitted(shape).apply(case.half, case.x, case.a))
    assert found == pytest.approx(forecast, rel=1e-3)


@pytest.mark.parametrize("predicts", [False, True])
def test_what_is_always_the_same_is_a_bias(predicts):
    """Covariances of zeros: a perceptron whose neurons are never active."""
    case = make_case()
    case.a[:], case.x[:] = 0, case.x[:, :1]
    found = case.fitted(Shape(1, 2, predicts))
    assert all(np.isfinite(each).all() for each in (found.C, found.U, found.A, found.V, found.bias))
    assert case.left(found.apply(case.half, case.x, case.a)) < 1e-20
    assert unexplained(case.half, case.covariance(), Shape(1, 2, predicts), case.order).max() < 1e-20


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(2, 40))
def test_moments_are_those_of_numpy(seed, size, tokens):
    vectors = np.random.default_rng(seed).standard_normal((size, tokens)) + 3
    moments = Case.moments(vectors)
    assert moments.tokens == tokens
    np.testing.assert_allclose(moments.mean, vectors.mean(axis=1), rtol=1e-12)
    expected = np.cov(vectors, bias=True).reshape(size, size)
    np.testing.assert_allclose(moments.covariance, expected, atol=1e-12)


def test_moments_of_float32_with_large_means():
    """Trained streams have neurons that are a hundred times as large as they vary."""
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((3, 5000)) + [[300.0], [-300.0], [0.0]]).astype(np.float32)
    expected = np.cov(vectors.astype(np.float64), bias=True)
    np.testing.assert_allclose(Case.moments(vectors).covariance, expected, atol=1e-5)


@given(CASES)
def test_the_most_active_neurons_change_y_most(case):
    scaled = case.half.metric[:, None] * case.half.out.weights * case.a.std(axis=1)
    norms = (scaled**2).sum(axis=0)
    assert (np.diff(norms[case.order]) <= 1e-12 * norms.max()).all()
    assert sorted(case.order) == list(range(case.half.neurons))
