"""ONNX graphs: fixtures of both exporters of PyTorch (data/make_onnx.py) and hand-built ones."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.load import load_model
from repurpose_hpc.model.reference import forward

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

FIXTURES = sorted((Path(__file__).parent / "data" / "onnx").glob("*.onnx"))
IMPORTABLE = [path for path in FIXTURES if not path.name.startswith("conv")]
REFUSED = [path for path in FIXTURES if path.name.startswith("conv")]
FLOAT = TensorProto.FLOAT
RNG = np.random.default_rng(0)
W, V, B, C = (RNG.normal(size=shape).astype(np.float32) for shape in ((5, 4), (4, 3), (4,), (3,)))


def _node(operator, inputs, output, **attributes):
    return helper.make_node(operator, inputs.split(), [output], name=f"node_{output}", **attributes)


def _save(
    path, nodes, constants=None, shape=("N", 5), opset=20, outputs=("y",), inputs=("x",), output_rank=2
):
    """A model with input x, of ``shape``, and output y."""
    proto = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name in inputs],
        [helper.make_tensor_value_info(name, FLOAT, [None] * output_rank) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.save(model, path)
    return path


def _assert_agrees(path, samples=2):
    """The imported network against onnxruntime, 1e-5 of the largest output."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    shape = (samples, *source.shape[1:])
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    (expected,) = session.run(None, {source.name: x})
    network = load_model(path)
    y = forward(network, x.reshape(samples, -1))
    assert y.shape == expected.reshape(samples, -1).shape
    assert np.abs(y - expected.reshape(y.shape)).max() <= 1e-5 * np.abs(expected).max()
    return network


@pytest.mark.parametrize("path", IMPORTABLE, ids=lambda path: path.stem)
def test_exported_models_agree_with_onnxruntime(path):
    network = _assert_agrees(path)
    assert all(mixing.weights.dtype == np.float32 for mixing in network.mixings)


def test_fixtures_of_both_exporters_are_there():
    names = [path.stem for path in IMPORTABLE]
    for exporter in ("torchscript_17", "dynamo_18"):
        assert {f"{name}_{exporter}" for name in ("activations", "gelu", "gelutanh", "image", "view")} <= set(
            names
        )
    assert len(REFUSED) == 2


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: path.stem)
def test_convolution_is_refused_by_name(path):
    with pytest.raises(
        UserError, match=r"node '.*[cC]onv.*' \(Conv\): .*not supported, expected Gemm, MatMul"
    ) as error:
        load_model(path)
    assert "Softmax" in str(error.value)


def test_written_out_gelu_is_one_activation():
    for path in IMPORTABLE:
        if path.stem.startswith("gelu"):
            kinds = {op.activation.kind for op in load_model(path).operations if hasattr(op, "activation")}
            assert kinds == {"gelu_tanh" if "tanh" in path.stem else "gelu"}


def test_missing_external_data(tmp_path):
    source = next(path for path in IMPORTABLE if path.stem.startswith("wide"))
    with pytest.raises(
        UserError, match=r"expected a valid ONNX model: .*\.data.*keep its data files beside it"
    ):
        load_model(shutil.copy(source, tmp_path))


LINEAR = _node("Gemm", "x W B", "h")
NODES = {
    "gemm": [_node("Gemm", "x W B", "y")],
    "gemm_scaled": [_node("Gemm", "x W B", "y", alpha=0.5, beta=2.0)],
    "gemm_transposed": [_node("Gemm", "x Wt one", "y", transB=1)],
    "gemm_row_bias": [_node("Gemm", "x W row", "y")],
    "bias_left": [_node("MatMul", "x W", "h"), _node("Add", "B h", "y")],
    "two_biases": [LINEAR, _node("Add", "h B", "i"), _node("Add", "row i", "y")],
    "folded_weight": [
        _node("Transpose", "Wt", "U"),
        _node("Identity", "U", "U2"),
        _node("MatMul", "x U2", "y"),
    ],
    "activation_on_input": [
        *(_node("Tanh", "x", "t"), _node("Relu", "t", "r"), _node("Gemm", "r W B", "y")),
    ],
    "default_slope": [LINEAR, _node("LeakyRelu", "h", "y")],
    "pass_through": [
        *(_node("Cast", "x", "c", to=FLOAT), _node("Dropout", "c half no", "d"), _node("Identity", "d", "i")),
        *(_node("Unsqueeze", "i axis", "u"), _node("Squeeze", "u axis", "s"), _node("Gemm", "s W B", "y")),
    ],
    "gelu_by_reciprocals": [
        *(LINEAR, _node("Mul", "h rsqrt2", "a"), _node("Erf", "a", "e"), _node("Add", "one e", "s")),
        *(_node("Mul", "half s", "g"), _node("Mul", "g h", "u"), _node("Tanh", "u", "y")),
    ],
    "row_features": [
        _node("Unsqueeze", "x axis", "u"),
        _node("MatMul", "u W", "m"),
        _node("Add", "m B", "y"),
    ],
    "dead_branch": [LINEAR, _node("Relu", "h", "unused"), _node("Sigmoid", "h", "y")],
}
CONSTANTS = {
    **{"W": W, "Wt": W.T.copy(), "V": V, "B": B, "C": C, "row": B[None], "one": np.float32(1)},
    **{"half": np.float32(0.5), "no": np.array(False), "axis": np.array([1])},
    **{"rsqrt2": np.float32(2**-0.5), "two": np.float32(2), "steps": RNG.normal(size=4).astype(np.float32)},
}


