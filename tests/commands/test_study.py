"""``python -m repurpose_hpc study``: every point is measured once, written down, and drawn."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers import ROOT, small_plans
from repurpose_hpc.commands import study as study_command
from repurpose_hpc.commands.start import Context
from repurpose_hpc.errors import PREFIX, UsageError, UserError
from repurpose_hpc.io.samples import open_samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.restructure.calibration.evaluation import evaluate
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.options import METHODS, Options
from repurpose_hpc.studies.accuracy import study as accuracy_study
from repurpose_hpc.studies.accuracy.table import COLUMNS

FOUR_POINTS = {"workers": "2,3", "methods": "data,magnitude/contiguous", "budgets": "0.2"}

# Runs the command, which gets SIGNAL when it begins its third point.
STOPPED = """
import os, signal, sys
from repurpose_hpc.studies.accuracy import study
from repurpose_hpc.commands.start import start

measure, calls = study.measure, []

def stopped(study, options, team):
    calls.append(options)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGNAL)
    return measure(study, options, team)

signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started the tests may ignore it
study.measure = stopped
start("study", sys.argv[1:])
"""

WITHOUT_MATPLOTLIB = """
import sys
sys.modules["matplotlib"] = None
from repurpose_hpc.commands.start import start
start("study", sys.argv[1:])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model, and samples to calibrate and to test with."""
    small_plans.write_model(tmp_path / "model.npz", small_plans.random_network())
    small_plans.write_samples(tmp_path / "calibration.npz", samples=200, seed=1)
    small_plans.write_samples(tmp_path / "test.npz", samples=100, seed=2)
    return tmp_path


@pytest.fixture
def measured(monkeypatch) -> list[Options]:
    """The points that are really computed, in their order."""
    points, measure = [], accuracy_study.measure

    def counting(study, options, team):
        points.append(options)
        return measure(study, options, team)

    monkeypatch.setattr(accuracy_study, "measure", counting)
    return points


def arguments(folder: Path, **changed: object) -> list[str]:
    """A command line for ``FOUR_POINTS``, but for the options ``changed``."""
    options = {
        "calibration": folder / "calibration.npz",
        "test": folder / "test.npz",
        "out": folder / "out",
        **FOUR_POINTS,
        **changed,
    }
    model = options.pop("model", folder / "model.npz")
    pairs = [(f"--{name.replace('_', '-')}", str(value)) for name, value in options.items()]
    return [str(model), *(word for pair in pairs for word in pair)]


def run_study(words: list[str]) -> None:
    """Run the command here."""
    study_command.run(study_command.parse(words), Context(threads=1, import_seconds=0.0, started=0.0))


def study(folder: Path, **changed: object) -> list[dict[str, str]]:
    """Run the command here; the rows that it leaves."""
    run_study(arguments(folder, **changed))
    return read(folder)


def study_process(folder: Path, program: str, **changed: object) -> subprocess.CompletedProcess[str]:
    """Run ``program`` with the command's arguments in a process of its own."""
    command = [sys.executable, "-c", program, *arguments(folder, **changed)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def read(folder: Path) -> list[dict[str, str]]:
    with open(folder / "out/study.csv", newline="") as file:
        return list(csv.DictReader(file))


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "out").iterdir()}


def only_message(stderr: str) -> str:
    messages = [line for line in stderr.splitlines() if PREFIX in line]
    assert len(messages) == 1 and "Traceback" not in stderr, stderr
    return messages[0].removeprefix(PREFIX)


