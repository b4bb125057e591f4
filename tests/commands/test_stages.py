"""``restructure --stages``: from a command line to shards that run, and the number that ``auto`` takes."""

import json

import numpy as np
import pytest

from helpers import small_plans
from helpers.machines import with_network
from repurpose_hpc.commands import restructure
from repurpose_hpc.commands.forecast import parse, predict
from repurpose_hpc.commands.infer import parse as parse_infer
from repurpose_hpc.errors import UsageError, UserError
from repurpose_hpc.forecast.machine import write_machine
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.report.schema import REPORTS, problems
from repurpose_hpc.restructure.job import restructure_network

WIDTHS = (30, 60, 60, 50, 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, samples, and a machine with a quick processor and slow links."""
    path = tmp_path_factory.mktemp("stages")
    small_plans.write_model(path / "model.npz", small_plans.random_network(widths=WIDTHS))
    small_plans.write_samples(path / "x.npz", samples=300, width=WIDTHS[0])
    write_machine(path / "machine.json", with_network(latency_us=100, gb_per_s=0.01))
    return path


def restructured(mpirun, folder, *words, ranks=1):
    """Standard output and report of a run for four workers."""
    files = (folder / "model.npz", "--calibration", folder / "x.npz", "--out", folder / "out")
    line = ("-m", "repurpose_hpc", "restructure", *files, "--workers", 4, *words)
    done = mpirun(ranks, *line, "--report", folder / "report.json", timeout=170)
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "report.json").read_text())
    assert problems(report, REPORTS["restructure"]) == []
    return done.stdout, report


def test_stages_are_reported_and_run(mpirun, folder):
    """The same shards by two ranks; ranks that host workers of both stages; batches one after the other."""
    stdout, report = restructured(mpirun, folder, "--stages", 2)
    assert "\nstages " in stdout and " on workers 0 to 1; " in stdout
    assert [stage["workers"] for stage in report["stages"]] == [[0, 1], [2, 3]]
    assert sum((stage["layers"] for stage in report["stages"]), []) == [f"layer{k}" for k in range(4)]
    first = (folder / "out" / "plan.h5").read_bytes()
    restructured(mpirun, folder, "--stages", 2, ranks=2)
    assert (folder / "out" / "plan.h5").read_bytes() == first
    files = ("--shards", folder / "out", "--input", folder / "x.npz", "--verify")
    for ranks in (2, 3):
        done = mpirun(
            *(ranks, "-m", "repurpose_hpc", "infer", *files, "--batch-size", 7),
            *("--output", folder / "y.h5", "--report", folder / "infer.json"),
            timeout=170,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads((folder / "infer.json").read_text())
        assert problems(found, REPORTS["infer"]) == []
        assert found["max_abs_difference"] < 1e-4 and found["stages"] == report["stages"]
        assert "with a batch that is alone, which stages are not for" in done.stdout
    done = mpirun(1, "-m", "repurpose_hpc", "inspect", folder / "out", timeout=170)
    assert "--stages 2" in done.stdout.replace("\n", " ")
    assert "\nstages: layer0" in done.stdout and " on workers 2 to 3" in done.stdout


def test_the_forecasts_of_the_plans_decide(mpirun, folder):
    words = ("--stages", "auto", "--machine", folder / "machine.json", "--batch-size", 16)
    stdout, report = restructured(mpirun, folder, *words)
    staging = report["staging"]
    assert [point["stages"] for point in staging["points"]] == [1, 2, 4]
    periods = {point["stages"]: point["period_us"] for point in staging["points"]}
    assert periods[staging["stages"]] <= 1.05 * min(periods.values())
    assert len(report.get("stages", [0])) == staging["stages"] > 1
    assert "  because     most samples a second by the forecast for " in stdout
    options = ["--machine", str(folder / "machine.json"), "--ranks", "4", "--batch-size", "16"]
    (point,) = predict(parse([str(folder / "out"), *options]))["points"]
    assert point["restructured"]["period_us"] == pytest.approx(periods[staging["stages"]], rel=1e-9)
    done = mpirun(1, "-m", "repurpose_hpc", "forecast", folder / "out", *options, timeout=170)
    assert "in stages, 4 ranks do a batch every " in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--stages", "5"], "--stages: expected at most --workers 4"),
        (["--stages", "0"], "--stages: expected auto or an integer, 1 or more"),
        (["--stages", "2", "--by-position", "1"], "--stages and --by-position: expected one of them"),
        (["--stages", "auto", "--machine", "nowhere"], "nowhere"),
        (["--batch-size", "4"], "has no effect without --workers auto or --stages auto"),
        (["--stages", "auto", "--ranks-at-most", "4"], "has no effect without --workers auto"),
    ],
)
def test_what_cannot_be_meant_is_refused(words, expected):
    line = ["model.npz", "--calibration", "x.npz", "--out", "out", "--workers", "4", *words]
    with pytest.raises(UsageError, match=expected):
        restructure.parse(line)


def test_auto_needs_numbers_elsewhere():
    with pytest.raises(UsageError, match="^--stages needs a number of workers"):
        files = ["model.npz", "--calibration", "x.npz", "--out", "out"]
        restructure.parse([*files, "--workers", "auto", "--stages", "2", "--machine", "gigabit"])
    with pytest.raises(UsageError, match="which only restructure takes"):
        words = ["--input", "x.npz", "--calibration", "c.npz", "--stages", "auto"]
        parse_infer(["model.npz", *words], ranks=2)


def test_more_stages_than_layers():
    network = small_plans.random_network(widths=WIDTHS)
    x = np.random.default_rng(0).standard_normal((50, WIDTHS[0]))
    with pytest.raises(UserError, match="stages: expected at most 4, into which"):
        restructure_network(network, Samples.of(x), workers=8, stages=5)
