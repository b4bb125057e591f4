"""The lossless pass: one rule at a time, then networks of all kinds with neurons that are superfluous."""

from dataclasses import replace

import numpy as np
import pytest
from graph_challenge import challenge
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.example_operations import NETWORKS
from helpers.model_directories import llama
from helpers.small_graphs import Draw, square_window
from helpers.superfluous import planted
from repurpose_hpc import bundled
from repurpose_hpc.io.samples import open_samples
from repurpose_hpc.model.activations import RELU, Activation
from repurpose_hpc.model.chain import sequence
from repurpose_hpc.model.forward import forward, forward_middle
from repurpose_hpc.model.importers.load import load_model, load_tokens
from repurpose_hpc.model.lossless import reduced
from repurpose_hpc.model.lossless.rows import multiples, rows_of
from repurpose_hpc.model.lossless.values import ULPS, Numbering
from repurpose_hpc.model.operations import COMBINATIONS, Mixing, Select, Window, pointwise, whole_map
from repurpose_hpc.model.spec import check

TANH, SIGMOID, CLIP = Activation("tanh"), Activation("sigmoid"), Activation("clip", 0.0, 1.0)
seeds = st.integers(0, 2**32 - 1)


def assert_same(network, smaller, samples: int = 20) -> None:
    """Outputs are the same in float64 and in float32, and nothing more can be left out."""
    check(smaller)
    for name in ("inputs", "outputs", "output_tensors", "heads", "neuron_axes"):
        assert getattr(smaller, name) == getattr(network, name)
    x = np.random.default_rng(0).standard_normal((samples, network.inputs))
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-4)):
        expected, found = (forward(each, x, dtype) for each in (network, smaller))
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    assert reduced(smaller) is smaller


def widths(network) -> list[int]:
    return [len(mixing.bias) for mixing in network.mixings]


def perceptron(seed: int, *layers: int, activation: Activation = RELU) -> list:
    """Steps of a perceptron whose first width is that of the input, an activation behind all but the last."""
    rng, steps = np.random.default_rng(seed), []
    for n, m in zip(layers, layers[1:], strict=False):
        steps += [(rng.standard_normal((m, n)), rng.standard_normal(m)), activation]
    return steps[:-1]


@pytest.mark.parametrize("activation", [RELU, TANH, CLIP])
@settings(max_examples=20)
@given(seed=seeds, places=st.lists(st.integers(0, 5), min_size=3, max_size=3))
def test_equal_rows_are_one(activation, seed, places):
    (W, b), act, (V, c) = perceptron(seed, 4, 9, 3, activation=activation)
    W[6:], b[6:] = W[places], b[places]
    network = sequence(4, [(W, b), act, (V, c)])
    smaller = reduced(network)
    assert widths(smaller) == [6, 3]
    for j in set(places):  # their columns are summed
        of_it = [6 + number for number, place in enumerate(places) if place == j]
        np.testing.assert_allclose(smaller.mixings[1].weights[:, j], V[:, j] + V[:, of_it].sum(axis=1))
    assert_same(network, smaller)


@settings(max_examples=20)
@given(seed=seeds, factor=st.floats(1e-3, 1e3))
def test_positive_multiples_are_one_where_the_activation_lets_factors_through(seed, factor):
    (W, b), _, last = perceptron(seed, 4, 7, 3)
    W[6], b[6] = factor * W[2], factor * b[2]
    for activation, count in (
        (RELU, 6),
        (Activation("leaky_relu", 0.1), 6),
        (Activation("abs"), 6),
        (TANH, 7),
    ):
        network = sequence(4, [(W, b), activation, last])
        smaller = reduced(network)
        assert widths(smaller) == [count if factor != 1 else 6, 3], activation
        assert_same(network, smaller)


