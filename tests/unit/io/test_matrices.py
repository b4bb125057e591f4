"""Sparse matrices in files: what SciPy writes is read, and what is wrong is said with its line."""

import gzip

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.matrices import read_matrix
from repurpose_hpc.io.samples import Samples

W = scipy.sparse.random_array((7, 5), density=0.4, rng=np.random.default_rng(0), format="coo")


def dense(matrix):
    array = np.zeros(matrix.shape)
    array[matrix.rows, matrix.columns] = matrix.values
    return array


def write_triples(path, matrix):
    lines = (
        f"{i + 1}\t{j + 1}\t{v!r}\n" for i, j, v in zip(*matrix.coords, matrix.data.tolist(), strict=True)
    )
    text = "".join(lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.mark.parametrize(
    "name", ["w.tsv", "w.tsv.gz", "w.mtx", "w.npz", "csc.npz", "coo.npz", "symmetric.mtx"]
)
def test_what_scipy_writes_is_read(tmp_path, name):
    path, matrix = tmp_path / name, W
    if ".tsv" in name:
        write_triples(path, matrix)
    elif name == "symmetric.mtx":
        matrix = W.tocsr()[:5] + W.tocsr()[:5].T
        scipy.io.mmwrite(path, matrix, symmetry="symmetric")
    elif name.endswith(".mtx"):
        scipy.io.mmwrite(path, matrix)
    else:
        kind = path.stem if path.stem in ("csc", "coo") else "csr"
        scipy.sparse.save_npz(path, matrix.asformat(kind))
    np.testing.assert_allclose(dense(read_matrix(path, matrix.shape)), matrix.toarray(), rtol=1e-12)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("w.tsv", "1\t1\t0.5\n8\t1\t0.5\n", "line 2: expected a row from 1 to 7, found 8"),
        ("w.tsv", "1\t1\t0.5\n\n2\t6\t0.5\n", "line 3: expected a column from 1 to 5, found 6"),
        ("w.tsv", "1\t1\t0.5\n0\t1\t0.5\n", "line 2: expected a row and a column, counted from 1"),
        ("w.tsv", "1\t1\t0.5\n1.5\t1\t0.5\n", "line 2: expected a row and a column, counted from 1"),
        ("w.tsv", "1\t1\t0.5\n2\t1\n", "line 2: expected a row and a column"),
        ("w.tsv", "1\t1\t0.5\n2\t1\tnan\n", "line 2: expected a row and a column"),
        ("w.tsv", "1\t1\t0.5\n2\t1\tx\n", "line 2: expected a row and a column"),
        ("w.tsv", "", "found none"),
        ("w.tsv", "1\t1\t0.5\n2\t3\t0.5\n\n1\t1\t0.25\n", "line 4: expected every entry once"),
        (
            "w.mtx",
            "%%MatrixMarket matrix coordinate real general\n%\n7 5 2\n1 1 0.5\n1 1 0.25\n",
            "line 5: expected every entry once, found row 1, column 1 .* after line 4",
        ),
        ("w.mtx", "%%MatrixMarket matrix coordinate real general\n7 5 1\n8 1 0.5\n", "w.mtx: expected"),
        (
            "w.mtx",
            "%%MatrixMarket matrix coordinate real general\n6 5 1\n1 1 0.5\n",
            r"shape \(7, 5\), found \(6, 5\)",
        ),
        ("w.mtx", "no matrix\n", "w.mtx: expected a readable sparse matrix"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_matrix(path, (7, 5))


@pytest.mark.parametrize("kind", ["bsr", "dia"])
def test_other_formats_of_scipy_are_refused_by_name(tmp_path, kind):
    scipy.sparse.save_npz(tmp_path / "w.npz", W.asformat(kind))
    with pytest.raises(UserError, match=f"its format is {kind}, expected csr, csc or coo"):
        read_matrix(tmp_path / "w.npz")


def test_indices_outside_are_refused(tmp_path):
    csr = W.tocsr()
    csr.indices[0] = 40
    scipy.sparse.save_npz(tmp_path / "w.npz", csr)
    with pytest.raises(UserError, match="w.npz"):
        read_matrix(tmp_path / "w.npz")


@pytest.mark.parametrize("name", ["x.npz", "x.mtx", "sparse-images-5.tsv"])
def test_samples_may_be_sparse(tmp_path, name):
    path = tmp_path / name
    if name.endswith(".npz"):
        scipy.sparse.save_npz(path, W.tocsr())
    elif name.endswith(".mtx"):
        scipy.io.mmwrite(path, W)
    else:
        write_triples(path, W)
    samples = Samples.open(path)
    assert samples.shape == (5,) and samples.y is None
    for size in (1, 3, 100):
        found = np.concatenate([*samples.batches(size, dtype=np.float64)])
        np.testing.assert_allclose(found, W.toarray()[: samples.samples], rtol=1e-12)
    columns = np.concatenate([*samples.batches(2, np.array([3, 1]), np.float64)])
    np.testing.assert_allclose(columns, W.toarray()[: samples.samples, [3, 1]], rtol=1e-12)