def test_every_point_has_its_row_and_its_line_of_progress(folder, capsys):
    rows = study(folder)
    found = [(row["workers"], row["method"], row["assignment"], row["budget"]) for row in rows]
    pairs = (("data", "munkres"), ("magnitude", "contiguous"))
    assert found == [(workers, *pair, "0.2") for workers in "23" for pair in pairs]
    assert all(list(row) == list(COLUMNS) for row in rows)
    empty = {"error", *(name for name in COLUMNS if "rmse" in name or "r2" in name)}
    assert all(bool(value) == (name not in empty) for row in rows for name, value in row.items())
    assert names(folder) == {"study.csv", "study.json", "study.png"}
    progress = capsys.readouterr().err.splitlines()
    assert [line.rpartition(": ")[0].endswith("npz: classes") for line in progress[:2]] == [True, True]
    assert [line.split()[0] for line in progress[3:]] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]


def test_rows_say_what_restructure_and_evaluate_find(folder):
    row = study(folder, workers="3", methods="frobenius/random", input_placement="partitioned", seed=5)[0]
    network = load_model(folder / "model.npz")
    calibration, test = open_samples(folder / "calibration.npz"), open_samples(folder / "test.npz")
    options = Options(3, 0.2, "partitioned", "random", "frobenius", seed=5)
    result = restructure(network, calibration, options, lambda line: None)
    sent = sum(result.plan.values_sent(network, mixing) for mixing in network.mixings)
    assert int(row["values_sent"]) == sent > 0
    assert float(row["comm_fraction"]) == sent / int(row["dense_values"]) <= 0.2
    assert int(row["weights_kept"]) == result.network.weight_count < network.weight_count
    for data, samples in (("calibration", calibration), ("test", test)):
        findings = evaluate(network, result.network, samples)
        for name in ("reference_accuracy", "accuracy", "agreement", "output_error"):
            assert float(row[f"{data}_{name}"]) == pytest.approx(findings[name])


def test_every_method_can_be_studied(folder):
    rows = study(folder, workers="2", methods=",".join(METHODS))
    assert [row["method"] for row in rows] == list(METHODS)


def test_what_is_there_is_not_computed_again(folder, measured):
    before = study(folder)
    assert len(measured) == 4
    assert study(folder) == before and len(measured) == 4
    rows = study(folder, budgets="0.1,0.2")
    assert len(rows) == 8 and rows[:4] == before
    assert [options.comm_budget for options in measured[4:]] == [0.1] * 4


def test_parts_have_tables_of_their_own_and_are_brought_together(folder, measured):
    for part in ("2/2", "1/2"):
        run_study([*arguments(folder), "--part", part])
    assert len(measured) == 4
    assert {"study-1-of-2.csv", "study-2-of-2.csv"} <= names(folder) and "study.png" not in names(folder)
    rows = study(folder)
    assert len(rows) == 4 and len(measured) == 4 and "study.png" in names(folder)
    for wrong in ("0/2", "3/2", "1", "a/b"):
        with pytest.raises(UsageError, match="expected K/N with K from 1 to N"):
            run_study([*arguments(folder), "--part", wrong])


@pytest.mark.parametrize("changed", [{"seed": 1}, {"input_placement": "root"}, {"assignment": "random"}])
def test_other_options_are_other_points(folder, measured, changed):
    one = {"workers": 2, "methods": "data"}
    study(folder, **one)
    assert len(study(folder, **one, **changed)) == len(measured) == 2


def test_a_point_asked_for_twice_is_computed_once(folder, measured):
    assert len(study(folder, workers="2,2", methods="data,data/munkres")) == len(measured) == 1


def test_failed_points_are_written_down_and_tried_again(folder, measured, monkeypatch, capsys):
    errors = {2: UserError("expected this,\nfound that"), 3: RuntimeError("broken")}

    def failing(network, samples, options, log, team):
        if options.method == "magnitude":
            raise errors[options.workers]
        return restructure(network, samples, options, log)

    monkeypatch.setattr(accuracy_study, "restructure", failing)
    with pytest.raises(UserError, match="2 of 4 points failed"):
        study(folder)
    expected = ["", "expected this, found that", "", "RuntimeError: broken"]
    assert [row["error"] for row in read(folder)] == expected
    assert [bool(row["test_accuracy"]) for row in read(folder)] == [True, False, True, False]
    assert "failed: RuntimeError: broken" in capsys.readouterr().err
    assert "study.png" in names(folder)

    monkeypatch.setattr(accuracy_study, "restructure", restructure)
    del measured[:]
    rows = study(folder)
    assert [options.method for options in measured] == ["magnitude", "magnitude"]
    assert all(row["test_accuracy"] and not row["error"] for row in rows) and len(rows) == 4


