"""``--round-cost auto``: the price of a round by the links of a machine file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT, small_plans
from helpers.machines import with_network
from repurpose_hpc.commands import restructure
from repurpose_hpc.commands.parser import restructure_options
from repurpose_hpc.errors import UsageError
from repurpose_hpc.forecast.machine import THIS_FILE, read_machine, write_machine
from repurpose_hpc.forecast.rounds import round_cost


def test_it_is_that_of_the_machine_for_the_ranks_that_run(tmp_path):
    gigabit = read_machine("gigabit", tmp_path)
    given = {"workers": 8, "round_cost": "auto", "machine": "gigabit"}
    assert restructure_options(given, None).round_cost == round_cost(gigabit, 8) > 10_000
    assert restructure_options(given, None, hosts=2).round_cost == round_cost(gigabit, 2)


def test_the_machine_that_probe_wrote_is_taken_unless_another_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("REPURPOSE_HPC_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="measure this machine first"):
        restructure_options({"round_cost": "auto"}, 2)
    machine = with_network(latency_us=10, gb_per_s=1)
    write_machine(tmp_path / THIS_FILE, machine)
    assert restructure_options({"round_cost": "auto"}, 2).round_cost == round_cost(machine, 2)


def test_what_does_not_fit():
    words = ["m", "--out", "o", "--calibration", "c", "--workers", "2"]
    with pytest.raises(
        UsageError,
        match="--machine has no effect without --part-weights auto or --round-cost auto or --minimise time",
    ):
        restructure.parse([*words, "--machine", "gigabit"])
    with pytest.raises(UsageError, match="--round-cost: expected auto or a finite number, 0 or more"):
        restructure.parse([*words, "--round-cost", "dear"])
    assert restructure.parse([*words, "--round-cost", "12.5"]).options.round_cost == 12.5


def test_the_report_and_the_printed_line_have_the_rounds(tmp_path: Path):
    small_plans.write_model(tmp_path / "model.npz", small_plans.random_network(widths=(20, 40, 40, 5)))
    small_plans.write_samples(tmp_path / "x.npz", samples=60, width=20)
    found = {}
    for price in ("0", "auto"):
        words = ["restructure", tmp_path / "model.npz", "--workers", 3, "--input-placement", "partitioned"]
        words += ["--calibration", tmp_path / "x.npz", "--out", tmp_path / price, "--round-cost", price]
        words += [
            "--report",
            tmp_path / "report.json",
            *(["--machine", "gigabit"] if price == "auto" else []),
        ]
        done = subprocess.run(
            [sys.executable, "-m", "repurpose_hpc", *map(str, words)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        report = json.loads((tmp_path / "report.json").read_text())
        rounds = report["rounds"]
        assert f", in {rounds} round{'' if rounds == 1 else 's'}\n" in done.stdout
        found[price] = report
    assert found["auto"]["rounds"] < found["0"]["rounds"] == 3
    assert found["0"]["round_cost"] == 0
    assert found["auto"]["round_cost"] == pytest.approx(round_cost(read_machine("gigabit", tmp_path), 3))
