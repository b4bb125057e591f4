"""What ``y`` means for a network, rule by rule, and what is counted then."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from helpers.small_graphs import Draw, square_window
from repurpose_hpc.io.meaning import CLASSES, LEFT_ALONE, MULTILABEL, TARGETS
from repurpose_hpc.io.samples import Samples, open_samples
from repurpose_hpc.model import labels
from repurpose_hpc.model.activations import IDENTITY, RELU, Activation
from repurpose_hpc.model.chain import chain
from repurpose_hpc.model.labels import thresholds, understood
from repurpose_hpc.model.operations import whole_map
from repurpose_hpc.model.quality import Accuracy, LabelRows, TargetError, decisions, quality_of

SIGMOID = Activation("sigmoid")
N = 6


def network(outputs=3, end=IDENTITY, head="identity"):
    """A dense layer onto so many outputs."""
    rng = np.random.default_rng(outputs)
    return chain([rng.normal(size=(outputs, 4))], [rng.normal(size=outputs)], [end], head)


def two_outputs(head="softmax"):
    """Maps of 3 neurons at 4 positions each, and a vector of 2 values."""
    draw = Draw(0)
    maps = draw.mixing("conv", draw.builder.input("input", 1, (2, 2)), 3, square_window((2, 2)))
    classes = draw.mixing("dense", maps, 2, whole_map((2, 2)))
    return draw.builder.build((maps, classes), ("identity", head))


def samples_of(y, count=N, width=4):
    """Samples with ``y`` beside them."""
    return Samples.of(np.ones((count, width)), y)


def kind(net, y):
    """The meaning of ``y``."""
    return understood(net, samples_of(y)).meaning.kind


NUMBERS = np.array([0, 2, 1, 1, 0, 2])
ONE_HOT = np.eye(3)[NUMBERS]
SOFT = np.full((N, 3), 0.1) + 0.7 * ONE_HOT
MANY = np.array([[0, 1, 1]] * N)
REAL = np.random.default_rng(0).normal(size=(N, 3))
ZERO_ONE = NUMBERS % 2


@pytest.mark.parametrize(
    ("net", "y", "expected"),
    [
        *((network(), y, CLASSES) for y in (NUMBERS, NUMBERS.astype(float), NUMBERS[:, None], ZERO_ONE == 1)),
        *((network(head="softmax"), y, CLASSES) for y in (NUMBERS, ONE_HOT, ONE_HOT.astype(int), SOFT)),
        *((network(), y, CLASSES) for y in (ONE_HOT, SOFT.astype(np.float16))),
        *((network(end=SIGMOID), y, meaning) for y, meaning in ((ONE_HOT, CLASSES), (SOFT, TARGETS))),
        *((network(end=end), MANY, MULTILABEL) for end in (SIGMOID, IDENTITY)),
        *((net, MANY, TARGETS) for net in (network(head="softmax"), network(end=RELU))),
        *((net, REAL, TARGETS) for net in (network(), network(end=SIGMOID), network(head="log_softmax"))),
        (network(), REAL[:, :, None], TARGETS),
        *((network(1, end), y, CLASSES) for end in (IDENTITY, SIGMOID) for y in (ZERO_ONE, ZERO_ONE * 1.0)),
        *((network(1), y, TARGETS) for y in (NUMBERS, NUMBERS.astype(float), REAL[:, 0], REAL[:, :1])),
        (network(1, RELU), ZERO_ONE, TARGETS),
        (network(1, head="softmax"), ZERO_ONE, TARGETS),
        *((network(), y, LEFT_ALONE) for y in (NUMBERS + 1, NUMBERS - 1, REAL[:, 0], REAL[:, :2])),
        *((network(), y, LEFT_ALONE) for y in (["a"] * N, [None] * N, 1j * REAL, np.zeros((N, 0)))),
        *((network(), y, LEFT_ALONE) for y in (np.where(REAL > 1, np.nan, REAL), np.full(N, np.inf))),
    ],
)
def test_meaning(net, y, expected):
    assert kind(net, y) == expected


@pytest.mark.parametrize(
    ("y", "reason"),
    [
        (NUMBERS + 1, "labels from 1 to 3, expected 0 to 2 as the network has 3 outputs"),
        (REAL[:, :2], "2 values for each sample, where the network has 3 outputs"),
        (REAL[:, 0], "no integer"),
        (["a"] * N, "<U1"),
        (np.full(N, np.nan), "NaN"),
    ],
)
def test_what_is_left_alone_says_why(y, reason):
    meaning = understood(network(), samples_of(y)).meaning
    assert reason in meaning.note and meaning.line.startswith("left alone: ")
    assert quality_of(network(), understood(network(), samples_of(y))) is None


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        (np.random.default_rng(1).normal(size=(N, 14)), TARGETS),
        (NUMBERS % 2, LEFT_ALONE),
        (np.zeros((N, 3, 2, 2)), LEFT_ALONE),
        (np.zeros((N, 14)), MULTILABEL),
    ],
)
def test_several_outputs(y, expected):
    assert understood(two_outputs("identity"), samples_of(y)).meaning.kind == expected


def test_labels_of_several_outputs_with_a_softmax_are_targets():
    assert understood(two_outputs(), samples_of(np.zeros((N, 14)))).meaning.kind == TARGETS


def test_another_number_of_rows_is_left_alone(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.ones((N, 4)), y=NUMBERS[:-1])
    meaning = understood(network(), open_samples(tmp_path / "x.npz")).meaning
    assert meaning.kind == LEFT_ALONE and "5 rows beside 6 samples" in meaning.note


def test_what_cannot_fit_is_not_read():
    def read(_):
        raise AssertionError("was read")

    samples = samples_of(np.zeros((N, 100, 100)))
    object.__setattr__(samples.y, "_reader", read)
    assert understood(network(), samples).meaning.kind == LEFT_ALONE


def test_a_part_is_understood_as_the_whole(monkeypatch):
    # The part has zeros and ones only, the whole has not.
    whole = understood(network(1), samples_of(np.array([0, 1, 0, 1, 0, 2])))
    part = understood(network(1), whole.subset(np.arange(N) < 5))
    assert part.meaning == whole.meaning and part.meaning.kind == TARGETS
    monkeypatch.setattr(labels, "ROWS", 2)
    assert understood(network(1), samples_of(np.array([0, 1, 0, 1, 0, 2]))).meaning == whole.meaning


@given(
    outputs=st.integers(1, 4),
    end=st.sampled_from([IDENTITY, SIGMOID, RELU]),
    head=st.sampled_from(["identity", "softmax"]),
    data=st.data(),
)
def test_every_y_has_one_meaning_whatever_its_type(outputs, end, head, data):
    """Types that hold the same numbers mean the same, and what has a meaning can be counted."""
    shape = data.draw(st.sampled_from([(N,), (N, 1), (N, outputs), (N, outputs, 1), (N, 5)]))
    y = data.draw(arrays.arrays(np.int64, shape, elements=st.integers(-1, 4)))
    net = network(outputs, IDENTITY if head == "softmax" else end, head)
    found = {understood(net, samples_of(y.astype(dtype))).meaning for dtype in ("i8", "f2", "f8")}
    assert len(found) == 1
    samples = understood(net, samples_of(y))
    quality = quality_of(net, samples)
    assert (quality is None) == (samples.meaning.kind == LEFT_ALONE)
    if quality is not None:
        quality.add(np.zeros((N, outputs)), LabelRows(samples.y).take(N))
        assert all(value is None or np.isfinite(value) for value in quality.findings().values())


@pytest.mark.parametrize(
    ("end", "level"), [(IDENTITY, 0), (SIGMOID, 0.5), (Activation("hard_sigmoid", 0.2, 0.5), 0.5)]
)
def test_threshold_behind_the_last_activation(end, level):
    np.testing.assert_array_equal(thresholds(network(2, end)), [level] * 2)
    samples = understood(network(2, end), samples_of([[1, 1], [0, 0]] * 3))
    decide = decisions(network(2, end), samples)
    np.testing.assert_array_equal(decide(np.array([[level, level + 0.1]])), [[False, True]])


def test_threshold_looks_through_what_moves_values():
    draw = Draw(1)
    builder, window = draw.builder, square_window((2, 2))
    maps = draw.mixing("conv", builder.input("input", 1, (2, 2)), 3, window)
    maps = builder.pool("p", builder.elementwise("a", maps, SIGMOID), "average", whole_map((2, 2)))
    vector = builder.select("s", (maps,), np.array([2, 0]))
    assert (thresholds(builder.build((vector,), ("identity",))) == 0.5).all()


@pytest.mark.parametrize(("first", "level"), [(SIGMOID, None), (IDENTITY, 0.0)])
def test_what_is_scaled_is_no_probability(first, level):
    draw = Draw(1)
    logits = draw.mixing("dense", draw.builder.input("input", 4), 2)
    end = draw.builder.elementwise("e", logits, first)
    scaled = draw.builder.affine("a", end, np.full((2, 1), 9.0), np.ones((2, 1)))
    found = thresholds(draw.builder.build((scaled,), ("identity",)))
    assert found is None if level is None else (found == level).all()


@given(
    z=arrays.arrays(float, (N, 3), elements=st.floats(-2, 2)),
    y=arrays.arrays(np.int64, (N, 3), elements=st.integers(0, 1)),
    cut=st.integers(1, N - 1),
)
def test_accuracy_of_labels_is_the_mean_over_labels(z, y, cut):
    y[0] = 1  # not one-hot
    net = network(3)
    accuracy = Accuracy(net, understood(net, samples_of(y)))
    each_label = [np.mean((z[:, label] > 0) == y[:, label]) for label in range(3)]
    right = [accuracy.add(z[part], y[part]) for part in (slice(cut), slice(cut, None))]
    np.testing.assert_array_equal(np.concatenate(right), (z > 0) == y)
    assert accuracy.findings()["accuracy"] == pytest.approx(np.mean(each_label))


@pytest.mark.parametrize("y", [NUMBERS, NUMBERS * 1.0, ONE_HOT, SOFT])
def test_accuracy_of_classes_however_they_are_written(y):
    net = network(3)
    samples = understood(net, samples_of(y))
    accuracy = Accuracy(net, samples)
    accuracy.add(REAL, LabelRows(samples.y).take(N))
    assert accuracy.findings()["accuracy"] == np.mean(REAL.argmax(axis=1) == NUMBERS)


@given(
    st.integers(2, 40),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1e6]),
    st.integers(1, 5),
)
def test_error_of_targets(count, outputs, seed, offset, batch):
    rng = np.random.default_rng(seed)
    y = offset + rng.normal(size=(count, outputs))
    z = y + 0.3 * rng.normal(size=y.shape)
    error = TargetError(network(outputs))
    for first in range(0, count, batch):
        error.add(z[first : first + batch], y[first : first + batch])
    found = error.findings()
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((z - y) ** 2)))
    assert found["r2"] == pytest.approx(
        1 - np.sum((z - y) ** 2) / np.sum((y - y.mean(axis=0)) ** 2), abs=1e-6
    )


def test_targets_that_do_not_vary_have_no_r2():
    error = TargetError(network(1))
    error.add(np.zeros((3, 1)), np.full((3, 1), 0.1))
    assert error.findings() == {"rmse": pytest.approx(0.1), "r2": None}


@pytest.mark.parametrize(
    ("y", "z", "doubt"),
    [
        (np.ones(N, int), REAL, "all labels are the same"),
        (np.ones((N, 3)), REAL, "all labels are the same"),
        (NUMBERS, np.eye(3)[(NUMBERS + 1) % 3], "does not predict these labels"),
        (NUMBERS, ONE_HOT, None),
        (MANY * [[1], [0], [1], [0], [1], [0]], MANY * 1.0, "does not predict these labels"),
        (MANY * [[1], [0], [1], [0], [1], [0]], MANY * [[1], [-1], [1], [-1], [1], [-1]] * 1.0, None),
    ],
)
def test_doubts(y, z, doubt):
    net = network(3)
    samples = understood(net, samples_of(y))
    accuracy = Accuracy(net, samples)
    accuracy.add(z, LabelRows(samples.y).take(N))
    doubts = accuracy.doubts()
    assert len(doubts) == (doubt is not None) and all(doubt in text for text in doubts)


def test_rows_are_handed_out_in_any_sizes(monkeypatch):
    monkeypatch.setattr("repurpose_hpc.model.quality.ROWS", 4)
    y = np.arange(20).reshape(10, 2)
    rows = LabelRows(samples_of(y, count=10).y)
    taken = [rows.take(count) for count in (1, 5, 0, 3, 1)]
    assert [len(part) for part in taken] == [1, 5, 0, 3, 1]
    np.testing.assert_array_equal(np.concatenate(taken), y)
