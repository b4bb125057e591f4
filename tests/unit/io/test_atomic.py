"""Files have their final names when they are complete, and are what their names stand for."""

import os
import resource
import stat
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.atomic import (
    check_writable,
    clear_remains,
    put_directory_in_place,
    replacing,
    temporary_directory,
    temporary_name,
    write_text,
)

DEAD = 2**22 + 1  # above the largest process number of Linux


@contextmanager
def files_of_at_most(limit):
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)


def test_a_file_that_does_not_fit_leaves_the_earlier_one(tmp_path):
    write_text(tmp_path / "r.json", "earlier")
    with files_of_at_most(1000), pytest.raises(UserError, match="r.json: expected to be able to write"):
        write_text(tmp_path / "r.json", "x" * 100_000)
    assert (tmp_path / "r.json").read_text() == "earlier" and len(os.listdir(tmp_path)) == 1


@pytest.mark.parametrize("attempt", [check_writable, lambda path: write_text(path, "x")])
def test_a_directory_that_is_missing_is_named(tmp_path, attempt):
    nowhere = tmp_path / "nowhere"
    with pytest.raises(UserError) as raised:
        attempt(nowhere / "r.json")
    message = str(raised.value)
    assert message.startswith(
        f"{nowhere / 'r.json'}: expected a directory that exists, found none: {nowhere};"
    )
    assert "make it" in message and "tmp" not in message.replace(str(tmp_path), "") and "space" not in message


def test_a_file_in_place_of_the_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/r.json: .*: Not a directory; choose another place$"):
        check_writable(tmp_path / "file" / "r.json")


def test_a_link_is_followed(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "r.json").symlink_to(tmp_path / "there" / "real.json")
    for text in ("first", "second"):
        write_text(tmp_path / "r.json", text)
        assert (tmp_path / "r.json").is_symlink()
        assert (tmp_path / "there" / "real.json").read_text() == text
    assert os.listdir(tmp_path / "there") == ["real.json"]


def test_a_pipe_takes_text(tmp_path):
    pipe, received = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()))
    reader.start()
    check_writable(pipe)
    write_text(pipe, "a report")
    reader.join()
    assert received == ["a report"] and stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_takes_text():
    device = Path(os.devnull)
    check_writable(device)
    write_text(device, "a report")
    assert stat.S_ISCHR(device.stat().st_mode)


def test_nothing_but_text_goes_to_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is no regular file"):
        check_writable(tmp_path / "pipe", text=False)


def test_remains_of_dead_processes_are_cleared(tmp_path):
    path = tmp_path / "y.h5"
    alive = temporary_name(path)
    dead = alive.with_name(alive.name.replace(f".{os.getpid()}.", f".{DEAD}."))
    other = temporary_name(tmp_path / "z.h5").with_name(f".z.h5.{DEAD}.aa.tmp")
    elsewhere = path.with_name(f".y.h5.another-machine.{DEAD}.0123456789abcdef.tmp")
    for file in (alive, dead, other, elsewhere):
        file.touch()
    clear_remains(path)
    assert {*tmp_path.iterdir()} == {alive, other, elsewhere}


def test_temporary_names_differ_and_are_short(tmp_path):
    path = tmp_path / ("n" * 255)
    names = {temporary_name(path) for _ in range(100)}
    assert len(names) == 100 and all(len(name.name) < 255 for name in names)


def test_a_temporary_name_that_is_taken_is_not_written_to(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    taken = tmp_path / "taken.tmp"
    taken.symlink_to(victim)
    monkeypatch.setattr("repurpose_hpc.io.atomic.temporary_name", lambda path: taken)
    with pytest.raises(UserError, match="expected to be able to write"), replacing(tmp_path / "y"):
        pass
    assert victim.read_text() == "precious" and not (tmp_path / "y").exists()


@pytest.mark.parametrize("exchanges", [True, False])
def test_directories(tmp_path, monkeypatch, exchanges):
    if not exchanges:
        monkeypatch.setattr("repurpose_hpc.io.atomic._exchange", lambda first, second: False)
    for text in ("first", "second"):
        new = tmp_path / "new"
        new.mkdir()
        (new / "file").write_text(text)
        put_directory_in_place(new, tmp_path / "place")
        assert (tmp_path / "place" / "file").read_text() == text
        if new.exists():
            assert (new / "file").read_text() == "first"  # for the caller to remove


def test_a_directory_goes_with_all_that_is_in_it(tmp_path):
    dead = tmp_path / temporary_name(tmp_path / "plan").name.replace(f".{os.getpid()}.", f".{DEAD}.")
    (dead / "complete").mkdir(parents=True)
    with pytest.raises(ZeroDivisionError), temporary_directory(tmp_path / "plan") as directory:
        assert not dead.exists()
        (directory / "part").write_text("")
        raise ZeroDivisionError
    assert not os.listdir(tmp_path)
