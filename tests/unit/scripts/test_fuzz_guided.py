"""scripts/fuzz_guided.py with a stand-in for atheris, and a short run with it where it is installed."""

import importlib.util
import os
import random
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import fuzz_guided
import fuzz_readers
import fuzz_seeds
import pytest

from helpers import seeds
from helpers.mutations import in_archive, in_sealed
from helpers.readers import READERS, Reader
from repurpose_hpc.errors import UserError

HAS_ATHERIS = importlib.util.find_spec("atheris") is not None


class StandIn(types.ModuleType):
    """Calls as atheris does, and changes every input of the corpus again and again."""

    def __init__(self):
        super().__init__("atheris")

    def instrument_func(self, function):
        assert f"{function.__module__}.".startswith(fuzz_guided.COUNTED)

    def Mutate(self, content, size):
        return content[:-1]

    def Setup(self, arguments, try_input, custom_mutator):
        corpus = Path(arguments[-1])
        self.inputs = [path.read_bytes() for path in corpus.iterdir()]
        self.try_input, self.change = try_input, custom_mutator

    def Fuzz(self):
        os.write(2, b"#1 NEW cov: 12 ft: 34 corp: 5/6b")
        seed = 0
        while True:
            for each in self.inputs:
                self.try_input(self.change(each, 1 << 20, seed := seed + 1))


def read(folder):
    """Fails in each of the ways there are, as the first byte says."""
    first = (folder / "x").read_bytes()[:1]
    if first == b"k":
        raise KeyError("x")
    if first == b"s":
        os.kill(os.getpid(), signal.SIGSEGV)
    if not first:
        raise UserError("no")


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setitem(sys.modules, "atheris", StandIn())


@pytest.mark.parametrize("first, reason", [("k", "KeyError in"), ("s", "SIGSEGV in")])
def test_what_fails_is_a_fault_and_is_kept(first, reason, monkeypatch, tmp_path, capsys, stand_in):
    def write(folder):
        (folder / "x").write_bytes(b"ok")

    def changed(content, rng):
        return first.encode()

    monkeypatch.setitem(READERS, "ours", Reader(write, read, (changed,)))
    monkeypatch.setattr(StandIn, "Mutate", lambda self, content, size: first.encode())
    arguments = ["ours", "--seconds", "0.5", "--keep", str(tmp_path / "kept")]
    assert fuzz_guided.main(arguments) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f": FAULT: {reason}" in lines[0] and "cov: 12 ft: 34 corp: 5" in lines[-1]
    (folder,) = (tmp_path / "kept").iterdir()
    assert (folder / "x").read_bytes() == first.encode()


def test_a_run_ends_in_time_and_leaves_its_corpus(tmp_path, capsys, stand_in):
    assert fuzz_guided.main(["link costs", "--seconds", "0.5", "--corpus", str(tmp_path)]) == 0
    assert re.match(r"link costs: \d+ files in \d+ s: \d+ re(ad|fused)", capsys.readouterr().out)
    valid = (tmp_path / "link costs" / "seed 0").read_bytes()
    assert seeds.unpacked(valid) == fuzz_readers.valid_files(READERS["link costs"])


def test_libfuzzer_that_does_not_begin_is_no_fault_of_a_reader(monkeypatch, tmp_path, capsys, stand_in):
    monkeypatch.setattr(StandIn, "Setup", lambda *_, **__: sys.exit(3))
    with pytest.raises(SystemExit, match="link costs: libFuzzer ended, status 3"):
        fuzz_guided.main(["link costs", "--seconds", "5"])


def test_without_atheris_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "atheris", None)
    with pytest.raises(SystemExit) as ended:
        fuzz_guided.main(["npy"])
    assert ended.value.code == 2 and "pip install -e '.[fuzz]'" in capsys.readouterr().err


def test_files_that_no_longer_have_their_format_are_changed_otherwise():
    reader = Reader(None, None, (in_archive, in_sealed))
    for number in range(20):
        changed = fuzz_guided.damaged(reader, {"x": b"1"}, random.Random(number), lambda *_: b"2")
        assert changed == {"x": b"2"}


def test_only_files_that_run_something_new_are_seeds():
    reader = READERS["link costs"]
    valid = fuzz_readers.valid_files(reader)
    short = {"links.txt": b"0 1\n"}
    assert fuzz_seeds.chosen(reader, [valid, short, {**short}]) == [short]


@pytest.mark.parametrize("reason", ["Unable to allocate 4.00 GiB", "there is not enough memory"])
def test_files_that_ask_for_much_memory_are_no_seeds(reason):
    def refuse(folder):
        raise UserError(reason)

    assert not fuzz_seeds.is_harmless(Reader(None, refuse), {})
    assert fuzz_seeds.is_harmless(Reader(None, lambda folder: None), {})
    assert not fuzz_seeds.is_harmless(Reader(None, lambda folder: {}["x"]), {})


def test_files_are_the_same_after_packing():
    files = {"a/b": bytes(range(256)), "é": b""}
    assert seeds.unpacked(seeds.packed(files)) == files


@pytest.mark.slow
@pytest.mark.skipif(not HAS_ATHERIS, reason="needs atheris")
def test_atheris_finds_more_than_it_begins_with(tmp_path):
    command = [sys.executable, fuzz_guided.__file__, "study", "--seconds", "3", "--corpus", tmp_path]
    began = time.monotonic()
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - began >= 3 and " cov: " in done.stdout
    assert len([*(tmp_path / "study").iterdir()]) > 1 + len(seeds.seeds("study"))