@pytest.mark.parametrize("signal", ["SIGINT", "SIGKILL"])
def test_finished_points_survive_the_end_of_the_process(folder, measured, signal):
    done = study_process(folder, STOPPED.replace("SIGNAL", signal))
    assert done.returncode == {"SIGINT": 1, "SIGKILL": -9}[signal], done.stderr
    # Nobody holds the lock any more; its file goes with the next run.
    lock = {".study.csv.lock"} if signal == "SIGKILL" else set()
    assert names(folder) == {"study.csv", "study.json"} | lock
    before = read(folder)
    assert len(before) == 2 and all(row["test_accuracy"] for row in before)
    if signal == "SIGINT":
        assert only_message(done.stderr) == "interrupted"
    assert study(folder)[:2] == before
    assert len(measured) == 2 and not names(folder) & lock


def test_a_study_of_something_else_is_refused(folder, measured):
    study(folder)
    before = (folder / "out/study.csv").read_bytes()
    small_plans.write_model(folder / "other_model.npz", small_plans.random_network(seed=7))
    small_plans.write_samples(folder / "other_data.npz", samples=200, seed=7)
    others = {"model": "other_model.npz", "calibration": "other_data.npz", "test": "other_data.npz"}
    for name, other in others.items():
        with pytest.raises(UserError, match=f"expected a study of the {name} file .*{other}, found one of "):
            study(folder, **{name: folder / other})
    assert (folder / "out/study.csv").read_bytes() == before and len(measured) == 4


def test_the_same_files_under_other_names_are_the_same_study(folder, measured):
    study(folder)
    (folder / "model.npz").rename(folder / "renamed.npz")
    study(folder, model=folder / "renamed.npz")
    assert len(measured) == 4


def test_tables_that_cannot_be_continued_are_refused(folder):
    study(folder, workers=2)
    table, origin = folder / "out/study.csv", folder / "out/study.json"
    contents = table.read_text()
    for damaged in (contents.replace("comm_fraction", "fraction"), contents.replace("0.2", "low")):
        table.write_text(damaged)
        with pytest.raises(UserError, match="damaged"):
            study(folder)
        assert table.read_text() == damaged
    table.write_text(contents)
    origin.write_text(origin.read_text().replace('"version": "', '"version": "before '))
    with pytest.raises(UserError, match="found one of version before"):
        study(folder)
    origin.unlink()
    with pytest.raises(UserError, match="expected study.json beside it"):
        study(folder)
    assert table.read_text() == contents


def test_targets_have_errors_of_both_networks(folder):
    network = load_model(folder / "model.npz")
    for name in ("calibration", "test"):
        x = np.load(folder / f"{name}.npz")["x"]
        np.savez(folder / f"{name}.npz", x=x, y=forward(network, x) + 0.5)
    for row in study(folder):
        assert not row["test_accuracy"] and float(row["test_rmse"]) > 0.4
        assert float(row["test_reference_rmse"]) == pytest.approx(0.5)
        assert float(row["test_r2"]) < 1 > float(row["calibration_reference_r2"])


def test_without_labels_there_are_errors_but_no_accuracies(folder, capsys):
    for name in ("calibration", "test"):
        with np.load(folder / f"{name}.npz") as data:
            np.save(folder / f"{name}.npy", data["x"])
    rows = study(folder, calibration=folder / "calibration.npy", test=folder / "test.npy")
    accuracies = [name for name in COLUMNS if "accuracy" in name]
    assert len(accuracies) == 4 and not any(row[name] for row in rows for name in accuracies)
    assert all(row["test_output_error"] and row["test_agreement"] for row in rows)
    assert "test output error" in capsys.readouterr().err
    assert "study.png" in names(folder)


