"""Samples in files or arrays, streamed in batches, so that a file need not fit in memory.

``.npy`` is read row by row, the ``x`` and ``y`` of an ``.npz`` from the archive likewise, those of an ``.h5``
in slabs.  Samples come first; further axes are flattened in C order.
"""

from __future__ import annotations

import hashlib
import math
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import FieldError
from repurpose_hpc.io.arrays import Header, open_member, open_npy, open_npz
from repurpose_hpc.io.blocks import (
    Blocks,
    Stretches,
    h5_slabs,
    in_blocks,
    npy_columns,
    npy_rows,
    npz_rows,
    npz_whole,
    slabs,
    sparse_rows,
)
from repurpose_hpc.io.hdf5 import find_dataset, open_hdf5, source_files
from repurpose_hpc.io.identity import State
from repurpose_hpc.io.matrices import is_sparse_npz, read_matrix, suffix_of
from repurpose_hpc.io.meaning import LEFT_ALONE, Meaning
from repurpose_hpc.io.reading import reading
from repurpose_hpc.io.sealed import sha256_of

# Yields the samples of stretches of the file, in its own dtype and axes, with the place of the first of each.
Reader = Callable[[Stretches], Blocks]


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples and what stands beside them, of a file that is not yet read (``open``) or of arrays (``of``).

    Attributes:
        name: of the file or the array, for messages.
        samples: how many; of ``y`` any number, 0 included.
        shape: of a sample.
        dtype: of the values, as they are stored.
        y: labels or targets, not yet read, of any shape and type; None if there are none.
        meaning: of ``y`` for the network that the samples are for, or why what stands there cannot be read;
            None: not yet known (``model.labels.understood`` finds it), or there is no ``y``.
    """

    name: str
    samples: int
    shape: tuple[int, ...]
    dtype: np.dtype
    y: Samples | None
    meaning: Meaning | None
    _stored: int
    _reader: Reader
    _digest: Callable[[], str]
    _states: tuple[State, ...] = ()

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray | None = None) -> Samples:
        """Samples in memory; the arrays are not copied.

        Args:
            x: samples first, (samples, ...), real numbers of any type.
            y: labels or targets, (samples, ...): ``model.labels`` says what they mean.

        Raises:
            UserError: no samples, not real numbers, another number of labels than of samples.
        """
        x, beside = _as_array("x", x), None if y is None else _as_array("y", y)
        _check_array(x.shape, x.dtype, "x")
        if beside is not None and beside.shape[:1] != x.shape[:1]:
            raise UserError(
                f"y: expected a label for each of {len(x)} samples, found shape {beside.shape}; give as many"
            )
        digest = partial(_array_digest, x, beside)
        stored = None if beside is None else _of_array("y", beside, None, digest)
        return _of_array("x", x, stored, digest)

    @classmethod
    def open(cls, path: str | Path) -> Samples:
        """The samples of a file, see ``open_samples``."""
        return open_samples(path)

    @property
    def width(self) -> int:
        """Values per sample."""
        return math.prod(self.shape)

    def batches(
        self, batch_size: int, columns: np.ndarray | None = None, dtype: type | None = np.float32
    ) -> Iterator[np.ndarray]:
        """The samples in the order of the file.

        Args:
            batch_size: samples per batch, 1 or more; the last batch may have fewer, those of a
                ``subset`` any number from 1.
            columns: indices of the values wanted, integers; None for all.
            dtype: floating-point type to convert to; None: that of the file.

        Yields:
            arrays of their own memory, shape (batch, len(columns)), ``dtype``, C-contiguous.

        Raises:
            UserError: the file ends early or cannot be read, or a value is too large for ``dtype``.
        """
        return self.stretches(in_blocks(self._stored, batch_size), columns, dtype)

    def stretches(
        self, stretches: Stretches, columns: np.ndarray | None = None, dtype: type | None = np.float32
    ) -> Iterator[np.ndarray]:
        """Some of the samples, those of each stretch as ``batches`` yields them.

        What lies between stretches is passed over: not read, but for what an ``.npz`` has to read.

        Args:
            stretches: of the file, each of at least one sample, ascending.
            columns, dtype: as of ``batches``.

        Raises:
            UserError: as of ``batches``.
        """
        with reading(self.name):
            for first, raw in self._reader(stretches):
                rows = raw.reshape(len(raw), self.width)
                if columns is not None:
                    rows = rows.take(columns, axis=1)
                is_own = columns is not None or (raw.flags.owndata and raw.flags.c_contiguous)
                yield self._converted(rows, columns, np.dtype(dtype or rows.dtype), first, copy=not is_own)

    def subset(self, chosen: np.ndarray) -> Samples:
        """Some of the samples, in the order of the file, streamed like all of them.

        Args:
            chosen: bool, (samples,), at least one of them true.

        Its ``batches`` read the whole file, and raise ``UserError`` for NaN and infinity anywhere: only
        here are the positions in the file known.  A ``y`` that is not one for each sample is left out.
        """
        has_labels = self.y is not None and self.y.samples == self.samples
        return replace(
            self._rows(chosen, self.name),
            y=self.y._rows(chosen) if self.y is not None and has_labels else None,
        )

    def _rows(self, chosen: np.ndarray, checked_name: str = "") -> Samples:
        """The chosen rows; with a name NaN and infinity anywhere are refused under it."""
        return replace(
            self,
            samples=int(np.count_nonzero(chosen)),
            _reader=lambda stretches: _chosen_rows(self._reader(stretches), chosen, checked_name),
        )

    def through(
        self,
        function: Callable[[np.ndarray, int], np.ndarray],
        shape: tuple[int, ...],
        dtype: np.dtype,
        name: str,
    ) -> Samples:
        """What a function makes of the samples, block by block as they are read.

        Args:
            function: of a block (samples, ...) as it lies in the file, and of the place of its first sample;
                returns (samples, values).
            shape: of a sample that it makes.
            dtype: of what it makes.
            name: of what it makes, for messages.

        The fingerprint is that of the samples themselves.
        """
        return replace(
            self,
            name=name,
            shape=shape,
            dtype=dtype,
            _reader=lambda stretches: _through(self._reader(stretches), function),
        )

    def _converted(
        self, rows: np.ndarray, columns: np.ndarray | None, dtype: np.dtype, first: int, copy: bool
    ) -> np.ndarray:
        """``rows`` from sample ``first`` on in ``dtype``; copied in any case, or only if they must be."""
        with np.errstate(over="ignore"):  # what becomes infinite is refused
            converted = rows.astype(dtype, order="C", copy=copy)
        if converted.dtype.itemsize < rows.dtype.itemsize and not np.isfinite(converted).all():
            check_range(rows, converted, self.name, first, columns)
        return converted

    def check_unchanged(self) -> None:
        """Refuse a file that was changed since it was opened: what was read may be a mixture.

        Raises:
            UserError: names the file, or the source of a virtual data set.
        """
        for state in self._states:
            state.check()

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the file's bytes, or of the arrays with their types and shapes.

        Raises:
            UserError: the file cannot be read.
        """
        return self._digest()


