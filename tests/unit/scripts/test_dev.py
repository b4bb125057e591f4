"""What ``scripts/dev.py`` runs: replay finds differences, and the fast tier starts no processes."""

import json
import subprocess
import sys
from pathlib import Path

import environment
import h5py
import numpy as np
import pytest
from replay import cases, compare, networks

from helpers import ROOT, TESTS, tiers

PROVENANCE = {"options": {"seed": 0}, "versions": "1", "weights": 3}


def write(path, owners=(0, 1, 2), value=0.0, attribute="float32", **provenance):
    with h5py.File(path, "w") as file:
        file.attrs.update(wire=attribute, seconds=np.random.default_rng().random())
        file["owners/input"] = np.array(owners)
        file["weights"] = np.array([[1, np.nan, value]], np.float32)
        file["names"] = np.array(["one", "two"], "S")
        file["provenance"] = np.bytes_(json.dumps(PROVENANCE | provenance))


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({}, ""),
        ({"options": "others", "versions": "2"}, ""),
        ({"owners": (0, 2, 2)}, "/owners/input[1]: 1 | 2 (1 of 3 differ)"),
        ({"owners": (0, 1)}, "/owners/input: int64 of shape (3,) | int64 of shape (2,)"),
        ({"value": -0.0}, "/weights[0, 2]: 0.0 | -0.0 (1 of 3 differ)"),
        ({"attribute": "int8"}, "/ attribute wire: 'float32' | 'int8' (1 of 1 differ)"),
        ({"weights": 4}, "/provenance.weights: 3 | 4"),
        ({"more": 1}, "/provenance entry more only in the working tree"),
    ],
)
def test_the_first_difference_is_found(tmp_path, changed, difference):
    write(tmp_path / "base.h5")
    write(tmp_path / "tree.h5", **changed)
    assert compare.first_difference(tmp_path / "base.h5", tmp_path / "tree.h5") == difference


def test_folders_are_compared_by_their_files(tmp_path):
    for name in ("base", "tree"):
        (tmp_path / name).mkdir()
        for file in ("plan.h5", "worker-0000.h5"):
            write(tmp_path / name / file, value=float(name == "tree"))
    base, tree = tmp_path / "base", tmp_path / "tree"
    assert compare.first_difference(base, tree).startswith("worker-0000.h5: /weights[0, 2]")
    (tree / "worker-0000.h5").unlink()
    assert compare.first_difference(base, tree) == "worker-0000.h5 only in the base"


def test_every_network_is_cut_and_run():
    networks_of = {cut.name: cut.network for cut in cases.CUTS}
    assert set(networks_of.values()) == set(networks.NETWORKS)
    assert {networks_of.get(run.source, run.source) for run in cases.RUNS} == set(networks.NETWORKS)
    assert len({case.name for case in (*cases.CUTS, *cases.RUNS)}) == len(cases.CUTS) + len(cases.RUNS)


def launches():
    return [lambda: environment.run([], {}, 0)]


def names_who_launches():
    return launches()


def test_who_starts_processes_is_slow():
    assert tiers.starts_process([lambda: subprocess.run([])])
    assert tiers.starts_process([names_who_launches])
    assert not tiers.starts_process([write, test_every_network_is_cut_and_run])


def test_tests_under_mpirun_are_in_one_folder():
    """The only one that ``scripts/test.py`` looks for them in."""
    files = {path for path in TESTS.rglob("test_*.py") if "mark.mpi" in path.read_text()} - {Path(__file__)}
    assert files == set((TESTS / "mpi").glob("test_*.py"))


@pytest.mark.parametrize(("file", "summary"), [("test_hosts.py", "2 passed"), ("missing.py", "no tests")])
def test_mpi_tests_asked_for_start_an_mpirun(file, summary):
    command = [sys.executable, "-m", "pytest", f"tests/mpi/{file}", "--ranks", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170)
    assert (done.returncode == 0) == (file == "test_hosts.py"), done.stdout + done.stderr
    assert "-n 2" in done.stdout and summary in done.stdout


@pytest.mark.parametrize("number", range(7))
def test_the_fast_tier_has_few_parameter_sets(request, number):
    if request.config.getoption("--fast"):
        assert number in (0, 3, 6)
