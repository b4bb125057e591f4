"""If and Loop whose course is known, and samples that are not on the first axis, against onnxruntime."""

import numpy as np
import pytest

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from helpers.onnx_models import FLOAT, node, save  # noqa: E402
from helpers.rewritten import check, check_workers  # noqa: E402

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def graph(name, nodes, outputs, inputs=(), constants=None):
    return helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(item, kind, shape) for item, kind, shape in inputs],
        [helper.make_tensor_value_info(item, kind, None) for item, kind in outputs],
        [numpy_helper.from_array(value, item) for item, value in (constants or {}).items()],
    )


BIAS = normal(5)
# Both have tensors of the same name, and read one of the graph around them.
THEN = graph("then", [node("Relu", "h", "t"), node("Add", "t b", "o")], [("o", FLOAT)], constants={"b": BIAS})
ELSE = graph("else", [node("Tanh", "h", "t"), node("Sub", "t b", "o")], [("o", FLOAT)], constants={"b": BIAS})
DENSE = {"W": normal(6, 5), "V": normal(5, 3), "yes": np.array(True), "no": np.array(False)}
DENSE |= {"zero": np.array(0), "six": np.array(6), "one": np.array(1), "axes": np.array([0, 1])}
X = normal(4, 6)


def branching(condition, *before):
    branch = node("If", condition, "i", then_branch=THEN, else_branch=ELSE)
    return [node("MatMul", "x W", "h"), *before, branch, node("MatMul", "i V", "y")]


@pytest.mark.parametrize("condition", ["yes", "no"])
def test_a_branch_that_is_known(tmp_path, condition):
    check(save(tmp_path / "model.onnx", branching(condition), DENSE, ("N", 6)), X)


@pytest.mark.parametrize("size", ["six", "one"])
def test_a_branch_that_shapes_decide(tmp_path, size):
    before = [*(node("Shape", "x", "s"), node("Gather", "s one", "w")), node("Equal", f"w {size}", "c")]
    check(save(tmp_path / "model.onnx", branching("c", *before), DENSE, ("N", 6)), X)


def test_branches_one_in_the_other_and_one_behind_the_other(tmp_path):
    inner = node("If", "no", "p", then_branch=THEN, else_branch=ELSE)
    outer = graph("outer", [inner, node("Neg", "p", "q")], [("q", FLOAT)])
    nodes = [
        *(node("MatMul", "x W", "h"), node("If", "yes", "i", then_branch=outer, else_branch=ELSE)),
        *(node("If", "yes", "j", then_branch=THEN, else_branch=ELSE), node("Add", "i j", "k")),
        *(node("MatMul", "k V", "y"),),
    ]
    check_workers(save(tmp_path / "model.onnx", nodes, DENSE, ("N", 6)), X)


def test_a_branch_that_depends_on_data_is_refused(tmp_path):
    before = [node("Greater", "h limit", "c")]
    path = save(tmp_path / "model.onnx", branching("c", *before), DENSE | {"limit": np.float32(0)}, ("N", 6))
    with pytest.raises(UserError, match=r"node 'node_i' \(If\): its condition depends on the input"):
        load_model(path)


def test_a_branch_that_the_batch_decides_is_refused(tmp_path):
    before = [*(node("Shape", "x", "s"), node("Gather", "s zero", "n")), node("Less", "n many", "c")]
    constants = DENSE | {"many": np.array(7910)}
    with pytest.raises(UserError, match=r"node 'node_i' \(If\): its condition depends on the size"):
        load_model(save(tmp_path / "model.onnx", branching("c", *before), constants, ("N", 6)))


