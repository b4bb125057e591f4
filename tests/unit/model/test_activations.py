"""All activations that are declared: against others' definitions, finite differences, bounds and docs."""

import inspect
import re
import warnings
from collections.abc import Callable
from itertools import pairwise
from math import inf, nextafter
from pathlib import Path

import numpy as np
import pytest

from helpers import ROOT
from repurpose_hpc.errors import UserError
from repurpose_hpc.kernels import ACTIVATION_CODES, activate_in_place
from repurpose_hpc.model.activations import (
    DECLARED,
    Activation,
    activate,
    derivative,
    image,
    is_homogeneous,
    lipschitz,
    parse,
    pieces,
    value_range,
)
from repurpose_hpc.model.builder import Builder
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.spec import IllegalNetwork

PARAMETERS = [(0.0, 0.0), (0.3, 0.8), (0.1, 0.7), (0.01, 0.01), (-0.5, 3.5), (-2.0, 0.5), (3.0, -1.0)]
# By how much values may differ, of what they are where they are larger than 1.
TOLERANCE = {"float32": 2e-6, "float64": 1e-14}


def _samples(kind) -> list[Activation]:
    """Some activations of a kind, with parameters in their ranges."""
    count = len(kind.parameters)
    given = dict.fromkeys(numbers[:count] for numbers in PARAMETERS) if count else [()]
    defaults = tuple(parameter.default for parameter in kind.parameters)
    if None not in defaults:
        given = [*given, defaults]
    activations = [Activation(kind.name, *numbers) for numbers in given]
    return [activation for activation in activations if not any(activation.faults())]


each_kind = pytest.mark.parametrize("kind", DECLARED.values(), ids=list(DECLARED))


def each_activation(check: Callable[[Activation], None]) -> Callable[..., None]:
    """The test of a kind: ``check`` of each sample of it."""

    def test(kind):
        for activation in _samples(kind):
            check(activation)

    return each_kind(test)


def each_activation_and_dtype(check: Callable[[Activation, str], None]) -> Callable[..., None]:
    """The test of a kind: ``check`` of each sample of it, in both types."""

    def of_both(activation):
        for dtype in TOLERANCE:
            check(activation, dtype)

    return each_activation(of_both)


def _arguments(activation: Activation, dtype=np.float64) -> np.ndarray:
    """Close to 0 and to the parameters, near and far beyond, infinite, NaN."""
    kinks = np.array([0.0, *(sign * each for each in _numbers(activation) for sign in (1, -1))])
    near = [kinks + step for step in (-1e-3, -1e-6, 0, 1e-6, 1e-3)]
    far = np.logspace(1, 4, 40)
    grid = np.unique(np.concatenate([np.linspace(-12, 12, 24_001), *near, far, -far]))
    return np.array([*grid, np.inf, -np.inf, np.nan], dtype)


def _numbers(activation: Activation) -> tuple[float, ...]:
    return (activation.alpha, activation.beta)[: len(DECLARED[activation.kind].parameters)]


def _assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert found.dtype == expected.dtype
    scale, finite = np.maximum(1, np.abs(expected)), np.isfinite(expected)
    with np.errstate(all="ignore"):
        assert np.abs((found - expected) / scale)[finite].max(initial=0) <= tolerance
    np.testing.assert_array_equal(found[~finite], expected[~finite])