def test_negative_multiples_and_other_biases_are_not_behind_a_relu():
    (W, b), act, last = perceptron(0, 4, 8, 3)
    W[6], b[6] = -2 * W[2], -2 * b[2]
    W[7] = W[3]
    network = sequence(4, [(W, b), act, last])
    assert reduced(network) is network


def test_they_are_where_bounds_keep_the_relu_on_a_line():
    """A sigmoid is above 0, so that these neurons are, too."""
    (U, a), _, (W, b), _, last = perceptron(0, 4, 5, 8, 3)
    W[6:8], b[6:8] = np.abs(W[6:8]), 1
    W[7] = 2 * W[6]
    network = sequence(4, [(U, a), SIGMOID, (W, b), RELU, last])
    smaller = reduced(network)
    assert widths(smaller) == [5, 7, 3]
    assert_same(network, smaller)
    unknown = sequence(4, [(U, a), TANH, (W, b), RELU, last])
    assert reduced(unknown) is unknown


@pytest.mark.parametrize(
    ("activation", "bias", "value"),
    [(RELU, -1.0, 0.0), (CLIP, -1.0, 0.0), (CLIP, 8.0, 1.0), (TANH, 8.0, None)],
)
def test_neurons_that_bounds_prove_constant_go_into_biases(activation, bias, value):
    (U, a), _, (W, b), _, (V, c) = perceptron(1, 4, 5, 6, 3)
    b[:], W[:, 0], W[:, 1] = 0, 1, -1  # of the others little is known
    W[2], b[2] = -np.abs(W[2]) / 2 / np.abs(W[2]).sum(), bias
    network = sequence(4, [(U, a), SIGMOID, (W, b), activation, (V, c)])
    smaller = reduced(network)
    if value is None:
        assert smaller is network
        return
    assert widths(smaller) == [5, 5, 3]
    np.testing.assert_allclose(smaller.mixings[2].bias, c + value * V[:, 2])
    assert_same(network, smaller)


def test_rows_without_entries_are_constant_through_all_layers():
    (W, b), act, (V, c), _, last = perceptron(2, 4, 6, 6, 3, activation=TANH)
    W[3] = 0
    V[1], V[1, 3] = 0, 2.0
    network = sequence(4, [(W, b), act, (V, c), act, last])
    smaller = reduced(network)
    assert widths(smaller) == [5, 5, 3]
    assert_same(network, smaller)


def test_what_nothing_reads_goes_and_what_only_that_reads():
    (W, b), act, (V, c), _, (U, a) = perceptron(3, 4, 6, 6, 3)
    U[:, [0, 4]] = 0
    V[[1, 2, 3, 5], 2] = 0
    network = sequence(4, [(W, b), act, (V, c), act, (U, a)])
    smaller = reduced(network)
    assert widths(smaller) == [5, 4, 3]
    assert_same(network, smaller)


def test_equal_inputs_of_rows_make_them_equal():
    """Rows of the second layer read different neurons, which are equal."""
    (W, b), act, (V, c), _, last = perceptron(4, 4, 6, 4, 3, activation=TANH)
    W[3:], b[3:] = W[:3], b[:3]
    V[1], c[1] = np.roll(V[0], 3), c[0]
    network = sequence(4, [(W, b), act, (V, c), act, last])
    smaller = reduced(network)
    assert widths(smaller) == [3, 3, 3]
    assert_same(network, smaller)


def test_a_mixing_of_a_mixing_is_one_where_that_has_fewer_weights():
    rng = np.random.default_rng(5)
    wide, narrow = ((rng.standard_normal((m, n)), rng.standard_normal(m)) for m, n in ((40, 6), (5, 40)))
    network = sequence(6, [wide, narrow, RELU, *perceptron(6, 5, 3)])
    smaller = reduced(network)
    assert widths(smaller) == [5, 3] and smaller.weight_count == 5 * 6 + 3 * 5
    assert_same(network, smaller)
    bottleneck = sequence(5, perceptron(7, 5, 2, 5, activation=Activation("identity")))
    assert reduced(bottleneck) is bottleneck


