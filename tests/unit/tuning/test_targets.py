"""What outputs are compared with: which loss for which labels and ends of a network, and its gradients."""

import numpy as np
import pytest

from helpers.small_graphs import Draw, square_window
from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.activations import IDENTITY, RELU, Activation
from repurpose_hpc.model.chain import chain
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.labels import understood
from repurpose_hpc.model.operations import whole_map
from repurpose_hpc.tuning.targets import of_labels, of_original, outputs_of

SIGMOID = Activation("sigmoid")
N = 7
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 4))
NUMBERS = np.array([0, 2, 1, 1, 0, 2, 2])
ONE_HOT = np.eye(3)[NUMBERS]
SOFT = np.full((N, 3), 0.1) + 0.7 * ONE_HOT
MANY = np.array([[0, 1, 1]] * 3 + [[1, 1, 0]] * 4)
REAL = RNG.normal(size=(N, 3))
YES = NUMBERS % 2

ENTROPY, BINARY = "cross-entropy with labels", "binary cross-entropy with labels"
SQUARED = "squared error against "
DIVERGENCE = "divergence from the original"
RELATIVE = "squared error against the original, over its variance"


def network(outputs=3, end=IDENTITY, head="identity", seed=0):
    """A dense layer onto so many outputs."""
    rng = np.random.default_rng([seed, outputs])
    return chain([rng.normal(size=(outputs, 4))], [rng.normal(size=outputs)], [end], head)


def two_outputs():
    """Maps of 3 neurons at 4 positions each, and a vector of 2 values, of 4 inputs."""
    draw = Draw(0)
    maps = draw.mixing("conv", draw.builder.input("input", 1, (2, 2)), 3, square_window((2, 2)))
    classes = draw.mixing("dense", maps, 2, whole_map((2, 2)))
    return draw.builder.build((maps, classes), ("identity", "softmax"))


def samples_for(net, y=None):
    return understood(net, Samples.of(X, y))


def original_of(net, y=None, original=None):
    """Targets that a network with other weights, or ``original``, makes."""
    return of_original(net, samples_for(net, y), original or net, np.dtype(np.float64), 3)


LABELLED = [
    *((network(head=head), y, ENTROPY) for head in ("identity", "softmax") for y in (NUMBERS, ONE_HOT, SOFT)),
    (network(head="log_softmax"), NUMBERS[:, None], ENTROPY),
    (network(), MANY, BINARY),
    (network(1), YES, BINARY),
    (network(), REAL, f"{SQUARED}targets"),
    (network(1), REAL[:, :1], f"{SQUARED}targets"),
    # Outputs that are probabilities already, or else no logits.
    (network(end=SIGMOID), NUMBERS, f"{SQUARED}labels"),
    (network(end=SIGMOID), MANY, f"{SQUARED}multilabel"),
    (network(1, end=SIGMOID), YES, f"{SQUARED}classes"),
    (network(end=RELU), NUMBERS, f"{SQUARED}labels"),
    (two_outputs(), RNG.normal(size=(N, 14)), f"{SQUARED}targets"),
]
DISTILLED = [
    (network(head="softmax"), None, DIVERGENCE),
    (network(head="log_softmax"), None, DIVERGENCE),
    (network(), NUMBERS, DIVERGENCE),
    # Weighted sums that may be anything: only labels tell that they are logits.
    (network(), None, RELATIVE),
    (network(), REAL, RELATIVE),
    (network(1), YES, RELATIVE),
    (network(end=SIGMOID), NUMBERS, RELATIVE),
    (two_outputs(), None, RELATIVE),
]


@pytest.mark.parametrize(("net", "y", "expected"), LABELLED)
def test_the_loss_for_labels(net, y, expected):
    targets = of_labels(net, samples_for(net, y))
    assert targets.name == expected
    check_gradients(net, targets)


@pytest.mark.parametrize(("net", "y", "expected"), DISTILLED)
def test_the_loss_for_an_original(net, y, expected):
    targets = original_of(net, y)
    assert targets.name == expected
    check_gradients(net, targets)


