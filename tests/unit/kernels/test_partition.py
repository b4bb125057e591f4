"""The kernels of partitions: what they keep together stays together, and what they return is the cost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from repurpose_hpc.kernels import exchange_owners, grow_owners, set_owners
from repurpose_hpc.kernels.arguments import DOUBLE, INTEGERS, Array, Arrays, Types
from repurpose_hpc.kernels.assignment.hypergraph import NOBODY, Hypergraph, Partition

WORKERS = 3
seeds = st.integers(0, 2**32 - 1)


def random_graph(seed):
    """A hypergraph, its pins as a matrix, and a partition in which nobody owns anything."""
    rng = np.random.default_rng(seed)
    vertices, nets = rng.integers(1, 20), rng.integers(1, 15)
    pins = rng.random((nets, vertices)) < 0.3
    by_net, by_vertex = csr_array(pins), csr_array(pins.T)
    graph = Hypergraph(
        by_net.indptr.astype(np.int64),
        by_net.indices.astype(np.uint32),
        by_vertex.indptr.astype(np.int64),
        by_vertex.indices.astype(np.uint32),
        rng.integers(1, 5, nets).astype(float),
        2 * np.arange(vertices + 1),
        np.tile(np.array([0, 1], np.uint32), vertices),
        np.stack([np.ones(vertices), rng.integers(1, 4, vertices)], axis=1).ravel(),
    )
    seats = -(-vertices // WORKERS) * np.ones(WORKERS)
    loads = graph.loads[1::2].sum() / WORKERS + graph.loads.max()
    room = np.stack([seats, np.full(WORKERS, loads)])
    state = Partition(np.full(vertices, NOBODY), np.zeros((nets, WORKERS), np.uint32), room.copy())
    return graph, pins, state, room


def cost(graph, pins, state):
    """Weight of the workers of every net, those of none being none."""
    reached = [pins[:, state.owner == q].any(axis=1) for q in range(WORKERS)]
    return float(np.sum(reached, axis=0) @ graph.weights)


def check(graph, pins, state, room):
    """Counts and rooms are those of the owners."""
    for q in range(WORKERS):
        owned = state.owner == q
        np.testing.assert_array_equal(state.counts[:, q], pins[:, owned].sum(axis=1))
        np.testing.assert_allclose(state.room[0, q], room[0, q] - owned.sum())
        np.testing.assert_allclose(state.room[1, q], room[1, q] - graph.loads[1::2][owned].sum())


@given(seed=seeds)
def test_counts_rooms_and_costs_are_those_of_the_owners(seed):
    graph, pins, state, room = random_graph(seed)
    rng = np.random.default_rng(seed)
    members, numbers = rng.permutation(state.owner.size), np.full(state.owner.size, NOBODY)
    some = members[: members.size // 3]
    total = set_owners(graph, state, some, rng.integers(NOBODY, WORKERS, some.size))
    check(graph, pins, state, room)
    assert total == cost(graph, pins, state)
    total += set_owners(graph, state, some, np.full(some.size, NOBODY))
    assert total == 0 and (state.owner == NOBODY).all()
    total += grow_owners(graph, state, members, np.ones(WORKERS, np.int64), numbers)
    check(graph, pins, state, room)
    assert total == cost(graph, pins, state)
    assert (state.room[0] >= 0).all() and (state.owner >= 0).all() and (numbers == NOBODY).all()
    np.maximum(state.room, 0, out=state.room)
    seats = np.bincount(state.owner, minlength=WORKERS) + state.room[0]
    fallen = exchange_owners(graph, state, members)
    assert fallen >= 0 and total - fallen == cost(graph, pins, state)
    assert (state.room >= 0).all()
    np.testing.assert_array_equal(np.bincount(state.owner, minlength=WORKERS) + state.room[0], seats)


def test_vertices_grow_only_where_they_may():
    graph, _, state, _ = random_graph(1)
    state.room[:] = 99
    members, numbers = np.arange(state.owner.size), np.full(state.owner.size, NOBODY)
    grow_owners(graph, state, members, np.array([0, 1, 0]), numbers)
    assert (state.owner == 1).all()


def test_named_tuples_of_arrays_are_arguments_of_direct_calls_alone():
    kind = Arrays(
        Partition, {"owner": Array(INTEGERS, 1), "counts": Array(INTEGERS, 2), "room": Array(DOUBLE, 2)}
    )
    state = Partition(np.zeros(2, np.int64), np.zeros((3, 1), np.int64), np.zeros((1, 1)))
    types = Types(np.dtype(np.float32), np.dtype(np.float32))
    assert "called directly" in kind.problem(state, types)
    assert len(list(kind.packed(state))) == kind.slots == 8
    assert kind.compiled(types)[0].instance_class is Partition
    with pytest.raises(TypeError, match="called directly"):
        kind.source(0)
