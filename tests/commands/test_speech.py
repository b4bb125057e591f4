"""``--quiet`` and ``--json`` of all commands."""

import json
from importlib import import_module

import numpy as np
import pytest

from helpers import small_plans
from helpers.model_directories import llama
from repurpose_hpc.commands.table import COMMANDS
from repurpose_hpc.report.schema import (
    GenerateReport,
    InspectReport,
    RestructureReport,
    problems,
)


@pytest.fixture
def folder(tmp_path):
    small_plans.write_samples(tmp_path / "x.npz", samples=200)
    small_plans.write_model(tmp_path / "model.npz", small_plans.random_network())
    np.save(tmp_path / "ids.npy", np.array([[1, 2, 3, 4]]))
    return tmp_path


def lines(folder):
    """Ranks, a command line, and its report."""
    model, data = folder / "model.npz", folder / "x.npz"
    return {
        "inspect": (1, ["inspect", model], InspectReport),
        "restructure": (
            1,
            ["restructure", model, "--workers", 2, "--calibration", data, "--out", folder / "new"],
            RestructureReport,
        ),
        "generate": (
            2,
            ["generate", llama(folder), "--ids", folder / "ids.npy", "--tokens", 3],
            GenerateReport,
        ),
    }


@pytest.mark.parametrize("name", ["inspect", "restructure", "generate"])
def test_one_object_or_nothing(mpirun, folder, name):
    ranks, words, schema = lines(folder)[name]
    done = mpirun(ranks, "-m", "repurpose_hpc", *words, "--json", "--report", folder / "report.json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert problems(found, schema) == [] and found == json.loads((folder / "report.json").read_text())
    assert bool(done.stderr) == (name == "restructure")
    quiet = mpirun(ranks, "-m", "repurpose_hpc", *words, "--quiet")
    assert (quiet.returncode, quiet.stderr) == (0, "")
    # Texts are what it is for.
    expected = " ".join(map(str, found["ids"][0])) + "\n" if name == "generate" else ""
    assert quiet.stdout == expected


def test_mistakes_are_said_all_the_same(mpirun, folder):
    done = mpirun(1, "-m", "repurpose_hpc", "inspect", folder / "nowhere.npz", "--quiet", "--json")
    assert done.returncode == 1 and done.stdout == "" and "nowhere.npz" in done.stderr


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "bench"])
def test_every_command_has_them(name):
    parser = import_module(f"repurpose_hpc.commands.{name}").make_parser(True)
    parser.complete()
    assert {"--quiet", "--json"} <= {word for action in parser._actions for word in action.option_strings}
