"""Samples in memory behave as those of files do."""

import numpy as np
import pytest

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples

X = np.arange(42, dtype=np.float32).reshape(7, 3, 2)
Y = np.arange(7) % 3


@pytest.fixture
def stored(tmp_path):
    """The same samples in a file."""
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    return Samples.open(tmp_path / "data.npz")


@pytest.mark.parametrize("chosen", [None, np.array([1, 0, 1, 1, 0, 0, 1], bool)], ids=["all", "some"])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 9])
def test_they_are_those_of_a_file(stored, batch_size, chosen):
    of_file, of_arrays = stored, Samples.of(X, Y)
    if chosen is not None:
        of_file, of_arrays = of_file.subset(chosen), of_arrays.subset(chosen)
    assert (of_arrays.samples, of_arrays.shape, of_arrays.width) == (of_file.samples, (3, 2), 6)
    labels = [np.concatenate(list(each.y.batches(2, dtype=None))) for each in (of_arrays, of_file)]
    assert labels[0].dtype == Y.dtype
    np.testing.assert_array_equal(*labels)
    for columns, dtype in ((None, np.float64), (np.array([5, 0]), np.float32), (None, None)):
        found, expected = (list(each.batches(batch_size, columns, dtype)) for each in (of_arrays, of_file))
        assert [each.dtype for each in found] == [each.dtype for each in expected]
        assert [each.tobytes() for each in found] == [each.tobytes() for each in expected]


def test_labels_may_be_missing_and_arrays_are_not_copied():
    samples, x = Samples.of(X), X.copy()
    assert samples.y is None
    assert Samples.of(X.tolist(), Y.tolist()).samples == 7
    changing = Samples.of(x)
    x[0] = 100
    assert next(changing.batches(1)).max() == 100


def test_fingerprints_differ_with_all_that_matters():
    same = [Samples.of(X, Y), Samples.of(X.copy(), Y), Samples.of(np.asfortranarray(X), Y)]
    others = [
        *(Samples.of(X), Samples.of(X, Y + 1), Samples.of(X, Y.astype(np.int32)), Samples.of(X[:6], Y[:6])),
        *(Samples.of(X.astype(np.float64), Y), Samples.of(X.reshape(7, 6), Y), Samples.of(X[::-1], Y)),
    ]
    assert len({each.fingerprint() for each in same}) == 1
    assert len({each.fingerprint() for each in (same[0], *others)}) == 1 + len(others)


def test_what_is_no_number_beside_samples_does_not_matter():
    assert len({Samples.of(X, y).fingerprint() for y in (None, [object()] * 7, ["a"] * 7)}) == 1


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X.astype(complex), "x: expected samples that are real numbers, found type complex128"),
        (np.array(["a", "b"]), "x: expected samples that are real numbers"),
        (np.float32(1), "x: expected samples of shape"),
        (X[:0], "the data is empty"),
        (X[:, :0], "the data is empty"),
    ],
)
def test_what_files_refuse_is_refused(tmp_path, x, message):
    with pytest.raises(UserError, match=message):
        Samples.of(x)
    np.savez(tmp_path / "data.npz", x=x)
    with pytest.raises(UserError):
        Samples.open(tmp_path / "data.npz")


@pytest.mark.parametrize("y", [Y[:6], 1])
def test_another_number_of_labels_is_refused(y):
    with pytest.raises(UserError, match="y: expected a label for each of 7 samples"):
        Samples.of(X, y)


def test_rows_of_different_lengths_are_refused():
    for arguments, name in ((([[1], [1, 2]],), "x"), ((X[:2], [[1], [1, 2]]), "y")):
        with pytest.raises(UserError, match=f"{name}: expected an array, samples first"):
            Samples.of(*arguments)