def open_samples(path: str | Path) -> Samples:
    """Open a file of samples; none of them is read.

    Args:
        path: ``.npy`` (the samples), ``.npz`` or ``.h5``/``.hdf5`` (``x``: the samples,
            numbers of any type; optionally ``y``: labels or targets), or a sparse matrix with a row for each
            sample (``io.matrices``), which is read at once.

    Raises:
        UserError: missing or unreadable file, unknown format, no ``x``, no samples, not
            real numbers.
    """
    path = Path(path)
    opener = _OPENERS.get(suffix_of(path))
    if opener is None:
        raise UserError(
            f"{path}: unknown data format {path.suffix!r}, expected one of {', '.join(_OPENERS)}; "
            "save the samples with numpy.save"
        )
    with reading(path):
        samples = opener(path)
        return replace(samples, _states=tuple(map(State.of, (path, *source_files(path)))))


def check_finite(
    batch: np.ndarray, name: str, first_sample: int = 0, columns: np.ndarray | None = None
) -> None:
    """Refuse NaN and infinity.

    Args:
        batch: shape (batch, width), as read.
        name: of the samples, for the message.
        first_sample: position in the file of the first sample of ``batch``.
        columns: of the file that ``batch`` has; None: all.

    Raises:
        UserError: names the first bad sample and its first bad column in ``batch``, both counted from 0.
    """
    finite = np.isfinite(batch)
    if finite.all():
        return
    row, place = np.argwhere(~finite)[0]
    column = place if columns is None else columns[place]
    raise UserError(
        f"{name}: expected finite values, found {batch[row, place]} in sample {first_sample + row}, "
        f"column {column} (counted from 0); remove the sample or replace the value"
    )


