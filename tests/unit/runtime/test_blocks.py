"""Blocks of a stream: what is in them, and how large they are."""

from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.blocks import Stretch
from repurpose_hpc.io.samples import open_samples
from repurpose_hpc.runtime.streams import blocks
from repurpose_hpc.runtime.streams.inputs import Input

FLOAT = np.dtype(np.float32)
X = np.arange(11 * 5, dtype=np.float32).reshape(11, 5)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("blocks") / "x.npy"
    np.save(path, X)
    return path


@given(
    size=st.integers(1, 13),
    first=st.integers(0, 10),
    groups=st.integers(1, 5),
    batch_size=st.integers(1, 4),
    columns=st.sets(st.integers(0, 4)),
)
def test_groups_share_the_samples_from_any_place_on(file, size, first, groups, batch_size, columns):
    """All samples once and in order, whole batches each but the last; of a turn no group has two more."""
    chosen, parts = np.array(sorted(columns), np.int64), []
    for turn in blocks.turns(len(X), size * batch_size, first):
        part = blocks.shares(turn, groups, batch_size)
        counts = [-(-block.size // batch_size) for block in part]
        assert len(part) == groups and max(counts) - min(counts) <= 1
        assert all(block.size % batch_size == 0 or block.last == turn.last for block in part)
        parts.append(part)
    source = Input(open_samples(file) if columns else None, chosen, len(X), FLOAT)
    found = [list(source.blocks(part[group] for part in parts)) for group in range(groups)]
    together = [block for turn in zip(*found, strict=True) for block in turn]
    np.testing.assert_array_equal(np.concatenate(together), X[first:, chosen])
    assert all(block.flags.c_contiguous and block.dtype == FLOAT for block in together)


@given(size=st.integers(1, 13), first=st.integers(0, 10))
def test_turns_begin_at_multiples_of_their_size(size, first):
    found = [*blocks.turns(len(X), size, first)]
    assert [sample for turn in found for sample in range(*turn)] == [*range(first, len(X))]
    assert all(turn.last % size == 0 for turn in found[:-1])


def test_what_is_not_finite_is_named(tmp_path):
    x = X.copy()
    x[7, 3] = np.nan
    np.save(tmp_path / "x.npy", x)
    source = Input(open_samples(tmp_path / "x.npy"), np.array([1, 3]), len(X), FLOAT)
    with pytest.raises(UserError, match="found nan in sample 7, column 3"):
        list(source.blocks([Stretch(2, 5), Stretch(6, 9)]))


def size_of(batch_size, inputs, outputs, work_of_ranks, groups=1, stages=1):
    graph = SimpleNamespace(input_shape=(inputs,), outputs=outputs)
    setup = SimpleNamespace(
        shard=SimpleNamespace(graph=graph),
        job=SimpleNamespace(options=SimpleNamespace(batch_size=batch_size, dtype=FLOAT)),
        comm=SimpleNamespace(allgather=lambda value: work_of_ranks),
        groups=SimpleNamespace(count=groups),
    )
    return blocks.turn_size(setup, SimpleNamespace(multiply_adds=work_of_ranks[0]), stages)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((16, 1024, 10, [1, 1]), blocks.MOST_BYTES // 4096),
        ((16, 10, 1024, [1, 1]), blocks.MOST_BYTES // 4096),
        ((1, 4, 4, [1]), blocks.MOST_BATCHES),
        ((3, 4, 4, [0, blocks.MOST_WORK // 10]), 9),  # the slowest rank decides
        ((8, 4, 4, [blocks.MOST_WORK * 2]), 8),
        ((8, blocks.MOST_BYTES, 4, [1]), 8),
        ((1, 4, 4, [1], 3), 3 * blocks.MOST_BATCHES),
        ((1, 1024, 1024, [1, 1], 4), 4 * blocks.MOST_BYTES // 4 // 4096),  # all outputs are on the root
    ],
)
def test_as_many_batches_as_the_limits_allow(arguments, expected):
    assert size_of(*arguments) == expected


def test_stages_have_many_batches_to_work_at():
    """But no more than a few dozen MiB of inputs; what may be more without stages still is."""
    work = [blocks.MOST_WORK]
    assert size_of(8, 4, 4, work) == 8
    assert size_of(8, 4, 4, work, stages=3) == 8 * 3 * blocks.BATCHES_OF_STAGE
    assert size_of(8, 4, 4, work, groups=2, stages=3) == 2 * 8 * 3 * blocks.BATCHES_OF_STAGE
    assert size_of(8, blocks.MOST_BYTES_OF_STAGES // (4 * 8 * 5), 4, work, stages=3) == 8 * 5
    assert size_of(1, 4, 4, [1], stages=2) == blocks.MOST_BATCHES


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<u1", "<f2"])
@pytest.mark.parametrize("userblock", [0, 1024])
@pytest.mark.parametrize(
    "storage", [{}, {"chunks": (4, 5)}, {"compression": "gzip"}, {"maxshape": (None, 5)}]
)
def test_rows_of_hdf5(tmp_path, dtype, userblock, storage):
    """Rows that lie in a row are read without HDF5."""
    with h5py.File(tmp_path / "x.h5", "w", userblock_size=userblock) as made:
        made["before"] = np.ones(100)
        made.create_dataset("x", data=X.astype(dtype), **storage)
    source = Input(open_samples(tmp_path / "x.h5"), np.arange(5), len(X), FLOAT)
    for first in (0, 3):
        found = list(source.blocks([Stretch(first, 4), Stretch(6, 8), Stretch(8, 11)]))
        np.testing.assert_array_equal(np.concatenate(found), np.concatenate([X[first:4], X[6:]]))