def check_gradients(net, targets):
    """Against differences, for some samples in any order."""
    samples = np.array([4, 0, 3])
    outputs = np.random.default_rng(5).normal(size=(3, net.outputs))
    gradient = targets.loss_of(outputs, samples).gradient
    assert gradient.shape == outputs.shape and gradient.any()
    for place in np.ndindex(outputs.shape):
        step = np.zeros_like(outputs)
        step[place] = 1e-5
        higher, lower = (targets.loss_of(outputs + sign * step, samples).value for sign in (1, -1))
        assert gradient[place] == pytest.approx((higher - lower) / 2e-5, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "targets", [of_labels(network(), samples_for(network(), NUMBERS)), original_of(network())]
)
def test_gradients_have_the_type_of_outputs(targets, dtype):
    loss = targets.loss_of(np.ones((2, 3), dtype), np.array([1, 2]))
    assert loss.gradient.dtype == dtype and isinstance(loss.value, float)


@pytest.mark.parametrize("y", [NUMBERS, NUMBERS[:, None], ONE_HOT, SOFT])
def test_classes(y):
    targets = of_labels(network(), samples_for(network(), y))
    np.testing.assert_array_equal(targets.classes, NUMBERS)
    samples = np.array([1, 2, 6])
    assert targets.right(ONE_HOT[samples], samples) == 3
    assert targets.right(ONE_HOT[[0, 2, 6]], samples) == 2


@pytest.mark.parametrize(("net", "y"), [(network(), REAL), (network(), MANY), (network(1), YES)])
def test_no_classes(net, y):
    targets = of_labels(net, samples_for(net, y))
    assert targets.classes is None and targets.right(np.ones((2, net.outputs)), np.array([0, 1])) == 0


def test_the_classes_of_an_original_are_its_own():
    net = network(head="softmax")
    targets = original_of(net, NUMBERS)
    np.testing.assert_array_equal(targets.classes, forward(net, X).argmax(axis=1))
    outputs = targets.wanted
    assert targets.right(outputs, np.arange(N)) == N
    assert targets.loss_of(outputs, np.arange(N)).value == pytest.approx(0, abs=1e-12)


def test_the_error_is_relative_to_the_variance_of_the_original():
    """1 if the outputs are its mean, whatever its scale."""
    for scale in (1, 1e3):
        net = chain([scale * RNG.normal(size=(2, 4))], [np.ones(2)], [IDENTITY], "identity")
        targets, samples = original_of(net), np.arange(N)
        mean = np.tile(targets.wanted.mean(axis=0), (N, 1))
        assert targets.loss_of(mean, samples).value == pytest.approx(1)
        assert targets.loss_of(targets.wanted, samples).value == 0


def test_an_original_that_is_constant():
    net = chain([np.zeros((2, 4))], [np.ones(2)], [IDENTITY], "identity")
    assert original_of(net).loss_of(np.zeros((1, 2)), np.array([3])).value == pytest.approx(2)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
@pytest.mark.parametrize("net", [network(head="softmax"), two_outputs()])
def test_outputs_are_those_before_the_heads(net, batch_size):
    outputs = outputs_of(net, Samples.of(X), np.dtype(np.float64), batch_size)
    assert outputs.shape == (N, net.outputs)
    bare = net if len(net.heads) > 1 else chain_without_head(net)
    expected = forward(bare, X)
    same = slice(12) if len(net.heads) > 1 else slice(None)
    np.testing.assert_allclose(outputs[:, same], expected[:, same], rtol=0, atol=1e-12)


def chain_without_head(net):
    (mixing,) = net.mixings
    return chain([mixing.weights], [mixing.bias], [IDENTITY], "identity")


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        (None, "found no y"),
        (NUMBERS + 1, "labels from 1 to 3, expected 0 to 2"),
        (NUMBERS - 1, "labels from -1 to 1, expected 0 to 2"),
        (NUMBERS + 0.5, "no integer"),
        (np.zeros((N, 2)), "2 values for each sample"),
        (np.full(N, np.nan), "NaN or infinite"),
        (np.array(["a"] * N), "no real numbers"),
    ],
)
def test_labels_that_do_not_fit(y, expected):
    with pytest.raises(UserError, match=expected) as error:
        of_labels(network(), samples_for(network(), y))
    assert "--distill" in str(error.value)
