"""``python -m repurpose_hpc scaling``: every point is launched once, measured, written down, and drawn."""

import csv
import json
import math
import sys
from pathlib import Path

import environment
import pytest

from helpers import ROOT, small_plans
from repurpose_hpc.commands import scaling as scaling_command
from repurpose_hpc.commands.start import Context
from repurpose_hpc.errors import UsageError, UserError
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.plan.files.store import write_plan
from repurpose_hpc.studies import launch
from repurpose_hpc.studies.scaling import launches as scaling_launches
from repurpose_hpc.studies.scaling.table import COLUMNS, PHASES, ScalingTable

# A launcher that starts no ranks: it makes trouble for 3 of them, and invents findings for others.
CANNED = """
import json, os, sys
ranks, words = int(sys.argv[1]), sys.argv[2:]
if ranks == 3:
    TROUBLE
given = dict(zip(words[4::2], words[5::2]))
row = {name: 0.25 for name in COLUMNS} | {"oversubscribed": ranks > 1, "error": None}
rows = [{**row, "batch": int(batch)} for batch in given["--batches"].split(",")]
for row in rows:
    del row["ranks"], row["form"]
    row["messages"] = ranks
with open(given["--report"], "w") as file:
    json.dump({"batches": rows}, file)
"""
# Whatever it is asked for, it starts one process.
ONE = 'shift; exec "$@"'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """A small model and samples to calibrate with; a cache of its own."""
    monkeypatch.setenv("REPURPOSE_HPC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name, value in environment.MPI_DEFAULTS.items():
        monkeypatch.setenv(name, value)
    small_plans.write_model(tmp_path / "model.npz", small_plans.random_network())
    small_plans.write_samples(tmp_path / "calibration.npz", samples=200, seed=1)
    return tmp_path


@pytest.fixture
def launched(monkeypatch) -> list[tuple[int, list[int]]]:
    """Ranks and batch sizes of what is really launched, in order; nothing is drawn."""
    launches, measure = [], scaling_launches.Launch.measure

    def counting(self, shards, ranks, batches, *rest):
        launches.append((ranks, list(batches)))
        return measure(self, shards, ranks, batches, *rest)

    monkeypatch.setattr(scaling_launches.Launch, "measure", counting)
    monkeypatch.setattr(scaling_command, "_draw", lambda table: None)
    return launches


def canned(folder: Path, trouble: str = "pass") -> str:
    """The launcher ``CANNED``."""
    path = folder / "launcher.py"
    path.write_text(CANNED.replace("TROUBLE", trouble).replace("COLUMNS", repr(COLUMNS)))
    return f"{sys.executable} {path} {{ranks}}"


def strong(folder: Path, **changed: object) -> list[str]:
    """A command line for the model, but for the options ``changed``; None leaves one out."""
    options = {
        "calibration": folder / "calibration.npz",
        "ranks": "1,2",
        "batches": "1,8",
        "repeat": 3,
        "out": folder / "out",
        **changed,
    }
    pairs = [
        (f"--{name.replace('_', '-')}", str(value)) for name, value in options.items() if value is not None
    ]
    return ["strong", str(folder / "model.npz"), *(word for pair in pairs for word in pair)]


def run_scaling(words: list[str]) -> None:
    """Run the command here."""
    scaling_command.run(scaling_command.parse(words), Context(threads=1, import_seconds=0.0, started=0.0))


def read(folder: Path) -> list[dict]:
    """The points in the JSON file, after a look at the CSV file."""
    points = json.loads((folder / "out/scaling.json").read_text())["points"]
    with open(folder / "out/scaling.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    texts = [{name: "" if value is None else str(value) for name, value in row.items()} for row in points]
    assert rows == texts and all(list(row) == list(COLUMNS) for row in rows)
    return points


def test_every_point_is_measured_counted_and_compared(folder, capsys):
    run_scaling(strong(folder, comm_budget=0.2))
    rows = read(folder)
    keys = [(row["ranks"], row["form"], row["batch"]) for row in rows]
    forms = ((1, "dense"), (2, "dense"), (2, "restructured"))
    assert keys == [(ranks, form, batch) for ranks, form in forms for batch in (1, 8)]
    network = load_model(folder / "model.npz")
    for row in rows:
        assert row["error"] is None and row["repeats"] == 3 and row["hosts"] == 1
        assert 0 < row["seconds_p10"] <= row["seconds_median"] <= row["seconds_p90"]
        assert row["compute_seconds"] > 0 and all(row[phase] >= 0 for phase in PHASES)
        assert row["bytes"] == 4 * row["values"] * row["batch"]
        assert row["relative_difference"] < 1e-5
        assert row["wire_bytes"] is None  # nothing leaves a single host
        fastest = min(
            r["single_seconds"] for r in rows if (r["ranks"], r["batch"]) == (row["ranks"], row["batch"])
        )
        assert row["best_single_seconds"] == fastest
        assert row["speedup"] == fastest / row["seconds_median"] == row["efficiency"] * row["ranks"]
        if row["form"] == "dense":
            assert row["weights"] == network.weight_count
    one, dense, restructured = (
        next(row for row in rows if (row["ranks"], row["form"]) == key) for key in forms
    )
    assert one["values"] == one["messages"] == 0
    # The last layer has fewer outputs than inputs: dense sends partial sums there.
    assert 0 < restructured["values"] <= 0.2 * restructured["dense_values"]
    assert restructured["weights"] < dense["weights"] and dense["messages"] > 0
    output = capsys.readouterr()
    assert "2  restructured      8" in output.out and "[3/3] 2 ranks, restructured: " in output.err
    assert {path.name for path in (folder / "out").iterdir()} == {
        f"scaling.{end}" for end in ("csv", "json", "png")
    }


def test_weak_scaling_keeps_the_weights_per_rank(folder, launched):
    options = ["--ranks", "1,4", "--width", "32", "--layers", "2", "--batches", "4", "--repeat", "2"]
    run_scaling(["weak", *options, "--out", str(folder / "out")])
    rows = read(folder)
    for row in rows:
        assert row["weights"] <= 2 * round(32 * math.sqrt(row["ranks"])) ** 2
        if row["form"] == "dense":
            assert row["weights"] / row["ranks"] == pytest.approx(2 * 32**2, rel=0.02)
        assert row["efficiency"] == rows[0]["single_seconds"] / row["seconds_median"]
    four = [row for row in rows if row["ranks"] == 4]
    assert four[1]["values"] <= 0.05 * four[0]["values"] and four[0]["values"] == 3 * 64


def test_what_is_there_is_not_measured_again(folder, launched):
    run_scaling(strong(folder, launcher=canned(folder)))
    before = read(folder)
    assert launched == [(1, [1, 8]), (2, [1, 8]), (2, [1, 8])]
    run_scaling(strong(folder, launcher=canned(folder)))
    assert len(launched) == 3 and read(folder) == before
    run_scaling(strong(folder, launcher=canned(folder), ranks="1", batches="4,8"))
    assert launched[3:] == [(1, [4])]
    assert [row for row in read(folder) if row["batch"] != 4] == before


@pytest.mark.parametrize(
    ("trouble", "expected"),
    [
        ("sys.exit('[2] repurpose-hpc: error: no room')", "status 1: no room"),
        ("print('one'); print('two'); sys.exit(3)", "status 3: one / two"),
        ("sys.exit(0)", "status 0: no output"),
        ("import time; time.sleep(1000)", "not finished after 2 s; see --timeout"),
    ],
)
def test_failed_points_are_written_down_and_tried_again(folder, launched, capsys, trouble, expected):
    options = {"ranks": "2,3,4", "batches": 1, "timeout": 2}
    with pytest.raises(UserError, match="2 of 6 points failed"):
        run_scaling(strong(folder, launcher=canned(folder, trouble), **options))
    assert f"3 ranks, dense: {expected}" in capsys.readouterr().err
    for row in read(folder):
        assert row["error"] == (expected if row["ranks"] == 3 else None)
        assert (row["seconds_median"] is None) == (row["ranks"] == 3)
    del launched[:]
    run_scaling(strong(folder, launcher=canned(folder), **options))
    assert launched == [(3, [1]), (3, [1])]
    assert all(row["error"] is None for row in read(folder))
    assert not list((folder / "out").glob(".*"))


def test_a_launcher_that_starts_something_else_is_noticed(folder, launched):
    script = folder / "one.sh"
    script.write_text(ONE)
    for launcher, expected in (
        (f"sh {script} {{ranks}}", "expected 2 ranks, found 1"),
        ("no-such-launcher", "cannot start no-such-launcher"),
    ):
        with pytest.raises(UserError, match="2 of 2 points failed"):
            out = folder / launcher[:2]
            run_scaling(strong(folder, ranks="2", batches="1", launcher=launcher, out=out))
        points = json.loads((out / "scaling.json").read_text())["points"]
        assert all(expected in row["error"] for row in points)


def test_launchers_become_command_lines(monkeypatch):
    def command(name: str) -> list[str]:
        return launch.launcher_words(name, 4)

    assert command("mpirun")[1:] == ["-n", "4"] and Path(command("mpirun")[0]).name.startswith("mpi")
    assert command("mpirun --bind-to core") == ["mpirun", "--bind-to", "core", "-n", "4"]
    assert command("jsrun --np={ranks} -r1") == ["jsrun", "--np=4", "-r1"]
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    for library, pmi in (("MPICH Version: 5", "pmi2"), ("Open MPI v5.0", "pmix")):
        monkeypatch.setattr(launch, "_library", lambda library=library: library)
        assert command("srun") == ["srun", f"--mpi={pmi}", "--cpus-per-task=2", "-n", "4"]


def test_given_shards_are_run_as_they_are(folder, launched):
    network = small_plans.random_network()
    plan = small_plans.random_plan(network, 2, "replicated")
    provenance = {"model_fingerprint": load_model(folder / "model.npz").fingerprint()}
    write_plan(folder / "shards-2", small_plans.pruned(network, plan), plan, provenance)
    pattern = str(folder / "shards-{ranks}")
    run_scaling(strong(folder, calibration=None, shards=pattern, ranks="2", batches="4"))
    restructured = read(folder)[1]
    assert restructured["weights"] == small_plans.pruned(network, plan).weight_count
    assert restructured["values"] == sum(plan.values_sent(network, each) for each in network.mixings)


def test_given_shards_of_another_model_or_too_few_workers_are_refused(folder, launched):
    small_plans.write_shards(folder / "shards-2", 2, seed=7)
    small_plans.write_shards(folder / "shards-3", 2)
    (folder / "shards-3").rename(folder / "shards-4")
    options = {"calibration": None, "shards": folder / "shards-{ranks}", "launcher": canned(folder)}
    with pytest.raises(UserError, match="3 of 6 points failed"):
        run_scaling(strong(folder, ranks="2,4,5", batches=1, **options))
    two, four, five = (row["error"] for row in read(folder) if row["form"] == "restructured")
    assert "found those of another one" in two
    assert "expected shards for 4 workers, found 2" in four
    assert "plan.h5: expected a file of a restructured network, found none" in five


def test_a_study_of_something_else_is_refused(folder, launched):
    one = {"ranks": 1, "batches": 1}
    run_scaling(strong(folder, launcher=canned(folder), **one))
    others = ({"comm_budget": 0.1}, {"dtype": "float64"}, {"launcher": "mpiexec"}, {"method": "magnitude"})
    for other in others:
        with pytest.raises(UserError, match="expected a study with .* found one with"):
            run_scaling(strong(folder, **{"launcher": canned(folder), **one, **other}))
    (folder / "out/scaling.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        run_scaling(strong(folder, launcher=canned(folder), **one))
    assert len(launched) == 1


def test_the_picture_marks_more_ranks_than_cores(folder, monkeypatch):
    from matplotlib.colors import to_rgba
    from matplotlib.figure import Figure

    figures, savefig = [], Figure.savefig

    def keeping(figure, *args, **kwargs):
        figures.append(figure)
        savefig(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keeping)
    run_scaling(strong(folder, batches="8", launcher=canned(folder)))
    speedup, *_, messages = figures[0].axes
    for axes, quantity in ((speedup, "speedup"), (messages, "messages")):
        lines = {line.get_label(): line for line in axes.get_lines()}
        for form in ("dense", "restructured"):
            expected = [
                (r["ranks"], r[quantity]) for r in read(folder) if r["ranks"] == 1 or r["form"] == form
            ]
            assert list(zip(*lines[form].get_data(), strict=True)) == expected
        marks = [line for line in axes.get_lines() if line.get_marker() == "o"]
        hollow = {mark.get_xdata()[0]: mark.get_markerfacecolor() == "white" for mark in marks}
        assert hollow == {1: False, 2: True}
    bars = figures[0].axes[2].patches
    assert {bool(bar.get_hatch()) for bar in bars} == {False, True} and to_rgba("C2") in {
        bar.get_facecolor() for bar in bars
    }
    legend = {text.get_text() for text in figures[0].legends[0].get_texts()}
    assert {"dense", "restructured", "compute", "wait", "hollow, hatched: more ranks than cores"} <= legend


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["weak", "model.npz", "--ranks", "1"], "MODEL is for strong"),
        (["strong", "model.npz", "--ranks", "1"], "either --calibration DATA.* or --shards"),
        (["strong", "--calibration", "x.npz", "--ranks", "1"], "--calibration belongs to a MODEL"),
        (
            ["strong", "model.npz", "--calibration", "x.npz", "--width", "9", "--ranks", "1"],
            "synthetic network",
        ),
        (
            ["strong", "--ranks", "0,1"],
            "--ranks: expected integers separated by commas, each 1 or more, got '0,1'",
        ),
        (
            ["strong", "--ranks", "1", "--batches", "0"],
            "--batches: expected integers separated by commas, each 1 or more, got '0'",
        ),
        (["strong", "--ranks", "1", "--comm-budget", "2"], "expected a fraction from 0 to 1, got 2.0"),
        (["strong", "m.npz", "--shards", "d", "--method", "data", "--ranks", "1"], "restructured already"),
    ],
)
def test_wrong_command_lines_leave_nothing_behind(tmp_path, arguments, expected):
    with pytest.raises(UsageError, match=expected):
        run_scaling([*arguments, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "column, value",
    [("ranks", 0), ("batch", -1), ("ranks", 10**400), ("single_seconds", 10**400)],
    ids=["no ranks", "negative batch", "ranks", "seconds"],
)
def test_a_table_with_numbers_that_mean_nothing_is_refused(tmp_path, column, value):
    row = {"ranks": 1, "form": "dense", "batch": 1, "error": None}
    row |= dict.fromkeys(("seconds_median", "seconds_p10", "seconds_p90", "single_seconds"), 0.5)
    path = tmp_path / "scaling.json"
    path.write_text(json.dumps({"study": {}, "points": [row | {column: value}]}))
    with pytest.raises(UserError, match="found a damaged one"):
        ScalingTable(path, {})
    path.write_text(json.dumps({"study": {}, "points": [row]}))
    assert len(ScalingTable(path, {})._rows) == 1
