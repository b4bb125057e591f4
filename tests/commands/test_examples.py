"""Every program of ``examples/`` runs as its first lines say, and prints what it promises."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT


def run(name: str | Path, *arguments: object, env: dict[str, str] | None = None) -> str:
    """Output of an example in a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(env or {})}
    command = [sys.executable, ROOT / "examples" / name, *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    return done.stdout


def accuracy(output: str) -> float:
    return float(re.search(r"accuracy (\S+)", output)[1])


def test_array_in_array_out():
    output = run("arrays.py")
    assert "outputs (2000, 10)" in output
    assert accuracy(output) > 0.89


def test_pytorch_to_shards(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    output = run("pytorch.py", tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("worker-*.h5"))) == 4
    assert float(re.search(r"module: (\S+)%", output)[1]) < 20


def test_plan_looked_at():
    output = run("plan.py")
    assert "3 workers, input replicated" in output
    rows = re.findall(r"\[+\s*(\d+)\s+(\d+)\s+(\d+)\]+", output.partition("to worker (column):")[2])
    traffic = [[int(value) for value in row] for row in rows]
    assert len(traffic) == 3
    assert all(traffic[worker][worker] == 0 for worker in range(3))
    assert sum(map(sum, traffic)) > 0


def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    """Its cells in a row, as they are stored: without outputs, and without a display."""
    pytest.importorskip("matplotlib")
    notebook = json.loads((ROOT / "examples" / "first_look.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert notebook["nbformat"] == 4
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    program = tmp_path / "first_look.py"
    last = "assert min(found.values()) > 0.85 and len(plt.get_fignums()) == 2 and traffic.shape == (4, 4)"
    program.write_text("\n".join([*("".join(cell["source"]) for cell in cells), last]), encoding="utf-8")
    assert "of 4608 values travel" in run(program, env={"MPLBACKEND": "Agg"})


def test_under_mpirun(mpirun):
    done = mpirun(4, ROOT / "examples/mpirun.py", env={"OMP_NUM_THREADS": "1"}, timeout=170)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("4 ranks, outputs (2000, 10)") == 1
    assert accuracy(done.stdout) > 0.89
