"""Operations on some neurons: they compute and differentiate the rows of the whole operation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.example_operations import NETWORKS, example
from helpers.small_plans import random_plan
from repurpose_hpc.model.forward import trace
from repurpose_hpc.model.operations import OPERATIONS, Mixing, Rows, Select
from repurpose_hpc.plan.shard import local_neurons

each_local_operation = pytest.mark.parametrize("kind", [name for name in OPERATIONS if name != "Mixing"])


def check(network, own):
    """All operations but mixings, on the rows of workers: worker -> space -> its neurons."""
    rng = np.random.default_rng(0)
    tensors = trace(network, rng.standard_normal((network.inputs, 3)))

    def rows_of(tensor):
        neurons = [held[network.space_of[tensor]] for held in own.values()]
        workers = np.repeat(list(own), [each.size for each in neurons])
        return Rows(np.concatenate(neurons), workers, network.space(tensor).neurons)

    for op in network.operations:
        if isinstance(op, Mixing):
            continue
        target, *sources = (rows_of(tensor) for tensor in (op.target, *op.sources))
        part = op.restricted(target, *sources)
        assert type(part) is type(op)
        whole = [tensors[source] for source in op.sources]
        given_rows = [x[rows.neurons] for x, rows in zip(whole, sources, strict=True)]
        y = part.compute(*given_rows)
        np.testing.assert_array_equal(y, tensors[op.target][target.neurons], err_msg=op.name)
        g = rng.standard_normal(tensors[op.target].shape)
        products = part.vjp(g[target.neurons], y, *given_rows)
        expected = op.vjp(g, tensors[op.target], *whole)
        for product, by_source, rows in zip(products, expected, sources, strict=True):
            np.testing.assert_allclose(product, by_source[rows.neurons], rtol=1e-12, atol=1e-12)


@given(
    st.sampled_from(list(NETWORKS)),
    st.integers(1, 6),
    st.sampled_from(["replicated", "partitioned"]),
    st.integers(0, 99),
    st.data(),
)
def test_rows_are_those_of_the_whole(name, workers, placement, seed, data):
    network = NETWORKS[name]()
    plan = random_plan(network, workers, placement, seed)
    hosted = data.draw(st.sets(st.integers(0, workers - 1), min_size=1))
    check(network, {worker: local_neurons(network, plan, worker) for worker in sorted(hosted)})


@each_local_operation
def test_it_works_on_some_rows_and_on_none(kind):
    """The last of three workers owns nothing, and is alone on a rank in the second case."""
    network, _ = example(kind)
    half = {space.name: np.arange(space.neurons) % 2 for space in network.free_spaces}
    owners = network.derive(half)
    own = {
        worker: {name: np.flatnonzero(owner == worker) for name, owner in owners.items()}
        for worker in range(3)
    }
    check(network, own)
    check(network, {2: own[2]})


@each_local_operation
def test_none_are_given_in_the_dtype_and_shape_of_sources(kind):
    network, op = example(kind)
    tensors = trace(network, np.zeros((network.inputs, 3)))

    def none_of(tensor):
        return Rows(np.zeros(0, np.int64), np.zeros(0, np.int64), network.space(tensor).neurons)

    part = op.restricted(*map(none_of, (op.target, *op.sources)))
    sources = [tensors[source][:0].astype(np.float32) for source in op.sources]
    y = part.compute(*sources)
    assert (y.shape, y.dtype) == (tensors[op.target][:0].shape, np.float32)
    products = part.vjp(y, y, *sources)
    assert [(each.shape, each.dtype) for each in products] == [(x.shape, x.dtype) for x in sources]


def test_a_worker_selects_its_own_copies():
    op = Select("op", ("a", "b"), "y", np.array([4, 0, 2]))
    zero, one = np.zeros(2, np.int64), np.ones(2, np.int64)
    a = Rows(np.array([0, 2, 0, 2]), np.concatenate([zero, one]), 3)
    b = Rows(np.array([1, 0]), np.array([0, 1]), 2)
    target = Rows(np.array([0, 1, 1, 2]), np.array([0, 0, 1, 1]), 3)
    assert op.restricted(target, a, b).index.tolist() == [4, 0, 2, 3]
    missing = Rows(np.array([0]), np.array([1]), 3)
    with pytest.raises(ValueError, match="all neurons that they select"):
        op.restricted(missing, a, b)


def test_a_mixing_is_not_cut_so():
    network, op = example("Mixing")
    rows = Rows(np.arange(2), np.zeros(2, np.int64), 2)
    with pytest.raises(TypeError, match="block of a shard"):
        op.restricted(rows, rows)
