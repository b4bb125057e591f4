"""Element-wise functions written as several nodes: what is recognised, and what has to stay step by step."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnxruntime  # noqa: E402
from onnx import TensorProto  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from helpers.onnx_models import node  # noqa: E402
from repurpose_hpc.model.activations import DECLARED, Activation, activate  # noqa: E402
from repurpose_hpc.model.forward import forward  # noqa: E402
from repurpose_hpc.model.importers.load import load_model  # noqa: E402
from repurpose_hpc.model.importers.onnx import pieces  # noqa: E402
from repurpose_hpc.model.importers.onnx.forms import NoForm  # noqa: E402

TYPES = {np.float16: TensorProto.FLOAT16, np.float32: TensorProto.FLOAT, np.float64: TensorProto.DOUBLE}


def _save(path, nodes, constants, dtype=np.float32, opset=20):
    """y of h, which is the input itself: (N, 1)."""
    arrays = {name: np.asarray(value) for name, value in {**constants, "one": 1.0, "W": [[1.0]]}.items()}
    used = {"W", *(each for node_ in nodes for each in node_.input)}
    graph = onnx.helper.make_graph(
        [node("MatMul", "x W", "h"), *nodes],
        "graph",
        [onnx.helper.make_tensor_value_info("x", TYPES[dtype], ("N", 1))],
        [onnx.helper.make_tensor_value_info("y", TYPES[dtype], ("N", 1))],
        [
            onnx.numpy_helper.from_array(value.astype(dtype) if value.dtype.kind == "f" else value, name)
            for name, value in arrays.items()
            if name in used
        ],
    )
    imports = [onnx.helper.make_opsetid("", opset)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=imports, ir_version=9), path)
    return path


def _steps(network):
    """Activations, and the types of other operations, behind the first."""
    return [getattr(op, "activation", type(op).__name__) for op in network.operations[1:]]


def _in_onnxruntime(path, x):
    options = onnxruntime.SessionOptions()
    # Or it multiplies constants beforehand, which overflow.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def _near(*numbers, dtype=np.float32):
    """These numbers and their neighbours, both signs, and others near and far: (n, 1)."""
    values = np.array([*numbers, 0, *np.linspace(0, 12, 13), *np.logspace(-30, 30, 13)], dtype)
    steps = [values, np.nextafter(values, dtype(-np.inf)), np.nextafter(values, dtype(np.inf))]
    values = np.concatenate(steps)
    return np.unique([*values, *-values]).astype(dtype)[:, None]


# By what it is: numbers, and nodes that make y of h.
SQRT_HALF, SQRT_2_OVER_PI = math.sqrt(0.5), math.sqrt(2 / math.pi)
WRITTEN = {
    "gelu: h / sqrt 2": (
        {"a": math.sqrt(2), "half": 0.5},
        [
            *(node("Div", "h a", "b"), node("Erf", "b", "c"), node("Add", "c one", "d")),
            *(node("Mul", "h d", "e"), node("Mul", "e half", "y")),
        ],
    ),
    "gelu: half of h first": (
        {"a": SQRT_HALF, "half": 0.5},
        [
            *(node("Mul", "h a", "b"), node("Erf", "b", "c"), node("Add", "one c", "d")),
            *(node("Mul", "h half", "e"), node("Mul", "d e", "y")),
        ],
    ),
    "gelu: of a half": (
        {"a": SQRT_HALF, "half": 0.5},
        [
            *(node("Mul", "h a", "b"), node("Erf", "b", "c"), node("Mul", "c half", "d")),
            *(node("Add", "d half", "e"), node("Mul", "e h", "y")),
        ],
    ),
    "gelu_tanh: a cube": (
        {"a": 0.044715, "b": SQRT_2_OVER_PI, "half": 0.5, "three": 3.0},
        [
            *(node("Pow", "h three", "c"), node("Mul", "c a", "d"), node("Add", "h d", "e")),
            *(node("Mul", "e b", "f"), node("Tanh", "f", "g"), node("Add", "g one", "i")),
            *(node("Mul", "h half", "j"), node("Mul", "j i", "y")),
        ],
    ),
    "gelu_tanh: a square": (
        {"a": 0.044715, "b": SQRT_2_OVER_PI, "half": 0.5},
        [
            *(node("Mul", "h h", "c"), node("Mul", "c a", "d"), node("Add", "one d", "e")),
            *(node("Mul", "e h", "f"), node("Mul", "f b", "g"), node("Tanh", "g", "i")),
            *(node("Add", "i one", "j"), node("Mul", "h j", "k"), node("Mul", "k half", "y")),
        ],
    ),
    "silu: product": ({}, [node("Sigmoid", "h", "s"), node("Mul", "h s", "y")]),
    "silu: quotient": (
        {},
        [
            *(node("Neg", "h", "a"), node("Exp", "a", "b"), node("Add", "b one", "c")),
            node("Div", "h c", "y"),
        ],
    ),
    "sigmoid: quotient": (
        {},
        [
            *(node("Neg", "h", "a"), node("Exp", "a", "b"), node("Add", "b one", "c")),
            node("Reciprocal", "c", "y"),
        ],
    ),
    "sigmoid: of tanh": (
        {"half": 0.5},
        [
            *(node("Mul", "h half", "a"), node("Tanh", "a", "b"), node("Mul", "b half", "c")),
            node("Add", "c half", "y"),
        ],
    ),
    "tanh: of sigmoid": (
        {"two": 2.0},
        [
            *(node("Mul", "h two", "a"), node("Sigmoid", "a", "b"), node("Mul", "b two", "c")),
            node("Sub", "c one", "y"),
        ],
    ),
    "softplus: logarithm": ({}, [node("Exp", "h", "a"), node("Add", "a one", "b"), node("Log", "b", "y")]),
    "softplus: no overflow": (
        {},
        [
            *(node("Abs", "h", "a"), node("Neg", "a", "b"), node("Exp", "b", "c"), node("Add", "c one", "d")),
            *(node("Log", "d", "e"), node("Relu", "h", "f"), node("Add", "e f", "y")),
        ],
    ),
    "log_sigmoid: of softplus": (
        {},
        [node("Neg", "h", "a"), node("Softplus", "a", "b"), node("Neg", "b", "y")],
    ),
    "log_sigmoid: of sigmoid": ({}, [node("Sigmoid", "h", "a"), node("Log", "a", "y")]),
    "hard_swish: of a sixth": (
        {"three": 3.0, "zero": 0.0, "six": 6.0},
        [
            *(node("Add", "h three", "a"), node("Clip", "a zero six", "b"), node("Div", "b six", "c")),
            node("Mul", "h c", "y"),
        ],
    ),
    "hard_swish: sixth last": (
        {"three": 3.0, "zero": 0.0, "six": 6.0, "sixth": 1 / 6},
        [
            *(node("Add", "h three", "a"), node("Relu", "a", "b"), node("Min", "b six", "c")),
            *(node("Mul", "h c", "d"), node("Mul", "d sixth", "y")),
        ],
    ),
    "hard_sigmoid:1/6:0.5: sixth last": (
        {"three": 3.0, "zero": 0.0, "six": 6.0},
        [node("Add", "h three", "a"), node("Clip", "a zero six", "b"), node("Div", "b six", "y")],
    ),
    "hard_sigmoid:0.25:0.5: a line": (
        {"a": 0.25, "b": 0.5, "zero": 0.0},
        [node("Mul", "h a", "c"), node("Add", "c b", "d"), node("Clip", "d zero one", "y")],
    ),
    "relu: Where": (
        {"zero": 0.0},
        [node("Greater", "h zero", "g"), node("Where", "g h zero", "y")],
    ),
    "relu: half of a sum": (
        {"half": 0.5},
        [node("Abs", "h", "a"), node("Add", "h a", "b"), node("Mul", "b half", "y")],
    ),
    "abs: Max": ({}, [node("Neg", "h", "n"), node("Max", "h n", "y")]),
    "abs: sign": ({}, [node("Sign", "h", "s"), node("Mul", "s h", "y")]),
    "clip:0:6: Min, Max": (
        {"zero": 0.0, "six": 6.0},
        [node("Min", "h six", "a"), node("Max", "zero a", "y")],
    ),
    "clip:-1000:255: of clips": (
        {"a": -1e5, "b": 255.0, "c": -1000.0, "d": 1e30},
        [node("Clip", "h a b", "e"), node("Clip", "e c d", "y")],
    ),
    "leaky_relu:0.25: Max": ({"a": 0.25}, [node("Mul", "h a", "b"), node("Max", "b h", "y")]),
    "leaky_relu:-3: Where": (
        {"a": -3.0, "zero": 0.0},
        [node("Mul", "h a", "b"), node("GreaterOrEqual", "h zero", "g"), node("Where", "g h b", "y")],
    ),
    "leaky_relu:0.125: of two ReLU": (
        {"a": 0.125},
        [
            *(node("Neg", "h", "n"), node("Relu", "n", "r"), node("Mul", "r a", "s")),
            *(node("Relu", "h", "p"), node("Sub", "p s", "y")),
        ],
    ),
    "elu:1: Where": (
        {"zero": 0.0},
        [
            *(node("Exp", "h", "e"), node("Sub", "e one", "m"), node("Greater", "h zero", "g")),
            node("Where", "g h m", "y"),
        ],
    ),
    "elu:0.5: two halves": (
        {"a": 0.5, "zero": 0.0},
        [
            *(node("Min", "h zero", "n"), node("Exp", "n", "e"), node("Sub", "e one", "m")),
            *(node("Mul", "m a", "b"), node("Relu", "h", "p"), node("Add", "p b", "y")),
        ],
    ),
    "elu:1: bounded behind exp": (
        {"zero": 0.0},
        [
            *(node("Exp", "h", "e"), node("Sub", "e one", "m"), node("Min", "m zero", "n")),
            *(node("Relu", "h", "p"), node("Add", "p n", "y")),
        ],
    ),
    "selu:1.75:1.125: Where": (
        {"a": 1.75, "b": 1.125, "zero": 0.0},
        [
            *(node("Exp", "h", "e"), node("Sub", "e one", "m"), node("Mul", "m a", "n")),
            *(node("LessOrEqual", "h zero", "l"), node("Where", "l n h", "w"), node("Mul", "w b", "y")),
        ],
    ),
    "celu:2: two halves": (
        {"a": 2.0, "zero": 0.0},
        [
            *(node("Div", "h a", "d"), node("Exp", "d", "e"), node("Sub", "e one", "m")),
            *(node("Mul", "m a", "n"), node("Min", "n zero", "o"), node("Max", "h zero", "p")),
            node("Add", "p o", "y"),
        ],
    ),
    "softsign: quotient": ({}, [node("Abs", "h", "a"), node("Add", "a one", "b"), node("Div", "h b", "y")]),
    "softshrink:0.001: of ReLU": (
        {"a": 0.0009765625},
        [
            *(
                node("Sub", "h a", "b"),
                node("Relu", "b", "c"),
                node("Neg", "h", "d"),
                node("Sub", "d a", "e"),
            ),
            *(node("Relu", "e", "f"), node("Sub", "c f", "y")),
        ],
    ),
    "hardshrink:1e-6: of a mask": (
        {"a": 2.0**-20},
        [
            *(node("Abs", "h", "b"), node("Greater", "b a", "c"), node("Cast", "c", "d", to=1)),
            node("Mul", "h d", "y"),
        ],
    ),
    "threshold:200:-3: Where": (
        {"a": 200.0, "b": -3.0},
        [node("Greater", "h a", "g"), node("Where", "g h b", "y")],
    ),
    "greater:300: Where": (
        {"a": 300.0, "zero": 0.0},
        [node("Greater", "h a", "g"), node("Where", "g one zero", "y")],
    ),
}


def _expected(name):
    text = name.split(": ")[0]
    exact = {"softshrink:0.001": "softshrink:0.0009765625", "hardshrink:1e-6": f"hardshrink:{2.0**-20}"}
    kind, *numbers = exact.get(text, text).split(":")
    return Activation(kind, *(float(Fraction(number)) for number in numbers))


@pytest.mark.parametrize("name", WRITTEN)
def test_what_exporters_write_is_one_activation(tmp_path, name):
    constants, nodes = WRITTEN[name]
    path = _save(tmp_path / "model.onnx", nodes, constants)
    network = load_model(path)
    activation = _expected(name)
    if activation.kind == "relu":
        assert _steps(network) in ([activation], [Activation("clip", 0.0, math.inf)])
    else:
        assert _steps(network) == [activation]
    x = _near(*constants.values())
    # Beyond, exp overflows; of a sigmoid close to 0, onnxruntime has few digits left.
    x = x[np.abs(x) < (5 if "of sigmoid" in name else 50)][:, None]
    expected, found = _in_onnxruntime(path, x), forward(network, x, np.float32)
    assert np.abs(found - expected).max() <= 4e-6 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("name", [name for name in WRITTEN if name.startswith(("gelu", "silu", "hard_s"))])
def test_constants_may_be_rounded_to_half_precision(tmp_path, name):
    constants, nodes = WRITTEN[name]
    network = load_model(_save(tmp_path / "model.onnx", nodes, constants, np.float16))
    assert [step.kind for step in _steps(network)] == [_expected(name).kind]


BEYOND = {
    "relu_clip": ([node("Relu", "h", "r"), node("Clip", "r zero bound", "y")], lambda h: np.clip(h, 0, 127)),
    "relu_min": ([node("Relu", "h", "r"), node("Min", "r bound", "y")], lambda h: np.clip(h, 0, 127)),
    "abs_min": ([node("Abs", "h", "r"), node("Min", "r bound", "y")], lambda h: np.minimum(abs(h), 127)),
    "square_min": (
        [node("Mul", "h h", "r"), node("Min", "r large", "y")],
        lambda h: np.minimum(h * h, 20000),
    ),
    "two_clips": (
        [node("Clip", "h low high", "r"), node("Clip", "r minus bound", "y")],
        lambda h: np.clip(h, -127, 127),
    ),
    "dead_zone": (
        [node("Abs", "h", "a"), node("Less", "a tiny", "l"), node("Where", "l zero h", "y")],
        lambda h: np.where(np.abs(h) < np.float32(1e-3), 0, h),
    ),
    "tiny_threshold": (
        [node("Greater", "h tiny", "g"), node("Where", "g h zero", "y")],
        lambda h: np.where(h > np.float32(1e-3), h, 0),
    ),
    "rounding": ([node("Round", "h", "y")], np.rint),
    "rounded_to_quarters": (
        [node("Mul", "h four", "a"), node("Floor", "a", "b"), node("Div", "b four", "y")],
        lambda h: np.floor(h * 4) / 4,
    ),
    "sixteenths": (
        [node("Mul", "h sixteen", "a"), node("Round", "a", "b"), node("Div", "b sixteen", "y")],
        lambda h: np.rint(h * 16) / 16,
    ),
    "rounding_by_a_large_number": (
        [node("Add", "h magic", "a"), node("Max", "a zero", "m"), node("Sub", "m magic", "y")],
        lambda h: np.maximum(h + np.float32(12582912), 0) - np.float32(12582912),
    ),
    "too_small_in_between": (
        [
            *(node("Mul", "h vanishing", "a"), node("Mul", "a vanishing", "b")),
            *(node("Abs", "b", "c"), node("Mul", "c huge", "d"), node("Mul", "d huge", "y")),
        ],
        lambda h: np.abs(h * np.float32(1e-30) * np.float32(1e-30)) * np.float32(1e30) * np.float32(1e30),
    ),
    "too_large_in_between": (
        [
            *(node("Mul", "h huge", "a"), node("Mul", "a huge", "b"), node("Relu", "b", "r")),
            *(node("Mul", "r vanishing", "c"), node("Min", "c bound", "y")),
        ],
        lambda h: np.where(h * np.float32(1e30) * np.float32(1e30) > 1e38, 127, 0),
    ),
    "both_sides_of_a_threshold": (
        [
            *(node("Greater", "h bound", "g"), node("Less", "h minus", "l"), node("Or", "g l", "o")),
            node("Where", "o h zero", "y"),
        ],
        lambda h: np.where(np.abs(h) > 127, h, 0),
    ),
    "a_window": (
        [
            *(node("Greater", "h minus", "g"), node("Less", "h bound", "l"), node("And", "g l", "a")),
            *(node("Not", "a", "n"), node("Cast", "n", "y", to=1)),
        ],
        lambda h: (np.abs(h) >= 127).astype(np.float32),
    ),
    "a_logarithm_where_there_is_one": (
        [node("Log", "h", "a"), node("Greater", "h zero", "g"), node("Where", "g a minus", "y")],
        lambda h: np.where(h > 0, np.log(np.maximum(h, 1e-37)), -127),
    ),
    "equal": (
        [node("Equal", "h bound", "e"), node("Where", "e zero h", "y")],
        lambda h: np.where(h == 127, 0, h),
    ),
    "a_narrow_bump": (
        [
            *(node("Sub", "h third", "a"), node("Mul", "a large", "b"), node("Mul", "b b", "c")),
            *(node("Neg", "c", "d"), node("Exp", "d", "e"), node("Add", "h e", "y")),
        ],
        lambda h: h + np.exp(-(((h - np.float32(1 / 3)) * 20000) ** 2)),
    ),
}
NUMBERS = {
    **{"zero": 0.0, "bound": 127.0, "minus": -127.0, "large": 20000.0, "low": -500.0, "high": 500.0},
    **{"tiny": 1e-3, "four": 4.0, "sixteen": 16.0, "magic": 12582912.0, "vanishing": 1e-30, "huge": 1e30},
    **{"third": 1 / 3},
}


@pytest.mark.parametrize("name", BEYOND)
def test_what_no_grid_shows(tmp_path, name):
    """Bounds far away, jumps close to 0 and rounding, at the numbers and their neighbours."""
    nodes, function = BEYOND[name]
    path = _save(tmp_path / "model.onnx", nodes, NUMBERS)
    network = load_model(path)
    x = _near(*NUMBERS.values())
    x = x[(x == 0) | (np.abs(x) > 1e-37)][:, None]
    if name in ("square_min", "a_narrow_bump"):
        x = x[np.abs(x) < 1e15][:, None]
    if name == "too_small_in_between":  # without subnormal numbers, which some make 0
        x = x[(np.abs(x) < 1e8) | (np.abs(x) > 1e23)][:, None]
    if name == "too_large_in_between":
        x = x[(np.abs(x) > 1e-20) | (x <= 0)][:, None]
    with np.errstate(all="ignore"):
        expected, found = function(x), forward(network, x, np.float32)
    scale = 1e-6 * np.maximum(1, np.abs(expected))
    assert (np.abs(_in_onnxruntime(path, x) - expected) <= scale).all()
    assert (np.abs(found - expected) <= scale).all()


def test_a_jump_that_rounding_moves_is_not_recognised(tmp_path):
    """3 h > 1 in single precision is not h > 1/3."""
    nodes = [node("Mul", "h a", "b"), node("Greater", "b one", "g"), node("Where", "g h zero", "y")]
    path = _save(tmp_path / "model.onnx", nodes, {"a": 3.0, "zero": 0.0})
    network = load_model(path)
    assert len(_steps(network)) > 1
    x = _near(1 / 3)
    np.testing.assert_array_equal(forward(network, x, np.float32), _in_onnxruntime(path, x))


@pytest.mark.parametrize(
    "kind", [kind for kind in DECLARED.values() if kind.formula], ids=lambda kind: kind.name
)
def test_a_formula_is_the_function(kind):
    """In pieces, at many numbers, against the values of the kind itself."""
    for numbers in [(0.25, 0.75), (0.5, 0.5), (1.5, 2.5)]:
        parameters = numbers[: len(kind.parameters)]
        activation = Activation(kind.name, *parameters)
        function = kind.formula(pieces.IDENTITY, activation.alpha, activation.beta)
        x = np.concatenate([np.linspace(-6, 6, 49), *([each, -each] for each in parameters)])
        with np.errstate(all="ignore"):
            expected = activate(activation, x)
        told = np.isfinite(expected)
        found = np.array([function.value(each) for each in x[told].tolist()])
        np.testing.assert_allclose(found, expected[told], rtol=1e-12, atol=1e-12)


def test_what_has_no_normal_form():
    for function in (lambda x: x * x / x, lambda x: x.sigmoid().is_greater(0.25)):
        with pytest.raises(NoForm):
            function(pieces.IDENTITY)


# Random chains.


@dataclass(frozen=True)
class Step:
    """A value of a chain: an operator on earlier values, counted from 0 (h), and numbers."""

    operator: str
    values: tuple[int, ...]
    numbers: tuple[float, ...] = ()


UNARY = {
    "Relu": lambda y: max(y, 0),
    "Abs": abs,
    "Neg": lambda y: -y,
    "Sign": lambda y: (y > 0) - (y < 0),
    "Round": round,
    "Floor": math.floor,
    "Ceil": math.ceil,
    "Sigmoid": lambda y: 1 / (1 + math.exp(-y)) if y > -700 else 0,
    "Tanh": math.tanh,
}
WITH_NUMBER = {
    "Add": lambda y, c: y + c,
    "Sub": lambda y, c: y - c,
    "Mul": lambda y, c: y * c,
    "Div": lambda y, c: y / c,
    "Min": min,
    "Max": max,
}
TWO = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Max": max,
    "Min": min,
    "Mul": lambda a, b: a * b,
}
COMPARED = {
    "Greater": lambda y, c: y > c,
    "GreaterOrEqual": lambda y, c: y >= c,
    "Less": lambda y, c: y < c,
    "LessOrEqual": lambda y, c: y <= c,
    "Equal": lambda y, c: y == c,
}

constants = st.builds(
    lambda mantissa, exponent, sign: sign * float(np.float32(mantissa * 10.0**exponent)),
    st.sampled_from([1.0, 1.5, 0.3, 1 / 3, 7.0]),
    st.sampled_from([-9, -6, -4, -2, -1, 0, 0, 0, 1, 2, 4, 6, 9]),
    st.sampled_from([1, -1]),
)


@st.composite
def chains(draw) -> list[Step]:
    steps = []
    for place in range(draw(st.integers(3, 8))):
        earlier = st.sampled_from([place, place, place, *range(place + 1)])
        form = draw(st.sampled_from(["unary", "number", "number", "two", "where", "clip"]))
        if form == "unary":
            steps.append(Step(draw(st.sampled_from([*UNARY])), (draw(earlier),)))
        elif form == "number":
            operator = draw(st.sampled_from([*WITH_NUMBER]))
            steps.append(Step(operator, (draw(earlier),), (draw(constants),)))
        elif form == "two":
            steps.append(Step(draw(st.sampled_from([*TWO])), (place, draw(earlier))))
        elif form == "clip":
            low, high = sorted((draw(constants), draw(constants)))
            steps.append(Step("Clip", (place,), (low, high)))
        else:
            operator = draw(st.sampled_from([*COMPARED]))
            values = (draw(earlier), draw(earlier), place)
            steps.append(Step(f"Where {operator}", values, (draw(constants),)))
    return steps


class Number(NamedTuple):
    """A number without rounding, and by how much a computed one may differ; infinite: by anything."""

    value: Fraction
    error: float = 0.0


def _carried_out(steps: list[Step], x: float) -> Number:
    """The last value of a chain, its error that of any order of computation in single precision."""
    known = [Number(Fraction(x))]
    for step in steps:
        values, numbers = [known[place] for place in step.values], map(Fraction, step.numbers)
        known.append(_step(step.operator, values, list(numbers), float(np.finfo(np.float32).eps)))
        if not known[-1].error + abs(known[-1].value) < float(np.finfo(np.float32).max) / 16:
            return Number(Fraction(0), math.inf)
    return known[-1]


def _step(operator: str, values: list[Number], numbers: list[Fraction], eps: float) -> Number:
    (value, error), *others = values
    if operator in ("Sigmoid", "Tanh"):
        return Number(Fraction(UNARY[operator](float(value))), error + 8 * eps)
    if operator in ("Relu", "Abs", "Neg"):
        return Number(Fraction(UNARY[operator](value)), error)
    if operator in UNARY:  # with jumps, which an error may reach
        results = {UNARY[operator](value + Fraction(sign * error)) for sign in (-1, 0, 1)}
        return Number(Fraction(UNARY[operator](value)), 0.0 if len(results) == 1 else math.inf)
    if operator == "Clip":
        return Number(min(max(value, numbers[0]), numbers[1]), error)
    if operator.startswith("Where"):
        is_true = COMPARED[operator.split()[1]](value, numbers[0])
        is_open = error >= abs(value - numbers[0]) and error > 0
        chosen = others[0 if is_true else 1]
        return Number(chosen.value, math.inf if is_open else chosen.error)
    other = others[0] if others else Number(numbers[0])
    result = {**WITH_NUMBER, **TWO}[operator](value, other.value)
    if operator in ("Min", "Max"):
        return Number(result, max(error, other.error))
    if operator in ("Add", "Sub"):
        return Number(result, error + other.error + 4 * eps * float(abs(value) + abs(other.value)))
    factor = float(abs(1 / other.value if operator == "Div" else other.value))
    return Number(result, error * factor + other.error * float(abs(value)) + 4 * eps * float(abs(result)))


def _nodes(steps: list[Step]):
    names, nodes, numbers = ["h"], [], {}
    for count, step in enumerate(steps):
        inputs = [names[place] for place in step.values]
        for place, number in enumerate(step.numbers):
            numbers[f"c{count}_{place}"] = number
            inputs.append(f"c{count}_{place}")
        output = "y" if count == len(steps) - 1 else f"v{count}"
        if step.operator.startswith("Where"):
            compared, chosen, other, number = inputs
            nodes.append(node(step.operator.split()[1], f"{compared} {number}", f"b{count}"))
            nodes.append(node("Where", f"b{count} {chosen} {other}", output))
        else:
            nodes.append(node(step.operator, " ".join(inputs), output))
        names.append(output)
    return nodes, numbers


@settings(deadline=None)
@given(steps=chains())
def test_random_chains(tmp_path_factory, steps):
    """At the numbers of a chain, next to them, and far away, wherever rounding decides nothing."""
    nodes, numbers = _nodes(steps)
    folder = tmp_path_factory.mktemp("chain")
    for dtype in (np.float32, np.float64):
        path = _save(folder / f"{dtype.__name__}.onnx", nodes, numbers, dtype)
        x = _near(*numbers.values(), dtype=dtype)
        with np.errstate(all="ignore"):
            if dtype is np.float32:
                expected = _in_onnxruntime(path, x)
            else:
                expected = ReferenceEvaluator(str(path)).run(None, {"x": x})[0]
            found = forward(load_model(path), x, dtype)
            error = np.abs(found.astype(np.float64) - expected).ravel()
        # In double precision, too, constants count as rounded to single precision.
        allowed = [_carried_out(steps, each).error for each in x.ravel().tolist()]
        assert (error <= 2 * np.array(allowed) + 8 * np.finfo(dtype).tiny)[np.isfinite(allowed)].all()