def _in_torch(activation: Activation, y: np.ndarray) -> np.ndarray | None:
    """The function of PyTorch of that name, or of one given here; None where its parameters are fixed."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    others = {
        "identity": lambda x: x,
        "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
        "hard_sigmoid": lambda x, slope, shift: torch.clamp(slope * x + shift, 0, 1),
        "power": torch.pow,
        # Those of PyTorch know no NaN.
        "sign": lambda x: torch.where(x.isnan(), x, torch.sign(x)),
        "greater": lambda x, number: torch.where(x.isnan(), x, (x > number).to(x)),
        "greater_equal": lambda x, number: torch.where(x.isnan(), x, (x >= number).to(x)),
        "equal": lambda x, number: torch.where(x.isnan(), x, (x == number).to(x)),
        "softplus": lambda x: functional.softplus(x, threshold=50),
    }
    squeezed = activation.kind.replace("_", "")
    names = [(where, name) for where in (functional, torch) for name in (activation.kind, squeezed)]
    known = [getattr(where, name) for where, name in names if hasattr(where, name)]
    function = others.get(activation.kind) or known[0]
    numbers, x = _numbers(activation), torch.from_numpy(y)
    try:
        return function(x, *numbers).numpy()
    except (TypeError, RuntimeError):  # it has none, or refuses these
        defaults = tuple(parameter.default for parameter in DECLARED[activation.kind].parameters)
        return function(x).numpy() if numbers == defaults else None


@each_kind
def test_pytorch_has_it(kind):
    assert any(_in_torch(activation, np.ones(3)) is not None for activation in _samples(kind))


@each_activation_and_dtype
def test_values_are_those_of_pytorch(activation, dtype):
    y = _arguments(activation, dtype)
    expected = _in_torch(activation, y)
    if expected is None:
        return
    with np.errstate(all="ignore"):
        found = activate(activation, y)
    # At infinity, PyTorch's loops over vectors make NaN of a Gelu.
    told = np.isfinite(y) | ~np.isnan(expected)
    _assert_close(found[told], expected[told], 2 * TOLERANCE[dtype])


def _attributes(function) -> list[dict]:
    """Attributes of a node: as ONNX has them by default, and others where they are numbers."""
    defaults = {name: each.default for name, each in inspect.signature(function).parameters.items()}
    numbers = {name: 0.3 for name, value in defaults.items() if isinstance(value, float)}
    others = [{**numbers, "bias": 0.0}] if "bias" in numbers else []
    return [{}, *([numbers] if numbers else []), *others, *([defaults] if defaults else [])]


OPERATORS = {
    (kind.name, operator): [each for each in _attributes(function) if function(**each) is not None]
    for kind in DECLARED.values()
    for operator, function in kind.onnx.items()
}


@pytest.mark.parametrize(("kind", "operator"), [pair for pair, known in OPERATORS.items() if known])
def test_values_are_those_of_the_onnx_operator(tmp_path, kind, operator):
    """In onnxruntime, also when imported; NaN excepted, of which some operators make zeros."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    for attributes in OPERATORS[kind, operator]:
        activation = Activation(kind, *DECLARED[kind].onnx[operator](**attributes))
        _check_operator(tmp_path, operator, attributes, activation)


def _check_operator(tmp_path: Path, operator: str, attributes: dict, activation: Activation) -> None:
    import onnxruntime

    from helpers.onnx_models import assert_agrees, node, save

    assert not any(activation.faults())
    opset = 24 if operator == "Swish" else 20
    y = _arguments(activation, np.float32)[:-1].reshape(1, -1)
    path = save(tmp_path / "one.onnx", [node(operator, "x", "y", **attributes)], None, ("N", y.size), opset)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": y})
    with np.errstate(all="ignore"):
        _assert_close(activate(activation, y), expected, 2 * TOLERANCE["float32"])
    nodes = [node("Gemm", "x W", "h"), node(operator, "h", "y", **attributes)]
    W = np.abs(np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32))
    if operator in ("Asin", "Acos", "Atanh"):
        W /= 30  # from -1 to 1
    path = save(tmp_path / "model.onnx", nodes, {"W": W}, opset=opset)
    network = assert_agrees(path, 7, positive=operator in ("Sqrt", "Reciprocal", "Log", "Acosh"))
    numbers = _numbers(activation)
    if attributes:  # which are float32
        numbers = tuple(float(np.float32(number)) for number in numbers)
    assert [op.activation for op in network.operations[1:]] == [Activation(activation.kind, *numbers)]


@each_activation
def test_derivative_is_the_finite_difference(activation):
    y, h = np.linspace(-5.01, 5.003, 100), 1e-6  # without kinks
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # powers of negative numbers
        difference = (activate(activation, y + h) - activate(activation, y - h)) / (2 * h)
        slopes = derivative(activation, y)
    usual = ~(np.abs(slopes) > 1e5)  # beside a pole the quotient is the one that is wrong
    np.testing.assert_allclose(slopes[usual], difference[usual], rtol=1e-7, atol=1e-8)


@each_activation_and_dtype
def test_the_dtype_is_kept_and_nan_stays_nan(activation, dtype):
    y = _arguments(activation, dtype)
    with np.errstate(all="ignore"):
        values, slopes = activate(activation, y), derivative(activation, y)
    assert values.dtype == slopes.dtype == dtype
    assert np.isnan(values[-1]) or activation == Activation("power", 0.0)


@each_activation
def test_pieces_are_straight_and_the_range_holds_all_values(activation):
    y = _arguments(activation)[:-1]
    with np.errstate(all="ignore"):
        values = activate(activation, y)
    low, high = value_range(activation)
    finite = values[np.isfinite(values)]
    assert low - 1e-12 <= finite.min() and finite.max() <= high + 1e-12
    lines = pieces(activation)
    assert all(left.high == right.low for left, right in pairwise(lines))
    for line in lines:
        inside = np.isfinite(y) & (line.low <= y) & (y <= line.high)
        np.testing.assert_allclose(
            values[inside], line.slope * y[inside] + line.shift, rtol=1e-12, atol=1e-12
        )


@each_activation
def test_factors_go_through_what_is_homogeneous_alone(activation):
    y = np.linspace(-5, 5, 101)
    with np.errstate(all="ignore"):
        goes_through = np.allclose(activate(activation, 3 * y), 3 * activate(activation, y), equal_nan=False)
    assert not is_homogeneous(activation) or goes_through
    assert is_homogeneous(activation) or activation.kind not in ("identity", "relu", "leaky_relu", "abs")


