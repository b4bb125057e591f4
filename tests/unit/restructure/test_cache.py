"""Where restructured networks are kept, and who may put any there."""

import os
from pathlib import Path

import pytest

from repurpose_hpc.errors import UserError
from repurpose_hpc.restructure.cache import cache_directory, ready_cache


def test_it_is_made_for_the_user_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("REPURPOSE_HPC_CACHE", str(tmp_path / "a" / "cache"))
    assert ready_cache() == tmp_path / "a" / "cache"
    assert ready_cache().stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_one_that_others_can_write_to(tmp_path, monkeypatch, mode):
    monkeypatch.setenv("REPURPOSE_HPC_CACHE", str(tmp_path))
    tmp_path.chmod(mode)
    with pytest.raises(UserError, match="in which nobody else can write.*chmod 700"):
        ready_cache()


def test_one_of_another_user(tmp_path, monkeypatch):
    monkeypatch.setenv("REPURPOSE_HPC_CACHE", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(tmp_path).st_uid + 1)
    with pytest.raises(UserError, match="of the user's own"):
        ready_cache()


def test_a_user_without_a_home(monkeypatch):
    for name in ("REPURPOSE_HPC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def fail(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", fail)
    with pytest.raises(UserError, match="set REPURPOSE_HPC_CACHE"):
        cache_directory()
