"""Arrays of files, read in stretches of rows of the first axis, with the place of the first row of each.

Files are read by calls whose failures are seen, not mapped; ``EOFError`` says that one ends early.  All of
this is to be used in a block of ``reading``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import h5py
import numpy as np

from repurpose_hpc.io.arrays import Header, fill, open_member, open_npy, open_npz, read_array
from repurpose_hpc.io.hdf5 import open_hdf5


class Stretch(NamedTuple):
    """Rows ``first`` to ``last``, the latter not included."""

    first: int
    last: int

    @property
    def size(self) -> int:
        """How many."""
        return self.last - self.first


def in_blocks(rows: int, size: int) -> Iterator[Stretch]:
    """All rows, at most so many at a time."""
    return (Stretch(first, min(first + size, rows)) for first in range(0, rows, size))


# What is read: stretches with at least one row, ascending; what lies between them is passed over.
Stretches = Iterable[Stretch]
Blocks = Iterator[tuple[int, np.ndarray]]


def slabs(array: np.ndarray | h5py.Dataset, stretches: Stretches) -> Blocks:
    """An array, or a data set of an open file."""
    for first, last in stretches:
        yield first, np.asarray(array[first:last])


def sparse_rows(
    width: int, starts: np.ndarray, columns: np.ndarray, values: np.ndarray, stretches: Stretches
) -> Blocks:
    """Rows of a matrix that has its entries in compressed rows, with all their zeros."""
    for first, last in stretches:
        block = np.zeros((last - first, width), values.dtype)
        entries = slice(starts[first], starts[last])
        rows = np.repeat(np.arange(last - first), np.diff(starts[first : last + 1]))
        block[rows, columns[entries]] = values[entries]
        yield first, block


def h5_slabs(path: Path, name: str, stretches: Stretches) -> Blocks:
    """A data set of a file; where its values lie in a row, HDF5 says where and they are read without it."""
    with open_hdf5(path) as file:
        dataset = file[name]
        offset = dataset.id.get_offset()
        if offset is None or dataset.external or dataset.dtype.kind not in "iuf":
            yield from slabs(dataset, stretches)
            return
        place, header = dataset.file.filename, Header(dataset.shape, False, dataset.dtype, offset)
    with open(place, "rb", buffering=0) as raw:
        raw.seek(header.start)
        yield from _rows(raw, header, stretches, name)


def npy_rows(path: Path, stretches: Stretches) -> Blocks:
    """The array, in C order; read, not mapped: a mapped file that is cut short ends the process."""
    with open_npy(path) as (file, header):
        yield from _rows(file, header, stretches, "x")


def npy_columns(path: Path, stretches: Stretches) -> Blocks:
    """The array, in Fortran order: the values of a column lie together."""
    with open_npy(path) as (file, header):
        (samples, *axes), value_bytes = header.shape, header.dtype.itemsize
        for first, last in stretches:
            columns = np.empty((math.prod(axes), last - first), header.dtype)
            for number, column in enumerate(columns):
                file.seek(header.start + (number * samples + first) * value_bytes)
                fill(file, column, f"x ends before column {number} of {len(columns)} is complete")
            yield first, columns.T.reshape(-1, *axes, order="F")


def npz_rows(path: Path, name: str, stretches: Stretches) -> Blocks:
    """A member, in C order, decompressed as it is read; so is what is passed over."""
    with open_npz(path) as archive, open_member(archive, name) as (file, header):
        yield from _rows(file, header, stretches, name)


def npz_whole(path: Path, name: str, stretches: Stretches) -> Blocks:
    """A member, in Fortran order: a sample is scattered over all of it."""
    with open_npz(path) as archive, open_member(archive, name) as (file, header):
        array = read_array(file, header)
    yield from slabs(array, stretches)


def _rows(file: IO[bytes], header: Header, stretches: Stretches, name: str) -> Blocks:
    """Rows of a file that stands at the first one."""
    samples, *axes = header.shape
    row_bytes, place = math.prod(axes) * header.dtype.itemsize, 0
    for first, last in stretches:
        if first > place:
            file.seek((first - place) * row_bytes, os.SEEK_CUR)
        rows = np.empty((last - first, *axes), header.dtype)
        fill(file, rows, f"{name} ends before sample {last} of {samples}")
        yield first, rows
        place = last