def check_range(
    rows: np.ndarray,
    converted: np.ndarray,
    name: str,
    first_sample: int = 0,
    columns: np.ndarray | None = None,
) -> None:
    """Refuse finite values that are infinite in a smaller type.

    Args:
        rows: shape (batch, width), as read.
        converted: the same in the smaller type.
        name: of the samples, for the message.
        first_sample: position in the file of the first sample of ``rows``.
        columns: of the file that ``rows`` has; None: all.

    Raises:
        FieldError: names the first such value.
    """
    bad = np.argwhere(np.isfinite(rows) & ~np.isfinite(converted))
    if len(bad):
        row, place = bad[0]
        column = place if columns is None else columns[place]
        where = f"sample {first_sample + row}, column {column} (counted from 0) of {name}"
        raise FieldError(
            "dtype",
            f"expected a type that reaches {rows[row, place]:g} of {where}, got {converted.dtype}; "
            "try dtype='float64'",
        )


def check_shape(samples: Samples, shape: tuple[int, ...]) -> None:
    """Refuse samples that have another width than the network's input, or its axes in another order.

    Args:
        samples: of any shape with as many values if they are vectors, or if the network's input is one.
        shape: of the network's input; axes of size 1 do not matter.

    Raises:
        UserError: names both widths, or both shapes.
    """
    inputs = math.prod(shape)
    if samples.width != inputs:
        raise UserError(
            f"{samples.name}: expected {inputs} values per sample as the network has {inputs} inputs, found "
            f"{samples.width}; check that data and model belong together"
        )
    sizes = [size for size in samples.shape if size > 1]
    expected = [size for size in shape if size > 1]
    if len(expected) > 1 and len(sizes) > 1 and sizes != expected:
        raise UserError(
            f"{samples.name}: expected samples of shape {shape}, or the same values flattened, found shape "
            f"{samples.shape}; transpose the axes"
        )


def _open_npy(path: Path) -> Samples:
    with open_npy(path) as (_, header):
        _check_array(header.shape, header.dtype, str(path))
    rows_of = npy_columns if header.fortran else npy_rows
    return _of_file(path, header.shape, header.dtype, lambda stretches: rows_of(path, stretches))


