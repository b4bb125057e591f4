"""The environment that the scripts make: what ``scripts/environment.py`` does where something is missing."""

import environment


def test_an_environment_without_a_launcher_has_no_working_mpi(tmp_path, monkeypatch):
    """An environment that is made anew loses the launcher that it had when MPI was chosen."""
    monkeypatch.setattr(environment, "VENV", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment._mpi_failure() == "there is no mpirun"
