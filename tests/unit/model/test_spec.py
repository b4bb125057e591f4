"""Rules of legal networks: each refuses what breaks it, by name."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from helpers.small_graphs import (
    branching_network,
    convolutional_network,
    normalised_network,
    residual_network,
)
from helpers.small_transformers import LONGEST, decoder
from repurpose_hpc.model.activations import RELU, Activation
from repurpose_hpc.model.builder import Builder
from repurpose_hpc.model.chain import chain
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.spec import RULES, IllegalNetwork, check
from repurpose_hpc.plan.files.graph import read_graph, write_graph
from repurpose_hpc.plan.plan import single_worker_plan
from repurpose_hpc.plan.shard import make_shard

NETWORKS = (residual_network, convolutional_network, branching_network, normalised_network, decoder)


@pytest.mark.parametrize("make", NETWORKS)
def test_legal_networks_and_graphs_of_shards(make):
    network = make()
    assert check(network) is network
    check(network.astype(np.float32))
    graph = make_shard(network, single_worker_plan(network), 0).graph
    assert check(graph, bare=True) is graph
    with pytest.raises(IllegalNetwork, match="has no weights"):
        check(graph)


def _with_operation(network: Network, name: str, /, **changes) -> Network:
    operations = tuple(replace(op, **changes) if op.name == name else op for op in network.operations)
    return replace(network, operations=operations)


def _with_space(network: Network, name: str, /, **changes) -> Network:
    spaces = tuple(replace(space, **changes) if space.name == name else space for space in network.spaces)
    return replace(network, spaces=spaces)


def _mixing(network: Network, name: str):
    return next(mixing for mixing in network.mixings if mixing.name == name)


def _window(network: Network, name: str, **changes) -> Network:
    return _with_operation(network, name, window=replace(_mixing(network, name).window, **changes))


def _with_weights(network: Network, name: str, change) -> Network:
    return _with_operation(network, name, weights=change(_mixing(network, name).weights))


def _infinite(weights: np.ndarray) -> np.ndarray:
    weights = weights.copy()
    weights[1, 2] = np.inf
    return weights


def _with_attention(**changes) -> Network:
    return _with_operation(decoder(layers=1), "layers.0.attention", **changes)


def _queries_keys_values() -> tuple[str, ...]:
    network = decoder(layers=1)
    return next(op.sources for op in network.operations if op.name == "layers.0.attention")


def _of_tokens(inputs: int, terms: int = LONGEST) -> Network:
    """The sum of some vectors and of a table of ``terms`` positions, not checked."""
    builder = Builder()
    names = tuple(f"x{i}" for i in range(inputs))
    total = builder.mixing("m", builder.input("x0", 3), np.ones((2, 3)), np.zeros(2))
    for name in names[1:]:
        other = builder.mixing(f"m.{name}", builder.input(name, 3), np.ones((2, 3)), np.zeros(2))
        total = builder.combine(f"sum.{name}", total, other, "add")
    total = builder.position_table("table", total, np.ones((2, terms)))
    return replace(builder.build((total,), ("identity",)), longest=LONGEST)


# Rule -> changes of the convolutional network, and the tensor, space or operation that the message names.
BROKEN = {
    "neuron_axes_are_of_inputs_and_outputs": [
        (lambda n: replace(n, neuron_axes={"stem.y": 1}), "stem.y"),
        (lambda n: replace(n, neuron_axes={"x0": 3}), "x0"),
        (lambda n: replace(n, neuron_axes={"x0": "1"}), "x0"),
    ],
    "tokens_are_vectors": [
        (lambda n: replace(n, longest=5), "x0"),
        (lambda n: replace(decoder(), longest=-1), "x0"),
        (lambda n: replace(decoder(layers=1).at(7), longest=7, neuron_axes={}), "x0"),
        (lambda n: _of_tokens(2), "x0"),
        (lambda n: _of_tokens(1, terms=LONGEST - 1), "table.y"),
        (lambda n: _with_attention(bias=np.zeros((1, 1, 1), np.float32)), "layers.0.attention.y"),
        (lambda n: _with_attention(sources=(*_queries_keys_values(), "x0")), "layers.0.attention.y"),
        (lambda n: _with_attention(seen=np.ones((1, 1, 1), bool)), "layers.0.attention.y"),
    ],
    "names_are_unique": [
        (lambda n: _with_operation(n, "inner", name="deep"), "deep"),
        (lambda n: _with_space(n, "stem", name="input"), "input"),
    ],
    "tensors_have_one_maker": [
        (lambda n: _with_operation(n, "inner", target="deep.y"), "deep.y"),
        (lambda n: replace(n, operations=n.operations[1:]), "stem.y"),
        (lambda n: replace(n, input_tensors=("x0", "x0")), "x0"),
    ],
    "operations_can_be_executed_in_order": [
        (lambda n: replace(n, operations=n.operations[1::-1] + n.operations[2:]), "stem.y"),
        (lambda n: _with_operation(n, "both", sources=()), "both.y"),
        (lambda n: _with_operation(n, "inner", source="nowhere"), "nowhere"),
    ],
    "inputs_outputs_and_heads_belong_together": [
        (lambda n: replace(n, output_tensors=("nowhere", "maps.y")), "nowhere"),
        (lambda n: replace(n, output_tensors=()), ""),
        (lambda n: replace(n, heads=("softmax",)), ""),
        (lambda n: replace(n, heads=("hardmax", "identity")), "classes.y"),
        (lambda n: replace(n, heads=("identity", "softmax")), "maps.y"),
    ],
    "tensors_have_a_space_and_positions": [
        (lambda n: replace(n, space_of=n.space_of | {"deep.y": "nowhere"}), "deep.y"),
        (lambda n: replace(n, positions_of=n.positions_of | {"deep.y": (1, 1)}), "deep.y"),
        (lambda n: replace(n, positions_of=n.positions_of | {"deep.y": (0, 3)}), "deep.y"),
        (
            lambda n: replace(n, positions_of={t: p for t, p in n.positions_of.items() if t != "maps.y"}),
            "maps.y",
        ),
    ],
    "derived_spaces_are_of_free_ones": [
        (lambda n: _with_space(n, "both.y.neurons", parts=("input", "nowhere")), "both.y.neurons"),
        (lambda n: _with_space(n, "both.y.neurons", index=(0,) * 9), "both.y.neurons"),
        (lambda n: _with_space(n, "both.y.neurons", index=(10,) * 10), "both.y.neurons"),
        (lambda n: _with_space(n, "excite", neurons=0), "excite"),
        (lambda n: replace(n, space_of=n.space_of | {"x0": "both.y.neurons"}), "x0"),
    ],
    "operations_fit_their_tensors": [
        (lambda n: _with_weights(n, "deep", lambda W: W[:, 1:]), "deep.y"),
        (lambda n: _with_weights(n, "deep", lambda W: W.astype(np.float32)), "deep.y"),
        (lambda n: _with_weights(n, "deep", lambda W: W.astype(np.int64)), "deep.y"),
        (lambda n: _window(n, "deep", positions=(4, 4)), "deep.y"),
        (lambda n: _window(n, "deep", out=(4, 2)), "deep.y"),
        (lambda n: _window(n, "deep", strides=(0, 1)), "deep.y"),
        (lambda n: _window(n, "deep", pads=(1,)), "deep.y"),
        (lambda n: _with_operation(n, "deep", window=None), "deep.y"),
        (lambda n: _with_operation(n, "excite.a", activation=Activation("softshrink", -1.0)), "excite.a.y"),
        (lambda n: _with_operation(n, "pool", kind="median"), "pool.y"),
        (lambda n: _with_operation(n, "pool", count_padding=True), "pool.y"),
        (lambda n: _with_operation(n, "gate", kind="modulo"), "gate.y"),
        (lambda n: _with_operation(n, "gate", sources=("squeeze.y", "squeeze.y")), "gate.y"),
        (lambda n: _with_operation(n, "both", index=np.arange(1, 11)), "both.y"),
        (lambda n: _with_operation(n, "both", index=np.arange(10, dtype=np.int32)), "both.y"),
        (lambda n: _with_operation(n, "stem.a", source="x0"), "stem.a.y"),
    ],
    "neurons_keep_their_owners": [
        (lambda n: _with_operation(n, "both", index=np.arange(10)[::-1].copy()), "both.y"),
        (lambda n: _with_operation(n, "both", sources=("stem.a.y", "thumbnail.y")), "both.y"),
        (lambda n: replace(n, space_of=n.space_of | {"grow.a.y": "classes"}), "grow.a.y"),
    ],
    "weights_are_there": [
        (
            lambda n: _with_operation(n, "deep", weights=np.empty((0, 0)), bias=np.empty(0)),
            "deep.y",
        ),
    ],
    "numbers_are_finite": [(lambda n: _with_weights(n, "deep", _infinite), "deep.y")],
}


def test_every_rule_is_tested():
    assert set(BROKEN) == set(RULES)


@pytest.mark.parametrize(
    ("rule", "place"), [(rule, place) for rule, changes in BROKEN.items() for place in range(len(changes))]
)
def test_what_breaks_a_rule_is_named(rule, place):
    change, named = BROKEN[rule][place]
    broken = change(convolutional_network())
    with pytest.raises(IllegalNetwork, match=rf"'{named}'.*\(rule: {rule.replace('_', ' ')}\)") as error:
        check(broken)
    assert isinstance(error.value, ValueError)


def test_networks_of_tokens_that_are_legal():
    """A table may have more positions than a sequence."""
    for network in (_of_tokens(1), _of_tokens(1, terms=LONGEST + 1), decoder().at(LONGEST), decoder().at(1)):
        assert check(network) is network


def test_neurons_that_are_not_tied_cannot_be_joined():
    network = branching_network()
    broken = replace(network, space_of=network.space_of | {"flat.a.y": "last", "flat.y": "last"})
    with pytest.raises(IllegalNetwork):
        check(broken)


def test_the_builder_refuses_what_is_not_legal():
    builder = Builder()
    tensor = builder.mixing("m", builder.input("input", 3), np.ones((2, 4)), np.zeros(2))
    with pytest.raises(IllegalNetwork, match=r"'m.y'.*expected weights \(2, 3\)"):
        builder.build((tensor,), ("identity",))
    with pytest.raises(IllegalNetwork, match=r"NaN or infinite"):
        chain([np.full((2, 3), np.nan)], [np.zeros(2)], [RELU])


def _damage(structure: str, old: str, new: str) -> bytes:
    assert old in structure
    return np.bytes_(structure.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"source": "x0"', '"source": "x9"'),
        ('"type": "Pool"', '"type": "Puddle"'),
        ('"kind": "max"', '"kind": "most"'),
        ('"kind": "relu"', '"kind": "reglu"'),
        ('"strides": [2, 2]', '"strides": [2]'),
        ('"strides": [2, 2], ', ""),
        ('"heads": ["softmax", "identity"]', '"heads": ["softmax"]'),
        ('"fixed": false', '"fixed": false, "colour": "red"'),
    ],
)
def test_a_damaged_graph_is_refused(tmp_path, old, new):
    with h5py.File(tmp_path / "graph.h5", "w") as file:
        write_graph(file, convolutional_network())
        damaged = _damage(file["structure"][()].decode(), old, new)
        del file["structure"]
        file["structure"] = damaged
        with pytest.raises((ValueError, KeyError)):
            read_graph(file)


def test_copies_are_not_checked():
    network = convolutional_network()
    broken = network.with_mixings({"deep": replace(_mixing(network, "deep"), target="nowhere")})
    with pytest.raises(IllegalNetwork):
        check(broken)
