"""Inputs whose sizes the file leaves free, and models of opsets that are converted."""

import numpy as np
import pytest

from repurpose_hpc.errors import Note, UserError
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.input_shapes import shapes_of
from repurpose_hpc.model.importers.load import check_model, load_model

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import helper, numpy_helper  # noqa: E402

from helpers.onnx_models import FLOAT, node, outputs_of_runtime, save  # noqa: E402

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)
W = RNG.normal(size=(4, 2)).astype(np.float32)
MAPS = [
    node("Conv", "x K", "h", pads=[1, 1, 1, 1]),
    node("Relu", "h", "r"),
    node("GlobalAveragePool", "r", "p"),
    node("Flatten", "p", "f"),
    node("MatMul", "f W", "y"),
]


def free(folder, nodes=MAPS, **inputs):
    inputs = inputs or {"x": ("N", 3, "h", "w")}
    return save(folder / "free.onnx", nodes, {"K": KERNEL, "W": W}, inputs=inputs)


def run(path, **feeds):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)[0]


@pytest.mark.parametrize("sizes", [(5, 4), (3, 9)])
def test_free_sizes_are_those_that_are_given(tmp_path, sizes):
    path = free(tmp_path)
    x = RNG.normal(size=(2, 3, *sizes)).astype(np.float32)
    network = load_model(path, {"x": (3, *sizes)})
    assert network.input_shape == (3, *sizes)
    np.testing.assert_allclose(forward(network, x.reshape(2, -1)), run(path, x=x), atol=1e-5)


def test_networks_of_other_sizes_are_others(tmp_path):
    path = free(tmp_path)
    assert (
        load_model(path, {"x": (3, 5, 4)}).fingerprint() != load_model(path, {"x": (3, 4, 5)}).fingerprint()
    )


def test_words_of_a_command_line():
    assert shapes_of(("x=1x3x48x192", "a=b=Nx7")) == {"x": (3, 48, 192), "a=b": (7,)}
    for word in ("x", "x=3", "=1x3", "x=1x0", "x=1x-3", "x=ax3", "x=1x3.5", "x=1,3"):
        with pytest.raises(ValueError):
            shapes_of((word,))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"input 'x': expected .* found shape \(N, 3, h, w\); give .* --input-shape x=1x3x\?x\? "),
        ({"x": (3, 5)}, r"expected sizes that fit \(N, 3, h, w\), .* got x=1x3x5;"),
        ({"x": (4, 5, 5)}, r"expected sizes that fit \(N, 3, h, w\), .* got x=1x4x5x5;"),
        ({"z": (3, 5, 5)}, r"expected sizes of 'x', got 'z'"),
    ],
)
def test_sizes_that_do_not_fit(tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        load_model(free(tmp_path), given)


def test_a_chain_has_no_free_sizes(tmp_path):
    np.savez(tmp_path / "chain.npz", W0=W, b0=W[:, 0])
    with pytest.raises(UserError, match="expected no input shape, got x=1x3: only .onnx"):
        load_model(tmp_path / "chain.npz", {"x": (3,)})


def test_axes_of_one_name_have_one_size(tmp_path):
    nodes = [node("Add", "x z", "s"), *[node("Conv", "s K", "h"), node("Relu", "h", "y")]]
    path = free(tmp_path, nodes, x=("N", 3, "h", "w"), z=("N", 3, "h", "w"))
    x, z = RNG.normal(size=(2, 2, 3, 5, 4)).astype(np.float32)
    network = load_model(path, {"x": (3, 5, 4)})  # those of z follow
    y = forward(network, np.hstack([x.reshape(2, -1), z.reshape(2, -1)]))
    np.testing.assert_allclose(y, run(path, x=x, z=z).reshape(2, -1), atol=1e-5)
    with pytest.raises(UserError, match="expected one size for axis 'w', got 4 of input 'x' and 6 of 'z'"):
        load_model(path, {"x": (3, 5, 4), "z": (3, 5, 6)})


@pytest.mark.parametrize("sizes", [("?", 3, "?", "?"), (-1, 3, -1, -1)])
def test_other_ways_to_leave_sizes_free(tmp_path, sizes):
    path = free(tmp_path, x=sizes)
    x = RNG.normal(size=(2, 3, 5, 4)).astype(np.float32)
    network = load_model(path, {"x": (3, 5, 4)})
    assert check_model(path, network, input_shapes={"x": (3, 5, 4)}).evaluator
    np.testing.assert_allclose(forward(network, x.reshape(2, -1)), run(path, x=x), atol=1e-5)


def old_model(path, nodes, constants, shape):
    """A model of opset 6, in whose files initializers are inputs, too."""
    items = {"x": shape} | {name: value.shape for name, value in constants.items()}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, FLOAT, sizes) for name, sizes in items.items()],
        [helper.make_tensor_value_info("y", FLOAT, ["N", None])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 6)], ir_version=3)
    onnx.save(model, path)
    return path


