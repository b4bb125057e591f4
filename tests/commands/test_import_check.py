"""Commands that import a model compare it with a program that is not ours."""

import json

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from helpers.onnx_models import node, save  # noqa: E402
from repurpose_hpc.report.schema import REPORTS, problems  # noqa: E402

PREFIX = "repurpose-hpc: error: "
# Runs a command with an importer that takes Tanh for a sigmoid, or where no program can run the model.
WRONG_IMPORTER = """
from dataclasses import replace
from repurpose_hpc.__main__ import main
from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.importers.onnx import operators

def read(node):
    signal = node.signal()
    return replace(signal, expression=signal.expression.then(Activation("sigmoid"), node.name))

operators.OPERATORS["Tanh"] = read
main()
"""
NO_PROGRAM = """
from repurpose_hpc.__main__ import main
from repurpose_hpc.model.importers.opinion import evaluators

def cannot(self, path, model):
    raise evaluators.CannotRun("an operator at a newer opset")

evaluators.OnnxRuntime.__init__ = evaluators.OnnxReference.__init__ = cannot
main()
"""
RIGHT_IMPORTER = "from repurpose_hpc.__main__ import main; main()"


@pytest.fixture
def run(mpirun, tmp_path):
    """A function that runs a command on some ranks: what it printed, and its report if it wrote one."""
    rng = np.random.default_rng(0)
    constants = {
        name: rng.normal(size=shape).astype(np.float32) for name, shape in (("W", (5, 6)), ("V", (6, 3)))
    }
    nodes = [node("MatMul", "x W", "h"), node("Tanh", "h", "t"), node("MatMul", "t V", "y")]
    save(tmp_path / "model.onnx", nodes, constants)
    np.save(tmp_path / "x.npy", rng.normal(size=(40, 5)))

    def call(command, *args, ranks=1, program=RIGHT_IMPORTER):
        report = tmp_path / "report.json"
        report.unlink(missing_ok=True)
        words = [command, tmp_path / "model.onnx", *args, "--report", report]
        env = {"REPURPOSE_HPC_CACHE": str(tmp_path / "cache")}
        done = mpirun(ranks, "-c", program, *words, env=env)
        result = json.loads(report.read_text()) if report.exists() else None
        if result is not None:
            assert problems(result, REPORTS[command]) == []
        return done, result

    return call


@pytest.fixture
def restructuring(tmp_path):
    return ["--calibration", tmp_path / "x.npy", "--workers", 3, "--out", tmp_path / "shards"]


@pytest.mark.parametrize("ranks", [1, 3])
def test_the_report_says_what_was_compared_with(run, restructuring, ranks):
    done, report = run("restructure", *restructuring, ranks=ranks)
    assert done.returncode == 0, done.stderr
    check = report["import_check"]
    assert check["evaluator"].startswith("onnxruntime") and check["largest_difference"] < 1e-5
    assert check["reason"] is None
    assert done.stdout.count("the import agrees with onnxruntime") == 1 and "note:" not in done.stderr


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_difference_ends_all_ranks_with_one_message(run, restructuring, tmp_path, ranks):
    done, report = run("restructure", *restructuring, ranks=ranks, program=WRONG_IMPORTER)
    assert done.returncode == 1 and report is None and not (tmp_path / "shards").exists()
    assert done.stderr.count(PREFIX) == 1 and "Traceback" not in done.stderr
    assert "tensor 't' of node 'node_t' (Tanh)" in done.stderr and "--no-check" in done.stderr
    done, report = run("restructure", *restructuring, "--no-check", ranks=ranks, program=WRONG_IMPORTER)
    assert done.returncode == 0 and "import_check" not in report


def test_infer_and_inspect(run, tmp_path):
    data = ["--calibration", tmp_path / "x.npy", "--input", tmp_path / "x.npy", "--repeat", 0]
    done, _ = run("infer", *data, ranks=2, program=WRONG_IMPORTER)
    assert done.returncode == 1 and done.stderr.count(PREFIX) == 1 and "tensor 't'" in done.stderr
    done, report = run("infer", *data, ranks=2)
    assert report["import_check"]["evaluator"].startswith("onnxruntime")
    assert "the import agrees with onnxruntime" in done.stdout
    done, report = run("infer", *data, ranks=2)
    assert report["cached"] and "import_check" not in report
    done, _ = run("infer", "--shards", tmp_path, "--input", tmp_path / "x.npy", "--no-check")
    assert done.returncode == 2 and "--check has no effect" in done.stderr
    done, report = run("inspect")
    assert report["import_check"]["evaluator"].startswith("onnxruntime")
    done, _ = run("inspect", program=WRONG_IMPORTER)
    assert done.returncode == 1 and "tensor 't'" in done.stderr


def test_what_no_program_can_run_is_said_once(run, restructuring):
    done, report = run("restructure", *restructuring, ranks=2, program=NO_PROGRAM)
    assert done.returncode == 0, done.stderr
    reason = "an operator at a newer opset"
    assert report["import_check"] == {"evaluator": None, "largest_difference": None, "reason": reason}
    assert done.stderr.count(f"the import is not checked: {reason}") == 1
    assert "note: " in done.stderr and reason in done.stdout
