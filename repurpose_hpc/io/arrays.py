"""Arrays in NumPy's files: ``.npy``, and ``.npz``, archives of them.

Before anything is allocated, the header of an array is compared with the bytes that are there for it.  All of
this is to be used in a block of ``reading``: on damage NumPy, zipfile and the decompressors raise exceptions
of many kinds.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple, cast

import numpy as np

from repurpose_hpc.io.reading import check_finite_length

# Of the text of a header, as NumPy limits it, and of the bytes before it.
_LONGEST_HEADER, _PRELUDE = 10_000, {(1, 0): 10, (2, 0): 12, (3, 0): 12}
# Bytes that deflate can make of one, at most.
_MOST_DEFLATED = 1032
_ENCRYPTED = 1
_SUFFIX = ".npy"


class Header(NamedTuple):
    """The header of a ``.npy``.

    Attributes:
        shape, fortran, dtype: of the array; whether it is in Fortran order.
        start: of its values, bytes from the beginning of the file.
    """

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    start: int

    @property
    def size(self) -> int:
        """Values."""
        return math.prod(self.shape)

    @property
    def end(self) -> int | None:
        """Of the values, bytes from the beginning of the file; None: they are pickled objects."""
        return None if self.dtype.hasobject else self.start + self.size * self.dtype.itemsize


def read_header(file: IO[bytes], length: int) -> Header:
    """The header with which ``file``, of so many bytes, begins; it then stands at the values.

    Raises:
        ValueError, EOFError and whatever NumPy raises: there is none, it is damaged, or it declares more
            bytes than there are.
    """
    version = np.lib.format.read_magic(file)
    prelude = _PRELUDE.get(version)
    if prelude is None:
        raise ValueError(f"its format version is {version}, expected one of {', '.join(map(str, _PRELUDE))}")
    field = file.read(prelude - np.lib.format.MAGIC_LEN)
    count = int.from_bytes(field, "little")
    if count > min(_LONGEST_HEADER, length - prelude):
        raise ValueError(f"its header has {count} bytes of {length}, expected {_LONGEST_HEADER} at most")
    parse = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = parse(io.BytesIO(field + file.read(count)))
    header = Header(tuple(map(int, shape)), fortran, dtype, prelude + count)
    _check(header, length)
    return header


def _check(header: Header, length: int) -> None:
    if any(not 0 <= size < 2**63 for size in header.shape):
        raise ValueError(f"its shape is {header.shape}")
    if header.end is not None and header.end > length:
        raise EOFError(f"it ends at byte {length} of {header.end}")


def read_array(file: IO[bytes], header: Header) -> np.ndarray:
    """The array after its header, which was just read.

    Raises:
        ValueError: it holds pickled objects; unpickling can run any program.
        EOFError: the file ends early.
    """
    if header.dtype.hasobject:
        raise ValueError("it holds Python objects, expected numbers or strings")
    values = np.empty(header.size, header.dtype)
    fill(file, values, "it ends early")
    return values.reshape(header.shape, order="F" if header.fortran else "C")


def fill(file: IO[bytes], array: np.ndarray, complaint: str) -> None:
    """Read the next bytes of ``file`` into a C-contiguous array.

    Raises:
        EOFError: there are too few, with ``complaint``.
    """
    if not array.nbytes:
        return
    data = array.reshape(-1).view(np.uint8).data
    while len(data):
        count = cast(io.RawIOBase, file).readinto(data)
        if not count:
            raise EOFError(complaint)
        data = data[count:]


def read_npy(path: Path) -> np.ndarray:
    """The array in a ``.npy``."""
    with open_npy(path) as (file, header):
        return read_array(file, header)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a ``.npz``, by name.

    Raises:
        ValueError and whatever parsers raise: it is damaged, or holds what is no array.
    """
    arrays = {}
    with open_npz(path) as archive:
        for entry in archive.namelist():
            if not entry.endswith(_SUFFIX):
                raise ValueError(f"it holds {entry}, which is no array")
            name = entry.removesuffix(_SUFFIX)
            with open_member(archive, name) as (file, header):
                arrays[name] = read_array(file, header)
    return arrays


@contextmanager
def open_npy(path: Path) -> Iterator[tuple[IO[bytes], Header]]:
    """A ``.npy``, open for reading without a buffer, and its header; it stands at the values."""
    check_finite_length(path)
    with open(path, "rb", buffering=0) as file:
        yield file, read_header(file, os.fstat(file.fileno()).st_size)


@contextmanager
def open_npz(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive, open for reading.

    Raises:
        ValueError: it has a name twice.
    """
    check_finite_length(path)
    with zipfile.ZipFile(path) as archive:
        name, count = Counter(archive.namelist()).most_common(1)[0] if archive.namelist() else ("", 0)
        if count > 1:
            raise ValueError(f"it holds {name} {count} times")
        yield archive


@contextmanager
def open_member(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[IO[bytes], Header]]:
    """An array of an archive, as ``open_npy`` opens one; its checksum is compared when all of it is read.

    Raises:
        ValueError: it is encrypted, or declares more bytes than the archive can hold for it.
    """
    about = archive.getinfo(name + _SUFFIX)
    if about.flag_bits & _ENCRYPTED:
        raise ValueError(f"{name} is encrypted")
    stored = min(about.compress_size, os.stat(cast(str, archive.filename)).st_size)
    most = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: _MOST_DEFLATED}.get(about.compress_type)
    if most is not None and about.file_size > most * stored:
        raise ValueError(f"{name} declares {about.file_size} bytes, which {stored} stored ones cannot hold")
    with archive.open(about) as file:
        header = read_header(file, about.file_size)
        if header.end not in (None, about.file_size):
            raise ValueError(f"{name} declares {about.file_size} bytes, and its header {header.end}")
        yield file, header