def test_relays_count(folder):
    rows = study(folder, methods="data")
    assert [row["forms"] for row in rows] == ["ghosts,sums,relays"] * 2
    network, calibration = small_plans.random_network(), open_samples(folder / "calibration.npz")
    for row in rows:
        cut = restructure(network, calibration, Options(int(row["workers"]), 0.2))
        assert cut.plan.relays
        assert int(row["values_sent"]) == cut.traffic_matrix().sum() > 0


def test_the_picture_shows_the_table(folder, monkeypatch):
    from matplotlib.figure import Figure

    figures, savefig = [], Figure.savefig

    def keeping(figure, *args, **kwargs):
        figures.append(figure)
        savefig(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keeping)
    # A single worker sends nothing: it has no panel.
    rows = study(folder, workers="1,2,3", budgets="0.5,0.2")
    assert (folder / "out/study.png").read_bytes().startswith(b"\x89PNG")
    panels = figures[0].axes
    assert [panel.get_title() for panel in panels] == ["2 workers", "3 workers"]
    for panel, workers in zip(panels, "23", strict=True):
        assert panel.get_xscale() == "log" and panel.get_xlabel() and panel.get_ylabel()
        lines = {line.get_label(): line for line in panel.get_lines()}
        reference = float(rows[0]["test_reference_accuracy"])
        assert list(lines.pop("original").get_ydata()) == [reference, reference]
        assert len(lines) == 2
        for label, line in lines.items():
            expected = sorted(
                (float(row["comm_fraction"]), float(row["test_accuracy"]))
                for row in rows
                if row["workers"] == workers and label.startswith(row["method"])
            )
            assert list(zip(*line.get_data(), strict=True)) == expected
    legend = {text.get_text() for text in figures[0].legends[0].get_texts()}
    assert legend == {"original", "data, munkres assignment", "magnitude, contiguous assignment"}


def test_without_matplotlib_the_table_is_written_all_the_same(folder):
    done = study_process(folder, WITHOUT_MATPLOTLIB)
    assert done.returncode == 0, done.stderr
    assert "pip install 'repurpose-hpc[plot]'" in done.stderr
    assert len(read(folder)) == 4 and "study.png" not in names(folder)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"methods": "data,nonsense"}, "method nonsense.*expected one of data"),
        ({"methods": "magnitude/nowhere"}, "--assignment: expected one of .*'nowhere'"),
        (
            {"budgets": "0.1,2"},
            "--budgets: expected fractions separated by commas, each from 0 to 1, got '0.1,2'",
        ),
        ({"workers": "2,x"}, "--workers: expected integers separated by commas, each 1 or more, got '2,x'"),
        ({"workers": "0"}, "each 1 or more, got '0'"),
    ],
)
def test_wrong_command_lines_leave_nothing_behind(folder, changed, expected):
    with pytest.raises(UsageError, match=expected):
        study(folder, **changed)
    assert not (folder / "out").exists()


def test_data_that_do_not_fit_are_refused_before_the_first_point(folder, measured):
    small_plans.write_samples(folder / "wide.npz", samples=30, width=small_plans.WIDTHS[0] + 1)
    with pytest.raises(UserError, match="wide.npz: expected 12 values per sample"):
        study(folder, test=folder / "wide.npz")
    assert not measured and not (folder / "out").exists()


def test_under_mpirun_it_is_refused_once(folder, mpirun):
    done = mpirun(2, "-m", "repurpose_hpc", "study", *arguments(folder))
    assert done.returncode == 1
    assert "start it without mpirun" in only_message(done.stderr)
    assert not (folder / "out").exists()
