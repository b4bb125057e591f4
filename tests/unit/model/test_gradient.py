"""Gradients against finite differences, operation by operation."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.small_graphs import TANH, Draw, residual_network, square_window
from repurpose_hpc.model.backward import backpropagate
from repurpose_hpc.model.forward import outputs, trace
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import COMBINATIONS, Window, whole_map

STEP = 1e-6
SIZE = (6, 5)


def gradients_by_difference(network: Network, x: np.ndarray, g: np.ndarray) -> dict[str, np.ndarray]:
    """Of gᵀ output by the bias of every mixing, (m,): that by its target, summed over batch and positions."""
    by_bias = {}
    for mixing in network.mixings:
        slopes = []
        for i in range(len(mixing.bias)):
            values = []
            for sign in (1, -1):
                moved = network.with_mixings({mixing.name: _shifted(mixing, i, sign * STEP)})
                values.append(np.vdot(g, outputs(moved, trace(moved, x))))
            slopes.append((values[0] - values[1]) / (2 * STEP))
        by_bias[mixing.name] = np.array(slopes)
    return by_bias


def _shifted(mixing, i, step):
    return replace(mixing, bias=mixing.bias + step * (np.arange(len(mixing.bias)) == i))


def check(network: Network, samples: int = 3) -> None:
    """The gradients by all biases, for one sample at a time."""
    rng = np.random.default_rng(9)
    x = rng.standard_normal((network.inputs, samples))
    tensors = trace(network, x)
    g = rng.standard_normal((network.outputs, samples))
    found = dict(backpropagate(network, tensors, g))
    assert list(found) == [mixing.name for mixing in reversed(network.mixings)]
    for name, gradient in found.items():
        target = next(m.target for m in network.mixings if m.name == name)
        assert gradient.shape == tensors[target].shape
    for sample in range(samples):
        one = slice(sample, sample + 1)
        expected = gradients_by_difference(network, x[:, one], g[:, one])
        for name, gradient in found.items():
            by_bias = gradient[:, sample].reshape(len(gradient), -1).sum(axis=1)
            np.testing.assert_allclose(by_bias, expected[name], rtol=1e-5, atol=1e-7, err_msg=name)


def after_a_mixing(operation) -> Network:
    """A network whose output is ``operation(draw, tensor)``, the tensor that of a convolution.

    The convolution is followed by an affine function that differs from place to place, so that
    gradients at different positions differ.
    """
    draw = Draw(1)
    builder = draw.builder
    tensor = draw.mixing("first", builder.input("input", 2, SIZE), 3, square_window(SIZE))
    tensor = builder.affine("place", tensor, *draw.rng.standard_normal((2, 3, 30)))
    return builder.build((operation(draw, builder.elementwise("bend", tensor, TANH)),), ("identity",))


OPERATIONS = {
    "convolution": lambda d, x: d.mixing("c", x, 4, square_window(SIZE)),
    "strided": lambda d, x: d.mixing("c", x, 4, square_window(SIZE, 3, 2, 1)),
    "dilated": lambda d, x: d.mixing("c", x, 4, square_window(SIZE, 2, 1, 2, 3)),
    "pointwise": lambda d, x: d.mixing("c", x, 4, square_window(SIZE, 1, 1, 0)),
    "pointwise strided": lambda d, x: d.mixing("c", x, 4, square_window(SIZE, 1, 2, 0)),
    "uneven": lambda d, x: d.mixing("c", x, 2, Window(SIZE, (2, 3), (3, 1), (1, 2), (1, 0), (3, 1))),
    "whole map": lambda d, x: d.mixing("c", x, 4, whole_map(SIZE)),
    "max pool": lambda d, x: d.builder.pool("p", x, "max", square_window(SIZE, 3, 2, 1)),
    "average pool": lambda d, x: d.builder.pool("p", x, "average", square_window(SIZE, 3, 2, 1)),
    "padded average": lambda d, x: d.builder.pool("p", x, "average", square_window(SIZE), True, (7, 6)),
    "global pool": lambda d, x: d.builder.pool("p", x, "average", whole_map(SIZE)),
    "depthwise": lambda d, x: d.depthwise("d", x, square_window(SIZE, 3, 2, 1)),
    "rearrange": lambda d, x: d.builder.rearrange("r", x, np.array([3, 3, -1, 29, 0, 3]), (3, 2)),
    "select": lambda d, x: d.builder.select("s", (x, x), np.array([5, 0, 1, 0, 2])),
    "attention": lambda d, x: d.attention("a", x, 2, 2),
    "grouped attention": lambda d, x: d.attention("a", x, 4, 2, before=7, after=3, softcap=2.0),
    "attention of one head": lambda d, x: d.attention("a", x, 3, 1, sizes=(3, 1), after=0),
    "attention with a mask": lambda d, x: d.attention(
        "a", x, 2, 1, masks=(d.mixing("mask", x, 2, square_window(SIZE, 1, 1, 0)),)
    ),
    "position table": lambda d, x: d.builder.elementwise(
        "after", d.builder.position_table("t", x, d.rng.standard_normal((3, 30))), TANH
    ),
    "rotary": lambda d, x: d.builder.rotary("r", x, 1, np.array([0.3]), factor=2.0),
    "rotary of heads": lambda d, x: d.builder.rotary(
        "r", d.mixing("c", x, 10, square_window(SIZE)), 2, np.array([1.0, 0.1])
    ),
    "rotary of neighbours": lambda d, x: d.builder.rotary(
        "r", d.mixing("c", x, 10, square_window(SIZE)), 2, np.array([1.0, 0.1]), interleaved=True
    ),
    "vector affine": lambda d, x: d.builder.affine(
        "v", d.mixing("c", x, 4, whole_map(SIZE)), *d.rng.standard_normal((2, 4, 1))
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradient_of_an_operation(name):
    check(after_a_mixing(OPERATIONS[name]))


@pytest.mark.parametrize("kind", COMBINATIONS)
@pytest.mark.parametrize("gate", [False, True])
def test_gradient_of_a_combination(kind, gate):
    def combine(draw, x):
        window = whole_map(SIZE) if gate else square_window(SIZE)
        other = draw.mixing("other", x, 3, window)
        if kind == "divide":  # by values from 2 to 4
            x = draw.builder.affine("away from 0", x, np.ones((3, 1)), np.full((3, 1), 3.0))
        return draw.builder.combine("both", other, x, kind)

    check(after_a_mixing(combine))


def test_gradient_of_a_graph_with_several_outputs():
    draw = Draw(3)
    builder = draw.builder
    left, right = builder.input("left", 3), builder.input("right", 2, SIZE)
    hidden = builder.elementwise("bend", draw.mixing("dense", left, 4), TANH)
    maps = draw.mixing("conv", right, 4, square_window(SIZE))
    both = builder.combine("both", maps, hidden, "multiply")
    last = draw.mixing("last", builder.pool("mean", both, "average", whole_map(SIZE)), 2)
    check(builder.build((last, both, hidden), ("identity",) * 3))


def test_gradient_of_a_residual_network():
    check(residual_network())


def test_of_equal_values_the_first_is_the_largest():
    draw = Draw(0)
    builder = draw.builder
    tensor = builder.mixing(
        "flat", builder.input("input", 1, (4,)), np.zeros((1, 1)), np.ones(1), square_window((4,), 1, 1, 0)
    )
    network = builder.build((builder.pool("p", tensor, "max", square_window((4,), 2, 2, 0)),), ("identity",))
    tensors = trace(network, np.zeros((4, 1)))
    _, gradient = next(backpropagate(network, tensors, np.array([[1.0], [2.0]])))
    assert gradient.ravel().tolist() == [1, 0, 2, 0]
