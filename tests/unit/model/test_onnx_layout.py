"""Where values lie: neurons that become positions, parts without neurons, names, against onnxruntime."""

import numpy as np
import pytest

from repurpose_hpc import Samples, Session, restructure_network
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import helper  # noqa: E402

from helpers.onnx_models import assert_agrees, node, save  # noqa: E402

RNG = np.random.default_rng(0)


def _weights(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def _i(*numbers):
    return np.array(numbers, np.int64)


CONSTANTS = {
    "W": _weights(5, 4),
    "V": _weights(4, 3),
    "W12": _weights(5, 12),
    "row": _weights(12),
    "K": _weights(4, 3, 1, 1),
    **{
        "w": _weights(5),
        "Wb": _weights(3, 5, 2),
        "M": _weights(3, 4),
        "W6": _weights(6, 2),
        "rows": _i(0, 3, 1, 5),
    },
    **{"K3": _weights(3, 3, 2, 3, 2), "K3group": _weights(6, 1, 2, 2, 2), "K111": _weights(4, 3, 1, 1, 1)},
    "around_one": _i(2, 4),
    **{"zero_twelve": _i(0, 12), "five": _i(5), "one": _i(1), "two": _i(2), "three": _i(3), "none": _i()},
    **{"zero": _i(0), "no_outputs": _weights(12, 0), "no_inputs": _weights(0, 2), "token": _weights(1, 1, 3)},
    **{"one_three": _i(1, 3), "twelve": _i(12), "R": _weights(12, 12), "half": np.float32(0.5)},
    **{"pads": _i(0, 1, 0, 1, 0, 2, 0, 0), "crops": _i(0, -1, 1, -1, 0, 0, -1, 0)},
    **{"around": _i(0, 0, 1, 2, 0, 0, 2, 1), "repeats": _i(1, 2, 1, 2)},
    **{"V5": _weights(4, 5), "H": _weights(3, 4, 2), "W_k": _weights(5, 4), "W_v": _weights(5, 4)},
    **{
        "maps": _i(0, 3, 2, 2),
        "flat": _i(0, -1),
        "swapped": _i(0, 16, 2),
        "rank3": _i(0, 4, 3),
        "steps": _i(0, 3, 4),
    },
}
HIDDEN = node("MatMul", "x W12", "h")
REGROUPED = {
    "linear_of_positions": (("N", 6, 5), [node("MatMul", "x W", "h"), node("Relu", "h", "y")]),
    "linear_of_maps": (("N", 3, 2, 5), [node("MatMul", "x W", "h"), node("Tanh", "h", "y")]),
    "two_linears_of_positions": (
        ("N", 6, 5),
        [node("MatMul", "x W", "h"), node("Relu", "h", "a"), node("MatMul", "a V", "y")],
    ),
    "channels_last_image": (
        ("N", 4, 6, 3),
        [node("Transpose", "x", "t", perm=[0, 3, 1, 2]), node("Conv", "t K", "y")],
    ),
    "channels_last_output": (
        ("N", 3, 4, 6),
        [node("Conv", "x K", "h"), node("Transpose", "h", "y", perm=[0, 2, 3, 1])],
    ),
    "vector_to_maps": (
        ("N", 5),
        [HIDDEN, node("Reshape", "h maps", "m"), node("Conv", "m K", "y")],
    ),
    "other_groups": (
        ("N", 5),
        [HIDDEN, node("Reshape", "h rank3", "r"), node("MaxPool", "r", "y", kernel_shape=[2])],
    ),
    "linear_of_steps": (
        ("N", 5),
        [HIDDEN, node("Reshape", "h steps", "r"), node("MatMul", "r V", "s"), node("Tanh", "s", "y")],
    ),
    "mean_of_steps": (
        ("N", 5),
        [
            *(HIDDEN, node("Reshape", "h steps", "r"), node("MatMul", "r V", "s")),
            *(node("ReduceMean", "s one", "m"), node("Tanh", "m", "y")),
        ],
    ),
    "maps_of_other_groups": (
        ("N", 3, 2, 4),
        [
            node("Conv", "x K", "h"),
            node("Reshape", "h swapped", "r"),
            node("MaxPool", "r", "y", kernel_shape=[2]),
        ],
    ),
}

CONTRACTED = {
    "vector": (("N", 5), [node("MatMul", "x w", "h"), node("Tanh", "h", "y")]),
    "vector_of_hidden": (("N", 5), [HIDDEN, node("MatMul", "h row", "y")]),
    "batched": (("N", 3, 5), [node("Reshape", "x rows", "r"), node("MatMul", "r Wb", "y")]),
    "left": (("N", 4, 6), [node("MatMul", "M x", "h"), node("MatMul", "h W6", "y")]),
    "einsum_linear": (("N", 6, 5), [node("Einsum", "x W", "y", equation="btd,do->bto")]),
    "einsum_vector": (("N", 5), [node("Einsum", "x V5", "y", equation="bd,od")]),
    "einsum_heads": (("N", 3, 4), [node("Einsum", "x H", "y", equation="bhd,hdo->bo")]),
    "einsum_per_head": (("N", 3, 4), [node("Einsum", "H x", "y", equation="hdo,bhd->bho")]),
    "einsum_ellipsis": (("N", 2, 3, 5), [node("Einsum", "x W", "y", equation="...d,do->...o")]),
    "einsum_sums": (("N", 3, 4), [node("Einsum", "x H", "y", equation="bij,hdo->bio")]),
    "attention": (
        ("N", 4, 5),
        [
            *(
                node("MatMul", f"x {weights}", out)
                for weights, out in (("W", "q"), ("W_k", "k"), ("W_v", "v"))
            ),
            node("Transpose", "k", "kt", perm=[0, 2, 1]),
            node("MatMul", "q kt", "scores"),
            node("Softmax", "scores", "p", axis=-1),
            node("MatMul", "p v", "y"),
        ],
    ),
    "softmax_inside": (("N", 5), [HIDDEN, node("Softmax", "h", "s"), node("Tanh", "s", "y")]),
    "softmax_of_maps": (("N", 3, 2, 2), [node("Conv", "x K", "h"), node("Softmax", "h", "y", axis=1)]),
}

CUBE = ("N", 3, 4, 5, 4)
THREE_AXES = {
    "conv": [node("Conv", "x K3", "y", strides=[1, 2, 1], pads=[1, 0, 1, 0, 1, 1])],
    "grouped": [node("Conv", "x K3group", "y", group=3)],
    "transposed": [node("ConvTranspose", "x K3", "y", strides=[1, 2, 1])],
    "max": [node("Conv", "x K111", "h"), node("MaxPool", "h", "y", kernel_shape=[2, 2, 2], pads=[1] * 6)],
    "average": [
        node("Conv", "x K111", "h"),
        node("AveragePool", "h", "y", kernel_shape=[2] * 3, pads=[1] * 6),
    ],
    "average_of_padding": [
        node("Conv", "x K111", "h"),
        node("AveragePool", "h", "y", kernel_shape=[2] * 3, pads=[1] * 6, count_include_pad=1),
    ],
    "whole": [node("Conv", "x K111", "h"), node("GlobalAveragePool", "h", "y")],
    "two_of_three": [node("Conv", "x K111", "h"), node("ReduceMean", "h around_one", "y")],
}
# Parts of a hidden layer h without any neuron.
EMPTY = {
    "split": [node("Split", "h zero_twelve", "q q2", axis=1)],
    "slice": [node("Slice", "h five five one", "q")],
    "gather": [node("Gather", "h none", "q", axis=1)],
    "matmul": [node("MatMul", "h no_outputs", "q")],
    "relu_of_slice": [node("Slice", "h five five one", "s"), node("Relu", "s", "q")],
}
JOINED = {
    "empty_inputs_of_a_layer": (
        ("N", 5),
        [HIDDEN, *EMPTY["slice"], node("MatMul", "q no_inputs", "z"), node("Concat", "z h", "y", axis=1)],
    ),
    "class_token": (
        ("N", 3, 4),
        [
            node("MatMul", "x V", "h"),
            *(node("Shape", "x", "s", end=1), node("Concat", "s one_three", "t", axis=0)),
            *(node("Expand", "token t", "c"), node("Concat", "c h", "y", axis=1)),
        ],
    ),
    "zeros_per_sample": (
        ("N", 5),
        [
            *(node("Shape", "x", "s", end=1), node("Concat", "s twelve", "t", axis=0)),
            *(
                node("ConstantOfShape", "t", "z"),
                node("MatMul", "z R", "v"),
                HIDDEN,
                node("Add", "h v", "sum"),
            ),
            node("Tanh", "sum", "y"),
        ],
    ),
    "circular": (
        ("N", 3, 2, 5),
        [
            *(node("Conv", "x K", "h"), node("Slice", "h zero two three", "a")),
            *(node("Concat", "h a", "p", axis=3), node("MaxPool", "p", "y", kernel_shape=[1, 2])),
        ],
    ),
    "positions_of_two": (
        ("N", 3, 2, 5),
        [node("Conv", "x K", "h"), node("Tanh", "h", "a"), node("Concat", "h a", "y", axis=2)],
    ),
    "further_channels": (("N", 3, 2, 2), [node("Conv", "x K", "h"), node("Pad", "h pads half", "y")]),
    "cropped": (("N", 3, 3, 4), [node("Conv", "x K", "h"), node("Pad", "h crops half", "y")]),
    "wrapped": (("N", 3, 3, 4), [node("Conv", "x K", "h"), node("Pad", "h around", "y", mode="wrap")]),
    "depth_to_space": (
        ("N", 3, 2, 3),
        [node("Conv", "x K", "h"), node("DepthToSpace", "h", "y", blocksize=2)],
    ),
    "space_to_depth": (
        ("N", 3, 4, 2),
        [node("Conv", "x K", "h"), node("SpaceToDepth", "h", "y", blocksize=2)],
    ),
    "tile": (("N", 3, 2, 3), [node("Conv", "x K", "h"), node("Tile", "h repeats", "y")]),
    "lower_triangle": (("N", 3, 4, 4), [node("Conv", "x K", "h"), node("Trilu", "h", "y", upper=0)]),
}


def _model(tmp_path, shape, nodes, **kwargs):
    used = {name for each in nodes for name in each.input}
    constants = {name: value for name, value in CONSTANTS.items() if name in used}
    return save(tmp_path / "model.onnx", nodes, constants, shape, **kwargs)


@pytest.mark.parametrize("name", REGROUPED)
def test_neurons_in_other_groups(tmp_path, name):
    shape, nodes = REGROUPED[name]
    for samples in (1, 3):
        assert_agrees(_model(tmp_path, shape, nodes), samples)


@pytest.mark.parametrize("name", CONTRACTED)
def test_contraction(tmp_path, name):
    assert_agrees(_model(tmp_path, *CONTRACTED[name]), 3)


@pytest.mark.parametrize("name", EMPTY)
def test_parts_without_neurons(tmp_path, name):
    nodes = [HIDDEN, *EMPTY[name], node("Concat", "q h", "c", axis=1), node("Relu", "c", "y")]
    network = assert_agrees(_model(tmp_path, ("N", 5), nodes), 3)
    assert [type(op).__name__ for op in network.operations] == ["Mixing", "Elementwise"]


@pytest.mark.parametrize("name", JOINED)
def test_joined(tmp_path, name):
    assert_agrees(_model(tmp_path, *JOINED[name]), 3)


NAMES = [
    *(".", "..", "/", "a/b/../c", "a\0b", "x" * 70000, "ünï→", " ", ""),
    *("input", "x0", "x0.copy", "a.y", "h.y", "x1.y", "weights", "a.y.neurons"),
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_of_nodes(tmp_path, name):
    """Two nodes of any name, and inputs called like what the importer makes."""
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["h"], name),
        helper.make_node("Relu", ["h"], ["a"], f"{name}.y"),
        helper.make_node("MatMul", ["a", "V"], ["b"], name),
        helper.make_node("Concat", ["h.y", "b", "x"], ["y"], name, axis=1),
    ]
    inputs = {"x": ("N", 5), "h.y": ("N", 2)}
    network = load_model(_model(tmp_path, None, nodes, inputs=inputs))
    x = _weights(20, 7)
    a, b = np.split(x, [5], axis=1)
    right = np.hstack([b, np.maximum(a @ CONSTANTS["W"], 0) @ CONSTANTS["V"], a])
    cut = restructure_network(network, Samples.of(x), workers=2, comm_budget=1)
    cut.save(tmp_path / "shards")
    y = Session(tmp_path / "shards").run(x)
    assert np.abs(y - right).max() <= 1e-5 * np.abs(right).max()


@pytest.mark.parametrize("name", THREE_AXES)
def test_three_axes(tmp_path, name):
    assert_agrees(_model(tmp_path, CUBE, THREE_AXES[name]), 3)


ON_WORKERS = {
    **REGROUPED,
    **CONTRACTED,
    **JOINED,
    "three_axes": (CUBE, [*THREE_AXES["average"][:1], node("MaxPool", "h", "y", kernel_shape=[2] * 3)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_WORKERS)
def test_on_several_workers(tmp_path, name):
    """Exact at every number of workers, whole neurons and fixed mixings of a few among them."""
    network = load_model(_model(tmp_path, *ON_WORKERS[name]))
    x = _weights(40, network.inputs)
    right = forward(network, x)
    for workers in (1, 2, 3, 8):
        cut = restructure_network(network, Samples.of(x), workers=workers, comm_budget=1)
        y = Session(cut).run(x).reshape(right.shape)
        assert np.abs(y - right).max() <= 1e-5 * np.abs(right).max()