def test_a_relu_that_is_always_on_is_nothing_between_mixings():
    (U, a), _, (W, b), _, last = perceptron(8, 4, 5, 30, 3)
    W, b = np.abs(W), np.abs(b)
    network = sequence(4, [(U, a), SIGMOID, (W, b), RELU, last])
    smaller = reduced(network)
    assert widths(smaller) == [5, 3]
    assert_same(network, smaller)


@pytest.mark.parametrize("scale", [1.0, -2.0])
def test_equal_outputs_are_computed_once_and_keep_their_places(scale):
    (W, b), act, (V, c) = perceptron(9, 4, 6, 5)
    V[4], c[4] = scale * V[0], scale * c[0]
    V[2] = 0
    network = replace(sequence(4, [(W, b), act, (V, c)]), heads=("softmax",))
    smaller = reduced(network)
    assert widths(smaller) == [6, 3]
    assert any(isinstance(op, Select) for op in smaller.operations)
    assert_same(network, smaller)


def convolutions(bias: float, pad: int):
    """Two convolutions, a channel between them constant."""
    draw, size = Draw(10), (5, 4)
    builder = draw.builder
    W, b = draw.weights(4, 2 * 9)
    W[1], b[1] = 0, bias
    inner = builder.mixing("first", builder.input("input", 2, size), W, b, square_window(size))
    last = draw.mixing("last", builder.elementwise("a", inner, RELU), 3, square_window(size, pad=pad))
    return builder.build((last,), ("identity",))


@pytest.mark.parametrize(
    ("bias", "pad", "channels"),
    [(0.5, 0, 3), (0.5, 1, 4), (0.0, 1, 3), (-0.5, 1, 3)],
)
def test_a_constant_channel_is_not_constant_beyond_the_border(bias, pad, channels):
    network = convolutions(bias, pad)
    smaller = reduced(network)
    assert widths(smaller) == [channels, 3]
    assert_same(network, smaller)


def test_bounds_know_what_is_beyond_the_border():
    """Sums of numbers from 1 to 2 are less there, so that these neurons are not always above 0."""
    draw, size = Draw(15), (5, 4)
    builder = draw.builder
    x = builder.elementwise(
        "a", draw.mixing("first", builder.input("input", 2, size), 3, pointwise(size)), SIGMOID
    )
    x = builder.affine("above", x, np.ones((3, 1)), np.ones((3, 1)))
    W = np.ones((2, 27))
    x = builder.elementwise(
        "b", builder.mixing("sums", x, W, np.array([-20.0, -15]), square_window(size)), RELU
    )
    network = builder.build((draw.mixing("last", x, 2, whole_map(size)),), ("identity",))
    assert reduced(network) is network


def test_positions_that_were_chosen_are_not_the_map():
    """Every second position, and the first ones: maps as large, of other values."""
    draw = Draw(16)
    builder = draw.builder
    x = draw.mixing("first", builder.input("input", 2, (4, 4)), 3, square_window((4, 4)))
    windows = [Window((4, 4), (1, 1), (step, step), (1, 1), (0, 0), (2, 2)) for step in (1, 2)]
    parts = [builder.mixing(f"part{n}", x, np.eye(3), np.zeros(3), each) for n, each in enumerate(windows)]
    both = builder.select("both", tuple(parts), np.arange(6))
    network = builder.build((draw.mixing("last", both, 2, whole_map((2, 2))),), ("identity",))
    assert_same(network, reduced(network))