BODY = graph(
    "body",
    [
        *(node("Relu", "b", "r"), node("Add", "a r", "a2"), node("Identity", "a", "b2")),
        *(node("Identity", "go", "on"),),
    ],
    [("on", TensorProto.BOOL), ("a2", FLOAT), ("b2", FLOAT)],
    [("number", TensorProto.INT64, []), ("go", TensorProto.BOOL, []), ("a", FLOAT, None), ("b", FLOAT, None)],
)


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_a_loop_of_known_length(tmp_path, passes):
    """Its states change places from pass to pass."""
    nodes = [
        *(node("MatMul", "x W", "h"), node("Neg", "h", "g"), node("Loop", "count yes h g", "p q", body=BODY)),
        *(node("Sub", "p q", "d"), node("MatMul", "d V", "y")),
    ]
    path = save(tmp_path / "model.onnx", nodes, DENSE | {"count": np.array(passes)}, ("N", 6))
    check(path, X)


def test_a_loop_whose_end_is_not_known_is_refused(tmp_path):
    """It depends on the samples, and each would end at another time."""
    nodes = [
        *(node("MatMul", "x W", "h"), node("Abs", "h", "a"), node("ReduceMax", "a", "m", keepdims=0)),
        *(node("Cast", "m", "n", to=TensorProto.INT64), node("Loop", "n yes h h", "y q", body=BODY)),
    ]
    with pytest.raises(UserError, match=r"\((Loop|Cast|ReduceMax)\)"):
        load_model(save(tmp_path / "model.onnx", nodes, DENSE, ("N", 6)))


SEQUENCE = normal(3, 4, 6)
CONSTANTS = {"W": normal(6, 5), "B": normal(5), "V": normal(5, 2), "flat": np.array([-1, 6])}
CONSTANTS |= {"back": np.array([4, -1, 5]), "third": np.array(2), "from": np.array([1]), "to": np.array([3])}
CONSTANTS |= {"axis": np.array([0]), "steps": normal(4, 1, 5), "front": np.array([0])}
AWAY, HOME = node("Transpose", "m", "s", perm=[1, 0, 2]), node("Transpose", "z", "y", perm=[1, 2, 0])
MAPS = node("Conv", "x K", "c"), node("Transpose", "c", "m", perm=[0, 2, 1])
LAYERS = {
    "product": [node("MatMul", "s W", "h"), node("Add", "h B", "z"), HOME],
    "flattened": [
        *(node("Reshape", "s flat", "f"), node("Gemm", "f W B", "h"), node("Relu", "h", "r")),
        *(node("Reshape", "r back", "z"), HOME),
    ],
    "step": [node("Gather", "s third", "h"), node("MatMul", "h W", "y")],
    "slice": [node("Slice", "s from to axis", "h"), node("MatMul", "h W", "z"), HOME],
    "split": [
        *(
            node("Split", "s", "p q", num_outputs=2),
            node("Mul", "p q", "h"),
            node("MatMul", "h W", "z"),
            HOME,
        ),
    ],
    "constant for each step": [node("MatMul", "s W", "h"), node("Add", "h steps", "z"), HOME],
    "one more axis": [
        *(
            node("Unsqueeze", "s front", "u"),
            node("Squeeze", "u front", "v"),
            node("MatMul", "v W", "z"),
            HOME,
        ),
    ],
}


@pytest.mark.parametrize("name", LAYERS)
def test_samples_behind_the_steps(tmp_path, name):
    """What exporters write around layers that take the steps first."""
    constants = CONSTANTS | {"K": normal(6, 3, 1)}
    path = save(tmp_path / "model.onnx", [*MAPS, AWAY, *LAYERS[name]], constants, ("N", 3, 4))
    check(path, normal(3, 3, 4))


def test_samples_that_stay_behind(tmp_path):
    """The network gives them first, whatever axis they have in the file."""
    constants = CONSTANTS | {"K": normal(6, 3, 1)}
    path = save(tmp_path / "model.onnx", [*MAPS, AWAY, node("MatMul", "s W", "y")], constants, ("N", 3, 4))
    x = normal(5, 3, 4)
    (expected,) = onnxruntime.InferenceSession(path).run(None, {"x": x})
    assert expected.shape[1] == 5
    found = forward(load_model(path), x)
    np.testing.assert_allclose(found, np.moveaxis(expected, 1, 0).reshape(5, -1), atol=1e-5)
