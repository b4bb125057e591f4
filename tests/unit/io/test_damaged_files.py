"""Damaged files of every format are read or refused (scripts/fuzz_readers.py has more of them)."""

import fuzz_readers
import pytest

from helpers.readers import READERS
from helpers.seeds import FOLDER, seeds
from repurpose_hpc.errors import UserError

# Readers of other packages' formats are left out where these are not installed.
NEEDS = {"onnx": "onnx", "shards with ends": "onnx", "chain safetensors": "safetensors", "gguf": "gguf"}
COUNT = 20
# HDF5 may crash on files of others, see SECURITY.md.
OURS = [name for name, reader in READERS.items() if not reader.trusts]


def _need(name):
    for beginning, package in NEEDS.items():
        if name.startswith(beginning):
            pytest.importorskip(package)


@pytest.mark.parametrize("name", READERS)
def test_files_as_they_are_written_are_read(name):
    _need(name)
    assert fuzz_readers.judge(READERS[name], fuzz_readers.valid_files(READERS[name])) == ("read", "")


@pytest.mark.parametrize("name", OURS)
def test_damaged_files_are_read_or_refused(name):
    _need(name)
    found = [*fuzz_readers.verdicts(name, 0, COUNT)]
    assert [number for number, *_ in found] == [*range(COUNT)]
    assert [each for each in found if each[1] not in ("read", "refused")] == []


@pytest.mark.parametrize("name", OURS)
def test_seeds_are_read_or_refused(name):
    _need(name)
    became = [fuzz_readers.judge(READERS[name], files) for files in seeds(name)]
    assert [each for each in became if each[0] not in ("read", "refused")] == []


def test_there_are_seeds_of_our_readers_alone():
    with_seeds = {name for name in READERS if seeds(name)}
    assert with_seeds <= {*OURS} and len(with_seeds) == len([*FOLDER.iterdir()]) > 0


def test_a_number_is_a_file():
    valid = fuzz_readers.valid_files(READERS["npy"])
    first = fuzz_readers.damaged_files("npy", 3, valid)
    assert first == fuzz_readers.damaged_files("npy", 3, valid) != fuzz_readers.damaged_files("npy", 4, valid)


def test_another_exception_is_a_fault(tmp_path):
    def fail(folder):
        raise KeyError("x")

    def refuse(folder):
        raise UserError("no")

    assert fuzz_readers.judge(fuzz_readers.Reader(None, fail), {})[0] == "FAULT"
    assert fuzz_readers.judge(fuzz_readers.Reader(None, refuse), {}) == ("refused", "no")
