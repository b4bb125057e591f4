"""The comparison of every import with a program that is not ours."""

import builtins
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from helpers import TESTS  # noqa: E402
from helpers.onnx_models import node, save  # noqa: E402
from repurpose_hpc.errors import Note, UserError  # noqa: E402
from repurpose_hpc.io.samples import Samples  # noqa: E402
from repurpose_hpc.model.activations import Activation  # noqa: E402
from repurpose_hpc.model.forward import forward  # noqa: E402
from repurpose_hpc.model.importers.load import check_model, load_model  # noqa: E402
from repurpose_hpc.model.importers.onnx import operators  # noqa: E402
from repurpose_hpc.model.importers.opinion import evaluators, verdict  # noqa: E402
from repurpose_hpc.model.importers.opinion.comparison import allowance, differences  # noqa: E402
from repurpose_hpc.model.importers.opinion.evaluators import CannotRun, OnnxReference, OnnxRuntime  # noqa: E402
from repurpose_hpc.model.importers.opinion.probes import draw_probes  # noqa: E402

RNG = np.random.default_rng(5)
CONSTANTS = {
    "W": RNG.normal(size=(5, 6)).astype(np.float32),
    "B": RNG.normal(size=6).astype(np.float32),
    "V": RNG.normal(size=(6, 3)).astype(np.float32),
    "C": RNG.normal(size=3).astype(np.float32),
    "scale": (1 + RNG.random(6)).astype(np.float32),
    "low": np.float32(-2),
    "high": np.float32(200),
}
FIRST = node("Gemm", "x W B", "h")


def _saved(tmp_path, *nodes, **changes):
    used = {name for each in nodes for name in each.input}
    constants = {name: value for name, value in CONSTANTS.items() if name in used}
    return save(tmp_path / "model.onnx", list(nodes), constants, **changes)


def _instead(monkeypatch, operator, function):
    """The importer reads an operator wrongly."""
    monkeypatch.setitem(operators.OPERATORS, operator, function)


def _read_as(activation):
    def read(node):
        signal = node.signal()
        return replace(signal, expression=signal.expression.then(activation, node.name), origin=str(node))

    return read


