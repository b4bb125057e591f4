"""``restructure --workers auto``: from a command line to shards that ``infer`` compares with the forecast."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers import small_plans
from helpers.machines import PLAIN, with_network
from repurpose_hpc.commands import restructure
from repurpose_hpc.commands.forecast import parse, predict
from repurpose_hpc.commands.infer import parse as parse_infer
from repurpose_hpc.errors import UsageError
from repurpose_hpc.forecast.machine import MachineModel, write_machine
from repurpose_hpc.report.schema import REPORTS, problems

QUICK = with_network(latency_us=0.1, overhead_us=0.01, gb_per_s=10)
WORDS = ("--batch-size", 4, "--machine", "machine.json", "--workers", "auto")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model and samples."""
    small_plans.write_model(tmp_path / "model.npz", small_plans.random_network(widths=(30, 60, 60, 50, 5)))
    small_plans.write_samples(tmp_path / "x.npz", samples=300, width=30)
    return tmp_path


def restructured(mpirun, folder: Path, machine: MachineModel, *words: object, ranks: int = 1) -> tuple:
    """Standard output and report of a run for a machine."""
    write_machine(folder / "machine.json", machine)
    words = [folder / word if word == "machine.json" else word for word in (*WORDS, *words)]
    files = (folder / "model.npz", "--calibration", folder / "x.npz", "--out", folder / "out")
    done = mpirun(
        *(ranks, "-m", "repurpose_hpc", "restructure", *files, *words),
        *("--report", folder / "report.json"),
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "report.json").read_text())
    assert problems(report, REPORTS["restructure"]) == []
    assert report["choice"]["workers"] == report["workers"] == len(list((folder / "out").glob("worker-*")))
    return done.stdout.splitlines(), report


def test_one_process_where_nothing_is_faster(mpirun, folder):
    lines, report = restructured(mpirun, folder, with_network(latency_us=1e4), "--ranks-at-most", 4)
    choice = report["choice"]
    assert choice["workers"] == 1 and choice["forecast_us"] == choice["single_process_us"]
    assert [point["workers"] for point in choice["points"]] == [1, 2, 3, 4]
    assert min(point["forecast_us"] for point in choice["points"]) == choice["single_process_us"]
    assert lines[0].startswith("chosen ") and "1 worker of at most 4; forecast " in lines[0]
    assert "no more are enough faster than one process; 2 take " in lines[1]
    assert lines[2].endswith(f"repurpose-hpc infer --shards {folder}/out --input DATA --batch-size 4")


def test_the_plan_decides_and_infer_confirms(mpirun, folder):
    lines, report = restructured(mpirun, folder, replace(QUICK, shared_cores=2), "--ranks-at-most", 4)
    choice = report["choice"]
    assert choice["ranks_at_most"] == 2  # more would share cores
    assert choice["workers"] == 2 and choice["forecast_us"] < choice["single_process_us"]
    options = ["--machine", str(folder / "machine.json"), "--ranks", "1,2", "--batch-size", "4"]
    points = predict(parse([str(folder / "out"), *options]))["points"]
    assert points[1]["basis"] == choice["points"][1]["basis"] == "plan"
    forecasts = [points[0]["dense"]["total_us"], points[1]["restructured"]["total_us"]]
    assert [choice["single_process_us"], choice["forecast_us"]] == pytest.approx(forecasts, rel=1e-9)
    assert "mpirun -n 2 " in lines[2] and "--exchange auto; equal shares, 1 on a node" in lines[2]
    run = ("-m", "repurpose_hpc", "infer", "--shards", folder / "out", "--input", folder / "x.npz")
    for batch, says in ((4, True), (8, False)):
        report_file = folder / "infer.json"
        done = mpirun(2, *run, "--batch-size", batch, "--repeat", 3, "--report", report_file, timeout=170)
        assert done.returncode == 0, done.stderr
        found = json.loads(report_file.read_text())
        assert ("forecast_us" in found) == ("forecast_error" in found) == says
        lines = [line for line in done.stdout.splitlines() if line.startswith("forecast ")]
        assert len(lines) == says
        if says:
            assert found["forecast_us"] == choice["forecast_us"]
            measured = found["latency_us"]["median"]
            assert found["forecast_error"] == pytest.approx(measured / choice["forecast_us"] - 1)
            assert f" µs, measured {measured:,.0f} µs (" in lines[0]


