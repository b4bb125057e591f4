"""ONNX graphs: fixtures of both exporters of PyTorch (data/make_onnx.py) and hand-built ones."""

import re
import shutil

import numpy as np
import pytest

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.importers.load import load_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper  # noqa: E402

from helpers import TESTS  # noqa: E402
from helpers.onnx_models import FLOAT, assert_agrees, node, save  # noqa: E402

IMPORTABLE = sorted((TESTS / "data" / "onnx").glob("*.onnx"))
RNG = np.random.default_rng(0)
W, V, B, C = (RNG.normal(size=shape).astype(np.float32) for shape in ((5, 4), (4, 3), (4,), (3,)))


@pytest.mark.parametrize("path", IMPORTABLE, ids=lambda path: path.stem)
def test_exported_models_agree_with_onnxruntime(path):
    network = assert_agrees(path)
    assert all(mixing.weights.dtype == np.float32 for mixing in network.mixings)


def test_fixtures_of_both_exporters_are_there():
    names = [path.stem for path in IMPORTABLE]
    for exporter in ("torchscript_17", "dynamo_18"):
        assert {
            f"{name}_{exporter}" for name in ("activations", "gelu", "gelutanh", "image", "view", "conv")
        } <= set(names)


def test_written_out_gelu_is_one_activation():
    for path in IMPORTABLE:
        if path.stem.startswith("gelu"):
            kinds = {op.activation.kind for op in load_model(path).operations if hasattr(op, "activation")}
            assert kinds == {"gelu_tanh" if "tanh" in path.stem else "gelu"}


def test_missing_external_data(tmp_path):
    source = next(path for path in IMPORTABLE if path.stem.startswith("wide"))
    with pytest.raises(
        UserError, match=r"expected a readable ONNX model: .*\.data.*keep its data files beside it"
    ):
        load_model(shutil.copy(source, tmp_path))


def test_negative_sizes_of_external_data(tmp_path):
    path = save(tmp_path / "model.onnx", [node("MatMul", "x W", "y")], {"W": W})
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="data", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].dims[0] = -1
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=r"the shape of 'W' is \(-1, 4\)"):
        load_model(path)


def test_sizes_that_no_memory_holds(tmp_path):
    nodes = [node("Mod", "x one", "m", fmod=1), node("ReduceSum", "m last", "s"), node("MatMul", "s W", "y")]
    constants = {"one": np.float32(1), "last": np.array([2]), "W": np.ones((5, 4), np.float32)}
    path = save(tmp_path / "model.onnx", nodes, constants, ("N", 5, 2**50))
    with pytest.raises(UserError, match=r"model\.onnx: input .x.: expected at most"):
        load_model(path)


