"""Gradients of mixings by weights, bias and source, for windows of all kinds."""

import importlib
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.mixing_cases import cases
from helpers.small_graphs import square_window
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.model.operations.patches import pad

module = importlib.import_module("repurpose_hpc.model.operations.mixing")


def by_difference(function, array):
    """The derivatives of a linear function of an array, entry by entry."""
    slopes = np.zeros_like(array)
    for at in np.ndindex(array.shape):
        unit = np.zeros_like(array)
        unit[at] = 1
        slopes[at] = (function(array + unit) - function(array - unit)) / 2
    return slopes


@given(cases(), st.sampled_from([1, 300, 1 << 23]))
def test_gradients_are_those_of_differences(case, tile_bytes):
    op, g, x = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TILE_BYTES", tile_bytes)
        by_weights, by_bias = op.gradient(g, x)
        (by_source,) = op.vjp(g, op.compute(x), x)
    expected = (
        by_difference(lambda weights: np.vdot(g, replace(op, weights=weights).compute(x)), op.weights),
        by_difference(lambda bias: np.vdot(g, replace(op, bias=bias).compute(x)), op.bias),
        by_difference(lambda source: np.vdot(g, op.compute(source)), x),
    )
    for found, slopes in zip((by_weights, by_bias, by_source), expected, strict=True):
        assert found.shape == slopes.shape and found.dtype == g.dtype
        np.testing.assert_allclose(found, slopes, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-8), (np.float32, 1e-4)])
def test_gradients_are_those_of_torch(dtype, tolerance):
    torch = pytest.importorskip("torch")

    def of_torch(op, g, x):
        """By weights, bias and source: of a convolution of padded maps, whose last rows it may leave out."""
        weights, bias = (torch.tensor(array, requires_grad=True) for array in (op.weights, op.bias))
        source, window = torch.tensor(x, requires_grad=True), op.window
        if window is None:
            y = weights @ source + bias[:, None]
        else:
            axes = len(window.positions)
            maps = source.reshape(*x.shape[:2], *window.positions).swapaxes(0, 1)
            padded = pad(window, x, 0).shape[2:]
            sizes = zip(window.positions, window.pads, padded, strict=True)
            around = [(front, total - front - size) for size, front, total in sizes]
            maps = torch.nn.functional.pad(maps, [size for ends in reversed(around) for size in ends])
            convolution = getattr(torch.nn.functional, f"conv{axes}d")
            kernel = weights.reshape(len(weights), len(x), *window.kernel)
            y = convolution(maps, kernel, bias, window.strides, 0, window.dilations).swapaxes(0, 1)
            y = y[(..., *(slice(size) for size in window.out))]
        y.backward(torch.tensor(g).reshape(y.shape))
        return weights.grad.numpy(), bias.grad.numpy(), source.grad.numpy()

    @given(cases(dtype).filter(lambda case: case[0].weights.size))
    def check(case):
        op, g, x = case
        found = (*op.gradient(g, x), *op.vjp(g, op.compute(x), x))
        for ours, theirs in zip(found, of_torch(op, g, x), strict=True):
            assert ours.dtype == dtype
            np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)

    check()


def test_a_gradient_has_the_dtype_of_g_and_needs_no_weights():
    window, rng = square_window((5, 4)), np.random.default_rng(0)
    op = Mixing("op", "x", "y", np.zeros((0, 0)), np.zeros(0), window)
    g, x = rng.standard_normal((3, 6, 20)), rng.standard_normal((2, 6, 20)).astype(np.float32)
    by_weights, by_bias = op.gradient(g, x)
    assert (by_weights.shape, by_bias.shape) == ((3, 18), (3,))
    assert by_weights.dtype == by_bias.dtype == np.float64


def test_a_gradient_takes_patches_of_a_few_samples_at_a_time(monkeypatch):
    monkeypatch.setattr(module, "TILE_BYTES", 1 << 16)
    window, rng = square_window((10, 10)), np.random.default_rng(0)
    g, x = rng.standard_normal((2, 200, 100)), rng.standard_normal((8, 200, 100))
    op = Mixing("op", "x", "y", rng.standard_normal((2, 72)), np.zeros(2), window)
    tracemalloc.start()
    op.gradient(g, x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < x.nbytes < x.nbytes * window.taps
