"""``python -m repurpose_hpc inspect``."""

import json
import subprocess
import sys

import numpy as np
import pytest

from helpers import ROOT

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from helpers.onnx_models import node, save  # noqa: E402
from repurpose_hpc.commands.inspect import inspect, render  # noqa: E402

CONSTANTS = {
    "K": np.ones((4, 3, 3, 3), np.float32),
    "K1": np.ones((4, 4, 1, 1), np.float32),
    "W": np.ones((4 * 36, 2), np.float32),
    "half": np.array(0.5, np.float32),
}
NODES = [
    *(node("Conv", "x K", "h"), node("Relu", "h", "r"), node("Conv", "r K1", "i"), node("Conv", "r K1", "j")),
    *(node("Add", "i j", "s"), node("Concat", "s r", "c", axis=1), node("Slice", "c first four one", "d")),
    *(node("Flatten", "d", "f"), node("Gemm", "f W", "y")),
]
SLICE = {"first": np.array([2]), "four": np.array([6]), "one": np.array([1])}


def _model(tmp_path, nodes=NODES):
    used = {name for each in nodes for name in each.input}
    constants = {name: value for name, value in (CONSTANTS | SLICE).items() if name in used}
    return save(tmp_path / "model.onnx", nodes, constants, ("N", 3, 8, 8))


def test_report_of_a_graph(tmp_path):
    result = inspect(_model(tmp_path), workers=3)
    mixings = result["mixings"]
    assert [each["name"] for each in mixings] == ["node_h", "node_i", "node_j", "node_y"]
    assert [each["weights"] for each in mixings] == [108, 16, 16, 288]
    assert [each["multiply_adds"] for each in mixings] == [108 * 36, 16 * 36, 16 * 36, 288]
    # The input is there, the second reader of a tensor has it already.
    assert [each["dense_values"] for each in mixings] == [0, 2 * 4 * 36, 0, 2 * 4 * 36]
    assert result["dense_values"] == 4 * 4 * 36
    assert [mixings[0][key] for key in ("inputs", "outputs", "kernel", "positions")] == [3, 4, [3, 3], [6, 6]]
    assert {each["name"]: each["neurons"] for each in result["spaces"] if not each["derived"]} == {
        **{"input": 3, "node_h": 4, "node_i": 4, "node_y": 2}
    }
    text = render(result)
    assert "node_h" in text and "6x6" in text and "derived" in text


def test_every_unsupported_node_is_named(tmp_path):
    nodes = [
        *(node("Conv", "x K", "h"), node("Mod", "h half", "r", fmod=1), node("Relu", "r", "t")),
        *(node("Mod", "t half", "s", fmod=1), node("Mod", "h half", "u", fmod=1), node("Add", "s u", "v")),
        *(node("Flatten", "v", "f"), node("Gemm", "f W", "y")),
    ]
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "repurpose_hpc", "inspect", _model(tmp_path, nodes), "--report", report]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "3 nodes are not supported" in done.stderr
    found = json.loads(report.read_text())["unsupported"]
    assert {text.split(":")[0] for text in found} == {f"node 'node_{letter}'" for letter in "rsu"}
    assert all(text.endswith("Mod") for text in found)
    assert "operator Mod is not supported" in done.stdout


def test_a_chain(tmp_path):
    path = tmp_path / "chain.npz"
    arrays = {"W0": np.ones((4, 3)), "b0": np.zeros(4), "W1": np.ones((2, 4)), "b1": np.zeros(2)}
    np.savez(path, **arrays)
    done = subprocess.run(
        [sys.executable, "-m", "repurpose_hpc", "inspect", path, "--workers", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "20 weights" in done.stdout and "4 values sent" in done.stdout