WRONG = {
    "another function": ("Tanh", _read_as(Activation("sigmoid")), [node("Tanh", "h", "a")]),
    "an approximation": (
        "Gelu", _read_as(Activation("gelu_tanh")), [node("Gelu", "h", "a")]
    ),
    "a far bound is lost": (
        "Clip", _read_as(Activation("clip", -2.0, np.inf)), [node("Clip", "h low high", "a")]
    ),
    "a narrow dead zone is lost": (
        "Shrink", _read_as(Activation("identity")), [node("Shrink", "h", "a", lambd=0.03, bias=0.03)]
    ),
    "a slope": (
        "LeakyRelu", _read_as(Activation("leaky_relu", 0.0101)), [node("LeakyRelu", "h", "a")]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("behind", [False, True])
def test_the_first_tensor_that_differs_is_named(tmp_path, monkeypatch, name, behind):
    operator, wrong, nodes = WRONG[name]
    first = [FIRST, node("Elu", "h", "r"), node("Mul", "r scale", "s")] if behind else [FIRST]
    if behind:
        nodes = [node(operator, " ".join(["s", *nodes[0].input[1:]]), "a")]
        nodes[0].attribute.extend(WRONG[name][2][0].attribute)
    path = _saved(tmp_path, *first, *nodes, node("Gemm", "a V C", "y"))
    load_model(path)
    _instead(monkeypatch, operator, wrong)
    with pytest.raises(
        UserError,
        match=rf"model.onnx: the imported network differs from the model in tensor 'a' of node 'node_a' "
        rf"\({operator}\): at \(\d,\) onnx.reference .* computes -?[\d.e+-]+, the network -?[\d.e+-]+; "
        r"write that in another way .*--no-check \(check=False",
    ):
        load_model(path)
    load_model(path, check=False)


def test_weights_that_are_read_wrongly(tmp_path, monkeypatch):
    path = _saved(tmp_path, FIRST, node("Relu", "h", "r"), node("Gemm", "r V C", "y"))
    right = operators.OPERATORS["Gemm"]

    def without_bias(each):
        return right(replace(each, inputs=each.inputs[:2]))

    _instead(monkeypatch, "Gemm", without_bias)
    with pytest.raises(UserError, match=r"tensor 'h' of node 'node_h' \(Gemm\)"):
        load_model(path)


def test_another_number_of_outputs(tmp_path, monkeypatch):
    path = _saved(tmp_path, FIRST, node("Relu", "h", "r"), node("Concat", "r h", "y", axis=1))
    _instead(monkeypatch, "Concat", lambda each: each.signal(0))
    with pytest.raises(UserError, match="the imported network has 6 outputs, the model 12"):
        load_model(path)


@pytest.mark.parametrize("samples", [None, Samples.of(RNG.normal(size=(9, 5)))])
def test_what_agrees(tmp_path, samples):
    path = _saved(
        tmp_path, FIRST, node("Sigmoid", "h", "r"), node("Gemm", "r V C", "g"), node("Softmax", "g", "y")
    )
    result = check_model(path, load_model(path), samples)
    assert result.evaluator.startswith("onnxruntime ")
    assert result.largest_difference < 1e-5 and result.reason is None
    assert str(result).startswith("the import agrees with onnxruntime ")


@pytest.mark.parametrize("steps", [1, 4, "as many as probes"])
def test_samples_on_another_axis_of_an_output(tmp_path, monkeypatch, steps):
    nodes = [node("MatMul", "x W", "h"), node("Tanh", "h", "a"), node("Transpose", "a", "y", perm=[1, 0, 2])]
    count = len(draw_probes(load_model(_saved(tmp_path, *nodes, shape=("N", 4, 5))), None))
    shape = ("N", count if isinstance(steps, str) else steps, 5)
    path = _saved(tmp_path, *nodes, shape=shape)
    network = load_model(path)
    assert check_model(path, network).largest_difference < 1e-5
    x = RNG.normal(size=(3, *shape[1:])).astype(np.float32)
    np.testing.assert_allclose(
        forward(network, x.reshape(3, -1)), np.tanh(x @ CONSTANTS["W"]).reshape(3, -1), atol=1e-6
    )
    _instead(monkeypatch, "Tanh", _read_as(Activation("softsign")))
    with pytest.raises(UserError, match=r"tensor 'a' of node 'node_a' \(Tanh\)"):
        load_model(path)


def test_chain_files_leave_nothing_to_interpret(tmp_path):
    np.savez(tmp_path / "model.npz", W0=np.ones((2, 2)), b0=np.ones(2))
    assert check_model(tmp_path / "model.npz", load_model(tmp_path / "model.npz")) is None


def test_without_onnxruntime(tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    path = _saved(tmp_path, FIRST, node("Tanh", "h", "r"), node("Gemm", "r V C", "y"))
    assert check_model(path, load_model(path)).evaluator == f"onnx.reference {onnx.__version__}"
    _instead(monkeypatch, "Tanh", _read_as(Activation("softsign")))
    with pytest.raises(UserError, match=r"tensor 'r' of node 'node_r' \(Tanh\)"):
        load_model(path)


def _converted(path, kind):
    """A model in another floating-point type."""
    model = onnx.load(path)
    for item in model.graph.initializer:
        values = helper.make_tensor(item.name, kind, item.dims, numpy_helper.to_array(item).ravel())
        item.CopyFrom(values)
    for item in (*model.graph.input, *model.graph.output):
        item.type.tensor_type.elem_type = kind
    del model.graph.value_info[:]
    onnx.save(model, path)


@pytest.mark.parametrize("kind", [TensorProto.BFLOAT16, TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_what_onnxruntime_does_not_compute_the_reference_does(tmp_path, monkeypatch, kind):
    # It has no Gelu in float64, and rounds to half precision, or has no such layers.
    path = _saved(tmp_path, FIRST, node("Gelu", "h", "r"), node("Gemm", "r V C", "y"))
    _converted(path, kind)
    assert check_model(path, load_model(path)).evaluator.startswith("onnx.reference")
    _instead(monkeypatch, "Gelu", _read_as(Activation("sigmoid")))
    with pytest.raises(UserError, match="tensor 'r'"):
        load_model(path)


def _no_program(monkeypatch):
    def cannot(self, path, model):
        raise CannotRun(f"{type(self).__name__} is of no use here")

    for program in (OnnxRuntime, OnnxReference):
        monkeypatch.setattr(program, "__init__", cannot)


def test_what_no_program_computes_is_not_checked_and_it_is_said(tmp_path, monkeypatch):
    path = _saved(tmp_path, FIRST, node("Gemm", "h V C", "y"))
    _no_program(monkeypatch)
    with pytest.warns(Note, match="the import is not checked: OnnxRuntime is of no use here; OnnxRef"):
        network = load_model(path)
    with pytest.warns(Note, match="the import is not checked"):
        result = check_model(path, network)
    assert (result.evaluator, result.largest_difference) == (None, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(path, check=False)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_number_of_samples(tmp_path, monkeypatch, batch):
    path = _saved(tmp_path, FIRST, node("Tanh", "h", "r"), node("Gemm", "r V C", "y"), shape=(batch, 5))
    assert check_model(path, load_model(path)).evaluator.startswith("onnxruntime")
    _instead(monkeypatch, "Tanh", _read_as(Activation("softsign")))
    with pytest.raises(UserError, match="tensor 'r'"):
        load_model(path)


def test_several_inputs_are_told_apart(tmp_path):
    nodes = [FIRST, node("Gemm", "z W B", "i"), node("Tanh", "i", "t"), node("Mul", "h t", "y")]
    path = _saved(tmp_path, *nodes, inputs=("x", "z"))
    assert check_model(path, load_model(path)).largest_difference < 1e-5


def test_steps_that_rounding_crosses_are_no_fault(tmp_path):
    # Sums that are integers but for rounding, which Floor takes for the one or the other.
    weights = np.full((5, 6), 0.1, np.float32)
    constants = {"W": weights, "V": CONSTANTS["V"], "ten": np.float32(10)}
    nodes = [
        *(node("MatMul", "x W", "h"), node("Mul", "h ten", "m"), node("Floor", "m", "f")),
        node("MatMul", "f V", "y"),
    ]
    path = save(tmp_path / "model.onnx", nodes, constants)
    samples = Samples.of(RNG.integers(-9, 9, (64, 5)))
    network = load_model(path, check=False)
    assert check_model(path, network, samples).evaluator is not None


def test_what_overflows_is_no_fault(tmp_path):
    # exp(x) and its quotients are infinite, or not a number, long before the sigmoid they amount to.
    one = {"one": np.float32(1)}
    nodes = [
        FIRST,
        node("Exp", "h", "e"),
        node("Add", "e one", "a"),
        node("Log", "a", "l"),
        node("Gemm", "l V C", "y"),
    ]
    path = save(tmp_path / "model.onnx", nodes, {**{name: CONSTANTS[name] for name in "WBVC"}, **one})
    assert check_model(path, load_model(path, check=False)).evaluator is not None


IMPORTABLE = sorted((TESTS / "data" / "onnx").glob("*.onnx"))


@pytest.mark.parametrize("path", IMPORTABLE, ids=lambda path: path.stem)
def test_exported_models_are_right(path):
    assert check_model(path, load_model(path, check=False)).largest_difference < 1e-5


def test_probes_of_data(tmp_path):
    network = load_model(_saved(tmp_path, FIRST, node("Gemm", "h V C", "y")))
    data = np.abs(RNG.normal(size=(50, 5))).astype(np.float32)
    data[:20] = 0
    data[20] = np.nan
    x = draw_probes(network, Samples.of(data))
    assert x.shape == (16, 5) and x.dtype == np.float64 and np.isfinite(x).all()
    row = next(row for row in data if (row == x[0]).all())
    assert row.any()
    np.testing.assert_allclose(x[1:3], np.float32([[0.01], [30]]) * row, rtol=1e-6)
    assert (x[3] == row).sum() == 4 and x[3].max() == pytest.approx(1000 * row.max())
    assert not x[4].any()
    np.testing.assert_array_equal(x, draw_probes(network, Samples.of(data)))


def test_differences_of_numbers_that_are_none():
    nan, inf = np.nan, np.inf
    y = np.array([[1.0, nan, inf, -inf, 1e39, 2.0, nan, 0.0]])
    expected = np.array([[1.0, nan, inf, inf, inf, nan, 4.0, 2.0]])
    assert differences(y, expected).tolist() == [[0, 0, 0, inf, 0, inf, inf, 0.5]]


def test_a_jump_is_allowed_where_rounding_crosses_it():
    expected = np.array([[0.0, 1.0, 2.0, 3.0]])
    perturbed = [expected * (1 + 1e-7), expected + [[0, 0, 1, 0]]]
    allowed = allowance(expected, perturbed, 1e-5)[0]
    assert allowed[2] > 1 / 3 and (allowed[[0, 1, 3]] < 1e-4).all()


def test_tensors_of_both_programs(tmp_path):
    path = _saved(tmp_path, FIRST, node("Tanh", "h", "t"), node("Gemm", "t V C", "y"))
    x = RNG.normal(size=(3, 5)).astype(np.float32)
    first, second = evaluators.evaluators(path)
    ours = dict(verdict.tensor_values(path, x.astype(np.float64)))
    for program in (first, second):
        values = program.tensors({"x": x.astype(program.inputs["x"])})
        for name in ("h", "t", "y"):
            np.testing.assert_allclose(values[name], ours[name], atol=1e-5)
    assert re.match("onnxruntime", first.name) and second.inputs["x"] == np.float64
