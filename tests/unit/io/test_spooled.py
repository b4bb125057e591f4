"""Samples in any order against an array in memory, from every kind of file."""

import errno
import os
import tempfile
import tracemalloc

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import FieldError
from repurpose_hpc.io import spooled
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.io.spooled import Spooled

FORMATS = "x.npy", "x.npz", "compressed.npz", "x.h5", "compressed.h5"


def written(directory, name, x):
    path = directory / name
    if path.suffix == ".npy":
        np.save(path, x)
    elif path.suffix == ".npz":
        (np.savez_compressed if name.startswith("compressed") else np.savez)(path, x=x)
    else:
        with h5py.File(path, "w") as file:
            how = {"compression": "gzip", "chunks": True} if name.startswith("compressed") else {}
            file.create_dataset("x", data=x, **how)
    return Samples.open(path)


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks of few samples."""
    monkeypatch.setattr(spooled, "_BLOCK_BYTES", 40)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("stored", ["f4", ">f8", "f2", "u1", "i8", "?"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_samples_of_every_file(tmp_path, name, stored, dtype, small_blocks):
    x = np.random.default_rng(0).integers(0, 2, (17, 2, 3)).astype(stored)
    order = np.array([3, 4, 5, 16, 0, 3, 3, 2, 1])
    with Spooled(written(tmp_path, name, x), None, dtype) as samples:
        assert samples.shape == (17, 6) and samples.dtype == dtype
        rows = samples.take(order)
    assert rows.dtype == dtype and rows.flags.c_contiguous and rows.flags.writeable
    np.testing.assert_array_equal(rows, x.reshape(17, 6)[order].astype(dtype))


@given(data=st.data())
def test_any_columns_in_any_order(data):
    """Repeated or none: a rank whose workers read nothing has no columns."""
    count, width = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 5))
    columns = np.array(data.draw(st.lists(st.integers(0, width - 1), max_size=7)), np.int64)
    order = np.array(data.draw(st.lists(st.integers(0, count - 1), max_size=15)), np.int64)
    x = np.arange(count * width, dtype=np.float32).reshape(count, width)
    with Spooled(Samples.of(x), columns, np.float64) as samples:
        for indices in (order, np.arange(count), order.astype(np.uint32)):
            np.testing.assert_array_equal(samples.take(indices), x[:, columns][indices])


def test_samples_of_a_subset():
    x = np.arange(30.0).reshape(10, 3)
    with Spooled(Samples.of(x).subset(x[:, 0] % 2 == 0), np.array([2, 0]), np.float32) as samples:
        np.testing.assert_array_equal(samples.take(np.array([4, 0])), x[::2][:, [2, 0]][[4, 0]])


@pytest.mark.parametrize("columns", [None, np.empty(0, np.int64)])
@pytest.mark.parametrize("index", [-1, 3])
def test_samples_that_there_are_not(columns, index):
    with (
        Spooled(Samples.of(np.ones((3, 2))), columns, np.float32) as samples,
        pytest.raises(IndexError, match="expected rows from 0 to 2"),
    ):
        samples.take(np.array([0, index]))


@pytest.mark.parametrize("name", FORMATS)
def test_neither_the_samples_nor_a_copy_are_in_memory(tmp_path, name):
    """They are copied as they are stored, in bytes."""
    x = np.random.default_rng(0).integers(0, 255, (20_000, 1000)).astype(np.uint8)
    source = written(tmp_path, name, x)
    tracemalloc.start()
    try:
        samples = Spooled(source, None, np.float32)
        rows = samples.take(np.array([19_999, 7]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    with samples:
        assert os.fstat(samples._file.fileno()).st_size == x.nbytes
    np.testing.assert_array_equal(rows, x[[19_999, 7]])
    assert peak < 1 / 2 * x.nbytes


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite(bad, small_blocks):
    x = np.ones((9, 4))
    x[7, 3] = bad
    with pytest.raises(UserError, match=rf"finite values, found {bad} in sample 7, column 3 \("):
        Spooled(Samples.of(x), np.array([1, 3]), np.float32)
    with Spooled(Samples.of(x), np.array([1, 2]), np.float32) as samples:
        np.testing.assert_array_equal(samples.take(np.array([7])), [[1, 1]])


def test_values_that_are_too_large(small_blocks):
    x = np.ones((9, 4))
    x[7, 3] = 1e300
    with pytest.raises(FieldError, match=r"reaches 1e\+300 of sample 7, column 3 .* got float32; try"):
        Spooled(Samples.of(x), np.array([1, 3]), np.float32)
    with Spooled(Samples.of(x), None, np.float64) as samples:
        assert samples.take(np.array([7]))[0, 3] == 1e300


def test_a_file_that_ends_early(tmp_path):
    source = written(tmp_path, "x.npy", np.ones((9, 4)))
    os.truncate(source.name, 300)
    with pytest.raises(UserError, match="x.npy: .* ends at byte 300 of 416"):
        Spooled(source, None, np.float32)


def test_a_full_disk(monkeypatch, tmp_path):
    """It takes a part, and then no more."""
    write, files = os.pwrite, []

    def full(file, data, place):
        files.append(file)
        if place >= 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data[:60], place)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "pwrite", full)
    expected = rf"x: expected room for 320 bytes .* in {tmp_path}, found: .*No space left.*; set TMPDIR to"
    with pytest.raises(UserError, match=expected) as caught:
        Spooled(Samples.of(np.ones((10, 4))), None, np.float32)
    assert len(files) == 3 and caught.tb is not None  # nor is the file closed by being forgotten
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(files[0])


def test_a_disk_that_takes_few_bytes_at_a_time(monkeypatch):
    write, read, x = os.pwrite, os.preadv, np.arange(12.0).reshape(3, 4)
    monkeypatch.setattr(os, "pwrite", lambda file, data, place: write(file, data[:7], place))
    monkeypatch.setattr(os, "preadv", lambda file, parts, place: read(file, [parts[0][:5]], place))
    with Spooled(Samples.of(x), None, np.float64) as samples:
        np.testing.assert_array_equal(samples.take(np.array([2, 0, 1])), x[[2, 0, 1]])


def test_no_directory_for_temporary_files(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(UserError, match="found: .*No such file.*; set TMPDIR to"):
        Spooled(Samples.of(np.ones((10, 4))), None, np.float32)


def test_the_copy_has_no_name(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Spooled(Samples.of(np.ones((10, 4))), None, np.float32):
        assert list(tmp_path.iterdir()) == []
