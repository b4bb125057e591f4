"""``--part-weights auto``: shares by the rates that a machine file has of every rank."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import ROOT, small_plans
from helpers.machines import PLAIN
from repurpose_hpc.commands import infer, restructure
from repurpose_hpc.commands.parser import restructure_options
from repurpose_hpc.errors import UsageError
from repurpose_hpc.fields import FieldError, declarations, shown
from repurpose_hpc.forecast.machine import THIS_FILE, write_machine
from repurpose_hpc.restructure.options import Options

UNEQUAL = (4.0, 1.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model, samples, and a machine with unequal ranks."""
    small_plans.write_model(tmp_path / "model.npz", small_plans.random_network(widths=(20, 40, 40, 5)))
    small_plans.write_samples(tmp_path / "x.npz", samples=30, width=20)
    write_rates(tmp_path / "machine.json", UNEQUAL)
    return tmp_path


def write_rates(path: Path, rates: tuple[float, ...] | None) -> None:
    write_machine(path, replace(PLAIN, all_ranks_gb_per_s=rates))


def weights_for(machine: Path, workers: int, hosts: int | None = None) -> tuple[float, ...] | None:
    given = {"workers": workers, "part_weights": "auto", "machine": str(machine)}
    return restructure_options(given, None, hosts).part_weights


def test_workers_have_the_rates_of_the_ranks_that_host_them(folder):
    assert weights_for(folder / "machine.json", 2) == (1, 0.25)
    assert weights_for(folder / "machine.json", 2, hosts=2) == (1, 0.25)
    # Rank 0 hosts worker 0, rank 1 the others: they share its rate.
    assert weights_for(folder / "machine.json", 3) == (1, 0.125, 0.125)
    assert weights_for(folder / "machine.json", 4) == (1, 1, 0.25, 0.25)
    write_rates(folder / "machine.json", (5.0,))
    assert weights_for(folder / "machine.json", 3) == (1, 1, 1)


def test_the_machine_that_probe_wrote_is_taken_unless_another_is_named(folder, monkeypatch):
    monkeypatch.setenv("REPURPOSE_HPC_CACHE", str(folder))
    write_rates(folder / THIS_FILE, (1.0, 2.0))
    given = {"part_weights": "auto"}
    assert restructure_options(given, 2).part_weights == (0.5, 1)


@pytest.mark.parametrize(
    ("rates", "workers", "hosts", "message"),
    [
        (
            None,
            2,
            None,
            "--machine: expected .* with the rate of every rank, found none in .*probe",
        ),
        ((1.0, 1.0, 2.0), 2, None, "of at most 2 ranks.*found 3 in .*-n 2 .*probe, or .*--workers 3"),
        ((1.0, 1.0, 2.0), 4, 2, "rates of the 2 ranks that run, found those of 3 in .*-n 2 .*probe"),
        ((1.0, 0.0), 2, None, "all_ranks_gb_per_s is .*not 2 numbers above 0"),
        ((), 2, None, "all_ranks_gb_per_s is .*not 1 numbers above 0"),
    ],
)
def test_rates_that_do_not_fit(folder, rates, workers, hosts, message):
    write_rates(folder / "machine.json", rates)
    with pytest.raises(UsageError, match=message):
        weights_for(folder / "machine.json", workers, hosts)


def test_no_machine_file(folder, monkeypatch):
    monkeypatch.setenv("REPURPOSE_HPC_CACHE", str(folder / "empty"))
    with pytest.raises(UsageError, match=r"--machine: expected .*machine\.json for this, .* probe"):
        restructure_options({"part_weights": "auto"}, 2)
    with pytest.raises(UsageError, match=r"none\.json"):
        weights_for(folder / "none.json", 2)


def test_a_machine_says_nothing_where_part_weights_are_given():
    for given in ({}, {"part_weights": (1.0, 2.0)}):
        with pytest.raises(
            UsageError,
            match="--machine has no effect without --part-weights auto or .*; leave it",
        ):
            restructure_options({**given, "machine": "gigabit"}, 2)


def test_auto_is_a_word_of_command_lines():
    with pytest.raises(FieldError, match="part_weights: expected a number for each .*, got 'auto'; "):
        Options(2, part_weights="auto")
    with pytest.raises(FieldError, match="part_weights: expected auto or finite numbers .*got 'automatic'"):
        declarations(Options)["part_weights"].parse("part_weights", "automatic")


def test_what_is_suggested_can_be_pasted():
    suggestion = [1.0, 0.493, 1e-05]
    assert declarations(Options)["part_weights"].parse("part_weights", shown(suggestion)) == tuple(suggestion)


def test_infer_needs_the_rates_of_the_ranks_that_run(folder):
    words = [str(folder / "model.npz"), "--input", "x.npz", "--calibration", "x.npz", "--workers", "3"]
    words += ["--part-weights", "auto", "--machine", str(folder / "machine.json")]
    assert infer.parse(words, 2).options.part_weights == (1, 0.125, 0.125)
    with pytest.raises(UsageError, match="rates of the 3 ranks that run, found those of 2"):
        infer.parse(words, 3)
    with pytest.raises(UsageError, match="--machine has no effect: --shards are restructured already"):
        infer.parse(["--shards", "s", "--input", "x.npz", "--machine", "gigabit"], 2)
    # That of probe is not asked where nothing is automatic.
    assert restructure.parse(["m", "--out", "o", "--calibration", "c"], 2).options.part_weights is None


def test_shards_are_those_of_the_numbers_for_any_ranks(folder, mpirun):
    """Bit for bit, and the faster worker has more of the weights."""
    machine, auto = folder / "machine.json", ("--part-weights", "auto", "--machine")
    made = {
        "numbers": run(folder, "numbers", "--part-weights", "1,0.25"),
        "alone": run(folder, "alone", *auto, machine),
        "ranks": run(folder, "ranks", *auto, machine, mpirun=mpirun),
    }
    for report in made.values():
        assert report["part_weights"] == [1, 0.25]
        faster, slower = report["weights_of_workers"]
        assert faster > 2 * slower
    for name in ("alone", "ranks"):
        for file in sorted((folder / "numbers").iterdir()):
            assert file.read_bytes() == (folder / name / file.name).read_bytes()


def run(folder: Path, out: str, *words: object, mpirun=None) -> dict:
    """The report of ``restructure`` for two workers."""
    command = ["-m", "repurpose_hpc", "restructure", folder / "model.npz", "--workers", "2", *words]
    command += ["--calibration", folder / "x.npz", "--out", folder / out, "--report", folder / "report.json"]
    if mpirun is not None:
        done = mpirun(2, *command)
    else:
        words = [sys.executable, *map(str, command)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "report.json").read_text())
