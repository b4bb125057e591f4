"""Every ONNX operator against onnxruntime, in small graphs with a dynamic batch."""

import re

import numpy as np
import pytest

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.importers.onnx.operators import OPERATORS
from repurpose_hpc.model.operations import Elementwise

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from helpers import ROOT  # noqa: E402
from helpers.onnx_models import assert_agrees, node, save  # noqa: E402

RNG = np.random.default_rng(0)
CHANNELS, HEIGHT, WIDTH = 4, 7, 6
MAP = ("N", CHANNELS, HEIGHT, WIDTH)


def _weights(*shape):
    return RNG.normal(size=shape).astype(np.float32)


CONSTANTS = {
    "K": _weights(6, 4, 3, 3),
    "K1": _weights(4, 4, 1, 1),
    "K2": _weights(6, 4, 2, 3),
    "Kgroup": _weights(6, 2, 3, 3),
    "Kdepth": _weights(4, 1, 3, 3),
    "Kdouble": _weights(8, 1, 3, 3),
    "Kt": _weights(4, 5, 3, 2),
    "Ktgroup": _weights(4, 3, 2, 2),
    "B6": _weights(6),
    "B5": _weights(5),
    "c": _weights(4, 1, 1),
    "cmap": _weights(1, 4, 7, 6),
    "row": _weights(6),
    **{"gain": _weights(4), "shift": _weights(4), "mean": _weights(4), "variance": np.abs(_weights(4))},
    **{"group_gain": _weights(2), "group_shift": _weights(2)},
    "W": _weights(4, 3),
    "Wflat": _weights(4 * 42, 3),
    "Whalf": _weights(2 * 42, 3),
    "Wrow": _weights(6, 3),
    "Wseq": _weights(4, 5),
    "Wn": _weights(4 * 7, 3),
    **{"zero": np.float32(0), "one": np.float32(1), "two": np.float32(2), "three": np.float32(3)},
    **{"six": np.float32(6), "half": np.float32(0.5), "minus": np.float32(-0.5)},
    "flat": np.array([0, -1]),
    "sequence": np.array([0, 4, -1]),
    "shuffled": np.array([0, 2, 2, 7, 6]),
    "unshuffled": np.array([0, 4, 7, 6]),
    "grouped": np.array([0, 2, -1]),
    "space": np.array([2, 3]),
    "columns": np.array([3]),
    "axis1": np.array([1]),
    "axis2": np.array([2]),
    "all_axes": np.array([1, 2, 3]),
    "Kwhole": _weights(3, 4, 7, 6),
    "order": np.array([2, 0, 3, 3]),
    "place": np.array(1),
    "parts": np.array([1, 3]),
    **{"from": np.array([1, 5]), "to": np.array([-1, -100]), "by": np.array([2, -2])},
    **{"from1": np.array([1]), "to1": np.array([3])},
    "around": np.array([0, 0, 1, 2, 0, 0, 2, 1]),
    "scales": np.array([1, 1, 2, 1.5], np.float32),
    "inexact": np.array([1, 1, 4 / 3, 1.2], np.float32),
    "thirteenths": np.array([1, 1, 1.3, 1], np.float32),
    "sizes": np.array([1, 4, 5, 13]),
    "smaller": np.array([1, 1, 0.6, 0.5], np.float32),
    "roi": np.array([], np.float32),
    "wide": np.array([1, 4, 7, 6]),
}

