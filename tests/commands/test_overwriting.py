"""Nothing that a command reads is ever written over, under whatever name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from helpers import ROOT, small_plans
from repurpose_hpc.errors import PREFIX
from repurpose_hpc.plan.files.store import PLAN_FILE, shard_path

WORKERS = 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Shards, samples and the original model."""
    small_plans.write_shards(tmp_path / "shards", WORKERS)
    small_plans.write_samples(tmp_path / "input.npz")
    small_plans.write_samples(tmp_path / "calibration.npz")
    small_plans.write_model(tmp_path / "model.npz", small_plans.random_network())
    (tmp_path / "prices.txt").write_text("0 1\n1 0\n")
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(folder: Path, *words: object) -> str:
    """The message of a command that must fail before any work and change no file."""
    before = contents(folder)
    done = command(folder, *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert contents(folder) == before and done.stdout == ""
    (message,) = done.stderr.splitlines()
    return message.removeprefix(PREFIX)


def command(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "REPURPOSE_HPC_CACHE": str(folder.parent / "cache")}
    line = [sys.executable, "-m", "repurpose_hpc", *map(str, words)]
    return subprocess.run(line, env=env, cwd=folder, capture_output=True, text=True, timeout=120)


INFER_SHARDS = ("infer", "--shards", "shards", "--input", "input.npz", "--repeat", 0)
INFER_MODEL = (
    *("infer", "model.npz", "--workers", WORKERS, "--calibration", "calibration.npz"),
    *("--input", "input.npz", "--repeat", 0),
)
RESTRUCTURE = ("restructure", "model.npz", "--workers", WORKERS, "--calibration", "calibration.npz")


@pytest.mark.parametrize(
    ("words", "option", "other"),
    [
        ((*INFER_SHARDS, "--output", "input.npz"), "--output", "--input"),
        ((*INFER_SHARDS, "--report", "input.npz"), "--report", "--input"),
        ((*INFER_SHARDS, "--output", f"shards/{PLAN_FILE}"), "--output", "--shards"),
        ((*INFER_SHARDS, "--report", "shards/worker-0001.h5"), "--report", "--shards"),
        ((*INFER_SHARDS, "--output", "y.h5", "--report", "./y.h5"), "--report", "--output"),
        ((*INFER_MODEL, "--output", "model.npz"), "--output", "MODEL"),
        ((*INFER_MODEL, "--output", "calibration.npz"), "--output", "--calibration"),
        ((*RESTRUCTURE, "--out", "new", "--report", "calibration.npz"), "--report", "--calibration"),
        ((*RESTRUCTURE, "--out", "."), "--out", "MODEL"),
        (
            (*RESTRUCTURE, "--out", "new", "--link-cost", "prices.txt", "--report", "prices.txt"),
            "--report",
            "--link-cost",
        ),
        (("inspect", "model.npz", "--report", "model.npz"), "--report", "SHARDS|MODEL"),
        (
            ("forecast", "shards", "--machine", "gigabit", "--report", f"shards/{PLAN_FILE}"),
            "--report",
            "SHARDS|MODEL",
        ),
        (("doctor", "--shards", "shards", "--report", f"shards/{PLAN_FILE}"), "--report", "--shards"),
    ],
)
def test_a_file_that_is_read(folder, words, option, other):
    message = refused(folder, *words)
    assert message.startswith(f"{option}: expected a place of its own")
    assert f"which {other} " in message and "choose another name" in message


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_to_a_file_that_is_read(folder, link):
    link(folder / "input.npz", folder / "y.h5")
    assert "input.npz, which --input reads" in refused(folder, *INFER_SHARDS, "--output", "y.h5")


def test_a_link_to_the_directory_of_a_file(folder):
    os.symlink(folder, folder / "here")
    assert "which --input reads" in refused(folder, *INFER_SHARDS, "--output", "here/input.npz")


def test_the_bundled_samples():
    from repurpose_hpc import bundled

    before = Path(bundled.TEST).read_bytes()
    done = command(ROOT, "infer", "--output", bundled.TEST, "--repeat", 0)
    assert done.returncode == 2 and "which --input reads" in done.stderr
    assert Path(bundled.TEST).read_bytes() == before


def test_a_source_of_a_virtual_data_set(folder):
    with np.load(folder / "input.npz") as arrays, h5py.File(folder / "part.h5", "w") as file:
        x = file["data"] = arrays["x"]
        x = arrays["x"]
    layout = h5py.VirtualLayout(x.shape, x.dtype)
    layout[:] = h5py.VirtualSource("part.h5", "data", x.shape)
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_virtual_dataset("x", layout)
    words = ("infer", "--shards", "shards", "--input", "x.h5", "--output", "part.h5")
    assert "part.h5 of x.h5, which --input reads" in refused(folder, *words)


def test_the_weights_beside_an_onnx_file(folder):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    W = np.ones((64, 3), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "W"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(W, "W")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]),
        folder / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    message = refused(folder, "inspect", "model.onnx", "--report", "weights.bin")
    assert "weights.bin of model.onnx, which SHARDS|MODEL reads" in message


def test_results_beside_what_is_read(folder):
    words = (*INFER_SHARDS, "--output", "shards/y.h5", "--report", "r.json")
    done = command(folder, *words)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "r.json").read_text())["samples"]
    assert shard_path(folder / "shards", 0).exists()
    assert command(folder, *words).returncode == 0  # a result of an earlier run is replaced
