"""``python -m repurpose_hpc.infer`` as users run it."""

import json
import os
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import h5py
import numpy as np
import pytest

from helpers import ROOT, small_plans
from repurpose_hpc import bundled
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.plan.assemble import assemble
from repurpose_hpc.plan.plan import single_worker_plan
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.report.schema import InferReport, problems

MODULE = ("-m", "repurpose_hpc.infer")
# Runs the command and writes down what was imported.
IMPORTS = """
import sys
from pathlib import Path
folder = Path(sys.argv.pop(1))
from repurpose_hpc.infer import main
main()
from mpi4py import MPI
(folder / f"imported-{MPI.COMM_WORLD.rank}").write_text(" ".join(sys.modules))
"""
# Numba reads its configuration by yaml where that is installed, as by the package tokenizers.
ALLOWED = {"numpy", "numba", "llvmlite", "h5py", "mpi4py", "repurpose_hpc", "yaml"}


@pytest.fixture
def infer(mpirun, tmp_path):
    """A function that runs the command with a cache of its own: report and summary."""

    def run(ranks: int, *args: object) -> tuple[dict, str]:
        report = tmp_path / "report.json"
        env = {"REPURPOSE_HPC_CACHE": str(tmp_path / "cache")}
        done = mpirun(ranks, *MODULE, *args, "--report", report, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(report.read_text())
        assert problems(found, InferReport) == []
        return found, done.stdout

    return run


@pytest.fixture
def small(tmp_path) -> Path:
    """A folder with a small model and samples, which also serve to calibrate."""
    small_plans.write_model(tmp_path / "model.npz", small_plans.random_network())
    small_plans.write_samples(tmp_path / "x.npz", samples=200)
    return tmp_path


def read_output(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        return file["y"][()]


def test_bundled_network_by_default(infer):
    first, summary = infer(2)
    assert not first["cached"]
    assert first["samples"] == 2000 and first["ranks"] == first["workers"] == 2
    assert first["comm_fraction"] <= 0.05
    assert first["relative_difference"] <= 1e-5
    assert first["accuracy"] >= first["reference_accuracy"] - 0.01 > 0.87
    for shown in (first["shards"], f"{first['accuracy']:.4f}", f"{first['values_sent']:,}", "single process"):
        assert shown in summary
    second, _ = infer(2)
    assert second["cached"] and second["shards"] == first["shards"]
    assert second["accuracy"] == first["accuracy"]


def test_model_is_restructured_and_cached_by_what_it_depends_on(infer, small):
    output = small / "y.h5"
    given = (small / "model.npz", "--calibration", small / "x.npz", "--input", small / "x.npz")
    report, _ = infer(2, *given, "--output", output, "--comm-budget", 1, "--workers", 3)
    assert (report["workers"], report["cached"]) == (3, False)
    # With the whole budget nothing is pruned.
    expected = forward(load_model(small / "model.npz"), np.load(small / "x.npz")["x"])
    np.testing.assert_allclose(read_output(output), expected, atol=1e-5)
    shards = {report["shards"]}
    for changed in (("--workers", 2), ("--workers", 2, "--seed", 1), ("--workers", 2, "--dtype", "float64")):
        report, _ = infer(2, *given, *changed)
        assert not report["cached"] and report["shards"] not in shards
        shards.add(report["shards"])


def test_shards_with_their_model_give_both_accuracies(infer, small):
    restructured, _ = small_plans.write_shards(small / "shards", 2)
    report, summary = infer(2, small / "model.npz", "--shards", small / "shards", "--input", small / "x.npz")
    data = np.load(small / "x.npz")
    for network, key in ((restructured, "accuracy"), (small_plans.random_network(), "reference_accuracy")):
        right = forward(network, data["x"]).argmax(axis=1) == data["y"]
        assert report[key] == pytest.approx(right.mean(), abs=1 / len(right))
        assert f"{report[key]:.4f}" in summary


def test_groups_share_the_samples(infer, small):
    """Outputs in the order of the samples, of a network that has a worker for each rank of a group."""
    given = (small / "model.npz", "--calibration", small / "x.npz", "--input", small / "x.npz", "--verify")
    given += ("--comm-budget", 1, "--batch-size", 30)
    alone, _ = infer(2, *given, "--output", small / "alone.h5")
    report, summary = infer(4, *given, "--output", small / "y.h5", "--groups", 2)
    assert (report["ranks"], report["groups"], report["workers"], report["cached"]) == (4, 2, 2, True)
    np.testing.assert_array_equal(read_output(small / "y.h5"), read_output(small / "alone.h5"))
    same = ("accuracy", "reference_accuracy", "max_abs_difference", "bytes_sent", "messages", "load_share")
    assert {name: report[name] for name in same} == {name: alone[name] for name in same}
    assert "4 in 2 groups, which share the samples" in summary and "2 ranks of a group" in summary


@pytest.mark.parametrize("ranks", [2, 3])
def test_groups_of_one_rank(infer, small, ranks):
    restructured, _ = small_plans.write_shards(small / "shards", 5)
    given = ("--shards", small / "shards", "--input", small / "x.npz", "--output", small / "y.h5", "--verify")
    report, summary = infer(ranks, *given, "--groups", ranks)
    expected = forward(restructured, np.load(small / "x.npz")["x"])
    np.testing.assert_allclose(read_output(small / "y.h5"), expected, atol=1e-5)
    assert report["values_sent"] == report["messages"] == 0 and len(report["load"]) == 1
    assert "the run of a group is a single process" in summary


def test_double_precision_is_verified_as_such(infer, small):
    small_plans.write_shards(small / "shards", 2, dtype=np.float64)
    arguments = ("--shards", small / "shards", "--input", small / "x.npz", "--output", small / "y.h5")
    report, _ = infer(2, *arguments, "--verify", "--dtype", "float64")
    assert report["relative_difference"] <= 1e-12
    assert read_output(small / "y.h5").dtype == np.float64


def test_without_repeats_nothing_is_timed(infer, small):
    small_plans.write_shards(small / "shards", 2)
    report, summary = infer(2, "--shards", small / "shards", "--input", small / "x.npz", "--repeat", 0)
    assert "latency_us" not in report and "latency" not in summary
    assert report["throughput"] > 0
    assert f"{report['first_result_seconds']:.2f} s after the start" in summary


def test_the_way_to_the_first_result_and_the_memory_are_reported(infer, small):
    small_plans.write_shards(small / "shards", 2)
    report, summary = infer(2, "--shards", small / "shards", "--input", small / "x.npz")
    seconds, first = report["seconds"], report["first_result_seconds"]
    assert seconds["import"] > 0 and seconds["jit"] > 0
    # Each is the maximum over the ranks, and a process knows its age to a hundredth of a second.
    assert max(seconds["import"], seconds["jit"], seconds["load"]) < first < 100
    assert f"(imports {seconds['import']:.2f}, JIT {seconds['jit']:.2f})" in summary
    # Python with NumPy and Numba, and a network that is nothing beside them.
    assert 50 < report["peak_memory_mib"] < 1000
    assert f"{report['peak_memory_mib']:,.0f} MiB" in summary


def test_imports_on_shards(mpirun, small):
    small_plans.write_shards(small / "shards", 2)
    arguments = ("--shards", small / "shards", "--input", small / "x.npz", "--verify")
    done = mpirun(2, "-c", IMPORTS, small, *arguments)
    assert done.returncode == 0, done.stderr
    installed = set(packages_distributions())
    for rank in range(2):
        imported = (small / f"imported-{rank}").read_text().split()
        packages = {name.split(".")[0] for name in imported if not name.startswith("_")}
        assert packages & installed <= ALLOWED
        assert "repurpose_hpc.runtime.program" in imported
        ours = {name for name in imported if name.startswith("repurpose_hpc.restructure.")}
        allowed = ("options", "constraints", "method", "time_model")
        assert ours <= {f"repurpose_hpc.restructure.{name}" for name in allowed}


def test_help_is_printed_once(mpirun):
    done = mpirun(3, *MODULE, "--help")
    assert done.returncode == 0
    assert done.stdout.count("usage:") == 1 and "--comm-budget" in done.stdout


@pytest.mark.parametrize(("chosen", "expected"), [({}, "1"), ({"OMP_NUM_THREADS": "3"}, "3")])
def test_one_thread_per_rank_unless_chosen(chosen, expected):
    program = (
        "import sys, repurpose_hpc.infer, repurpose_hpc.process.threads as t; "
        "assert 'numpy' not in sys.modules; t.one_thread_per_rank(); print(t.threads())"
    )
    env = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**env, **chosen}, cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.strip() == expected, done.stderr


@pytest.mark.parametrize("placement", ["replicated", "partitioned", "root"])
def test_assembled_shards_are_the_network_they_were_cut_from(placement):
    network = small_plans.random_network()
    plan = small_plans.random_plan(network, 4, placement)
    restructured = small_plans.pruned(network, plan)
    shards = [make_shard(restructured, plan, worker, np.float64) for worker in range(4)]
    assert assemble(shards).fingerprint() == restructured.fingerprint()


def test_assembled_single_shard_is_the_network():
    network = load_model(bundled.MODEL)
    whole = assemble([make_shard(network, single_worker_plan(network), 0, np.float32)])
    assert whole.fingerprint() == network.fingerprint()


def test_the_way_of_the_exchange_is_reported(infer, tmp_path):
    small_plans.write_shards(tmp_path / "shards", 3, "partitioned")
    small_plans.write_samples(tmp_path / "x.npz")
    files = "--shards", tmp_path / "shards", "--input", tmp_path / "x.npz", "--verify"
    report, summary = infer(3, *files, "--exchange", "p2p")
    assert report["exchange"] == "p2p" and "exchange_us" not in report
    assert "sent_bytes_per_sample" not in report
    report, summary = infer(3, *files, "--exchange", "auto")
    times = report["exchange_us"]
    assert {"ialltoallv", "alltoallv", "neighbor", "p2p", "sparse", "shared"} <= set(times)
    assert report["exchange"] == min(times, key=times.get)
    assert f"{report['exchange']}, the fastest" in summary


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_threads_and_parts(infer, monkeypatch):
    # Open MPI binds two ranks or fewer to a core each.
    for name in ("OMPI_MCA_hwloc_base_binding_policy", "PRTE_MCA_hwloc_default_binding_policy"):
        monkeypatch.setenv(name, "none")
    options = "--workers", 2, "--threads", 2, "--micro-batches", 3, "--batch-size", 64, "--repeat", 2
    report, summary = infer(1, *options)
    assert report["threads_per_rank"] == 2 and "1 with 2 threads each" in summary
    assert report["micro_batches"] == 3 and "batches of 64 in 3 parts" in summary
    assert report["accuracy"] > 0.89


def test_bytes_without_zeros_are_reported(infer, tmp_path):
    small_plans.write_shards(tmp_path / "shards", 3, "partitioned")
    small_plans.write_samples(tmp_path / "x.npz")
    files = "--shards", tmp_path / "shards", "--input", tmp_path / "x.npz", "--verify"
    report, summary = infer(3, *files, "--exchange", "sparse", "--batch-size", 9)
    assert 0 < report["sent_bytes_per_sample"] < report["bytes_sent"]
    assert f"without zeros {report['sent_bytes_per_sample']:,.0f} bytes on average" in summary
    untimed, _ = infer(3, *files, "--exchange", "sparse", "--batch-size", 9, "--repeat", 0)
    assert untimed["sent_bytes_per_sample"] == report["sent_bytes_per_sample"]


def test_parts_without_threads(infer, small):
    files = small / "model.npz", "--calibration", small / "x.npz", "--input", small / "x.npz", "--verify"
    report, summary = infer(2, *files, "--micro-batches", 7, "--batch-size", 5)
    assert report["micro_batches"] == 5 and "batches of 5 in 5 parts" in summary


def test_weights_in_fewer_bits(infer, tmp_path):
    small_plans.write_shards(tmp_path / "shards", 3, "partitioned")
    small_plans.write_samples(tmp_path / "x.npz")
    files = "--shards", tmp_path / "shards", "--input", tmp_path / "x.npz", "--verify"
    exact, _ = infer(2, *files)
    report, summary = infer(2, *files, "--weights-dtype", "int8")
    assert report["weights_dtype"] == "int8" and "weights int8" in summary
    assert 100 * exact["relative_difference"] < report["relative_difference"] < 1 / 127


def test_relays(infer, small):
    """Restructured by the command; numbers of the original are those without relays."""
    files = small / "model.npz", "--calibration", small / "x.npz", "--input", small / "x.npz", "--verify"
    options = "--input-placement", "partitioned", "--comm-budget", 0.2
    found = {}
    for forms in ("ghosts,sums", "ghosts,sums,relays"):
        found[forms], _ = infer(3, *files, *options, "--forms", forms, "--certify")
        assert found[forms]["relative_difference"] <= 1e-5
        assert 0 < found[forms]["comm_fraction"] <= 0.2
    before, after = found.values()
    assert any("relays" in name for name in after["formats"])
    for name in ("weights", "dense_values"):
        assert before[name] == after[name]


def test_deterministic_runs_have_the_same_bits(infer, tmp_path):
    """For any ranks, also where some host more workers, and for a last batch that is smaller."""
    small_plans.write_shards(tmp_path / "shards", 5, "partitioned", wire="bfloat16")
    small_plans.write_samples(tmp_path / "x.npz", samples=41)
    files = "--shards", tmp_path / "shards", "--input", tmp_path / "x.npz", "--output", tmp_path / "y.h5"
    runs = [
        (1, "--batch-size", 41),
        (2, "--batch-size", 1, "--exchange", "p2p"),
        (3, "--batch-size", 7, "--micro-batches", 3, "--exchange", "shared", "--repeat", 0),
        (5, "--batch-size", 16, "--exchange", "sparse", "--verify"),
    ]
    outputs = set()
    for ranks, *options in runs:
        report, summary = infer(ranks, *files, *options, "--deterministic")
        assert report["deterministic"] and "same bits for any ranks" in summary
        with h5py.File(tmp_path / "y.h5") as file:
            assert file["y"].shape == (41, small_plans.WIDTHS[-1])
            outputs.add(file["y"][:].tobytes())
    assert len(outputs) == 1
    report, summary = infer(2, *files)
    assert not report["deterministic"] and "same bits" not in summary