@pytest.mark.parametrize("name", NODES)
def test_hand_built_graphs_agree_with_onnxruntime(tmp_path, name):
    used = {tensor for node in NODES[name] for tensor in node.input}
    constants = {key: value for key, value in CONSTANTS.items() if key in used}
    rank = 3 if name == "row_features" else 2
    _assert_agrees(_save(tmp_path / "model.onnx", NODES[name], constants, output_rank=rank), samples=7)


@pytest.mark.parametrize("operator", ["Flatten", "Squeeze"])
@pytest.mark.parametrize("batch", [1, "N"])
def test_image_features_stay_in_c_order(tmp_path, operator, batch):
    # Squeeze without axes would remove a batch of 1 too, so its axes are given.
    shape, inputs = ((batch, 3, 2, 2), "x") if operator == "Flatten" else ((batch, 1, 12, 1), "x axes")
    weights = RNG.normal(size=(12, 2)).astype(np.float32)
    nodes = [_node(operator, inputs, "f"), _node("MatMul", "f K", "y")]
    constants = {"K": weights, "axes": np.array([1, 3])}
    path = _save(tmp_path / "model.onnx", nodes, constants, shape=shape)
    _assert_agrees(path, samples=1 if batch == 1 else 4)


def test_half_precision_weights_become_float32(tmp_path):
    nodes = [LINEAR, _node("Relu", "h", "y")]
    constants = {"W": W.astype(np.float16), "B": B.astype(np.float16)}
    proto = onnx.load(_save(tmp_path / "model.onnx", nodes, constants))
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(proto, tmp_path / "model.onnx")
    (mixing,) = load_model(tmp_path / "model.onnx").mixings
    assert mixing.weights.dtype == mixing.bias.dtype == np.float32
    np.testing.assert_array_equal(mixing.weights, W.astype(np.float16).T.astype(np.float32))


def test_gelu_with_constants_in_half_precision(tmp_path):
    nodes = [LINEAR, *NODES["gelu_by_reciprocals"][1:-1]]
    nodes[-1] = _node("Mul", "g h", "y")
    constants = {name: np.float16(CONSTANTS[name]) for name in ("W", "B", "rsqrt2", "one", "half")}
    network = load_model(_save(tmp_path / "model.onnx", nodes, constants))
    assert network.operations[-1].activation.kind == "gelu"


def test_initializers_may_be_listed_as_inputs(tmp_path):
    path = _save(tmp_path / "model.onnx", [LINEAR, _node("Relu", "h", "y")], {"W": W, "B": B})
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("W", FLOAT, W.shape))
    onnx.save(model, path)
    assert load_model(path).inputs == 5


def test_local_functions_are_inlined(tmp_path):
    function = helper.make_function(
        "local", "Block", ["a", "w"], ["c"],
        [helper.make_node("MatMul", ["a", "w"], ["b"]), helper.make_node("Relu", ["b"], ["c"])],
        [helper.make_opsetid("", 20)],
    )  # fmt: skip
    path = _save(tmp_path / "model.onnx", [_node("Block", "x W", "y", domain="local")], {"W": W})
    model = onnx.load(path)
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))
    onnx.save(model, path)
    _assert_agrees(path)


