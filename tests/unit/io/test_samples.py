"""Sample files: formats, streaming, and everything that is refused."""

import hashlib
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import check_finite, check_shape, open_samples

FORMATS = ("x.npy", "x.npz", "compressed.npz", "x.h5", "x.hdf5")
LABELLED = FORMATS[1:]


def _write(directory, name, x, y=None):
    path = directory / name
    arrays = {"x": x} if y is None else {"x": x, "y": y}
    if path.suffix == ".npy":
        np.save(path, x)
    elif path.suffix == ".npz":
        (np.savez_compressed if name.startswith("compressed") else np.savez)(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for key, value in arrays.items():
                file[key] = value
    return path


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", ["f4", ">f8", "f2", "u1", "i8", "?"])
def test_batches_are_the_samples_in_order(tmp_path, name, dtype):
    x = np.random.default_rng(0).integers(0, 2, (7, 2, 3)).astype(dtype)
    samples = open_samples(_write(tmp_path, name, x))
    assert (samples.samples, samples.width, samples.dtype, samples.y) == (7, 6, x.dtype, None)
    batches = list(samples.batches(3))
    assert [batch.shape for batch in batches] == [(3, 6), (3, 6), (1, 6)]
    for batch in batches:
        assert batch.dtype == np.float32 and batch.flags.c_contiguous and batch.flags.writeable
    np.testing.assert_array_equal(np.concatenate(batches), x.reshape(7, 6).astype(np.float32))


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
def test_columns_and_batch_sizes(tmp_path_factory, name, data):
    samples, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 5))
    columns = np.array(data.draw(st.lists(st.integers(0, width - 1), max_size=6)), np.int64)
    x = np.arange(samples * width, dtype=np.float64).reshape(samples, width)
    opened = open_samples(_write(tmp_path_factory.mktemp("data"), name, x))
    batches = list(opened.batches(data.draw(st.integers(1, 10)), columns, np.float64))
    assert all(batch.flags.c_contiguous and batch.dtype == np.float64 for batch in batches)
    np.testing.assert_array_equal(np.concatenate(batches), x[:, columns])


@pytest.mark.parametrize("name", FORMATS)
def test_fortran_order_and_one_dimension(tmp_path, name):
    x = np.asfortranarray(np.arange(12.0).reshape(4, 3))
    batches = open_samples(_write(tmp_path, name, x)).batches(3)
    np.testing.assert_array_equal(np.concatenate(list(batches)), x)
    line = open_samples(_write(tmp_path, name, np.arange(4)))
    assert (line.samples, line.width) == (4, 1)
    np.testing.assert_array_equal(next(line.batches(9)), np.arange(4)[:, None])


@pytest.mark.parametrize(
    ("found", "expected"),
    [((24,), (2, 3, 4)), ((2, 3), (2, 3)), ((4, 2, 3), (24,)), ((3, 4), (1, 3, 4)), ((2, 1, 3), (2, 3))],
)
def test_shapes_that_fit(tmp_path, found, expected):
    check_shape(open_samples(_write(tmp_path, "x.npy", np.ones((5, *found)))), expected)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ((3, 4, 2), r"expected samples of shape \(2, 3, 4\), .* found shape \(3, 4, 2\); transpose"),
        ((2, 3, 5), r"expected 24 values per sample .* found 30"),
    ],
)
def test_shapes_that_do_not_fit(tmp_path, found, message):
    with pytest.raises(UserError, match=message):
        check_shape(open_samples(_write(tmp_path, "x.npy", np.ones((5, *found)))), (2, 3, 4))


@pytest.mark.parametrize("name", FORMATS)
def test_the_file_is_never_wholly_in_memory(tmp_path, name):
    x = np.zeros((4000, 1000), np.float32)
    path = _write(tmp_path, name, x)
    tracemalloc.start()
    try:
        total = sum(len(batch) for batch in open_samples(path).batches(50))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 4000
    assert peak < x.nbytes / 8


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("dtype", ["u1", "i8", ">f4", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_labels_are_streamed_like_samples(tmp_path, name, dtype, order):
    y = np.array(np.random.default_rng(0).integers(0, 2, (5, 2, 3)), dtype, order=order)
    labels = open_samples(_write(tmp_path, name, np.ones((3, 2)), y)).y
    assert (labels.samples, labels.shape, labels.dtype) == (5, (2, 3), y.dtype)
    batches = list(labels.batches(2, dtype=np.float64))
    assert [batch.shape for batch in batches] == [(2, 6), (2, 6), (1, 6)]
    np.testing.assert_array_equal(np.concatenate(batches), y.reshape(5, 6))


def test_fingerprint_is_the_sha256_of_the_file(tmp_path):
    path = _write(tmp_path, "x.npy", np.ones((3, 2)))
    assert open_samples(path).fingerprint() == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("y", [np.float64(1), np.zeros((0, 4)), np.zeros((3, 0)), np.array([b"a", b"b"])])
def test_labels_of_any_shape_and_type_may_stand_beside(tmp_path, name, y):
    samples = open_samples(_write(tmp_path, name, np.ones((3, 2)), y))
    assert len(np.concatenate(list(samples.batches(2)))) == 3
    assert (samples.y.samples, *samples.y.shape) == (y.shape or (0,))
    assert samples.y.dtype == y.dtype


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((0, 3)), r"found shape \(0, 3\); the data is empty"),
        (np.zeros((3, 0)), r"found shape \(3, 0\); the data is empty"),
        (np.float64(1), r"found shape \(\); the data is empty"),
        (np.ones((3, 2), complex), r"expected samples that are real numbers, found type complex128"),
        (np.array([b"ab", b"c"]), r"real numbers, found type \|S2"),
    ],
)
def test_refused_samples(tmp_path, name, x, message):
    with pytest.raises(UserError, match=message):
        open_samples(_write(tmp_path, name, x))


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_pickled_arrays_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"real numbers, found type object"):
        open_samples(_write(tmp_path, name, np.array([[1], [None]], object)))


