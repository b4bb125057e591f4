"""Signals: of pieces comes exactly what a network that is built for the whole signal makes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.small_graphs import Draw, along_time, signal_network
from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.signals import Pieces
from repurpose_hpc.model.tiles import divisions, tileable, tiled
from repurpose_hpc.runtime.streams.joined import Joined, SignalReader

CHANNELS, OUTPUTS = 2, 3


@st.composite
def problems(draw):
    """A network for pieces, and one for a signal, with the same weights."""
    layers = []
    for _ in range(draw(st.integers(1, 3))):
        kernel, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 2))
        pads = tuple(draw(st.integers(0, (kernel - 1) * dilation)) for _ in range(2))
        layers.append((kernel, draw(st.integers(1, 2)), dilation, pads))
    axes = draw(st.sampled_from([(0, 0), (1, 0), (1, 1)]))
    length = draw(st.integers(130, 160))
    short = signal_network(length, layers, axes)
    pieces = Pieces.of(short)
    long = signal_network(length + pieces.step * draw(st.integers(0, 90)), layers, axes)
    return short, pieces, long


def outputs_of(long, x):
    """Of a network for the whole signal, (outputs, neurons)."""
    y = forward(long, x.reshape(1, -1)).reshape(long.layout(long.output_tensors[0]))
    return np.moveaxis(y, long.neuron_axes.get(long.output_tensors[0], 0), 1)


@given(problems())
@settings(max_examples=60)
def test_pieces_make_what_the_whole_makes(problem):
    short, pieces, long = problem
    x = np.random.default_rng(1).standard_normal(long.input_shape)
    expected = outputs_of(long, x)
    length = long.positions_of[long.input_tensors[0]][0]
    assert pieces.count(length) == len(expected)
    samples = pieces.samples(Samples.of(x))
    rows = forward(short, np.concatenate(list(samples.batches(7, dtype=np.float64))))
    joined, starts = Joined(pieces), pieces.starts(length).tolist()
    parts = [
        joined.add(start, output, start == starts[-1])
        for start, output in zip(starts, pieces.by_time(rows), strict=True)
    ]
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=0, atol=1e-12)


@given(problems(), st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_blocks_of_any_length_make_the_same(problem, seed):
    short, pieces, long = problem
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(long.input_shape)
    reader, found, done = SignalReader(pieces), [], 0
    cuts = np.sort(rng.integers(0, x.shape[pieces.axis] + 1, rng.integers(0, 6)))
    for block in [*np.split(x, cuts, axis=pieces.axis), None]:
        taken = reader.end() if block is None else reader.add(block)
        rows = None if taken is None else forward(short, taken.reshape(len(taken), -1))
        found.append(reader.joined(rows, block is None))
        done += 0 if block is None else block.shape[pieces.axis]
        # Outputs come with the block that completes their piece.
        there = (done - pieces.length) // pieces.advance + 1 if done >= pieces.length else 0
        if block is not None and there:
            assert sum(map(len, found)) == pieces.outputs - pieces.after + (there - 1) * (
                pieces.advance // pieces.step
            )
    np.testing.assert_allclose(np.concatenate(found), outputs_of(long, x), rtol=0, atol=1e-12)


def test_networks_by_position_have_the_same_pieces():
    short = signal_network(90, [(3, 1, 1, (1, 1)), (5, 2, 1, (2, 2)), (3, 1, 2, (2, 2))])
    shapes = [shape for shape in short.positions_of.values() if shape]
    cut = tiled(short, tileable(short), next(divisions(shapes, np.ones(3))))
    assert len(cut.operations) > len(short.operations)
    assert Pieces.of(cut) == Pieces.of(short)


def test_a_mean_over_the_whole_input_is_refused():
    draw = Draw(0)
    image = draw.builder.input("input", CHANNELS, (30,))
    mixed = draw.mixing("mix", image, OUTPUTS, along_time(30, 3, pads=(1, 1)))
    mean = draw.builder.pool("mean", mixed, "average", along_time(30, 30))
    gated = draw.builder.combine("gate", mixed, mean, "multiply")
    with pytest.raises(UserError, match="signal: expected operations that do the same .* found gate"):
        Pieces.of(draw.builder.build((gated,), ("identity",)))


def test_outputs_that_all_see_an_end_are_refused():
    with pytest.raises(UserError, match="two in a row or more see neither end of the 20 positions"):
        Pieces.of(signal_network(20, [(9, 1, 1, (4, 4)), (9, 1, 1, (4, 4)), (9, 1, 1, (4, 4))]))


@pytest.mark.parametrize("index", [np.repeat(np.arange(0, 40, 2), 2), np.arange(40).clip(1)])
def test_places_that_a_wider_window_hides_are_refused(index):
    """Pairs of outputs take one value, or the first repeats its neighbour's: no reach of the sum tells."""
    draw = Draw(0)
    signal = draw.builder.input("input", CHANNELS, (40,))
    places = draw.builder.rearrange("places", signal, index, (40,))
    wide = draw.mixing("wide", signal, OUTPUTS, along_time(40, 5, pads=(0, 4)))
    narrow = draw.mixing("narrow", places, OUTPUTS, along_time(40, 1))
    total = draw.builder.combine("sum", wide, narrow, "add")
    with pytest.raises(UserError, match="signal: expected a network that computes all its 40 outputs alike"):
        Pieces.of(draw.builder.build((total,), ("identity",)))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (CHANNELS, 59),
            "a signal of 60 positions and a multiple of 4 more, at least, found 59; take a model",
        ),
        ((CHANNELS, 62), "found 62; leave out the last 2, or add 2"),
        ((64, CHANNELS), r"a signal of shape \(2, length\), found \(64, 2\); transpose it"),
        ((3, 64), r"a signal of shape \(2, length\), found \(3, 64\)"),
        ((64,), r"a signal of shape \(2, length\), found \(64,\)"),
    ],
)
def test_signals_that_do_not_fit_are_refused(shape, message):
    pieces = Pieces.of(signal_network(60, [(3, 2, 1, (1, 1))]))
    with pytest.raises(UserError, match=message):
        pieces.samples(Samples.of(np.zeros(shape)))


def test_a_value_that_is_not_finite_is_found_where_the_file_has_it():
    x = np.zeros((CHANNELS, 64))
    x[1, 50] = np.nan
    with pytest.raises(UserError, match="found nan in sample 1, column 50"):
        Pieces.of(signal_network(60, [(3, 2, 1, (1, 1))])).samples(Samples.of(x))
