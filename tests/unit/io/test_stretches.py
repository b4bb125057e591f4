"""Stretches of samples: what lies between them is passed over, whatever the file."""

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.blocks import Stretch, in_blocks
from repurpose_hpc.io.samples import Samples, open_samples

X = np.arange(17 * 6, dtype=np.float32).reshape(17, 2, 3)


def save_h5(path, **storage):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=X, **storage)


WRITERS = {
    "x.npy": lambda path: np.save(path, X),
    "columns.npy": lambda path: np.save(path, np.asfortranarray(X)),
    "x.npz": lambda path: np.savez(path, x=X),
    "deflated.npz": lambda path: np.savez_compressed(path, x=X),
    "columns.npz": lambda path: np.savez(path, x=np.asfortranarray(X)),
    "x.h5": save_h5,
    "chunks.h5": lambda path: save_h5(path, chunks=(4, 2, 3), compression="gzip"),
}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("stretches"), {"array": Samples.of(X)}
    for name, write in WRITERS.items():
        write(folder / name)
        found[name] = open_samples(folder / name)
    return found


@pytest.mark.parametrize("name", ["array", *WRITERS])
@given(edges=st.sets(st.integers(0, len(X)), min_size=2), columns=st.none() | st.just(np.array([4, 1])))
def test_some_stretches(opened, name, edges, columns):
    """Every other one of those between some edges."""
    ends = sorted(edges)
    wanted = [Stretch(*pair) for pair in zip(ends[::2], ends[1::2], strict=False)]
    found = list(opened[name].stretches(wanted, columns))
    rows = X.reshape(len(X), -1)[:, slice(None) if columns is None else columns]
    assert len(found) == len(wanted)
    for stretch, block in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(block, rows[stretch.first : stretch.last])


def test_what_is_passed_over_is_not_read_but_its_place_is_known():
    """Values that are too large are named by their place in the file, those between do not count."""
    x = np.ones((9, 2))
    x[[2, 7]] = 1e300
    samples = Samples.of(x)
    assert len(list(samples.stretches([Stretch(0, 2), Stretch(3, 7)]))) == 2
    with pytest.raises(UserError, match="sample 7, column 0"):
        list(samples.stretches([Stretch(0, 2), Stretch(3, 5), Stretch(6, 9)]))


def test_a_file_that_ends_within_a_stretch(tmp_path):
    np.save(tmp_path / "x.npy", X)
    samples = open_samples(tmp_path / "x.npy")
    data = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(data[: -5 * X[0].nbytes])
    for first in (11, 14):
        with pytest.raises(UserError, match="x.npy"):
            list(samples.stretches([Stretch(0, 3), Stretch(first, 15)]))


@given(samples=st.integers(0, 30), size=st.integers(1, 9))
def test_blocks_are_all_rows(samples, size):
    found = [*in_blocks(samples, size)]
    assert [row for block in found for row in range(*block)] == [*range(samples)]
    assert all(block.size == size for block in found[:-1])
