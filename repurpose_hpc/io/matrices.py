"""Sparse matrices in files, as entries: triples, MatrixMarket, and those of ``scipy.sparse.save_npz``.

A file of triples, such as those of the Graph Challenge, has a row, a column and a value in every line, the
first two counted from 1.  It says nothing of its shape.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.arrays import open_npz, read_npz
from repurpose_hpc.io.reading import check_finite_length, reading

# What a compressed text ends with.
_COMPRESSED = ".gz"
# Names of the arrays of ``save_npz``.
_NPZ = frozenset(("format", "shape", "data"))


@dataclass(frozen=True, eq=False)
class Matrix:
    """The entries of a matrix, none of them there twice.

    Attributes:
        shape: (m, n); of triples the largest row and column that have an entry.
        rows, columns: (entries,) int64, counted from 0.
        values: (entries,) float64, or the floating-point type of the file.
    """

    shape: tuple[int, int]
    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    @property
    def transposed(self) -> Matrix:
        """Columns as rows."""
        return Matrix((self.shape[1], self.shape[0]), self.columns, self.rows, self.values)


def suffix_of(path: Path) -> str:
    """The suffix of a file, that of what is compressed if it is."""
    return path.with_suffix("").suffix if path.suffix == _COMPRESSED else path.suffix


def is_sparse_npz(path: Path) -> bool:
    """Whether an ``.npz`` is a matrix of ``save_npz``; False, too, if it cannot be read."""
    try:
        with open_npz(path) as archive:
            return {f"{name}.npy" for name in _NPZ} <= {*archive.namelist()}
    except Exception:  # whoever reads it says what is wrong
        return False


def read_matrix(path: Path, shape: tuple[int, int] | None = None) -> Matrix:
    """The matrix in a file.

    Args:
        path: ``.tsv`` (triples), ``.mtx`` (MatrixMarket), each perhaps with ``.gz`` behind, or ``.npz``.
        shape: that it has to have; of triples, in which it lies.  None: any.

    Raises:
        UserError: it cannot be read, has another shape, an entry outside or twice; names the line.
    """
    reader = READERS[suffix_of(path)]
    with reading(path, "sparse matrix"):
        check_finite_length(path)
        matrix = reader(path)
    if shape is not None:
        matrix = _within(path, matrix, shape)
    _check_twice(path, matrix)
    return matrix


def _within(path: Path, matrix: Matrix, shape: tuple[int, int]) -> Matrix:
    has_shape = suffix_of(path) != ".tsv"
    if has_shape and matrix.shape != shape:
        raise UserError(
            f"{path}: expected a matrix of shape {shape}, found {matrix.shape}; rows are outputs, columns "
            "are inputs: transpose it if need be"
        )
    for name, places, size in (("row", matrix.rows, shape[0]), ("column", matrix.columns, shape[1])):
        if places.max(initial=-1) >= size:
            entry = int(np.argmax(places >= size))
            raise UserError(
                f"{path}: line {_line_of(path, entry)}: expected a {name} from 1 to {size}, found "
                f"{places[entry] + 1}; correct the line"
            )
    return Matrix(shape, matrix.rows, matrix.columns, matrix.values)


def _check_twice(path: Path, matrix: Matrix) -> None:
    places = matrix.rows * matrix.shape[1] + matrix.columns
    order = np.argsort(places, kind="stable")
    again = np.flatnonzero(np.diff(places[order]) == 0)
    if again.size:
        first, second = (int(order[again[0] + step]) for step in (0, 1))
        where = f"row {matrix.rows[second] + 1}, column {matrix.columns[second] + 1} (counted from 1)"
        lines = [] if suffix_of(path) == ".npz" else [_line_of(path, entry) for entry in (first, second)]
        at = f"line {lines[1]}: " if lines else ""
        before = f", after line {lines[0]}" if lines else ""
        raise UserError(
            f"{path}: {at}expected every entry once, found {where} again{before}; remove one of them"
        )


def _read_triples(path: Path) -> Matrix:
    try:
        table = np.loadtxt(path, np.float64, comments=None, ndmin=2)
    except ValueError:
        table = np.empty((0, 0))
    if table.size and table.shape[1] == 3 and np.isfinite(table).all():
        places = table[:, :2]
        if (places >= 1).all() and (places == np.floor(places)).all() and places.max() < 2**31:
            rows, columns = (places - 1).astype(np.int64).T
            return Matrix((int(rows.max()) + 1, int(columns.max()) + 1), rows, columns, table[:, 2].copy())
    raise UserError(_wrong_line(path))


def _wrong_line(path: Path) -> str:
    """What is wrong in the first line that is no triple."""
    for number, line in _filled_lines(path):
        words = line.split()
        try:
            numbers = [float(word) for word in words]
        except ValueError:
            numbers = []
        is_place = [1 <= each < 2**31 and each == int(each) for each in numbers[:2] if np.isfinite(each)]
        if len(numbers) != 3 or is_place != [True, True] or not np.isfinite(numbers[2]):
            found = line.strip()
            return (
                f"{path}: line {number}: expected a row and a column, counted from 1, and a value, found "
                f"{found[:60]!r}; correct the line"
            )
    return f"{path}: expected lines of row, column and value, found none; check the file"


def _read_market(path: Path) -> Matrix:
    from scipy.io import mmread  # takes long, and is seldom needed

    return _of_scipy(mmread(path))


def _read_npz(path: Path) -> Matrix:
    import scipy.sparse

    arrays = read_npz(path)
    if not arrays.keys() >= _NPZ:
        raise ValueError(f"it holds {', '.join(arrays)}, expected what scipy.sparse.save_npz writes")
    kind = arrays["format"].item()
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    shape = tuple(arrays["shape"].tolist())
    if kind == "coo":
        return _of_scipy(
            scipy.sparse.coo_array((arrays["data"], (arrays["row"], arrays["col"])), shape=shape)
        )
    if kind not in ("csr", "csc"):
        raise ValueError(f"its format is {kind}, expected csr, csc or coo; convert it with .tocsr()")
    make = scipy.sparse.csr_array if kind == "csr" else scipy.sparse.csc_array
    matrix = make((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape)
    matrix.check_format(full_check=True)
    return _of_scipy(matrix)


def _of_scipy(matrix: Any) -> Matrix:
    import scipy.sparse

    entries = scipy.sparse.coo_array(matrix)
    m, n = entries.shape
    rows, columns = (np.asarray(places, np.int64) for places in entries.coords)
    if rows.size and not (rows.min() >= 0 and rows.max() < m and columns.min() >= 0 and columns.max() < n):
        raise ValueError(f"it has entries outside its shape {(m, n)}")
    return Matrix((int(m), int(n)), rows, columns, _real(entries.data))


def _real(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "f" and values.dtype.itemsize in (4, 8):
        return values
    if values.dtype.kind not in "biuf":
        raise ValueError(f"its values are {values.dtype}, expected real numbers")
    return values.astype(np.float64)


def _filled_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, counted from 1 with those that are."""
    file: IO[str]
    with (
        gzip.open(path, "rt", errors="replace")
        if path.suffix == _COMPRESSED
        else open(path, errors="replace") as file
    ):
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line


def _line_of(path: Path, entry: int) -> int:
    """The line in which an entry is, both counted as they come; of MatrixMarket behind the line of sizes.

    The mirrored entries of a symmetric one come once more, behind all others.
    """
    lines = [number for number, line in _filled_lines(path) if not line.startswith("%")]
    lines = lines[1:] if suffix_of(path) == ".mtx" else lines
    return lines[entry % len(lines)]


READERS: dict[str, Callable[[Path], Matrix]] = {
    ".tsv": _read_triples,
    ".mtx": _read_market,
    ".npz": _read_npz,
}
