"""``infer --signal``: a signal of any length, compared with onnxruntime on a network built for all of it."""

import json

import h5py
import numpy as np
import pytest

from helpers.onnx_models import node, outputs_of_runtime, save

PIECE, WHOLE = 64, 64 + 2 * 83


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models of the same weights for a piece and for the whole of a signal, the signal, and calibration."""
    path, rng = tmp_path_factory.mktemp("signal"), np.random.default_rng(0)

    def weights(*shape):
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    nodes = [
        node("Conv", "x a", "c", pads=[2, 2]),
        node("Relu", "c", "d"),
        node("Conv", "d b", "e", pads=[1, 1], strides=[2]),
        node("Relu", "e", "f"),
        node("Conv", "f g", "y", pads=[2, 2], dilations=[2]),
    ]
    constants = {"a": weights(8, 3, 5), "b": weights(8, 8, 3), "g": weights(6, 8, 3)}
    for name, length in (("model", PIECE), ("whole", WHOLE)):
        save(path / f"{name}.onnx", nodes, constants, ("N", 3, length))
    signal = rng.standard_normal((3, WHOLE)).astype(np.float32)
    np.save(path / "signal.npy", signal)
    np.save(path / "x.npy", rng.standard_normal((60, 3, PIECE)).astype(np.float32))
    (y,) = outputs_of_runtime(path / "whole.onnx", {"x": signal[None]})
    np.save(path / "expected.npy", y[0].T)
    return path


def infer(mpirun, folder, ranks, *words):
    """A run of the signal; its report, if it went well."""
    files = "--input", folder / "signal.npy", "--output", folder / "y.h5", "--report", folder / "report.json"
    return mpirun(ranks, "-m", "repurpose_hpc.infer", *files, "--signal", "--repeat", 0, *words)


@pytest.mark.parametrize("form", [("--by-position", "3"), ()])
def test_a_signal_is_run_piece_by_piece(mpirun, folder, form):
    shards = folder / f"shards{len(form)}"
    words = folder / "model.onnx", "--calibration", folder / "x.npy", "--workers", 3, "--comm-budget", 1
    done = mpirun(1, "-m", "repurpose_hpc", "restructure", *words, *form, "--out", shards)
    assert done.returncode == 0, done.stderr
    for ranks in (1, 3):
        done = infer(mpirun, folder, ranks, "--shards", shards, "--verify", "--batch-size", 4)
        assert done.returncode == 0, done.stderr
        with h5py.File(folder / "y.h5") as file:
            y = file["y"][()]
        np.testing.assert_allclose(y, np.load(folder / "expected.npy"), rtol=0, atol=1e-5)
    report = json.loads((folder / "report.json").read_text())
    assert report["signal"] == {"positions": WHOLE, "outputs": len(y), "piece": PIECE, "advance": 50}
    assert "signal" in done.stdout and "pieces of 64, one every 50" in done.stdout


def test_a_model_and_a_signal(mpirun, folder):
    cache = {"REPURPOSE_HPC_CACHE": str(folder / "cache")}
    words = "-m", "repurpose_hpc.infer", folder / "model.onnx", "--calibration", folder / "x.npy", "--signal"
    files = "--input", folder / "signal.npy", "--output", folder / "y.h5", "--comm-budget", 1
    done = mpirun(2, *words, *files, env=cache)
    assert done.returncode == 0, done.stderr
    with h5py.File(folder / "y.h5") as file:
        np.testing.assert_allclose(file["y"][()], np.load(folder / "expected.npy"), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("signal", "words", "message"),
    [
        (
            np.zeros((3, 65)),
            (),
            "expected a signal of 64 positions and a multiple of 2 more, at least, found 65",
        ),
        (np.zeros((65, 3)), (), "expected a signal of shape (3, length), found (65, 3)"),
        (np.full((3, 66), np.nan), (), "expected finite values, found nan"),
        (np.zeros((3, 66)), ("--resume",), "--resume: expected samples, got a signal"),
    ],
)
def test_what_is_no_signal_is_refused(mpirun, folder, signal, words, message):
    shards = folder / "refused"
    if not shards.exists():
        files = folder / "model.onnx", "--calibration", folder / "x.npy", "--workers", 2, "--out", shards
        assert mpirun(1, "-m", "repurpose_hpc", "restructure", *files, "--comm-budget", 1).returncode == 0
    np.save(folder / "other.npy", signal)
    files = "--shards", shards, "--input", folder / "other.npy", "--output", folder / "no.h5", "--signal"
    done = mpirun(2, "-m", "repurpose_hpc.infer", *files, *words)
    assert done.returncode == 1 and message in done.stderr, done.stderr
    assert not (folder / "no.h5").exists()
