"""Networks that are shared out by position: the same outputs, exactly the halos that windows see."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helpers.covering import covering
from helpers.small_graphs import (
    Draw,
    branching_network,
    convolutional_network,
    filtered_network,
    normalised_network,
    residual_network,
    square_window,
)
from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.operations import Depthwise, Mixing, Pool, Stitch, Window, whole_map
from repurpose_hpc.model.tiles import (
    Division,
    divisions,
    halo_values,
    most_multiply_adds,
    tileable,
    tiled,
    tiles_of,
)
from repurpose_hpc.model.tiles.halos import needs_of
from repurpose_hpc.model.tiles.rectangles import area, common, places, whole
from repurpose_hpc.plan.plan import PLACEMENTS, REPLICATED, dense_plan

NETWORKS = {
    make.__name__: make()
    for make in (
        branching_network,
        convolutional_network,
        filtered_network,
        normalised_network,
        residual_network,
    )
}


def division_of(network, workers, shares=None):
    """The first of the divisions of all maps."""
    shapes = [shape for shape in network.positions_of.values() if shape]
    return next(divisions(shapes, np.ones(workers) if shares is None else np.array(shares, float)))


def assert_same(network, other):
    x = np.random.default_rng(0).standard_normal((4, network.inputs))
    expected = forward(network, x)
    scale = max(1, np.abs(expected).max())
    np.testing.assert_allclose(forward(other, x), expected, rtol=0, atol=1e-12 * scale)


@pytest.mark.parametrize(("name", "workers"), covering(NETWORKS, (1, 2, 3, 4, 8)))
def test_outputs_stay_the_same_however_many_layers(name, workers):
    network = NETWORKS[name]
    for layers in range(1, tileable(network) + 1):
        assert_same(network, tiled(network, layers, division_of(network, workers)))


@pytest.mark.parametrize(("name", "workers"), covering(NETWORKS, (2, 3, 4)))
def test_halos_that_all_compute_are_not_sent(name, workers):
    """Less and less is sent, more and more computed; what is computed is one rectangle that has the tile."""
    network, division = NETWORKS[name], division_of(NETWORKS[name], workers)
    layers, sent, work = tileable(NETWORKS[name]), [], []
    for repeated in range(layers):
        tiles = tiles_of(network, layers, division, repeated)
        sent.append(halo_values(network, tiles))
        work.append(most_multiply_adds(network, tiles))
        assert_same(network, tiled(network, layers, division, repeated))
        for tensor, own in tiles.own.items():
            for tile, computed in zip(own, tiles.computed[tensor], strict=True):
                assert (tile is None) == (computed is None)
                assert tile is None or common(computed, tile) == tile
    assert sent == sorted(sent, reverse=True) and work == sorted(work)


@pytest.mark.parametrize("shares", [(1, 3, 2), (0, 1, 1), (1, 0, 0, 5)])
def test_unequal_workers_have_unequal_strips(shares):
    network = NETWORKS["residual_network"]
    division = division_of(network, len(shares), shares)
    heights = [0 if each is None else each[0][1] - each[0][0] for each in division.rectangles((6, 5))]
    exact = 6 * np.array(shares) / sum(shares)
    assert sum(heights) == 6 and np.abs(heights - exact).max() <= 1
    assert_same(network, tiled(network, 3, division))


@st.composite
def windowed(draw):
    """A network of a window of any geometry over maps of any size, and a number of workers."""
    axes = draw(st.integers(1, 2))
    size = tuple(draw(st.integers(1, 9)) for _ in range(axes))
    sizes = [draw(st.tuples(*[st.integers(1, most)] * axes)) for most in (4, 3, 3)]
    kernel, strides, dilations = sizes
    pads = draw(st.tuples(*[st.integers(0, 3)] * axes))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    behind = draw(st.tuples(*[st.integers(0, 3)] * axes))
    padded = zip(size, pads, behind, reach, strides, strict=True)
    out = tuple(max(1, (n + front + back - seen) // step + 1) for n, front, back, seen, step in padded)
    window = Window(size, kernel, strides, dilations, pads, out)
    kind = draw(st.sampled_from(["convolution", "depthwise", "average"]))
    made = Draw(draw(st.integers(0, 99)))
    first = made.mixing("first", made.builder.input("input", 2, size), 3, square_window(size, 1, pad=0))
    if kind == "convolution":
        second = made.mixing("second", first, 2, window)
    elif kind == "depthwise":
        second = made.depthwise("second", first, window)
    else:
        extent = tuple(n + front + 1 for n, front in zip(size, pads, strict=True))
        second = made.builder.pool("second", first, "average", window, True, extent)
        assume(made.builder.operations[-1].counts().all())
    return made.builder.build((second,), ("identity",)), draw(st.integers(1, 5))


@given(case=windowed())
@settings(max_examples=150)
def test_windows_of_any_geometry(case):
    network, workers = case
    if not any(network.positions_of.values()):
        return
    for division in list(divisions([s for s in network.positions_of.values() if s], np.ones(workers)))[:3]:
        assert_same(network, tiled(network, tileable(network), division))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_worker_needs_what_its_windows_see(name):
    """Beside the positions that windows say, one by one; and what is moved is what is needed."""
    network = NETWORKS[name]
    division = division_of(network, 4)
    tiles = tiles_of(network, tileable(network), division)
    own = tiles.own
    seen: dict[tuple[str, int], set[int]] = {}
    for op in network.operations:
        if op.target not in own or not isinstance(op, Mixing | Pool | Depthwise) or op.source not in own:
            continue
        for worker, tile in enumerate(own[op.target]):
            if tile is not None:
                entries = op.window.indices()[places(tile, network.positions_of[op.target])]
                seen.setdefault((op.source, worker), set()).update(entries[entries >= 0].tolist())
    for (tensor, worker), need in needs_of(network, tiles).items():
        inside = set(places(need, network.positions_of[tensor]).tolist())
        assert seen[tensor, worker] <= inside
        axes = np.unravel_index(sorted(seen[tensor, worker]), network.positions_of[tensor])
        assert need == tuple((int(axis.min()), int(axis.max()) + 1) for axis in axes)
    cut = tiled(network, tileable(network), division)
    plan = dense_plan(cut, 4, REPLICATED, np.ones(4))
    halos = [m for m in cut.mixings if "@to" in m.name and {*cut.parts(m.source)} <= {*cut.tile_owners}]
    moved = sum(plan.mixings[m.name].ghosts.sum() * cut.values(m.source) for m in halos)
    assert moved == halo_values(network, tiles)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_dense_exchange_counts_as_before(name, placement):
    network = NETWORKS[name]

    def dense(network):
        plan = dense_plan(network, 3, placement, np.ones(3))
        return sum(plan.dense_values(network, mixing) for mixing in network.mixings)

    for layers in range(1, tileable(network) + 1):
        cut = tiled(network, layers, division_of(network, 3), 0, placement != REPLICATED)
        assert dense(cut) == dense(network)


def test_tiles_are_of_one_worker_and_share_the_weights():
    network = NETWORKS["residual_network"]
    cut = tiled(network, 2, division_of(network, 3))
    given = {mixing.name: mixing for mixing in network.mixings}
    parts = [mixing for mixing in cut.mixings if mixing.name.startswith("c1@")]
    assert len(parts) == 3 and all(part.fixed for part in parts)
    assert all(part.weights is given["c1"].weights for part in parts)
    assert len({id(mixing.weights) for mixing in cut.astype(np.float32).mixings if "c1@" in mixing.name}) == 1
    assert cut.weight_count == network.weight_count
    owners = {cut.tile_owners[cut.space_of[part.target]] for part in parts}
    assert owners == {0, 1, 2}
    binary = replace(network, has_binary_inputs=True)
    assert tiled(binary, 2, division_of(network, 3)).has_binary_inputs and not cut.has_binary_inputs


def test_a_division_is_made_again_of_its_record():
    division = division_of(NETWORKS["residual_network"], 6)
    again = Division.of(division.record())
    assert (again.workers, again.cuts) == (division.workers, division.cuts)


def test_smaller_maps_are_cut_where_windows_of_larger_ones_fall():
    """A pool of 2 x 2 over 14 positions in 3 parts: cuts at 4 and 10 rather than 5 and 9."""
    found = [division.cuts[0] for division in divisions([(14,), (7,)], np.ones(3))]
    assert {14: (0, 4, 10, 14), 7: (0, 2, 5, 7)} in found and {14: (0, 5, 9, 14), 7: (0, 2, 5, 7)} in found


def test_networks_without_maps_stay_as_they_are():
    draw = Draw(0)
    network = draw.builder.build((draw.mixing("a", draw.builder.input("input", 4), 3),), ("identity",))
    assert tileable(network) == 0


def test_the_mean_over_a_map_is_a_sum_over_tiles():
    """Nobody is sent the map."""
    draw = Draw(1)
    tensor = draw.mixing("c", draw.builder.input("input", 2, (6, 6)), 5, square_window((6, 6)))
    pooled = draw.builder.pool("mean", tensor, "average", whole_map((6, 6)))
    network = draw.builder.build((draw.mixing("last", pooled, 3),), ("identity",))
    cut = tiled(network, 1, division_of(network, 4))
    assert_same(network, cut)
    assert not any(isinstance(op, Stitch) and op.target.startswith("c.") for op in cut.operations)
    plan = dense_plan(cut, 4, REPLICATED, np.ones(4))
    (mean,) = [mixing for mixing in cut.mixings if mixing.name == "mean"]
    assert plan.values_sent(cut, mean) == 5 * 3


def test_nothing_is_cut_out_for_strides_that_pass_over_the_end():
    """Of 4 rows and 6 columns the windows see 3 and 5: they are over the tile as it is."""
    draw = Draw(2)
    tensor = draw.mixing("a", draw.builder.input("input", 2, (8, 6)), 3, square_window((8, 6), 1, pad=0))
    tensor = draw.mixing("b", tensor, 4, square_window((8, 6), 1, 2, pad=0))
    network = draw.builder.build((tensor,), ("identity",))
    cut = tiled(network, 2, Division(2, ({8: (0, 4, 8), 4: (0, 2, 4)},)))
    assert_same(network, cut)
    assert {mixing.source for mixing in cut.mixings if mixing.name.startswith("b@")} == {"a.y@0", "a.y@1"}


def test_normalisations_of_single_maps_are_sums_over_tiles():
    """Mean and variance of every map: two vectors are summed up and sent to all tiles, no map is."""
    draw, size = Draw(3), (6, 5)
    builder = draw.builder
    tensor = draw.mixing("a", builder.input("input", 2, size), 4, square_window(size))
    mean = builder.pool("mean", tensor, "average", whole_map(size))
    centred = builder.combine("centred", tensor, mean, "subtract")
    squares = builder.elementwise("squares", centred, Activation("square"))
    variance = builder.pool("variance", squares, "average", whole_map(size))
    factor = builder.elementwise("factor", variance, Activation("power", -0.5))
    tensor = builder.combine("normalised", centred, factor, "multiply")
    network = builder.build((draw.mixing("b", tensor, 3, square_window(size)),), ("identity",))
    division = division_of(network, 4)
    cut, tiles = tiled(network, 2, division), tiles_of(network, 2, division)
    assert_same(network, cut)
    assert {"centred.y", "normalised.y", "b.y"} <= {*tiles.own}
    plan = dense_plan(cut, 4, REPLICATED, np.ones(4))
    sent = {mixing.name: plan.values_sent(cut, mixing) for mixing in cut.mixings}
    vectors = [values for name, values in sent.items() if name.startswith(("mean", "variance", "factor"))]
    assert sum(vectors) == 4 * 4 * 3  # two sums from three tiles, two vectors to three


def test_areas_and_places():
    rectangle = ((1, 3), (0, 2))
    assert area(rectangle) == 4 and common(rectangle, ((2, 5), (1, 9))) == ((2, 3), (1, 2))
    assert common(rectangle, ((3, 5), (0, 2))) is None and common(rectangle, None) is None
    np.testing.assert_array_equal(places(rectangle, (4, 5)), [5, 6, 10, 11])
    np.testing.assert_array_equal(places(((2, 3), (1, 2)), (2, 2), rectangle), [3])
    assert whole((4, 5)) == ((0, 4), (0, 5))


def test_names_with_marks_are_kept_apart():
    network = NETWORKS["filtered_network"]
    renamed = replace(
        network,
        operations=tuple(replace(op, name=f"{op.name}@0") for op in network.operations),
    )
    assert_same(network, tiled(renamed, 2, division_of(renamed, 2)))