def test_ranks_together_choose_the_same(mpirun, folder):
    found = []
    for ranks in (1, 2):
        _, report = restructured(mpirun, folder, QUICK, "--ranks-at-most", 3, ranks=ranks)
        choice, shards = report["choice"], sorted((folder / "out").glob("worker-*"))
        found.append((choice, [shard.read_bytes() for shard in shards]))
    assert found[0] == found[1]


def test_unequal_machines_and_a_shared_node(mpirun, folder):
    """The slowest rank is left out, the others get shares by their rates; else workers of a node stay."""
    uneven = replace(QUICK, all_ranks_gb_per_s=(20.0, 0.5, 10.0))
    lines, report = restructured(mpirun, folder, uneven)
    assert report["choice"]["ranks_at_most"] == 3 and report["workers"] == 2
    assert report["choice"]["ranks"] == [0, 2] and report["choice"]["left_out"] == [1]
    assert report["part_weights"] == [1.0, 0.5]
    assert "shares 1,0.5, 1 on a node, without rank 1 of probe, slower" in lines[2]
    nodes = replace(QUICK, ranks_per_node=2, local=PLAIN.local)
    _, report = restructured(mpirun, folder, nodes, "--ranks-at-most", 3)
    assert report["workers"] == 3 and report["choice"]["workers_per_node"] == 2 and "link_cost" in report


def test_a_promise(mpirun, folder):
    _, report = restructured(mpirun, folder, QUICK, "--ranks-at-most", 2, "--max-output-error", 0.5)
    assert report["workers"] == 2 and report["output_error_held_out"] <= 0.5


def test_what_does_not_fit(tmp_path, monkeypatch):
    monkeypatch.setenv("REPURPOSE_HPC_CACHE", str(tmp_path))
    files = ["model.npz", "--calibration", "x.npz", "--out", "out"]
    unequal = replace(QUICK, all_ranks_gb_per_s=(2.0, 1.0))
    write_machine(tmp_path / "unequal.json", unequal)
    write_machine(tmp_path / "node.json", replace(PLAIN, network=None, ranks_per_node=4))
    auto, gigabit = ["--workers", "auto"], ["--machine", "gigabit", "--ranks-at-most", "4"]
    for words, expected in (
        (auto, r"--machine: expected .*machine.json for this, found none; .* repurpose_hpc probe"),
        ([*auto, "--machine", "gigabit"], "expected --ranks-at-most N, as .* does not say how many"),
        ([*auto, *gigabit, "--part-weights", "1,2"], "--part-weights needs a number of workers, which auto"),
        ([*auto, *gigabit, "--lossless"], "--lossless needs a number of workers"),
        ([*auto, *gigabit, "--link-cost", "prices.txt"], "--link-cost FILE needs a number of workers"),
        (
            [*auto, "--machine", str(tmp_path / "unequal.json"), "--ranks-at-most", "3"],
            "--machine: expected the rate of each of 3 ranks, .* or take --ranks-at-most 2",
        ),
        (
            [*auto, "--machine", str(tmp_path / "node.json"), "--ranks-at-most", "5"],
            "expected links for 5 ranks, found those of 4 in plain; probe on more nodes, or ask for fewer",
        ),
        ([*auto, *gigabit[:2], "--ranks-at-most", "0"], "--ranks-at-most: expected an integer, 1 or more"),
        (["--workers", "4", *gigabit[2:]], "--ranks-at-most has no effect without --workers auto"),
        (["--workers", "4", "--batch-size", "8"], "--batch-size has no effect without --workers auto"),
        (["--workers", "many"], "--workers: expected auto or an integer, 1 or more, got 'many'"),
    ):
        with pytest.raises(UsageError, match=expected):
            restructure.parse([*files, *words])
    with pytest.raises(UsageError, match="--workers: expected an integer, 1 or more, got 'auto'"):
        parse_infer(["model.npz", "--calibration", "x.npz", "--input", "x.npz", *auto], 2)


def test_texts_need_a_number(tmp_path):
    from repurpose_hpc import bundled

    np.savez(tmp_path / "texts.npz", x=np.zeros((1, 4), np.int64))
    files = [str(bundled.LANGUAGE), "--out", "out"]
    for words in ([], ["--calibration", str(tmp_path / "texts.npz")]):
        with pytest.raises(UsageError, match="--workers: expected a number, got auto, which is for networks"):
            restructure.parse([*files, *words, "--workers", "auto"])