def test_sums_of_float32_stay_float32_where_it_holds_them():
    (W, b), act, (V, c) = (
        (array.astype(np.float32) for array in step) if isinstance(step, tuple) else step
        for step in perceptron(11, 4, 6, 3)
    )
    W[5], b[5] = W[0], b[0]
    for column, dtype in ((V[:, 0], np.float32), (V[:, 0] * np.float32(np.pi), np.float64)):
        V[:, 5] = column
        network = sequence(4, [(W, b), act, (V, c)])
        smaller = reduced(network)
        assert [mixing.weights.dtype for mixing in smaller.mixings] == [np.float32, dtype]
        assert_same(network, smaller)


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_changes_in_a_generic_network(name):
    network = NETWORKS[name]()
    assert reduced(network) is network


@given(name=st.sampled_from(list(NETWORKS)), seed=seeds)
def test_networks_of_all_kinds_keep_their_outputs(name, seed):
    network = planted(NETWORKS[name](), seed)
    assert_same(network, reduced(network), samples=4)


SIZE = (4, 3)
# By name: adds an operation to a builder, behind two tensors of 6 neurons with maps of SIZE.
BEHIND = {
    **{
        kind: lambda d, x, y, kind=kind: d.builder.combine("op", x, y, kind)
        for kind in COMBINATIONS
        if kind not in ("divide", "mask")  # which have poles and jumps
    },
    **{
        f"{kind} of a mean": lambda d, x, y, kind=kind: d.builder.combine(
            "op", x, d.builder.pool("mean", y, "average", whole_map(SIZE)), kind
        )
        for kind in ("add", "multiply")
    },
    **{
        str(activation): lambda d, x, y, activation=activation: d.builder.elementwise("op", x, activation)
        for activation in (RELU, TANH, CLIP, SIGMOID, Activation("abs"), Activation("hard_sigmoid", 0.2, 0.5))
    },
    "max": lambda d, x, y: d.builder.pool("op", x, "max", square_window(SIZE)),
    "average": lambda d, x, y: d.builder.pool("op", x, "average", square_window(SIZE)),
    "average with padding": lambda d, x, y: d.builder.pool(
        "op", x, "average", square_window(SIZE), True, (5, 4)
    ),
    "depthwise": lambda d, x, y: d.depthwise("op", x, square_window(SIZE)),
    "depthwise inside": lambda d, x, y: d.depthwise("op", x, square_window(SIZE, 2, pad=0)),
    "filled": lambda d, x, y: d.builder.rearrange("op", x, np.array([3, -1, 0, 3]), (4,), 2.0),
    "padded": lambda d, x, y: d.builder.rearrange("op", x, np.array([3, -1, 0, 3]), (4,)),
    "moved": lambda d, x, y: d.builder.rearrange("op", x, np.array([3, 2, 0, 3]), (4,)),
    "scaled": lambda d, x, y: d.builder.affine("op", x, *d.rng.standard_normal((2, 6, 1))),
    "scaled unevenly": lambda d, x, y: d.builder.affine("op", x, *d.rng.standard_normal((2, 6, 12))),
    "table": lambda d, x, y: d.builder.position_table("op", x, d.rng.standard_normal((6, 12))),
    "chosen": lambda d, x, y: d.builder.select("op", (x, y), np.array([5, 0, 11, 7, 0])),
    "strided": lambda d, x, y: d.mixing("op", x, 6, square_window(SIZE, 1, 2, 0)),
    "pointwise": lambda d, x, y: d.mixing("op", x, 6, square_window(SIZE, 1, 1, 0)),
    "convolved": lambda d, x, y: d.mixing("op", x, 6, square_window(SIZE)),
}


