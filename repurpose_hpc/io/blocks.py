"""Arrays of files, read block by block: at most so many rows of the first axis at a time.

Files are read by calls whose failures are seen, not mapped; ``EOFError`` says that one ends early.  All of
this is to be used in a block of ``reading``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import h5py
import numpy as np

from repurpose_hpc.io.arrays import Header, fill, open_member, open_npy, open_npz, read_array
from repurpose_hpc.io.hdf5 import open_hdf5


def slabs(array: np.ndarray | h5py.Dataset, batch_size: int) -> Iterator[np.ndarray]:
    """An array, or a data set of an open file."""
    for start in range(0, len(array), batch_size):
        yield np.asarray(array[start : start + batch_size])


def h5_slabs(path: Path, name: str, batch_size: int) -> Iterator[np.ndarray]:
    """A data set of a file; where its values lie in a row, HDF5 says where and they are read without it."""
    with open_hdf5(path) as file:
        dataset = file[name]
        offset = dataset.id.get_offset()
        if offset is None or dataset.external or dataset.dtype.kind not in "iuf":
            yield from slabs(dataset, batch_size)
            return
        place, header = dataset.file.filename, Header(dataset.shape, False, dataset.dtype, offset)
    with open(place, "rb", buffering=0) as raw:
        raw.seek(header.start)
        yield from _rows(raw, header, batch_size, name)


def npy_rows(path: Path, batch_size: int) -> Iterator[np.ndarray]:
    """The array, in C order; read, not mapped: a mapped file that is cut short ends the process."""
    with open_npy(path) as (file, header):
        yield from _rows(file, header, batch_size, "x")


def npy_columns(path: Path, batch_size: int) -> Iterator[np.ndarray]:
    """The array, in Fortran order: the values of a column lie together."""
    with open_npy(path) as (file, header):
        (samples, *axes), value_bytes = header.shape, header.dtype.itemsize
        for start in range(0, samples, batch_size):
            columns = np.empty((math.prod(axes), min(batch_size, samples - start)), header.dtype)
            for number, column in enumerate(columns):
                file.seek(header.start + (number * samples + start) * value_bytes)
                fill(file, column, f"x ends before column {number} of {len(columns)} is complete")
            yield columns.T.reshape(-1, *axes, order="F")


def npz_rows(path: Path, name: str, batch_size: int) -> Iterator[np.ndarray]:
    """A member, in C order, decompressed as it is read."""
    with open_npz(path) as archive, open_member(archive, name) as (file, header):
        yield from _rows(file, header, batch_size, name)


def npz_whole(path: Path, name: str, batch_size: int) -> Iterator[np.ndarray]:
    """A member, in Fortran order: a sample is scattered over all of it."""
    with open_npz(path) as archive, open_member(archive, name) as (file, header):
        array = read_array(file, header)
    yield from slabs(array, batch_size)


def _rows(file: IO[bytes], header: Header, batch_size: int, name: str) -> Iterator[np.ndarray]:
    samples, *axes = header.shape
    for start in range(0, samples, batch_size):
        rows = np.empty((min(batch_size, samples - start), *axes), header.dtype)
        fill(file, rows, f"{name} ends before sample {start + len(rows)} of {samples}")
        yield rows
