"""Every operation has an entry wherever one is needed."""

from dataclasses import dataclass, fields, is_dataclass, replace

import h5py
import numpy as np
import pytest

import repurpose_hpc.model.operations as package
from helpers.example_operations import EXAMPLES, example
from helpers.small_graphs import TANH
from repurpose_hpc.forecast.demand import plan_demand
from repurpose_hpc.kernels import COMBINATION_CODES
from repurpose_hpc.model.activations import IDENTITY
from repurpose_hpc.model.backward import backpropagate
from repurpose_hpc.model.bound import OutputBound
from repurpose_hpc.model.chain import chain
from repurpose_hpc.model.forward import forward, trace
from repurpose_hpc.model.operations import (
    COMBINATIONS,
    OPERATIONS,
    Cost,
    Elementwise,
    Mixing,
    OneSource,
    Operation,
)
from repurpose_hpc.model.spec import check
from repurpose_hpc.plan.files.graph import read_graph, write_graph
from repurpose_hpc.plan.plan import single_worker_plan
from repurpose_hpc.runtime.lowering.local import LOWERINGS

each_operation = pytest.mark.parametrize("kind", OPERATIONS.values(), ids=list(OPERATIONS))


def test_every_operation_is_registered_and_exported():
    assert set(OPERATIONS) == set(EXAMPLES)
    for name, kind in OPERATIONS.items():
        assert getattr(package, name) is kind
        assert is_dataclass(kind) and issubclass(kind, Operation)


@each_operation
def test_it_is_lowered(kind):
    """A mixing is a step of its own, because it exchanges."""
    assert (kind in LOWERINGS) is (kind is not Mixing)


@each_operation
def test_it_can_be_stored(kind, tmp_path):
    network, op = example(kind.__name__)
    with h5py.File(tmp_path / "graph.h5", "w") as file:
        write_graph(file, network)
        read = read_graph(file)
    assert read.fingerprint() == network.fingerprint()
    again = next(each for each in read.operations if each.name == "op")
    assert type(again) is kind
    for field in fields(op):
        np.testing.assert_equal(getattr(again, field.name), getattr(op, field.name))


@each_operation
def test_it_computes_and_differentiates_what_its_shapes_say(kind):
    network, op = example(kind.__name__)
    tensors = trace(network, np.random.default_rng(0).normal(size=(24, 5)))
    target, sources = tensors[op.target], [tensors[source] for source in op.sources]
    for name, tensor in tensors.items():
        shape = network.shape(name)
        assert tensor.shape == (shape.neurons, 5, *((shape.values,) if shape.positions else ()))
    products = op.vjp(np.ones_like(target), target, *sources)
    assert [product.shape for product in products] == [source.shape for source in sources]
    single = [source.astype(np.float32) for source in sources]
    assert op.compute(*single).dtype == np.float32


@each_operation
def test_its_products_are_those_of_finite_differences(kind):
    network, op = example(kind.__name__)
    rng = np.random.default_rng(0)
    tensors = trace(network, rng.normal(size=(24, 2)))
    target, sources = tensors[op.target], [tensors[source] for source in op.sources]
    g, step = rng.normal(size=target.shape), 1e-5
    for place, product in enumerate(op.vjp(g, target, *sources)):
        for at in np.ndindex(product.shape):
            values = []
            for sign in (1, -1):
                moved = [source.copy() for source in sources]
                moved[place][at] += sign * step
                values.append(np.vdot(g, op.compute(*moved)))
            np.testing.assert_allclose(
                product[at], (values[0] - values[1]) / (2 * step), rtol=1e-7, atol=1e-8
            )


@each_operation
def test_its_gain_bounds_differences(kind):
    network, op = example(kind.__name__)
    rng = np.random.default_rng(0)
    tensors = trace(network, rng.normal(size=(24, 5)))
    sources = [tensors[source] for source in op.sources]
    gains = op.gain([network.shape(source) for source in op.sources], network.shape(op.target))
    assert len(gains) == len(sources)
    for place, gain in enumerate(gains):
        moved = [source + (place == at) * rng.normal(size=source.shape) for at, source in enumerate(sources)]
        away = np.linalg.norm(op.compute(*moved) - op.compute(*sources))
        assert away <= gain * np.linalg.norm(moved[place] - sources[place]) * (1 + 1e-12)
    assert np.isfinite(OutputBound(network)(tensors)).all()


@each_operation
def test_it_says_what_it_costs_and_whose_neurons_it_makes(kind):
    network, op = example(kind.__name__)
    cost = op.cost(network.shape(op.target))
    assert cost is None or (isinstance(cost, Cost) and cost.values > 0)
    neurons = [np.arange(network.shape(source).neurons) for source in op.sources]
    made = op.neurons(*neurons)
    assert made is None or made.shape == (network.shape(op.target).neurons,)
    assert not list(op.faults([network.shape(source) for source in op.sources], network.shape(op.target)))


def test_combinations_are_those_of_the_kernels():
    assert list(COMBINATION_CODES) == list(COMBINATIONS)
    assert list(COMBINATION_CODES.values()) == list(range(len(COMBINATIONS)))


@dataclass(frozen=True)
class Tripled(OneSource):
    """An operation that nothing in the package has ever seen."""

    name: str
    source: str
    target: str

    def compute(self, *sources):
        return 3 * sources[0]

    def vjp(self, g, target, *sources):
        return [3 * g]

    def gain(self, sources, target):
        return [3.0]

    def cost(self, target):
        return Cost(7, False)

    def faults(self, sources, target):
        yield from ()


def test_walkers_know_no_operation():
    """Forward, gradient, bound, spec and forecast of a network with an operation that is new to them."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((4, 3)), rng.standard_normal((2, 4))]
    plain = chain(weights, [np.zeros(4), np.zeros(2)], [TANH, IDENTITY])
    network = replace(
        plain,
        operations=tuple(
            Tripled(op.name, op.source, op.target) if isinstance(op, Elementwise) else op
            for op in plain.operations
        ),
    )
    check(network)
    x = rng.standard_normal((3, 5))
    np.testing.assert_allclose(forward(network, x.T).T, 3 * weights[1] @ weights[0] @ x)
    tensors = trace(network, x)
    _, (_, gradient) = backpropagate(network, tensors, np.ones((2, 5)))
    np.testing.assert_allclose(gradient, 3 * weights[1].T @ np.ones((2, 5)))
    changed = network.with_mixings(
        {"layer0": replace(network.mixings[0], bias=network.mixings[0].bias + 0.1)}
    )
    expected = 3 * np.linalg.norm(weights[1], 2) * 0.1 * 2
    np.testing.assert_allclose(OutputBound(changed)(tensors), expected)
    demand = plan_demand(network, single_worker_plan(network), 1)
    assert demand.steps[1].values.tolist() == [28.0]