@pytest.mark.parametrize("name", BEHIND)
@settings(max_examples=12)
@given(seed=seeds, is_bent=st.booleans(), pad=st.integers(0, 1))
def test_what_is_behind_multiples_constants_and_others(name, seed, is_bent, pad):
    draw = Draw(seed)
    builder, image = draw.builder, draw.builder.input("input", 2, SIZE)
    x, y = (draw.mixing(f"mixing {n}", image, 6, square_window(SIZE)) for n in "xy")
    if is_bent:
        x, y = (builder.elementwise(f"bent {each}", each, SIGMOID) for each in (x, y))
    target = BEHIND[name](draw, x, y)
    last = draw.mixing("last", target, 3, square_window(builder.positions(target), 2, pad=pad))
    network = planted(builder.build((last,), ("identity",)), seed)
    of_x, of_y = (
        next((mixing for mixing in network.mixings if mixing.name == f"mixing {n}"), None) for n in "xy"
    )
    if of_y is not None:  # rows of one are multiples of those of the other, all of one row or of any
        rows = draw.rng.integers(0, draw.rng.choice([1, 6]), 6)
        factors = draw.rng.choice([1, -1, 2], 6)
        of_y.weights[:], of_y.bias[:] = factors[:, None] * of_x.weights[rows], factors * of_x.bias[rows]
    assert_same(network, reduced(network), samples=3)


def test_a_trained_network_keeps_its_outputs_on_its_own_samples():
    trained = load_model(bundled.MODEL)
    assert reduced(trained) is trained
    network = planted(trained, 1)
    smaller = reduced(network)
    assert smaller.weight_count < 0.7 * network.weight_count
    x = next(iter(open_samples(bundled.TEST).batches(50, dtype=np.float64)))
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-5)):
        expected, found = (forward(each, x, dtype) for each in (network, smaller))
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_sums_that_are_definitions_stay_as_they_are():
    network = planted(NETWORKS["normalised"](), 1)
    network.mixings[0].weights[2:4] = network.mixings[0].weights[1]
    smaller = reduced(network)
    assert len(smaller.mixings[0].bias) == 6
    for mixing in smaller.mixings:
        original = next(each for each in network.mixings if each.name == mixing.name)
        assert mixing is original or not mixing.fixed
    assert_same(network, smaller)


def test_planted_neurons_are_found_in_networks_of_all_kinds():
    for name in ("residual", "convolutional", "branching", "normalised", "transformer"):
        network = planted(NETWORKS[name](), 0)
        assert reduced(network).weight_count < network.weight_count, name


def test_what_is_added_to_a_stream_is_merged_as_one():
    """Channels of a residual sum are equal if those of all its terms are."""
    draw = Draw(12)
    builder = draw.builder
    x = builder.input("input", 5)
    W, b = draw.weights(6, 5)
    W[5], b[5] = W[1], b[1]
    stream = builder.mixing("first", x, W, b)
    V, c = draw.weights(6, 4)
    inner = builder.elementwise("a", draw.mixing("up", stream, 4), TANH)
    for equal, count in ((False, 6), (True, 5)):
        if equal:
            V[5], c[5] = V[1], c[1]
        down = builder.mixing(f"down{equal}", inner, V.copy(), c.copy())
        total = builder.combine(f"sum{equal}", stream, down, "add")
        network = builder.build((draw.mixing(f"last{equal}", total, 3),), ("identity",))
        smaller = reduced(network)
        assert smaller.space(f"sum{equal}.y").neurons == count
        assert_same(network, smaller)


def test_a_network_as_of_the_graph_challenge():
    """Six layers of a block have 64 classes of neurons, and 32 in the last."""
    network = challenge(512, 12, 6, bias=-0.1)
    smaller = reduced(network)
    assert widths(smaller) == 2 * [64, 64, 64, 64, 64, 32]
    assert {mixing.weights.dtype for mixing in smaller.mixings} == {np.dtype(np.float32)}
    x = 30 * (np.random.default_rng(0).random((20, 512)) < 0.3)
    np.testing.assert_allclose(forward(smaller, x), forward(network, x), rtol=1e-12)
    assert 0 < forward(network, x).mean() < 32