def test_pickled_labels_are_not_read(tmp_path):
    samples = open_samples(_write(tmp_path, "x.npz", np.ones((2, 2)), np.array([1, None], object)))
    assert samples.y.dtype == object and samples.samples == 2


def test_strings_in_hdf5_are_refused(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = ["a", "b"]
    with pytest.raises(UserError, match=r"real numbers, found type object"):
        open_samples(tmp_path / "x.h5")


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_no_array_x(tmp_path, suffix):
    path = tmp_path / f"data{suffix}"
    if suffix == ".npz":
        np.savez(path, images=np.ones((2, 2)))
    else:
        with h5py.File(path, "w") as file:
            file["images"] = np.ones((2, 2))
    with pytest.raises(UserError, match=r"expected an array x \(samples first\), found images"):
        open_samples(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5"])
def test_missing_or_corrupt_file(tmp_path, suffix):
    path = tmp_path / f"data{suffix}"
    with pytest.raises(UserError, match=rf"data\{suffix}: expected a data file, found none"):
        open_samples(path)
    for content in (b"", b"nonsense" * 20):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"data\{suffix}: expected a readable data file"):
            open_samples(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=rf"data\{suffix}: expected a readable data file"):
        open_samples(path)


@pytest.mark.parametrize("name", FORMATS)
def test_truncated_file(tmp_path, name):
    path = _write(tmp_path, name, np.random.default_rng(0).normal(size=(100, 50)))
    path.write_bytes(path.read_bytes()[:10000])
    with pytest.raises(UserError, match=r"expected a readable data file"):
        list(open_samples(path).batches(10))


def test_member_shorter_than_its_header_says(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((100, 50)))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", (tmp_path / "x.npy").read_bytes()[:-8])
    with pytest.raises(UserError, match=r"it ends at byte 40120 of 40128"):
        list(open_samples(tmp_path / "x.npz").batches(10))


def test_unknown_format(tmp_path):
    with pytest.raises(
        UserError, match=r"unknown data format '.csv', expected one of .npy, .npz, .h5, .hdf5"
    ):
        open_samples(tmp_path / "data.csv")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_check_finite_names_sample_and_column(value):
    batch = np.zeros((4, 3), np.float32)
    check_finite(batch, "data.npy", 20)
    batch[2, 1] = batch[3, 0] = value
    with pytest.raises(
        UserError, match=r"data.npy: expected finite values, found \S+ in sample 22, column 1"
    ):
        check_finite(batch, "data.npy", 20)


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
def test_subsets_are_streamed_with_their_labels(tmp_path_factory, name, data):
    samples = data.draw(st.integers(1, 9))
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=samples, max_size=samples).filter(any)))
    x, y = np.arange(samples * 2, dtype=np.float64).reshape(samples, 2), np.arange(samples)
    path = _write(tmp_path_factory.mktemp("data"), name, x, y if name in LABELLED else None)
    subset = open_samples(path).subset(chosen)
    size = data.draw(st.integers(1, 10))
    batches = list(subset.batches(size, np.array([1]), np.float64))
    assert all(0 < len(batch) <= size for batch in batches)
    np.testing.assert_array_equal(np.concatenate(batches), x[chosen][:, [1]])
    assert subset.samples == chosen.sum()
    if name in LABELLED:
        labels = list(subset.y.batches(size, dtype=np.float64))
        assert [len(batch) for batch in labels] == [len(batch) for batch in batches]
        np.testing.assert_array_equal(np.concatenate(labels)[:, 0], y[chosen])


@pytest.mark.parametrize("name", ["x.npz", "x.h5"])
@pytest.mark.parametrize("size", [1, 7, 64])
def test_subsets_of_subsets_are_counted_among_their_own(tmp_path, name, size):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 3)), np.arange(50)
    first, second = rng.random(50) < 0.8, rng.random(50) < 0.5
    subset = open_samples(_write(tmp_path, name, x, y)).subset(first).subset(second[: first.sum()])
    expected = np.flatnonzero(first)[second[: first.sum()]]
    np.testing.assert_array_equal(np.concatenate([*subset.batches(size, dtype=np.float64)]), x[expected])
    assert np.concatenate([*subset.y.batches(size, dtype=np.float64)]).ravel().tolist() == expected.tolist()


@pytest.mark.parametrize("name", LABELLED)
def test_labels_of_subsets(tmp_path, name):
    x, chosen = np.ones((3, 2)), np.array([True, False, True])
    assert open_samples(_write(tmp_path, name, x, np.ones(4))).subset(chosen).y is None
    # Only samples have to be finite.
    labels = open_samples(_write(tmp_path, name, x, np.array([1, np.nan, 3]))).subset(chosen).y
    np.testing.assert_array_equal(np.concatenate(list(labels.batches(2, dtype=None)))[:, 0], [1, 3])


def test_subsets_refuse_nan_under_its_position_in_the_file(tmp_path):
    x = np.ones((9, 2, 3))
    x[7, 1, 0] = np.nan
    subset = open_samples(_write(tmp_path, "x.npy", x)).subset(np.arange(9) % 2 == 0)
    with pytest.raises(UserError, match=r"found nan in sample 7, column 3 "):
        list(subset.batches(2))