CONV = [
    ("Conv", "x K B6 y", {}),
    ("Conv", "x K y", {"strides": [2, 1], "pads": [1, 1, 1, 1]}),
    ("Conv", "x K y", {"dilations": [2, 2], "pads": [0, 1, 2, 1]}),
    ("Conv", "x Kwhole y", {}),
    ("Conv", "x Kwhole y", {"dilations": [2, 1], "pads": [0, 0, 6, 0]}),
    *(
        ("Conv", "x K2 y", {"auto_pad": mode, "strides": [2, 2]})
        for mode in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ),
    ("Conv", "x Kgroup y", {"group": 2}),
    ("Conv", "x Kdepth gain y", {"group": 4, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("Conv", "x Kdouble y", {"group": 4}),
    ("ConvTranspose", "x Kt B5 y", {"strides": [2, 3]}),
    ("ConvTranspose", "x Kt y", {"pads": [1, 0, 0, 1], "output_padding": [1, 0], "strides": [2, 1]}),
    ("ConvTranspose", "x Kt y", {"dilations": [2, 1]}),
    ("ConvTranspose", "x Ktgroup y", {"group": 2, "strides": [2, 2]}),
    ("ConvTranspose", "x Kt y", {"output_shape": [14, 12], "strides": [2, 2]}),
    *(
        ("ConvTranspose", "x Kt y", {"auto_pad": mode, "strides": [2, 2]})
        for mode in ("SAME_UPPER", "SAME_LOWER")
    ),
    ("ConvTranspose", "x Kt y", {"auto_pad": "SAME_UPPER", "strides": [4, 3]}),
]
POOLS = [
    ("MaxPool", "x y", {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [1, 0, 0, 2]}),
    ("MaxPool", "x y", {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", "x y", {"kernel_shape": [3, 2], "dilations": [2, 2]}),
    ("MaxPool", "x y", {"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1, "pads": [1, 1, 1, 1]}),
    ("AveragePool", "x y", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("AveragePool", "x y", {"kernel_shape": [3, 3], "pads": [1, 0, 1, 2], "count_include_pad": 1}),
    ("AveragePool", "x y", {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}),
    (
        "AveragePool",
        "x y",
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "ceil_mode": 1, "count_include_pad": 1},
    ),
    ("AveragePool", "x y", {"kernel_shape": [2, 2], "dilations": [2, 3]}),
    ("AveragePool", "x y", {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("GlobalAveragePool", "x y", {}),
    ("GlobalMaxPool", "x y", {}),
    *((operator, "x space y", {"keepdims": 0}) for operator in ("ReduceMean", "ReduceMax", "ReduceSum")),
    ("ReduceMean", "x columns y", {}),
    ("ReduceMean", "x axis1 y", {}),
    ("ReduceSum", "x all_axes y", {"keepdims": 0}),
]
ELEMENTWISE = [
    *((operator, "x y", {}) for operator in ("Relu", "Sigmoid", "Tanh", "Softplus", "Exp", "Abs", "Neg")),
    *((operator, "x y", {}) for operator in ("LeakyRelu", "Elu", "HardSigmoid", "HardSwish", "Gelu")),
    ("LeakyRelu", "x y", {"alpha": 0.3}),
    ("Elu", "x y", {"alpha": 0.5}),
    ("HardSigmoid", "x y", {"alpha": 0.3, "beta": 0.4}),
    ("Gelu", "x y", {"approximate": "tanh"}),
    ("Clip", "x zero six y", {}),
    ("Clip", "x minus y", {}),
    ("Clip", "x - half y", {}),
    ("PRelu", "x half y", {}),
    ("PRelu", "x c y", {}),
    ("Pow", "x two y", {}),
    ("Pow", "x three y", {}),
    *((operator, f"{pair} y", {}) for operator in ("Add", "Sub", "Mul") for pair in ("x c", "c x", "x half")),
    *((operator, f"{pair} y", {}) for operator in ("Div", "Add") for pair in ("x cmap", "x row", "x two")),
    ("Sub", "two x y", {}),
    ("Max", "x zero y", {}),
    ("Min", "x half y", {}),
    ("BatchNormalization", "x gain shift mean variance y", {"epsilon": 1e-3}),
    ("LRN", "x y", {"size": 3, "alpha": 0.5, "beta": 0.7, "bias": 1.5}),
    ("LRN", "x y", {"size": 5, "alpha": 0.5}),
    ("InstanceNormalization", "x gain shift y", {}),
    ("GroupNormalization", "x gain shift y", {"num_groups": 2}),
]
LAYOUT = [
    ("Pad", "x around half y", {}),
    ("Pad", "x around - y", {"mode": "edge"}),
    ("Pad", "x around - y", {"mode": "reflect"}),
    ("Slice", "x from to space by y", {}),
    ("Slice", "x from1 to1 axis1 y", {}),
    ("Gather", "x order y", {"axis": 1}),
    ("Gather", "x place y", {"axis": 2}),
    ("Resize", "x - scales y", {}),
    *(
        ("Resize", "x - scales y", {"coordinate_transformation_mode": mode, "nearest_mode": rounding})
        for mode, rounding in (
            *(("asymmetric", "floor"), ("align_corners", "round_prefer_ceil")),
            ("pytorch_half_pixel", "ceil"),
        )
    ),
    *(
        ("Resize", f"x - {name} y", {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"})
        for name in ("inexact", "thirteenths")
    ),
    *(
        ("Resize", "x - scales y", {"mode": mode, "coordinate_transformation_mode": coordinates})
        for mode in ("linear", "cubic")
        for coordinates in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    ),
    ("Resize", "x - - space y", {"mode": "linear", "axes": [2, 3]}),
    ("Resize", "x - smaller y", {"mode": "linear", "antialias": 1}),
    ("Resize", "x - scales y", {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1}),
    *(
        ("Resize", "x - - space y", {"keep_aspect_ratio_policy": policy, "axes": [2, 3]})
        for policy in ("not_larger", "not_smaller")
    ),
    ("Concat", "x x y", {"axis": 1}),
    ("Identity", "x y", {}),
]


def _case(operator, names, attributes):
    *inputs, output = names.split()
    return [node(operator, " ".join(inputs), output, **attributes)]


def _cases():
    single = (*CONV, *POOLS, *ELEMENTWISE, *LAYOUT)
    for number, (operator, names, attributes) in enumerate(single):
        yield pytest.param(_case(operator, names, attributes), id=f"{operator}-{number}")


def _model(tmp_path, nodes, shape=MAP, **kwargs):
    used = {name for each in nodes for name in each.input}
    constants = {name: value for name, value in CONSTANTS.items() if name in used}
    return save(tmp_path / "model.onnx", nodes, constants, shape, **kwargs)


@pytest.mark.parametrize("nodes", list(_cases()))
def test_operator(tmp_path, nodes):
    """Behind a convolution, so that the network has weights, whose result has both signs."""
    nodes = [node("Conv", "input K1", "x"), *nodes]
    path = _model(tmp_path, nodes, inputs=("input",), opset=22)
    for samples in (1, 3):
        assert_agrees(path, samples)


@pytest.mark.parametrize("operator", ["Sqrt", "Reciprocal", "Div"])
def test_operator_on_positive_values(tmp_path, operator):
    inputs = "two x" if operator == "Div" else "x"
    nodes = [node(operator, inputs, "s"), node("Conv", "s K1", "y")]
    assert_agrees(_model(tmp_path, nodes), 3, positive=True)


def _flattened(*nodes):
    return [node("Conv", "x K1", "h"), *nodes]


GRAPHS = {
    "flatten_gemm": _flattened(
        node("Relu", "h", "r"), node("Flatten", "r", "f"), node("Gemm", "f Wflat", "y")
    ),
    "channels_last_gemm": _flattened(
        *(node("Transpose", "h", "t", perm=[0, 2, 3, 1]), node("Reshape", "t flat", "f")),
        node("Gemm", "f Wflat", "y"),
    ),
    "half_of_the_channels": _flattened(
        *(node("Split", "h", "a b", axis=1, num_outputs=2), node("Flatten", "b", "f")),
        *(node("MatMul", "f Whalf", "m"), node("Flatten", "a", "g"), node("MatMul", "g Whalf", "n")),
        node("Add", "m n", "y"),
    ),
    "columns": _flattened(
        node("Transpose", "h", "t", perm=[0, 2, 1, 3]),
        node("Reshape", "t flat", "f"),
        node("Gemm", "f Wflat", "y"),
    ),
    "shuffle": _flattened(
        *(node("Reshape", "h shuffled", "r"), node("Transpose", "r", "t", perm=[0, 2, 1, 3, 4])),
        *(node("Reshape", "t unshuffled", "u"), node("Conv", "u K", "y")),
    ),
    "uneven_split": _flattened(
        *(node("Split", "h parts", "a b", axis=1), node("Sigmoid", "a", "s"), node("Mul", "b s", "m")),
        node("Concat", "m a", "y", axis=1),
    ),
    "gate": _flattened(
        *(node("GlobalAveragePool", "h", "p"), node("Conv", "p K1", "q"), node("HardSigmoid", "q", "g")),
        node("Mul", "h g", "y"),
    ),
    "gate_left": _flattened(
        *(node("ReduceMean", "h space", "p"), node("Conv", "p K1", "q"), node("Sigmoid", "q", "g")),
        node("Mul", "g h", "y"),
    ),
    "spatial_gate": _flattened(
        *(node("ReduceMean", "h axis1", "m"), node("Sigmoid", "m", "g"), node("Mul", "h g", "y")),
    ),
    "rows_and_columns": _flattened(
        *(node("ReduceMean", "h columns", "a"), node("ReduceMax", "h axis2", "b"), node("Add", "a b", "y")),
    ),
    "residual": _flattened(
        *(
            node("Relu", "h", "r"),
            node("Conv", "r K1 gain", "i"),
            node("Add", "i r", "s"),
            node("Relu", "s", "y"),
        ),
    ),
    "residual_of_the_input": [node("Conv", "x K1", "h"), node("Add", "h x", "s"), node("Conv", "s K", "y")],
    "padded_kernel_on_a_vector": _flattened(
        node("GlobalMaxPool", "h", "p"), node("Conv", "p K", "y", pads=[1, 1, 1, 1])
    ),
    "kernel_that_meets_padding_alone": _flattened(
        node("GlobalMaxPool", "h", "p"), node("Conv", "p K1 gain", "y", pads=[0, 2, 2, 0], strides=[3, 3])
    ),
    "three_terms": _flattened(node("Relu", "h", "r"), node("Conv", "r K1", "q"), node("Sum", "h r q", "y")),
    "larger_of_two": _flattened(
        node("Conv", "h K1", "q"), node("Max", "h q", "m"), node("Div", "m two", "y")
    ),
    "normalised_convolution": _flattened(
        *(node("BatchNormalization", "h gain shift mean variance", "n"), node("Relu", "n", "y")),
    ),
    "normalised_depthwise": _flattened(
        *(
            node("Conv", "h Kdepth", "d", group=4),
            node("BatchNormalization", "d gain shift mean variance", "n"),
        ),
        node("Clip", "n zero six", "y"),
    ),
    "affine_read_twice": _flattened(
        *(node("BatchNormalization", "h gain shift mean variance", "n"), node("Add", "n h", "y")),
    ),
    "silu": _flattened(node("Sigmoid", "h", "s"), node("Mul", "h s", "y")),
    "swish_of_another_slope": _flattened(
        *(node("Mul", "h two", "t"), node("Sigmoid", "t", "s"), node("Mul", "h s", "y")),
    ),
    "mish": _flattened(node("Softplus", "h", "p"), node("Tanh", "p", "t"), node("Mul", "h t", "y")),
    "hard_swish": _flattened(
        *(node("Add", "h three", "a"), node("Clip", "a zero six", "b"), node("Div", "b six", "d")),
        node("Mul", "h d", "y"),
    ),
    "softplus_written_out": _flattened(
        node("Exp", "h", "e"), node("Add", "e one", "a"), node("Log", "a", "y")
    ),
    "activation_of_an_activation": _flattened(node("Clip", "h minus half", "a"), node("Relu", "a", "y")),
    "input_activated_as_a_map": [
        node("Sub", "x c", "s"),
        node("Flatten", "s", "f"),
        node("Gemm", "f Wflat", "y"),
    ],
    "input_as_a_vector": [
        *(node("Tanh", "x", "t"), node("Flatten", "t", "f"), node("Gemm", "f Wflat", "y")),
    ],
    "sequence": _flattened(
        *(node("Reshape", "h sequence", "r"), node("Transpose", "r", "t", perm=[0, 2, 1])),
        *(node("MatMul", "t Wseq", "m"), node("Add", "m B5", "a"), node("Relu", "a", "b")),
        *(node("Transpose", "b", "u", perm=[0, 2, 1]), node("GlobalMaxPool", "u", "y")),
    ),
    "sequence_normalised": _flattened(
        *(node("Reshape", "h sequence", "r"), node("Transpose", "r", "t", perm=[0, 2, 1])),
        *(node("LayerNormalization", "t gain shift", "l"), node("Add", "l t", "s")),
        node("Transpose", "s", "y", perm=[0, 2, 1]),
    ),
    "group_norm_of_torch": _flattened(
        *(node("Reshape", "h grouped", "r"), node("InstanceNormalization", "r group_gain group_shift", "i")),
        *(node("Shape", "h", "s"), node("Reshape", "i s", "u"), node("Mul", "u c", "y")),
    ),
    "layer_norm_of_maps": _flattened(node("LayerNormalization", "h cmap", "y", axis=1)),
    "expanded_gate": _flattened(
        *(node("GlobalAveragePool", "h", "p"), node("Expand", "p wide", "e"), node("Mul", "h e", "y")),
    ),
    "pad_behind_an_activation": _flattened(
        *(node("Sigmoid", "h", "s"), node("Pad", "s around", "p"), node("Sigmoid", "p", "y")),
    ),
    "slice_before_an_activation": _flattened(
        *(node("Slice", "h from to space by", "s"), node("Gelu", "s", "g"), node("Conv", "g K1", "y")),
    ),
    "flattened_concat": _flattened(
        *(node("Flatten", "h", "a"), node("Relu", "a", "b"), node("Concat", "a b", "y", axis=1)),
    ),
    "softmax_of_flattened_maps": _flattened(
        *(node("GlobalAveragePool", "h", "p"), node("Flatten", "p", "f"), node("Softmax", "f", "y")),
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graph(tmp_path, name):
    path = _model(tmp_path, GRAPHS[name], opset=20)
    for samples in (1, 3):
        assert_agrees(path, samples)


def test_normalisations_are_folded(tmp_path):
    for name in ("normalised_convolution", "normalised_depthwise"):
        network = assert_agrees(_model(tmp_path, GRAPHS[name]))
        assert "Affine" not in {type(op).__name__ for op in network.operations}


def test_recognised_activations(tmp_path):
    for name, kind in (("silu", "silu"), ("hard_swish", "hard_swish"), ("softplus_written_out", "softplus")):
        network = assert_agrees(_model(tmp_path, GRAPHS[name]))
        assert [op.activation.kind for op in network.operations[1:]] == [kind]


# As torch.onnx of PyTorch 2.13 writes them: the name says which exporter and what it is, and its numbers.
WRITTEN_OUT = {
    "dynamo softshrink 0.5": [
        *(node("Abs", "h", "a"), node("Greater", "a half", "g"), node("Sign", "h", "s")),
        *(node("Mul", "s half", "m"), node("Sub", "h m", "d"), node("Mul", "h zero", "z")),
        node("Where", "g d z", "y"),
    ],
    "torchscript softshrink 0.5": [
        *(node("Greater", "h half", "g"), node("Sub", "h half", "d"), node("Where", "g d zero", "p")),
        *(node("Less", "h minus", "l"), node("Add", "h half", "e"), node("Where", "l e zero", "q")),
        node("Add", "p q", "y"),
    ],
    "dynamo hardshrink 0.5": [
        *(node("Abs", "h", "a"), node("LessOrEqual", "a half", "l"), node("Where", "l zero h", "y")),
    ],
    "torchscript hardshrink 0.5": [
        *(node("Greater", "h half", "g"), node("Less", "h minus", "l"), node("Cast", "g", "b", to=9)),
        *(node("Cast", "l", "d", to=9), node("Or", "b d", "o"), node("Where", "o h zero", "y")),
    ],
    "dynamo threshold 0.5 2": [node("LessOrEqual", "h half", "l"), node("Where", "l two h", "y")],
    "dynamo threshold 0.5 0": [node("LessOrEqual", "h half", "l"), node("Where", "l zero h", "y")],
    "torch.where threshold 0.5 -0.5": [node("Greater", "h half", "g"), node("Where", "g h minus", "y")],
    "both softsign": [node("Abs", "h", "a"), node("Add", "a one", "b"), node("Div", "h b", "y")],
    "both log_sigmoid": [node("Sigmoid", "h", "s"), node("Log", "s", "y")],
}


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_activations_as_pytorch_writes_them(tmp_path, name):
    network = assert_agrees(_model(tmp_path, _flattened(*WRITTEN_OUT[name])), 3)
    _, kind, *numbers = name.split()
    assert [op.activation for op in network.operations[1:]] == [Activation(kind, *map(float, numbers))]


JUMPS = {
    "threshold": [node("GreaterOrEqual", "h half", "g"), node("Where", "g h zero", "y")],
    "hardshrink": [node("Abs", "h", "a"), node("Less", "a half", "l"), node("Where", "l zero h", "y")],
    "one_side": [
        *(node("Greater", "h half", "g"), node("LessOrEqual", "h minus", "l"), node("Or", "g l", "o")),
        node("Where", "o h zero", "y"),
    ],
}


@pytest.mark.parametrize("name", JUMPS)
def test_a_jump_on_the_other_side_of_its_number_is_another_function(tmp_path, name):
    network = assert_agrees(_model(tmp_path, _flattened(*JUMPS[name])))
    kinds = {op.activation.kind for op in network.operations if isinstance(op, Elementwise)}
    assert not kinds & {"threshold", "hardshrink", "softshrink"}


def test_residuals_share_a_space(tmp_path):
    network = assert_agrees(_model(tmp_path, GRAPHS["residual"]))
    assert [space.neurons for space in network.spaces] == [4, 4]
    assert network.input_spaces == {"input"}


@pytest.mark.parametrize(
    ("name", "spaces"), [("input_as_a_vector", [168, 3]), ("input_activated_as_a_map", [4, 3])]
)
def test_the_first_use_decides_on_the_neurons_of_the_input(tmp_path, name, spaces):
    network = assert_agrees(_model(tmp_path, GRAPHS[name]))
    assert [space.neurons for space in network.spaces] == spaces
    assert network.inputs == 168


def test_one_axis(tmp_path):
    constants = {"K": _weights(3, 2, 3), "D": _weights(3, 1, 2)}
    nodes = [
        *(node("Conv", "x K", "h", strides=[2], pads=[1, 0]), node("MaxPool", "h", "p", kernel_shape=[2])),
        node("Conv", "p D", "y", group=3),
    ]
    assert_agrees(save(tmp_path / "model.onnx", nodes, constants, ("N", 2, 13)), 3)


def test_several_inputs_and_outputs(tmp_path):
    nodes = [
        *(node("Gemm", "b W", "v"), node("Conv", "a K1", "h"), node("GlobalAveragePool", "h", "p")),
        *(node("Flatten", "p", "f"), node("Gemm", "f W", "w"), node("Add", "w v", "y")),
        *(node("Softmax", "v", "z"),),
    ]
    inputs = {"a": MAP, "b": ("N", 4), "unused": ("N", 2)}
    path = _model(tmp_path, nodes, inputs=inputs, outputs=("y", "h", "z"))
    network = assert_agrees(path, 3)
    assert network.input_tensors == ("a", "b", "unused")
    assert [space.name for space in network.spaces[:3]] == ["a", "b", "unused"]
    assert network.heads == ("identity", "identity", "softmax")


OLD = {
    "softmax": (9, [node("GlobalAveragePool", "h", "p"), node("Softmax", "p", "y")]),
    "clip": (9, [node("Clip", "h", "y", min=-0.2, max=0.3)]),
    "squeeze": (9, [node("GlobalAveragePool", "h", "p"), node("Squeeze", "p", "y", axes=[2, 3])]),
    "unsqueeze": (9, [node("Unsqueeze", "gain", "g", axes=[1, 2]), node("Mul", "h g", "y")]),
    "slice": (9, [node("Slice", "h", "y", starts=[1, 0], ends=[3, -1], axes=[1, 3])]),
    "split": (9, [node("Split", "h", "a b", axis=1, split=[1, 3]), node("Mul", "b a", "y")]),
    "pad": (9, [node("Pad", "h", "y", pads=[0, 0, 1, 0, 0, 0, 0, 2], value=0.5)]),
    "mean": (9, [node("ReduceMean", "h", "y", axes=[-1, -2])]),
    "upsample": (9, [node("Upsample", "h scales", "y")]),
    "resize": (10, [node("Resize", "h scales", "y")]),
    "dropout": (9, [node("Dropout", "h", "y mask", ratio=0.5)]),
    "reshape": (7, [node("Reshape", "h flat", "f"), node("Gemm", "f Wflat zero3", "y")]),
}


@pytest.mark.parametrize("name", OLD)
def test_old_opset(tmp_path, name):
    opset, nodes = OLD[name]
    constants = {"zero3": np.zeros(3, np.float32), **CONSTANTS}
    nodes = [node("Conv", "x K1", "h"), *nodes]
    used = {each for node_ in nodes for each in node_.input}
    constants = {key: value for key, value in constants.items() if key in used}
    assert_agrees(save(tmp_path / "model.onnx", nodes, constants, MAP, opset), 3)


@pytest.mark.parametrize("opset", [7, 8, 9, 13])
def test_batch_normalisation_with_the_outputs_of_training_is_refused(tmp_path, opset):
    """In onnxruntime, it normalises by the statistics of the batch."""
    nodes = [
        node("Conv", "x K1", "h"),
        node("BatchNormalization", "h gain shift mean variance", "y m v saved_m saved_v"),
    ]
    with pytest.raises(UserError, match=r"\(BatchNormalization\): it has 5 outputs, .* model.eval\(\)"):
        load_model(_model(tmp_path, nodes, opset=opset))


def test_statistics_of_every_place(tmp_path):
    constants = {name: np.abs(_weights(4, 7, 6)) + 0.5 for name in ("gain", "shift", "mean", "variance")}
    nodes = [
        node("Conv", "x K1", "h"),
        node("BatchNormalization", "h gain shift mean variance", "y", spatial=0),
    ]
    constants["K1"] = CONSTANTS["K1"]
    assert_agrees(save(tmp_path / "model.onnx", nodes, constants, MAP, 7), 3)


@pytest.mark.parametrize("p", [1, 2])
def test_zeros_have_no_direction(tmp_path, p):
    """A norm of 0 divides nothing: zeros stay zeros."""
    nodes = [node("MatMul", "x W", "h"), node("LpNormalization", "h", "n", p=p), node("MatMul", "n V", "y")]
    path = save(tmp_path / "model.onnx", nodes, {"W": _weights(5, 4), "V": _weights(4, 3)}, opset=17)
    network = assert_agrees(path)
    assert not forward(network, np.zeros((2, 5), np.float32)).any()


def test_a_mask_as_an_output_is_refused(tmp_path):
    nodes = [node("Conv", "x K1", "h"), node("Dropout", "h", "y m")]
    model = onnx.load(_model(tmp_path, nodes))
    model.graph.output.append(onnx.helper.make_tensor_value_info("m", onnx.TensorProto.BOOL, None))
    model.graph.output[-1].type.tensor_type.shape.SetInParent()
    onnx.save(model, tmp_path / "mask.onnx")
    with pytest.raises(UserError, match=r"output 'm' is a secondary output"):
        load_model(tmp_path / "mask.onnx")


BAD = {
    "matmul_of_two": ([node("MatMul", "x x", "y")], r"\(MatMul\): it multiplies shapes \(4, 7, 6\)"),
    "three_axes": ([node("Conv", "x K5", "y")], r"for a kernel of shape \(1, 1, 1\) and 4 axes"),
    "channels": ([node("Conv", "x Kgroup", "y")], r"do not fit 4 channels"),
    "kernel_too_large": (
        [node("MaxPool", "x", "y", kernel_shape=[9, 1])],
        r"larger than maps of shape \(7, 6\)",
    ),
    "samples_split": ([node("Split", "x", "y z", axis=0, num_outputs=2)], r"is that of the samples"),
    "exponent": ([node("Pow", "x x", "y")], r"its second input 'x' is not a constant"),
    "base": ([node("Pow", "minus x", "y")], r"its base is -0.5, expected a positive one"),
    "training": (
        [node("BatchNormalization", "x gain shift mean variance", "y m v", training_mode=1)],
        r"attribute training_mode is 1, expected 0",
    ),
    "mask_of_dropout": (
        [node("Dropout", "x", "d m"), node("Cast", "m", "y", to=1)],
        r"reads 'm', a secondary output",
    ),
    "training_of_dropout": (
        [node("Dropout", "x half true", "y")],
        r"input training_mode is true",
    ),
    "nan": ([node("Mul", "x nan", "y")], r"\(Mul\): its constant 'nan' is nan, expected a finite number"),
    "infinite_constants": ([node("Add", "x infinite", "y")], r"'infinite': expected finite weights"),
    "infinite_by_folding": (
        [node("Div", "half zero", "i"), node("Add", "x i", "y")],
        r"its constant 'i' is inf, expected a finite number",
    ),
    "nan_chosen": (
        [node("Greater", "x half", "g"), node("Where", "g x nan", "y")],
        r"\(Where\): its constant 'nan' is nan",
    ),
    "compared_with_nan": ([node("Less", "x nan", "y")], r"\(Less\): its constant 'nan' is nan"),
    "nan_as_a_bound": ([node("Min", "x nan", "y")], r"\(Min\): its constant 'nan' is nan"),
    "nan_of_clip": ([node("Clip", "x nan", "y")], r"\(Clip\): its input 'nan' is nan"),
    "division_by_zero": ([node("Div", "x zero", "y")], r"it divides by the constant 0"),
    "indices": (
        [node("MaxPool", "x", "p i", kernel_shape=[2, 2]), node("Cast", "i", "y", to=1)],
        r"reads 'i', a secondary output",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(tmp_path, name):
    nodes, message = BAD[name]
    constants = {**CONSTANTS, "K5": _weights(1, 4, 1, 1, 1)}
    constants |= {"true": np.array(True), "nan": np.float32(np.nan)}
    constants["infinite"] = np.array([1, 2, np.inf, 4], np.float32).reshape(4, 1, 1)
    used = {each for node_ in nodes for each in node_.input}
    constants = {key: value for key, value in constants.items() if key in used}
    path = save(tmp_path / "model.onnx", nodes, constants, MAP, opset=22)
    with pytest.raises(UserError, match=message) as error:
        load_model(path)
    assert str(error.value).startswith(str(path))


def test_every_operator_is_documented():

    page = (ROOT / "docs" / "models.md").read_text()
    table = set(re.findall(r"\w+", page[page.index("## Operators") : page.index("## What is refused")]))
    assert set(OPERATORS) <= table
