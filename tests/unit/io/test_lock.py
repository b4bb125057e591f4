"""Locks: one run at a time, and nothing is left of them."""

import os
from pathlib import Path

import pytest

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.lock import alone_at, lock


def test_a_lock_is_had_once(tmp_path):
    first = lock(tmp_path / "file")
    with pytest.raises(BlockingIOError):
        lock(tmp_path / "file")
    os.close(first)
    os.close(lock(tmp_path / "file"))


def test_a_file_that_was_removed_meanwhile_is_made_anew(tmp_path, monkeypatch):
    path, exists = tmp_path / "file", Path.exists
    looks = []

    def removed_once(self):
        if self == path and not looks:
            looks.append(self)
            path.unlink()
        return exists(self)

    monkeypatch.setattr(Path, "exists", removed_once)
    descriptor = lock(path)
    assert looks and os.path.samestat(os.fstat(descriptor), path.stat())
    os.close(descriptor)


def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path):
    table = tmp_path / "new" / "study.csv"
    with alone_at(table):
        with pytest.raises(UserError, match="expected no other run that writes it"), alone_at(table):
            pass
        with alone_at(tmp_path / "new" / "study-1-of-2.csv"):
            pass
    with alone_at(table):
        pass
    assert not os.listdir(table.parent)