LINEAR = node("Gemm", "x W B", "h")
NODES = {
    "gemm": [node("Gemm", "x W B", "y")],
    "gemm_scaled": [node("Gemm", "x W B", "y", alpha=0.5, beta=2.0)],
    "gemm_transposed": [node("Gemm", "x Wt one", "y", transB=1)],
    "gemm_row_bias": [node("Gemm", "x W row", "y")],
    "bias_left": [node("MatMul", "x W", "h"), node("Add", "B h", "y")],
    "two_biases": [LINEAR, node("Add", "h B", "i"), node("Add", "row i", "y")],
    "folded_weight": [
        node("Transpose", "Wt", "U"),
        node("Identity", "U", "U2"),
        node("MatMul", "x U2", "y"),
    ],
    "activation_on_input": [
        *(node("Tanh", "x", "t"), node("Relu", "t", "r"), node("Gemm", "r W B", "y")),
    ],
    "default_slope": [LINEAR, node("LeakyRelu", "h", "y")],
    "pass_through": [
        *(node("Cast", "x", "c", to=FLOAT), node("Dropout", "c half no", "d"), node("Identity", "d", "i")),
        *(node("Unsqueeze", "i axis", "u"), node("Squeeze", "u axis", "s"), node("Gemm", "s W B", "y")),
    ],
    "gelu_by_reciprocals": [
        *(LINEAR, node("Mul", "h rsqrt2", "a"), node("Erf", "a", "e"), node("Add", "one e", "s")),
        *(node("Mul", "half s", "g"), node("Mul", "g h", "u"), node("Tanh", "u", "y")),
    ],
    "row_features": [
        node("Unsqueeze", "x axis", "u"),
        node("MatMul", "u W", "m"),
        node("Add", "m B", "y"),
    ],
    "dead_branch": [LINEAR, node("Relu", "h", "unused"), node("Sigmoid", "h", "y")],
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
    assert_agrees(save(tmp_path / "model.onnx", NODES[name], constants), samples=7)


@pytest.mark.parametrize("operator", ["Flatten", "Squeeze"])
@pytest.mark.parametrize("batch", [1, "N"])
def test_image_features_stay_in_c_order(tmp_path, operator, batch):
    # Squeeze without axes would remove a batch of 1 too, so its axes are given.
    shape, inputs = ((batch, 3, 2, 2), "x") if operator == "Flatten" else ((batch, 1, 12, 1), "x axes")
    weights = RNG.normal(size=(12, 2)).astype(np.float32)
    nodes = [node(operator, inputs, "f"), node("MatMul", "f K", "y")]
    constants = {"K": weights, "axes": np.array([1, 3])}
    path = save(tmp_path / "model.onnx", nodes, constants, shape=shape)
    assert_agrees(path, samples=1 if batch == 1 else 4)


def test_half_precision_weights_become_float32(tmp_path):
    nodes = [LINEAR, node("Relu", "h", "y")]
    constants = {"W": W.astype(np.float16), "B": B.astype(np.float16)}
    proto = onnx.load(save(tmp_path / "model.onnx", nodes, constants))
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(proto, tmp_path / "model.onnx")
    (mixing,) = load_model(tmp_path / "model.onnx").mixings
    assert mixing.weights.dtype == mixing.bias.dtype == np.float32
    np.testing.assert_array_equal(mixing.weights, W.astype(np.float16).T.astype(np.float32))


def test_gelu_with_constants_in_half_precision(tmp_path):
    nodes = [LINEAR, *NODES["gelu_by_reciprocals"][1:-1]]
    nodes[-1] = node("Mul", "g h", "y")
    constants = {name: np.float16(CONSTANTS[name]) for name in ("W", "B", "rsqrt2", "one", "half")}
    network = load_model(save(tmp_path / "model.onnx", nodes, constants))
    assert network.operations[-1].activation.kind == "gelu"


def test_initializers_may_be_listed_as_inputs(tmp_path):
    path = save(tmp_path / "model.onnx", [LINEAR, node("Relu", "h", "y")], {"W": W, "B": B})
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
    path = save(tmp_path / "model.onnx", [node("Block", "x W", "y", domain="local")], {"W": W})
    model = onnx.load(path)
    model.functions.append(function)
    onnx.save(model, path)
    assert_agrees(path)


BAD = {
    "transposed_input": (
        [node("Gemm", "x W B", "y", transA=1)],
        r"node 'node_y' \(Gemm\): attribute transA is 1",
    ),
    "weights_left": ([node("MatMul", "V x", "y")], r"does not keep the samples"),
    "wrong_width": ([node("MatMul", "x V", "y")], r"features of shape \(5,\) by weights of shape \(4, 3\)"),
    "wrong_bias": (
        [node("MatMul", "x W", "h"), node("Add", "h C", "y")],
        r"a constant of shape \(3,\) does not fit features of shape \(4,\)",
    ),
    "softmax_over_samples": ([LINEAR, node("Softmax", "h", "y", axis=0)], r"is that of the samples"),
    "mixed_samples": (
        [node("Reshape", "x ten", "r"), node("Relu", "r", "y")],
        r"node 'node_r' \(Reshape\)",
    ),
    "cast_to_int": ([node("Cast", "x", "y", to=TensorProto.INT64)], r"attribute to is INT64"),
    "training": ([node("Dropout", "x half yes", "y")], r"training_mode is true"),
    "unknown": (
        [LINEAR, node("Mod", "h half", "m", fmod=1), node("MatMul", "m V", "y")],
        r"node 'node_m' \(Mod\): operator Mod is not supported",
    ),
    "random": ([node("RandomNormal", "", "y", shape=[2, 2])], r"operator RandomNormal is not supported"),
    "domain": (
        [node("Inverse", "x", "y", domain="com.microsoft")],
        r"operator com.microsoft.Inverse is not supported",
    ),
    "no_mixing": ([node("Relu", "x", "y")], r"expected one or more Conv, Gemm or MatMul, found none"),
    "constant_output": ([node("Identity", "W", "y")], r"expected outputs that depend on the input"),
    "nan": ([node("MatMul", "x nan", "y")], r"node 'node_y' \(MatMul\): nan: expected finite weights"),
    "integers": ([node("MatMul", "x int", "y")], r"node 'node_y' \(MatMul\): int: expected float16"),
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
    path = save(tmp_path / "model.onnx", nodes, BAD_CONSTANTS)
    with pytest.raises(UserError, match=message) as error:
        load_model(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"shape": ("N", "features")},
            r"found shape \(N, features\); give .* --input-shape x=1x\? ",
        ),
        ({"shape": (5,)}, r"expected samples on the first axis .* found shape \(5\)"),
    ],
)
def test_refused_inputs_and_outputs(tmp_path, changes, message):
    nodes = [node("Gemm", "x W B", "h"), node("Relu", "h", "y")]
    with pytest.raises(UserError, match=message):
        load_model(save(tmp_path / "model.onnx", nodes, {"W": W, "B": B}, **changes))


def test_empty_graph(tmp_path):
    path = save(tmp_path / "model.onnx", [], outputs=("x",))
    with pytest.raises(UserError, match=re.escape("found 0 nodes")):
        load_model(path)
