"""Data sets that HDF5 would fill up in silence are refused by the name of what is missing."""

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.hdf5 import source_files
from repurpose_hpc.io.samples import open_samples

X = np.arange(32, dtype=np.float32).reshape(8, 4) + 1


def parts(folder, count=2):
    """A virtual data set of ``count`` files with some rows each."""
    layout = h5py.VirtualLayout(X.shape, X.dtype)
    rows = len(X) // count
    for part in range(count):
        with h5py.File(folder / f"part{part}.h5", "w") as file:
            file["data"] = X[part * rows : (part + 1) * rows]
        source = h5py.VirtualSource(f"part{part}.h5", "data", (rows, X.shape[1]))
        layout[part * rows : (part + 1) * rows] = source
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_virtual_dataset("x", layout, fillvalue=0)
    return folder / "x.h5"


def refusal(path):
    with pytest.raises(UserError) as refused:
        open_samples(path)
    return str(refused.value)


def test_a_virtual_data_set_with_all_its_sources(tmp_path):
    path = parts(tmp_path)
    np.testing.assert_array_equal(next(open_samples(path).batches(8)), X)
    assert source_files(path) == [tmp_path / "part0.h5", tmp_path / "part1.h5"]


def test_a_source_that_is_gone(tmp_path):
    path = parts(tmp_path)
    (tmp_path / "part1.h5").unlink()
    assert f"found no {tmp_path / 'part1.h5'}" in refusal(path)


@pytest.mark.parametrize("rows", [0, 3])
def test_a_source_that_is_shorter(tmp_path, rows):
    path = parts(tmp_path)
    with h5py.File(tmp_path / "part1.h5", "w") as file:
        file["data"] = X[:rows]
    assert f"all of its 16 values, found {4 * (4 - rows)} missing" in refusal(path)


def test_a_source_without_the_data_set(tmp_path):
    path = parts(tmp_path)
    with h5py.File(tmp_path / "part1.h5", "w") as file:
        file["other"] = X
    assert "found no data set data" in refusal(path)


def test_a_virtual_data_set_with_gaps(tmp_path):
    path = parts(tmp_path)
    layout = h5py.VirtualLayout(X.shape, X.dtype)
    layout[:4] = h5py.VirtualSource("part0.h5", "data", (4, 4))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("x", layout)
    assert "32 values, found 16 without a source" in refusal(path)


def test_numbered_sources(tmp_path):
    path = parts(tmp_path)
    unlimited = h5py.h5s.UNLIMITED
    space, block = h5py.h5s.create_simple((8, 4), (unlimited, 4)), h5py.h5s.create_simple((4, 4))
    space.select_hyperslab((0, 0), (unlimited, 1), (4, 4), (4, 4))
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_virtual(space, b"part%b.h5", b"data", block)
    with h5py.File(path, "w") as file:
        whole = h5py.h5s.create_simple((8, 4), (unlimited, 4))
        h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_FLOAT, whole, properties)
    assert "pattern part%b.h5" in refusal(path)


def test_a_virtual_source_in_the_same_file(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data"] = X
        layout = h5py.VirtualLayout(X.shape, X.dtype)
        layout[:] = h5py.VirtualSource(file["data"])
        file.create_virtual_dataset("x", layout)
    np.testing.assert_array_equal(next(open_samples(tmp_path / "x.h5").batches(8)), X)


@given(written=st.integers(0, 8), chunk=st.integers(1, 8), compressed=st.booleans())
def test_chunks_that_were_never_written(tmp_path_factory, written, chunk, compressed):
    path = tmp_path_factory.mktemp("chunks") / "x.h5"
    with h5py.File(path, "w") as file:
        x = file.create_dataset(
            "x", X.shape, X.dtype, chunks=(chunk, 2), compression="gzip" if compressed else None
        )
        x[:written] = X[:written]
    if -(-written // chunk) == -(-len(X) // chunk):
        assert open_samples(path).samples == len(X)  # HDF5 does not know of single rows
    else:
        assert "chunks, found" in refusal(path) and "never written" in refusal(path)


def test_a_contiguous_data_set_that_was_never_written(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", X.shape, X.dtype)
    assert "never written" in refusal(tmp_path / "x.h5")


def test_labels_that_were_never_written(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = X
        file.create_dataset("y", (len(X),), "i4")
    samples = open_samples(tmp_path / "x.h5")
    assert samples.y is None and samples.subset(np.arange(len(X)) < 3).y is None
    assert "left alone: " in samples.meaning.line
    assert "x.h5: y: expected all of its 32 bytes" in samples.meaning.line


@pytest.mark.parametrize("missing", [0, 4, 128])
def test_raw_data_outside(tmp_path, missing):
    raw = tmp_path / "raw.bin"
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", X.shape, X.dtype, external=[("raw.bin", 0, h5py.h5f.UNLIMITED)])
    raw.write_bytes(X.tobytes()[: X.nbytes - missing])
    if not missing:
        assert open_samples(tmp_path / "x.h5").samples == len(X)
        assert source_files(tmp_path / "x.h5") == [raw]
    else:
        assert f"128 bytes, found {missing} not in the files" in refusal(tmp_path / "x.h5")


@pytest.mark.parametrize(
    ("link", "name"),
    [(h5py.ExternalLink("other.h5", "/data"), "other.h5: /data"), (h5py.SoftLink("/a"), "/a")],
)
def test_a_link_to_nowhere(tmp_path, link, name):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = link
    assert f"found a link to {name}, which is not there" in refusal(tmp_path / "x.h5")


def test_a_link_to_a_data_set_that_was_never_written(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.create_dataset("data", X.shape, X.dtype)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = h5py.ExternalLink("other.h5", "/data")
    assert "never written" in refusal(tmp_path / "x.h5")
    assert source_files(tmp_path / "x.h5") == [tmp_path / "other.h5"]
