"""Models with free sizes, and notes on models, on command lines."""

import subprocess
import sys

import h5py
import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from helpers.onnx_models import FLOAT, node, save  # noqa: E402
from helpers.rewritten import expected  # noqa: E402

MODULE = ("-m", "repurpose_hpc")
SHAPE = ("--input-shape", "x=1x3x6x5")


@pytest.fixture
def free(tmp_path):
    """A folder with a model of any height and width, and maps of 6 x 5."""
    rng = np.random.default_rng(0)
    constants = {"K": rng.normal(size=(4, 3, 3, 3)), "V": rng.normal(size=(4, 2))}
    constants = {name: value.astype(np.float32) for name, value in constants.items()}
    nodes = [
        *(node("Conv", "x K", "h"), node("Relu", "h", "r"), node("GlobalAveragePool", "r", "p")),
        *(node("Flatten", "p", "f"), node("MatMul", "f V", "y")),
    ]
    save(tmp_path / "model.onnx", nodes, constants, ("N", 3, "height", "width"))
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(30, 3, 6, 5)).astype(np.float32))
    return tmp_path


def command(*words):
    return subprocess.run([sys.executable, *MODULE, *map(str, words)], capture_output=True, text=True)


def test_sizes_are_given_to_every_command(free, mpirun):
    model, data, shards = free / "model.onnx", free / "x.npz", free / "shards"
    for words in (
        ("inspect", model),
        ("restructure", model, "--workers", 2, "--calibration", data, "--comm-budget", 1, "--out", shards),
        ("forecast", model, "--machine", "gigabit"),
    ):
        refused = command(*words)
        assert refused.returncode == 1
        assert "give the sizes with --input-shape x=1x3x?x? " in refused.stderr
        done = command(*words, *SHAPE)
        assert done.returncode == 0, done.stderr
    run = ("infer", model, "--shards", shards, "--input", data, "--output", free / "y.h5", "--verify", *SHAPE)
    done = mpirun(2, *MODULE, *run)
    assert done.returncode == 0, done.stderr
    with h5py.File(free / "y.h5") as file, np.load(data) as samples:
        np.testing.assert_allclose(file["y"][:], expected(model, samples["x"]), atol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--input-shape", "x=3"), "expected names with sizes of 1 or more, each name once"),
        ((*SHAPE, *SHAPE), "expected names with sizes of 1 or more, each name once"),
        (("--input-shape", "z=1x3x6x5"), "expected sizes of 'x', got 'z'"),
        (("--input-shape", "x=1x4x6x5"), "only sizes that the file leaves free can be chosen"),
    ],
)
def test_sizes_that_cannot_be_meant(free, words, message):
    done = command("inspect", free / "model.onnx", *words)
    assert done.returncode in (1, 2) and message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_note_is_printed_once(tmp_path, mpirun):
    rng = np.random.default_rng(0)
    constants = {"W": rng.integers(-127, 128, (5, 4), np.int8), "factor": np.float32(0.01)}
    nodes = [
        *(node("DynamicQuantizeLinear", "x", "q scale zero"), node("MatMulInteger", "q W zero", "m")),
        *(node("Cast", "m", "c", to=FLOAT), node("Mul", "scale factor", "s"), node("Mul", "c s", "y")),
    ]
    save(tmp_path / "model.onnx", nodes, constants)
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(20, 5)).astype(np.float32))
    files = ("--calibration", tmp_path / "x.npz", "--out", tmp_path / "shards")
    done = mpirun(2, *MODULE, "restructure", tmp_path / "model.onnx", *files)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("note: activations are not quantised") == 1
