"""Chains in .npz and .safetensors files, and the choice of the importer."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import ROOT
from repurpose_hpc.errors import UserError
from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model

ACTIVATIONS = ("identity", "relu", "leaky_relu:0.25", "sigmoid", "tanh", "gelu", "gelu_tanh")


def _arrays(**changes):
    """A chain 5-4-3; ``changes`` replace arrays, None removes one."""
    rng = np.random.default_rng(0)
    shapes = {"W0": (4, 5), "b0": (4,), "W1": (3, 4), "b1": (3,)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return {name: value for name, value in {**arrays, **changes}.items() if value is not None}


def _save(directory, **changes):
    path = Path(directory) / "model.npz"
    np.savez(path, **_arrays(**changes))
    return path


def _kinds(network):
    return [op.activation for op in network.operations if op not in network.mixings]


@st.composite
def _chains(draw):
    sizes = draw(st.lists(st.integers(1, 6), min_size=2, max_size=5))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = [rng.normal(size=(m, n)).astype(dtype) for n, m in zip(sizes, sizes[1:], strict=False)]
    biases = [rng.normal(size=len(W)).astype(dtype) if draw(st.booleans()) else None for W in weights]
    names = draw(st.lists(st.sampled_from(ACTIVATIONS), min_size=len(weights), max_size=len(weights)))
    return weights, biases, names


@given(_chains())
def test_npz_round_trip(chain):
    weights, biases, names = chain
    arrays = {f"W{layer}": W for layer, W in enumerate(weights)}
    arrays |= {f"b{layer}": b for layer, b in enumerate(biases) if b is not None}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.npz"
        np.savez(path, activations=np.array(names), **arrays)
        network = load_model(path)
    for mixing, W, b in zip(network.mixings, weights, biases, strict=True):
        assert mixing.weights.dtype == mixing.bias.dtype == W.dtype
        np.testing.assert_array_equal(mixing.weights, W)
        np.testing.assert_array_equal(mixing.bias, np.zeros(len(W)) if b is None else b)
    expected = [name.partition(":")[0] for name in names if name != "identity"]
    assert [activation.kind for activation in _kinds(network)] == expected
    assert all(a.alpha == 0.25 for a in _kinds(network) if a.kind == "leaky_relu")


def test_relu_between_layers_and_nothing_after_the_last(tmp_path):
    network = load_model(_save(tmp_path))
    a = {name: value.astype(np.float64) for name, value in _arrays().items()}
    x = np.random.default_rng(1).normal(size=(6, 5))
    expected = np.maximum(x @ a["W0"].T + a["b0"], 0) @ a["W1"].T + a["b1"]
    np.testing.assert_allclose(forward(network, x), expected, rtol=1e-12)


@pytest.mark.parametrize("head", ["softmax", "log_softmax"])
def test_last_entry_may_be_a_head(tmp_path, head):
    network = load_model(_save(tmp_path, activations=np.array(["gelu", head])))
    assert (network.heads, _kinds(network)) == ((head,), [Activation("gelu")])


def test_half_precision_and_foreign_byte_order_become_native(tmp_path):
    half, big_endian = np.ones((4, 5), np.float16), np.full((3, 4), 2.0, ">f8")
    network = load_model(_save(tmp_path, W0=half, W1=big_endian))
    assert [mixing.weights.dtype.str for mixing in network.mixings] == ["<f4", "<f8"]
    np.testing.assert_array_equal(network.mixings[1].weights, big_endian)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": np.ones(3)}, r"expected arrays W0, b0, .* found weight"),
        ({"W01": np.ones((1, 3))}, r"found W01"),
        ({"W1": None, "W2": np.ones((3, 4)), "b1": None}, r"W0 ... W2 without gaps, found no W1"),
        ({"b2": np.ones(3)}, r"found no W2"),
        ({"W1": np.ones((3, 5))}, r"W1: expected 4 inputs.* found shape \(3, 5\)"),
        ({"b1": np.ones(4)}, r"b1: expected shape \(3,\).* found \(4,\)"),
        ({"W0": np.ones((2, 2, 5))}, r"W0: expected shape \(outputs, inputs\)"),
        ({"W0": np.ones((4, 0))}, r"W0: expected shape \(outputs, inputs\)"),
        ({"W0": np.ones((4, 5), np.int8)}, r"W0: expected float16.* found int8"),
        ({"W1": np.ones((3, 4), complex)}, r"W1: expected float16.* found complex128"),
        (
            {"W1": np.array([[1, 1, np.nan, 1]] * 3)},
            r"W1: expected finite weights, found nan at index \(0, 2\)",
        ),
        ({"b0": np.array([0, 0, 0, np.inf])}, r"b0: expected finite weights, found inf"),
        ({"activations": np.array(["relu"])}, r"expected 2 entries, .* found 1"),
        ({"activations": np.array(["swish", "identity"])}, r"expected one of identity, .* found 'swish'"),
        ({"activations": np.array(["softmax", "identity"])}, r"found 'softmax'"),
        ({"activations": np.array(["leaky_relu", "relu"])}, r"leaky_relu:SLOPE.* found 'leaky_relu'"),
        ({"activations": np.array(["leaky_relu:x", "relu"])}, r"found 'leaky_relu:x'"),
        ({"activations": np.array([1, 2])}, r"expected a one-dimensional array of strings, found int64"),
        ({"activations": np.array(["relu", "relu"], object)}, r"expected a readable .npz"),
        ({"W0": None, "b0": None, "W1": None, "b1": None}, r"found none; the model is empty"),
    ],
)
def test_refused_chains(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        load_model(_save(tmp_path, **changes))


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"none\.npz: expected a model file, found none"):
        load_model(tmp_path / "none.npz")


def test_unknown_suffix(tmp_path):
    with pytest.raises(
        UserError, match=r"unknown model format '.pt', expected one of .npz, .safetensors, .onnx"
    ):
        load_model(tmp_path / "model.pt")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".onnx"])
@pytest.mark.parametrize("content", [b"", b"\x08nonsense"])
def test_corrupt_file(tmp_path, suffix, content):
    if suffix != ".npz":
        pytest.importorskip(suffix.removeprefix("."))
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"expected a"):
        load_model(path)


def test_truncated_npz(tmp_path):
    path = _save(tmp_path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=r"expected a readable .npz file"):
        load_model(path)


def test_safetensors_with_activations(tmp_path):
    numpy_format = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "model.safetensors"
    numpy_format.save_file(_arrays(b1=None), path, metadata={"activations": "leaky_relu:0.1, softmax"})
    network = load_model(path)
    np.testing.assert_array_equal(network.mixings[0].weights, _arrays()["W0"])
    np.testing.assert_array_equal(network.mixings[1].bias, np.zeros(3, np.float32))
    assert (network.heads, _kinds(network)) == (("softmax",), [Activation("leaky_relu", 0.1)])


def test_safetensors_in_bfloat16(tmp_path):
    numpy_format = pytest.importorskip("safetensors.numpy")
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    path = tmp_path / "model.safetensors"
    arrays = {name: value.astype(bfloat16) for name, value in _arrays().items()}
    numpy_format.save_file(arrays, path)
    W0 = load_model(path).mixings[0].weights
    assert W0.dtype == np.float32
    np.testing.assert_array_equal(W0, arrays["W0"].astype(np.float32))


@pytest.mark.parametrize("package", ["onnx", "safetensors"])
def test_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / f"model.{package}"
    path.write_bytes(b"")
    with pytest.raises(UserError, match=rf"pip install 'repurpose-hpc\[{package}\]'"):
        load_model(path)


def test_importing_the_model_package_is_light():
    code = (
        "import sys, repurpose_hpc.model.importers.load, repurpose_hpc.model.forward;"
        "import repurpose_hpc.io.samples;"
        "print([name for name in ('onnx', 'scipy', 'safetensors') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.strip() == "[]"
