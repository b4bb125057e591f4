"""Arrays of files, read block by block: at most so many rows of the first axis at a time.

Files are read by calls whose failures are seen, not mapped; ``EOFError`` says that one ends early.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import h5py
import numpy as np


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and dtype of the array that ``file`` goes on to hold."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def slabs(array: np.ndarray | h5py.Dataset, batch_size: int) -> Iterator[np.ndarray]:
    """An array, or a data set of an open file."""
    for start in range(0, len(array), batch_size):
        yield np.asarray(array[start : start + batch_size])


def h5_slabs(path: Path, name: str, batch_size: int) -> Iterator[np.ndarray]:
    """A data set of a file; where its values lie in a row, HDF5 says where and they are read without it."""
    with h5py.File(path, "r") as file:
        dataset = file[name]
        offset = dataset.id.get_offset()
        if offset is None or dataset.external or dataset.dtype.kind not in "iuf":
            yield from slabs(dataset, batch_size)
            return
        place, shape, dtype = dataset.file.filename, dataset.shape, dataset.dtype
    with open(place, "rb", buffering=0) as raw:
        raw.seek(offset)
        yield from _rows(raw, shape, dtype, batch_size, name)


def npy_rows(path: Path, batch_size: int) -> Iterator[np.ndarray]:
    """The array, in C order; read, not mapped: a mapped file that is cut short ends the process."""
    with open(path, "rb", buffering=0) as file:
        shape, _, dtype = read_header(file)
        yield from _rows(file, shape, dtype, batch_size, "x")


def _rows(
    file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype, batch_size: int, name: str
) -> Iterator[np.ndarray]:
    """The array ``name`` of a shape that ``file`` goes on to hold, in C order."""
    samples, *axes = shape
    for start in range(0, samples, batch_size):
        rows = np.empty((min(batch_size, samples - start), *axes), dtype)
        _fill(file, rows, f"{name} ends before sample {start + len(rows)} of {samples}")
        yield rows


def npy_columns(path: Path, batch_size: int) -> Iterator[np.ndarray]:
    """The array, in Fortran order: the values of a column lie together."""
    with open(path, "rb", buffering=0) as file:
        (samples, *axes), _, dtype = read_header(file)
        first, column_bytes = file.tell(), samples * dtype.itemsize
        for start in range(0, samples, batch_size):
            columns = np.empty((math.prod(axes), min(batch_size, samples - start)), dtype)
            for number, column in enumerate(columns):
                file.seek(first + number * column_bytes + start * dtype.itemsize)
                _fill(file, column, f"x ends before column {number} of {len(columns)} is complete")
            yield columns.T.reshape(-1, *axes, order="F")


def _fill(file: IO[bytes], array: np.ndarray, complaint: str) -> None:
    """Read the next bytes of ``file`` into a C-contiguous array.

    Raises:
        EOFError: there are too few, with ``complaint``.
    """
    data = array.reshape(-1).view(np.uint8).data
    while len(data):
        count = cast(io.RawIOBase, file).readinto(data)
        if not count:
            raise EOFError(complaint)
        data = data[count:]


def npz_rows(path: Path, name: str, batch_size: int) -> Iterator[np.ndarray]:
    """A member, in C order, decompressed as it is read."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
        (samples, *axes), _, dtype = read_header(member)
        row_bytes = dtype.itemsize * math.prod(axes)
        for start in range(0, samples, batch_size):
            count = min(batch_size, samples - start)
            block = member.read(count * row_bytes)
            if len(block) < count * row_bytes:
                raise EOFError(f"{name} ends before sample {start + count} of {samples}")
            yield np.frombuffer(block, dtype).reshape(count, *axes)


def npz_whole(path: Path, name: str, batch_size: int) -> Iterator[np.ndarray]:
    """A member, in Fortran order: a sample is scattered over all of it."""
    with np.load(path, allow_pickle=False) as arrays:
        array = arrays[name]
    yield from slabs(array, batch_size)
