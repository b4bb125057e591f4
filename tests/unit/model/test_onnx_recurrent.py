"""LSTM, GRU and RNN, unrolled, against onnxruntime."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc.errors import Note, UserError
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from helpers.onnx_models import node, save  # noqa: E402
from helpers.rewritten import check, check_workers  # noqa: E402

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STEPS, FEATURES, HIDDEN = 4, 3, 5


def recurrent(
    path, operator, steps=STEPS, state=None, with_bias=True, peepholes=False, tail=None, **attributes
):
    """A model of (N, S, F): the samples behind the steps, the layer, and the samples in front again.

    Args:
        path: of the file.
        operator: LSTM, GRU or RNN.
        steps: S.
        state: the initial one of all samples, (H,).
        with_bias, peepholes: whether it has them.
        tail: nodes from the layer's outputs to y; the whole sequence is the default.
        attributes: of the layer.
    """
    rng = np.random.default_rng(3)
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    rows = GATES[operator] * HIDDEN

    def weights(*shape):
        return (0.6 * rng.normal(size=(directions, *shape))).astype(np.float32)

    constants = {"W": weights(rows, FEATURES), "R": weights(rows, HIDDEN), "B": weights(2 * rows)}
    constants |= {"P": weights(3 * HIDDEN), "lengths": np.array([steps], np.int32)}
    constants |= {"V": weights(HIDDEN, 2)[0], "last": np.array(-1), "first": np.array(0)}
    names = f"s W R {'B' if with_bias else '-'} -"
    nodes = [node("Transpose", "x", "s", perm=[1, 0, 2])]
    if state is not None:
        shape = np.array([directions, 1, HIDDEN])
        constants |= {
            "row": np.broadcast_to(state, shape).astype(np.float32),
            "zero": np.array([0], np.int64),
        }
        constants |= {"ends": np.array([directions, HIDDEN])[:1], "hidden": np.array([HIDDEN])}
        nodes += [
            *(node("Shape", "x", "sizes"), node("Gather", "sizes zero", "n")),
            *(node("Concat", "ends n hidden", "target", axis=0), node("Expand", "row target", "h0")),
        ]
        names += " h0"
    elif peepholes:
        names += " -"
    if operator == "LSTM":
        names += " h0" if state is not None else " -" if peepholes else ""
        names += " P" if peepholes else ""
    outputs = "Y Yh Yc" if operator == "LSTM" else "Y Yh"
    nodes.append(node(operator, names, outputs, hidden_size=HIDDEN, **attributes))
    nodes += tail or [node("Transpose", "Y", "y", perm=[2, 0, 1, 3])]
    return save(path, nodes, constants, ("N", steps, FEATURES), opset=17)


X = np.random.default_rng(4).normal(size=(3, STEPS, FEATURES)).astype(np.float32)
LAST = [node("Gather", "Y last", "e"), node("Gather", "e first", "h"), node("MatMul", "h V", "y")]
ACTIVATIONS = ("Tanh", "Sigmoid", "Relu", "LeakyRelu", "Elu", "HardSigmoid", "Softsign", "Softplus")


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("operator", GATES)
def test_directions(tmp_path, operator, direction):
    check(recurrent(tmp_path / "model.onnx", operator, direction=direction), X)


@given(data=st.data(), operator=st.sampled_from(list(GATES)))
def test_attributes(tmp_path_factory, data, operator):
    """Whatever the operators of ONNX allow and onnxruntime computes."""
    direction = data.draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    functions = {"LSTM": 3, "GRU": 2, "RNN": 1}[operator] * (2 if direction == "bidirectional" else 1)
    # Small enough that no activation without a bound runs away.
    chosen = data.draw(st.lists(st.sampled_from(ACTIVATIONS), min_size=functions, max_size=functions))
    attributes = {"direction": direction}
    if data.draw(st.booleans()):
        attributes |= {"activations": chosen}
    if data.draw(st.booleans()):
        attributes["clip"] = 0.5
    if operator == "GRU":
        attributes["linear_before_reset"] = data.draw(st.integers(0, 1))
    if operator == "LSTM":
        attributes["input_forget"] = data.draw(st.integers(0, 1))
    state = data.draw(st.sampled_from([None, np.zeros(HIDDEN), np.linspace(-1, 1, HIDDEN)]))
    path = recurrent(
        tmp_path_factory.mktemp("recurrent") / "model.onnx",
        operator,
        state=state,
        with_bias=data.draw(st.booleans()),
        peepholes=operator == "LSTM" and data.draw(st.booleans()),
        **attributes,
    )
    check(path, X, 1e-5)


def test_alpha_and_beta_belong_to_the_activations_that_have_them(tmp_path):
    path = recurrent(
        tmp_path / "model.onnx",
        "LSTM",
        activations=["HardSigmoid", "Tanh", "Affine"],
        activation_alpha=[0.3, 0.2],
        activation_beta=[0.4, 0.1],
    )
    check(path, X)
    path = recurrent(tmp_path / "model.onnx", "RNN", activations=["Affine"])
    with pytest.raises(
        UserError, match="attributes activation_alpha and activation_beta have none for Affine"
    ):
        load_model(path)


def test_batch_first_is_the_same(tmp_path):
    """onnxruntime has no such layout: the same weights in the other one are compared."""
    rng = np.random.default_rng(5)
    W, R = (rng.normal(size=(1, 3 * HIDDEN, size)).astype(np.float32) for size in (FEATURES, HIDDEN))
    outputs = []
    for layout, nodes in {
        0: [
            node("Transpose", "x", "s", perm=[1, 0, 2]),
            node("GRU", "s W R", "Y", hidden_size=HIDDEN),
            node("Transpose", "Y", "y", perm=[2, 0, 1, 3]),
        ],
        1: [node("GRU", "x W R", "y", hidden_size=HIDDEN, layout=1)],
    }.items():
        path = save(tmp_path / f"{layout}.onnx", nodes, {"W": W, "R": R}, ("N", STEPS, FEATURES), opset=17)
        outputs.append(forward(load_model(path), X.reshape(3, -1)))
    check(tmp_path / "0.onnx", X)
    np.testing.assert_array_equal(outputs[0], outputs[1])


@pytest.mark.slow
@pytest.mark.parametrize("operator", GATES)
def test_workers(tmp_path, operator):
    check_workers(recurrent(tmp_path / "model.onnx", operator, tail=LAST), X)


@pytest.mark.parametrize("steps", [64, 65])
def test_many_steps_are_noted(tmp_path, steps):
    path = recurrent(tmp_path / "model.onnx", "RNN", steps=steps, tail=LAST)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        load_model(path)
    texts = [str(note.message) for note in notes if note.category is Note]
    assert texts == [
        f"node 'node_Y' (RNN): {steps} steps are unrolled, each with weights of its own in the shards; "
        "expected 64 or fewer"
    ] * (steps > 64)


def test_sequences_of_several_lengths_are_refused(tmp_path):
    nodes = [
        node("Transpose", "x", "s", perm=[1, 0, 2]),
        node("RNN", "s W R - lengths", "Y Yh", hidden_size=HIDDEN),
        node("Transpose", "Yh", "y", perm=[1, 0, 2]),
    ]
    constants = {"W": np.ones((1, 5, 3), np.float32), "R": np.ones((1, 5, 5), np.float32)}
    constants["lengths"] = np.array([4, 2], np.int32)
    path = save(tmp_path / "model.onnx", nodes, constants, (2, STEPS, FEATURES), opset=17)
    with pytest.raises(UserError, match=r"node 'node_Y' \(RNN\): its sequence_lens differ from 4"):
        load_model(path)


@pytest.mark.slow
@pytest.mark.parametrize("with_dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
def test_exported_layers(tmp_path, cell, with_dynamo):
    """Two layers in both directions, of which a dense layer sees the last step."""
    torch = pytest.importorskip("torch")
    if with_dynamo:
        pytest.importorskip("onnxscript")
        if cell == "RNN":
            pytest.skip("the newer exporter unrolls it, with a product over all steps first")

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            kind = getattr(torch.nn, cell)
            self.recurrent = kind(FEATURES, HIDDEN, 2, batch_first=True, bidirectional=True)
            self.dense = torch.nn.Linear(2 * HIDDEN, 3)

        def forward(self, x):
            return self.dense(self.recurrent(x)[0][:, -1])

    torch.manual_seed(0)
    path, example = tmp_path / "model.onnx", torch.from_numpy(X[:2])
    options = {"dynamic_axes": {"x": {0: "N"}}, "opset_version": 17}
    if with_dynamo:
        options = {"dynamic_shapes": ({0: torch.export.Dim("N")},), "opset_version": 18, "verbose": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {} if with_dynamo else {"input_names": ["x"]}
        torch.onnx.export(Network().eval(), (example,), str(path), dynamo=with_dynamo, **names, **options)
    check(path, X)
