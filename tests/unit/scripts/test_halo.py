"""The traffic of spatial partitioning: against counting by hand, and position by position."""

from itertools import product

import numpy as np
import pytest
from halo import Head, WindowLayer, grids_of, halo_partition, halo_values, layers_of
from hypothesis import given
from hypothesis import strategies as st

from helpers.small_graphs import Draw, residual_network, square_window
from repurpose_hpc.model.operations import whole_map


def window(source, channels, size, out_size, kernel=3, stride=1, padding=1):
    """A square layer on a square map."""
    pairs = ((value, value) for value in (size, out_size, kernel, stride, padding))
    return WindowLayer(source, channels, *pairs)


def test_strips_exchange_the_rows_beside_each_cut():
    layer = WindowLayer("a", 5, (12, 1), (12, 1), (3, 1), padding=(1, 0))
    assert halo_values([layer], 4) == 3 * 2 * 5
    wide = WindowLayer("a", 5, (12, 1), (12, 1), (7, 1), padding=(3, 0))
    # Three rows from either side: the outer workers are at the end of the map.
    assert halo_values([wide], 4) == 3 * 2 * 3 * 5


def test_a_grid_is_taken_where_it_costs_less_and_counts_the_corners():
    partition = halo_partition([window("a", 2, 8, 8)], 4)
    assert partition.grid == (2, 2)
    assert partition.values == {"a": 4 * (4 + 4 + 1) * 2}
    assert halo_partition([window("a", 2, 8, 8)], 2).total == 2 * 8 * 2


def test_kernels_of_one_position_and_one_worker_exchange_nothing():
    assert halo_values([window("a", 64, 14, 14, kernel=1, padding=0)], 8) == 0
    assert halo_values([window("a", 64, 14, 14), Head("b", 64, (14, 14), 10)], 1) == 0


def test_the_replicated_input_costs_nothing():
    assert halo_partition([window(None, 3, 28, 28), window("a", 32, 28, 28)], 2).values == {"a": 2 * 28 * 32}


def test_the_cut_of_a_large_map_follows_the_pooled_one():
    strip = {"kernel": (2, 1), "stride": (2, 1)}
    # 28 rows over 8 workers: 3, 4, 3, 4, ... would cross windows; 4, 4, 4, 2 or the like does not.
    assert halo_values([WindowLayer("a", 32, (28, 1), (14, 1), **strip)], 8) == 0
    # 3 rows pooled from 6, over 2 workers: following the cut 1 + 2 gives 2 + 4, which is too uneven.
    assert halo_values([WindowLayer("a", 32, (6, 1), (3, 1), **strip)], 2) == 32


def test_layers_that_read_one_map_share_its_exchange():
    branch, shortcut = window("a", 32, 14, 7, stride=2), window("a", 32, 14, 7, kernel=1, stride=2, padding=0)
    assert halo_values([branch, shortcut], 4) == halo_values([branch], 4) > 0
    with pytest.raises(ValueError, match="read a disagree"):
        halo_values([branch, window("a", 16, 14, 14)], 4)


def test_rows_that_a_dilation_skips_are_not_sent():
    # Rows 0, 4 | 1, 5 are read, rows 0, 1, 2 | 3, 4, 5 owned.
    assert halo_values([WindowLayer("a", 1, (6, 1), (2, 1), (2, 1), dilation=(4, 1))], 2) == 2


def test_a_map_with_fewer_rows_than_strips_leaves_workers_idle():
    layer = WindowLayer("a", 3, (2, 1), (2, 1), (3, 1), padding=(1, 0))
    assert halo_values([layer], 8) == 2 * 3
    assert halo_values([WindowLayer("a", 3, (1, 1), (1, 1), (3, 3), padding=(1, 1))], 8) == 0


def test_the_head_adds_partial_results_or_gathers_the_map():
    assert halo_values([Head("a", 128, (4, 4), 10)], 8) == 7 * 10
    assert halo_values([Head("a", 2, (4, 4), 1000)], 8) == 2 * (16 - 2)
    assert halo_values([Head("a", 128, (2, 1), 10)], 8) == 10
    assert halo_values([Head("a", 128, (1, 1), 10)], 8) == 0


def test_a_map_that_both_a_window_and_a_head_read_is_sent_to_both():
    layers = [window("a", 2, 8, 8), Head("a", 2, (8, 8), 10)]
    assert halo_partition(layers, 2).values == {"a": 2 * 8 * 2 + 10}


@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    workers=st.integers(1, 6),
)
def test_the_count_is_that_of_the_positions_one_by_one_or_less_where_cuts_may_follow(
    sizes, kernel, stride, dilation, workers
):
    padding = tuple((taps - 1) * dilation // 2 for taps in kernel)
    out = tuple((size - 1) // stride + 1 for size in sizes)
    layer = WindowLayer("a", 2, sizes, out, kernel, (stride, stride), padding, (dilation, dilation))
    grids = grids_of(max(sizes, out, key=np.prod), workers)
    even = [2 * missing_positions(layer, owners(sizes, grid), owners(out, grid)) for grid in grids]
    found = halo_values([layer], workers)
    assert found <= min(even)
    if stride == 1:
        assert found == min(even)


def owners(shape, grid):
    """The worker that owns each position when both axes are cut evenly."""
    row, column = (
        np.searchsorted([part * size // parts for part in range(1, parts)], np.arange(size), side="right")
        for size, parts in zip(shape, grid, strict=True)
    )
    return row[:, None] * grid[1] + column


def missing_positions(layer, owner, out_owner):
    """Pairs of a worker and a position of the input that it needs and another owns."""
    pairs = set()
    for at in np.ndindex(layer.out_shape):
        for tap in product(*map(range, layer.kernel)):
            position = tuple(
                a * s - p + t * d
                for a, s, p, t, d in zip(at, layer.stride, layer.padding, tap, layer.dilation, strict=True)
            )
            inside = all(0 <= x < size for x, size in zip(position, layer.shape, strict=True))
            if inside and owner[position] != out_owner[at]:
                pairs.add((out_owner[at], position))
    return len(pairs)


def test_layers_of_a_network():
    assert layers_of(residual_network()) == [
        WindowLayer(None, 2, (6, 5), (6, 5), (3, 3), padding=(1, 1)),
        WindowLayer("a0.y", 4, (6, 5), (6, 5), (3, 3), padding=(1, 1)),
        WindowLayer("a1.y", 4, (6, 5), (6, 5), (3, 3), padding=(2, 2), dilation=(2, 2)),
        WindowLayer("a2.y", 4, (6, 5), (3, 3), (3, 3), (2, 2), (1, 1)),
        WindowLayer("p.y", 4, (3, 3), (2, 2), (2, 2)),
        Head("a3.y", 3, (2, 2), 3),
    ]


def test_a_dense_layer_behind_a_global_average_may_be_the_smaller_partial_result():
    draw = Draw(0)
    maps = draw.mixing("c", draw.builder.input("input", 1, (8,)), 12, square_window((8,)))
    means = draw.builder.pool("mean", maps, "average", whole_map((8,)))
    network = draw.builder.build((draw.mixing("last", means, 5),), ("identity",))
    assert layers_of(network)[-1] == Head("c.y", 12, (8, 1), 5)