@each_activation
def test_the_image_of_an_interval_holds_its_values(activation):
    rng = np.random.default_rng(0)
    low, high = np.sort(rng.uniform(-6, 6, (2, 50)), axis=0)
    for ends in ((low, high), (low, np.full(50, inf)), (np.full(50, -inf), high)):
        lowest, highest = image(activation, *ends)
        y = rng.uniform(np.maximum(ends[0], -30), np.minimum(ends[1], 30), (40, 50))
        with np.errstate(all="ignore"):
            values = activate(activation, y)
        defined = np.isfinite(values)
        assert (values >= lowest - 1e-12)[defined].all() and (values <= highest + 1e-12)[defined].all()
    assert activation.kind != "relu" or (highest == np.maximum(high, 0)).all()


@each_activation
def test_lipschitz_constant_is_the_largest_slope(activation):
    """Of secants between neighbours, close to every kink and far from all."""
    y = _arguments(activation)[:-3]
    with np.errstate(all="ignore"):
        values = activate(activation, y)
        secants = np.abs(np.diff(values) / np.diff(y))[np.diff(y) > 1e-7]  # closer ones are rounding errors
    largest, constant = secants[np.isfinite(secants)].max(), lipschitz(activation)
    assert largest <= constant * (1 + 1e-6)
    if np.isfinite(constant) and largest > 0:  # a clip whose bounds coincide is constant
        assert constant <= largest + 3e-4 + 1e-3 * constant


@each_activation_and_dtype
def test_compiled_equals_numpy(activation, dtype):
    y = _arguments(activation, dtype)
    with np.errstate(all="ignore"):
        expected = activate(activation, y)
    found = y.copy()
    activate_in_place(found, ACTIVATION_CODES[activation.kind], activation.alpha, activation.beta)
    _assert_close(found, expected, TOLERANCE[dtype])


def test_codes_do_not_change():
    """Replays that were recorded, and compiled code in caches, hold them."""
    first = (
        *("identity", "relu", "leaky_relu", "sigmoid", "tanh", "gelu", "gelu_tanh", "clip", "elu"),
        *("hard_sigmoid", "hard_swish", "silu", "square", "power", "softplus", "exp", "abs"),
    )
    assert list(ACTIVATION_CODES)[: len(first)] == list(first)
    assert list(ACTIVATION_CODES.values()) == list(range(len(DECLARED)))
    assert set(ACTIVATION_CODES) == set(DECLARED)


@each_kind
def test_chain_files_name_it(tmp_path, kind):
    numbers = [0.25, 0.5][: len(kind.parameters)]
    entry = ":".join([kind.name, *map(str, numbers)])
    assert parse(entry) == Activation(kind.name, *numbers)
    arrays = {"W0": np.eye(3), "activations": np.array([entry])}
    np.savez(tmp_path / "model.npz", **arrays)
    x = np.abs(np.random.default_rng(0).normal(size=(4, 3)))
    found = forward(load_model(tmp_path / "model.npz"), x)
    np.testing.assert_array_equal(found, activate(Activation(kind.name, *numbers), x))


@each_kind
def test_chain_files_take_defaults_and_refuse_the_rest(kind):
    defaults = [parameter.default for parameter in kind.parameters]
    if None in defaults:
        with pytest.raises(ValueError, match=re.escape(kind.form)):
            parse(kind.name)
    else:
        assert parse(kind.name) == Activation(kind.name, *defaults)
    for number in ("x", "nan", "0.5:0.5:0.5"):
        with pytest.raises(ValueError, match=kind.name):
            parse(f"{kind.name}:{number}")


@each_kind
def test_parameters_out_of_their_ranges_are_refused(tmp_path, kind):
    for place, parameter in enumerate(kind.parameters):
        for number in (np.nan, nextafter(parameter.low, -inf), nextafter(parameter.high, inf)):
            if parameter.low <= number <= parameter.high:
                continue
            numbers = [0.5] * len(kind.parameters)
            numbers[place] = float(number)
            builder = Builder()
            tensor = builder.elementwise("a", builder.input("input", 2), Activation(kind.name, *numbers))
            with pytest.raises(IllegalNetwork, match=parameter.name):
                builder.build((tensor,), ("identity",))
            entry = ":".join([kind.name, *map(str, numbers)])
            np.savez(tmp_path / "model.npz", W0=np.eye(2), activations=np.array([entry]))
            with pytest.raises(UserError, match=parameter.name):
                load_model(tmp_path / "model.npz")


@each_kind
def test_it_is_documented(kind):
    page = (ROOT / "docs" / "models.md").read_text()
    rows = re.findall(r"^\| `(.*?)` \| .* \| (.*?) ?\|$", page, re.MULTILINE)
    operators = dict(rows)[kind.form]
    assert set(kind.onnx) <= set(re.findall(r"\w+", operators))