def _open_npz(path: Path) -> Samples:
    if is_sparse_npz(path):
        return _open_matrix(path)
    with open_npz(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if "x.npy" not in archive.namelist():
            raise _without_x(names, path)
        headers = {name: _npz_header(archive, name) for name in "xy" if f"{name}.npy" in archive.namelist()}
    _check_array(headers["x"].shape, headers["x"].dtype, str(path))
    y = _npz_member(path, "y", headers["y"]) if "y" in headers else None
    return replace(_npz_member(path, "x", headers["x"]), y=y)


def _npz_header(archive: zipfile.ZipFile, name: str) -> Header:
    with open_member(archive, name) as (_, header):
        return header


def _npz_member(path: Path, name: str, header: Header) -> Samples:
    blocks_of = npz_whole if header.fortran else npz_rows
    return _of_file(path, header.shape, header.dtype, lambda stretches: blocks_of(path, name, stretches))


def _open_h5(path: Path) -> Samples:
    with open_hdf5(path) as file:
        x = find_dataset(file, "x")
        if x is None:
            raise _without_x(list(file), path)
        shape, dtype = x.shape, x.dtype
        y, meaning = _beside_h5(file, path)
    _check_array(shape, dtype, str(path))
    return replace(_h5_member(path, "x", shape, dtype), y=y, meaning=meaning)


def _beside_h5(file: h5py.File, path: Path) -> tuple[Samples | None, Meaning | None]:
    """The data set ``y``, or the reason why it is left alone: not all of it is there."""
    try:
        dataset = find_dataset(file, "y")
    except UserError as error:
        return None, Meaning(LEFT_ALONE, str(error))
    return (None if dataset is None else _h5_member(path, "y", dataset.shape, dataset.dtype)), None


def _h5_member(path: Path, name: str, shape: tuple[int, ...] | None, dtype: np.dtype) -> Samples:
    return _of_file(path, shape or (), dtype, lambda stretches: h5_slabs(path, name, stretches))


def _open_matrix(path: Path) -> Samples:
    """A sparse matrix, in memory: a row for each sample."""
    width = _TRIPLES.fullmatch(path.name)
    matrix = read_matrix(path, None if width is None else (_MOST_ROWS, int(width[1])))
    m, n = matrix.shape if width is None else (int(matrix.rows.max(initial=-1)) + 1, matrix.shape[1])
    dtype = matrix.values.dtype
    _check_array((m, n), dtype, str(path))
    order = np.lexsort((matrix.columns, matrix.rows))
    rows, columns, values = (array[order] for array in (matrix.rows, matrix.columns, matrix.values))
    starts = np.searchsorted(rows, np.arange(m + 1))
    return _of_file(path, (m, n), dtype, partial(sparse_rows, n, starts, columns, values))


# Sparse samples of the Graph Challenge, whose file does not say how wide they are.
_TRIPLES = re.compile(r"sparse-images-(\d+)\.tsv(?:\.gz)?")
_MOST_ROWS = 2**31
_OPENERS = {
    ".npy": _open_npy,
    ".npz": _open_npz,
    ".h5": _open_h5,
    ".hdf5": _open_h5,
    ".tsv": _open_matrix,
    ".mtx": _open_matrix,
}


def _of_file(path: Path, shape: tuple[int, ...], dtype: np.dtype, reader: Reader) -> Samples:
    count, *axes = shape or (0,)
    digest = partial(_file_digest, path)
    return Samples(str(path), count, tuple(axes), dtype, None, None, count, reader, digest)


def _of_array(name: str, array: np.ndarray, y: Samples | None, digest: Callable[[], str]) -> Samples:
    count, *axes = array.shape
    reader = partial(slabs, array)
    return Samples(name, count, tuple(axes), array.dtype, y, None, count, reader, digest)


def _as_array(name: str, rows: np.ndarray) -> np.ndarray:
    try:
        return np.asarray(rows)
    except ValueError as error:
        raise UserError(
            f"{name}: expected an array, samples first, found rows that are none: {error}"
        ) from None


def _file_digest(path: Path) -> str:
    with reading(path), open(path, "rb") as file:
        return sha256_of(file)


def _array_digest(x: np.ndarray, y: np.ndarray | None) -> str:
    digest = hashlib.sha256()
    for array in (x, y):
        # What is no number has no meaning for a network.
        if array is not None and array.dtype.kind in "biuf":
            digest.update(f"{array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _without_x(names: list[str], path: Path) -> UserError:
    return UserError(
        f"{path}: expected an array x (samples first), found {', '.join(names) or 'nothing'}; rename it"
    )


def _check_array(shape: tuple[int, ...] | None, dtype: np.dtype, name: str) -> None:
    """Samples must be a non-empty array of real numbers."""
    if dtype.kind not in "biuf":
        raise UserError(
            f"{name}: expected samples that are real numbers, found type {dtype}; "
            "convert them, e.g. with x.astype(numpy.float32)"
        )
    if not shape or 0 in shape:
        raise UserError(
            f"{name}: expected samples of shape (samples, width), found shape {shape}; the data is empty"
        )


def _chosen_rows(blocks: Blocks, chosen: np.ndarray, checked_name: str) -> Blocks:
    for first, block in blocks:
        if checked_name:
            check_finite(block.reshape(len(block), -1), checked_name, first)
        rows = block[chosen[first : first + len(block)]]
        if len(rows):
            yield first, rows


def _through(blocks: Blocks, function: Callable[[np.ndarray, int], np.ndarray]) -> Blocks:
    return ((first, function(block, first)) for first, block in blocks)
