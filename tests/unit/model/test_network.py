"""The representation: activations, chains, fingerprints."""

from dataclasses import replace

import numpy as np
import pytest

from repurpose_hpc.model.activations import RELU, Activation
from repurpose_hpc.model.chain import chain, sequence
from repurpose_hpc.model.forward import forward


def _network():
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape).astype(np.float32) for shape in ((4, 5), (3, 4))]
    biases = [rng.normal(size=size).astype(np.float32) for size in (4, 3)]
    return chain(weights, biases, [RELU, Activation("identity")])


def test_fingerprint_changes_with_one_weight_bias_activation_or_head():
    network = _network()
    first = network.mixings[0]
    W, b = first.weights.copy(), first.bias.copy()
    W[2, 3] = np.nextafter(W[2, 3], np.float32(9))
    b[1] = np.nextafter(b[1], np.float32(9))
    leaky = replace(network.operations[1], activation=Activation("leaky_relu", 0.01))
    variants = [
        network.with_mixings({first.name: replace(first, weights=W)}),
        network.with_mixings({first.name: replace(first, bias=b)}),
        replace(network, operations=(network.operations[0], leaky, network.operations[2])),
        replace(network, heads=("softmax",)),
    ]
    assert _network().fingerprint() == network.fingerprint()
    assert len({item.fingerprint() for item in (network, *variants)}) == 1 + len(variants)


def test_chain_is_a_multilayer_perceptron():
    network = _network()
    W0, W1 = (mixing.weights.astype(np.float64) for mixing in network.mixings)
    b0, b1 = (mixing.bias.astype(np.float64) for mixing in network.mixings)
    x = np.random.default_rng(1).normal(size=(7, 5))
    np.testing.assert_allclose(forward(network, x), np.maximum(x @ W0.T + b0, 0) @ W1.T + b1, rtol=1e-12)
    assert (network.inputs, network.outputs) == (5, 3)


def test_sequence_allows_activations_on_the_input_and_in_a_row():
    W, b = np.array([[1.0, -1.0]]), np.array([0.5])
    network = sequence(2, [RELU, Activation("tanh"), (W, b), RELU, RELU])
    x = np.array([[1.0, -2.0], [-1.0, 3.0]])
    expected = np.maximum(np.tanh(np.maximum(x, 0)) @ W.T + b, 0)
    np.testing.assert_allclose(forward(network, x), expected)
    assert len({op.name for op in network.operations}) == len({op.target for op in network.operations}) == 5


def test_sequence_refuses_shapes_that_do_not_chain():
    with pytest.raises(ValueError, match=r"layer 1.*after 4 neurons"):
        sequence(5, [(np.ones((4, 5)), np.ones(4)), (np.ones((2, 3)), np.ones(2))])


@pytest.mark.parametrize("head", ["softmax", "log_softmax"])
def test_heads_survive_large_outputs(head):
    network = sequence(2, [(np.eye(2) * 1000, np.zeros(2))], head)
    y = forward(network, np.array([[1.0, 2.0]]))
    np.testing.assert_allclose(y, [[0.0, 1.0]] if head == "softmax" else [[-1000.0, 0.0]])