@given(seed=seeds, factor=st.floats(-1e3, 1e3).filter(lambda factor: abs(factor) > 1e-3))
def test_rows_that_are_multiples_are_found_among_others(seed, factor):
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((12, 6)) * (rng.random((12, 6)) < 0.7)
    W[:, 0] = 1  # no row is empty
    W[9], W[10], W[11] = factor * W[4], W[4], -W[4]
    leading, factors = multiples(rows_of(W, np.zeros(12)))
    assert leading[[4, 9, 10, 11]].tolist() == [4] * 4
    assert len(set(leading)) == 9
    np.testing.assert_allclose(factors[[9, 11]] / factors[4], [factor, -1])


@given(x=st.floats(1e-100, 1e100), steps=st.integers(0, ULPS))
def test_numbers_next_to_each_other_are_one(x, steps):
    numbering, near = Numbering(), x
    for _ in range(steps):
        near = float(np.nextafter(near, np.inf))
    assert numbering.real(x) == numbering.real(near)
    assert numbering.real(-x) == numbering.real(-near) != numbering.real(x)
    assert numbering.real(x * (1 + 1e-13)) != numbering.real(x)
    assert numbering.real(0.0) == numbering.real(-0.0) != numbering.real(x)


def test_networks_of_tokens_are_reduced(tmp_path):
    network = planted(load_tokens(llama(tmp_path / "model"), check=False), 3)
    smaller = reduced(network)
    assert smaller.weight_count < network.weight_count and smaller.longest == network.longest
    x = np.random.default_rng(0).standard_normal((3, 4 * network.inputs))
    expected, found = (forward_middle(each.at(4), x) for each in (network, smaller))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_mixings_without_a_rule_for_what_reads_them_keep_their_neurons():
    """Attention reads whole heads, whatever they are."""
    draw = Draw(13)
    x = draw.builder.input("input", 4, (3,))
    W = np.zeros((6, 4))
    first = draw.builder.mixing("first", x, W, np.ones(6), square_window((3,), 1, pad=0))
    network = draw.builder.build((draw.attention("attention", first, heads=2, groups=2),), ("identity",))
    smaller = reduced(network)
    queries = [mixing for mixing in smaller.mixings if isinstance(mixing, Mixing) and mixing.name != "first"]
    assert [len(mixing.bias) for mixing in queries] == [4, 4, 6]
    assert_same(network, smaller)


@settings(max_examples=20)
@given(seed=seeds, terms=st.integers(1, 4))
def test_rows_that_others_combine_to_go_where_no_activation_is_behind(seed, terms):
    (W, b), _, (V, c) = perceptron(seed, 12, 6, 9)
    factors = np.random.default_rng(seed).uniform(0.3, 1, terms)
    W[5] = factors @ W[:terms]
    network = sequence(12, [(W, b), (V, c), RELU, *perceptron(1, 9, 3)])
    smaller = reduced(network)
    assert widths(smaller) == [5, 9, 3]
    assert smaller.weight_count == network.weight_count - 12 - 9
    assert_same(network, smaller)
    bent = sequence(12, [(W, b), TANH, (V, c), TANH, *perceptron(1, 9, 3)])
    assert reduced(bent) is bent


@pytest.mark.parametrize(("readers", "count"), [(6, 5), (7, 6)])
def test_combinations_stay_where_they_would_cost_weights(readers, count):
    """A sum of five sparse rows has 25 weights; who reads it alone has four more without it."""
    rng = np.random.default_rng(14)
    W = np.zeros((6, 25))
    W[np.arange(25) // 5, np.arange(25)] = rng.uniform(1, 2, 25)
    W[5] = W[:5].sum(axis=0)
    V, c = np.zeros((40, 6)), rng.standard_normal(40)
    V[:readers, 5], V[readers:, :5] = 1, rng.standard_normal((40 - readers, 5))
    network = sequence(25, [(W, np.ones(6)), (V, c), TANH, *perceptron(1, 40, 3)])
    smaller = reduced(network)
    assert widths(smaller)[0] == count
    assert smaller.weight_count == network.weight_count - (25 - 4 * readers) * (count == 5)
    assert_same(network, smaller)