BAD = {
    "branch": (
        [LINEAR, _node("Relu", "h", "r"), _node("Add", "h r", "y")],
        r"node 'node_y' \(Add\): it joins two branches",
    ),
    "swish": (
        [LINEAR, _node("Mul", "h two", "m"), _node("Sigmoid", "m", "s"), _node("Mul", "h s", "y")],
        r"what node 'node_y' \(Mul\) computes element by element is no supported activation",
    ),
    "scaled": (
        [LINEAR, _node("Mul", "h half", "m"), _node("Gemm", "m V C", "y")],
        r"node 'node_y' \(Gemm\): what node 'node_m' \(Mul\) computes",
    ),
    "normalised": (
        [LINEAR, _node("Sub", "h steps", "y")],
        r"node 'node_y' \(Sub\): its constant of shape \(4,\) is neither one number nor a bias",
    ),
    "transposed_input": (
        [_node("Gemm", "x W B", "y", transA=1)],
        r"node 'node_y' \(Gemm\): attribute transA is 1",
    ),
    "weights_left": ([_node("MatMul", "Wt x", "y")], r"\(MatMul\): its input 'x' is not a constant"),
    "wrong_width": ([_node("MatMul", "x V", "y")], r"features of shape \(5,\) by weights of shape \(4, 3\)"),
    "wrong_bias": (
        [_node("MatMul", "x W", "h"), _node("Add", "h C", "y")],
        r"adds a constant of shape \(3,\) to features of shape \(4,\)",
    ),
    "softmax_inside": (
        [LINEAR, _node("Softmax", "h", "s"), _node("Relu", "s", "y")],
        r"node 'node_y' \(Relu\): it follows node 'node_s' \(Softmax\)",
    ),
    "softmax_over_samples": ([LINEAR, _node("Softmax", "h", "y", axis=0)], r"attribute axis is 0"),
    "mixed_samples": (
        [_node("Reshape", "x ten", "r"), _node("Relu", "r", "y")],
        r"node 'node_r' \(Reshape\)",
    ),
    "cast_to_int": ([_node("Cast", "x", "y", to=TensorProto.INT64)], r"attribute to is INT64"),
    "training": ([_node("Dropout", "x half yes", "y")], r"training_mode is true"),
    "unknown": ([LINEAR, _node("Elu", "h", "y")], r"node 'node_y' \(Elu\): operator Elu is not supported"),
    "random": ([_node("RandomNormal", "", "y", shape=[2, 2])], r"operator RandomNormal is not supported"),
    "domain": (
        [_node("Gelu", "x", "y", domain="com.microsoft")],
        r"operator com.microsoft.Gelu is not supported",
    ),
    "no_mixing": ([_node("Relu", "x", "y")], r"expected one or more Gemm or MatMul, found none"),
    "constant_output": ([_node("Identity", "W", "y")], r"expected an output that depends on the input"),
    "nan": ([_node("MatMul", "x nan", "y")], r"node 'node_y' \(MatMul\): nan: expected finite weights"),
    "integers": ([_node("MatMul", "x int", "y")], r"node 'node_y' \(MatMul\): int: expected float16"),
}
BAD_CONSTANTS = {
    **CONSTANTS,
    "ten": np.array([-1, 10]),
    "yes": np.array(True),
    "nan": np.full((5, 4), np.nan, np.float32),
    "int": np.ones((5, 4), np.int64),
}


@pytest.mark.parametrize("name", BAD)
def test_refused_graphs(tmp_path, name):
    nodes, message = BAD[name]
    path = _save(tmp_path / "model.onnx", nodes, BAD_CONSTANTS)
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, path)
    with pytest.raises(UserError, match=message) as error:
        load_model(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outputs": ("h", "y")}, r"expected nodes and one output, found 2 nodes and 2 outputs"),
        ({"inputs": ("x", "z")}, r"expected one input, found 2 \(x, z\)"),
        ({"shape": ("N", "features")}, r"found shape \(N, features\); make only the first axis dynamic"),
        ({"shape": (5,)}, r"expected samples on the first axis .* found shape \(5\)"),
        ({"opset": 11}, r"expected opset 13 or later, found 11"),
    ],
)
def test_refused_inputs_and_outputs(tmp_path, changes, message):
    nodes = [_node("Gemm", "x W B", "h"), _node("Relu", "h", "y")]
    with pytest.raises(UserError, match=message):
        load_model(_save(tmp_path / "model.onnx", nodes, {"W": W, "B": B}, **changes))


def test_empty_graph(tmp_path):
    path = _save(tmp_path / "model.onnx", [], outputs=("x",))
    with pytest.raises(UserError, match=re.escape("found 0 nodes")):
        load_model(path)