SLOPE = RNG.uniform(0.1, 0.9, size=4).astype(np.float32)
OLD = {"Add": {"broadcast": 1, "axis": 1}, "PRelu": {}}


@pytest.mark.parametrize("operator", OLD)
def test_old_models_are_converted(tmp_path, operator):
    """Maps as wide as there are channels: an axis mistaken for another would not be refused."""
    tail = [node("Flatten", "a", "f"), node("MatMul", "f V", "y")]
    constants = {"K": KERNEL, "B": SLOPE, "V": RNG.normal(size=(64, 2)).astype(np.float32)}
    nodes = [node("Conv", "x K", "h"), node(operator, "h B", "a", **OLD[operator]), *tail]
    path = old_model(tmp_path / "old.onnx", nodes, constants, ("N", 3, 6, 6))
    # onnxruntime itself runs none so old.
    nodes = [node("Conv", "x K", "h"), node(operator, "h B", "a"), *tail]
    constants["B"] = SLOPE.reshape(4, 1, 1)
    new = save(tmp_path / "new.onnx", nodes, constants, ("N", 3, 6, 6))
    x = RNG.normal(size=(2, 3, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(forward(load_model(path), x.reshape(2, -1)), run(new, x=x), atol=1e-4)


def test_what_cannot_be_converted(tmp_path):
    nodes = [node("Conv", "x K", "h"), node("BatchNormalization", "h B B B B", "y", is_test=0)]
    path = old_model(tmp_path / "old.onnx", nodes, {"K": KERNEL, "B": SLOPE}, ("N", 3, 6, 6))
    with pytest.raises(UserError, match=r"takes, found 6: node 'node_y' \(BatchNorm.* in training; "):
        load_model(path)


def fixed(batch, last=()):
    """Nodes and constants of a model with the number of samples of an example in it."""
    rng = np.random.default_rng(0)
    constants = {"W": rng.normal(size=(4, 4)), "V": rng.normal(size=(24, 5)), "of_example": [batch, 24]}
    constants = {
        name: np.asarray(value, np.float32 if name in "WV" else np.int64) for name, value in constants.items()
    }
    nodes = [node("MatMul", "x W", "h"), node("Reshape", "h of_example", "v")]
    return [*nodes, node("MatMul", "v V", "z" if last else "y"), *last], constants


def test_a_batch_of_one_that_the_exporter_fixed(tmp_path):
    """Every sample is computed by itself, and so compared with the file."""
    nodes, constants = fixed(1)
    path = save(tmp_path / "model.onnx", nodes, constants, ("N", 6, 4))
    with pytest.warns(Note, match="fixed the batch at 1 .node 'node_v' takes no other"):
        network = load_model(path)
    x = np.random.default_rng(1).normal(size=(3, 6, 4)).astype(np.float32)
    expected = np.vstack([outputs_of_runtime(path, {"x": sample[None]})[0] for sample in x])
    np.testing.assert_allclose(forward(network, x.reshape(3, -1)), expected, atol=1e-5)


def test_a_larger_batch_that_the_exporter_fixed(tmp_path):
    nodes, constants = fixed(3)
    path = save(tmp_path / "model.onnx", nodes, constants, ("N", 6, 4))
    with pytest.raises(UserError, match="'node_v' .* the exporter fixed the batch at 3; export again"):
        load_model(path)


@pytest.mark.parametrize("shape", [(1, 6, 4), ("N", 6, 4)])
def test_shapes_that_fit_no_batch(tmp_path, shape):
    """Nothing is said of the exporter where the file says how many samples it takes, or takes any."""
    nodes, constants = fixed(1)
    constants["of_example"] = np.array([1, 23] if shape[0] == 1 else [-1, 23])
    path = tmp_path / "model.onnx"
    save(path, nodes, constants, shape)
    with pytest.raises(UserError, match="does not fit") as error:
        load_model(path)
    assert "exporter" not in str(error.value)


def test_a_mean_over_the_batch_is_not_taken_for_a_batch_of_one(tmp_path):
    nodes = [node("MatMul", "x W", "h"), node("ReduceMean", "h first", "m"), node("MatMul", "m V", "y")]
    rng = np.random.default_rng(0)
    constants = {name: rng.normal(size=(4, 4)).astype(np.float32) for name in "WV"} | {"first": np.array([0])}
    path = save(tmp_path / "model.onnx", nodes, constants, ("N", 4))
    with pytest.raises(UserError, match="axes include that of the samples"):
        load_model(path)
