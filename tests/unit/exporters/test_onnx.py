"""Whole networks as ONNX graphs: onnxruntime, and the importer, make of them what the network makes."""

import builtins
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from helpers import TESTS, end_models, small_plans, sparse_networks
from helpers.example_operations import NETWORKS
from helpers.exported import ROUNDING, assert_close, graph_alone, outputs_of, relayed, samples_of
from helpers.onnx_models import node, save
from helpers.random_graphs import random_graph
from helpers.small_graphs import Draw, convolutional_network, residual_network, square_window
from repurpose_hpc.errors import UserError
from repurpose_hpc.exporters.onnx_file import write_onnx
from repurpose_hpc.exporters.onnx_model import opsets
from repurpose_hpc.exporters.registry import EXPORTS
from repurpose_hpc.model.activations import DECLARED, Activation
from repurpose_hpc.model.comm_dtype import COMM_DTYPES, EXACT, SCALED, STEPS
from repurpose_hpc.model.ends import Ends, Port, Step, Subgraph
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model, load_tokens
from repurpose_hpc.model.operations import OPERATIONS, Pool, Window
from repurpose_hpc.plan.rounding import rounded_compute
from repurpose_hpc.restructure.exact import split_network

# Networks of activations that have no value everywhere: what is computed before them.
BEFORE = {
    **dict.fromkeys(("log", "power", "acosh"), "exp"),
    **dict.fromkeys(("asin", "acos", "atanh"), "sin"),
}


def nodes(graph: Subgraph) -> list[tuple[str, str]]:
    """Operators, and what they make."""
    return [(step.operator, step.outputs[0]) for step in graph.steps]


@pytest.mark.parametrize("name", NETWORKS)
def test_onnxruntime_gives_what_the_network_does(tmp_path, name):
    """And the exported file is a model like others: it is imported to the same function."""
    network = NETWORKS[name]().astype(np.float32)
    rows, path = samples_of(network), tmp_path / "model.onnx"
    expected = forward(network, rows)
    assert_close(outputs_of(path, graph_alone(network), rows), expected)
    assert_close(forward(load_model(path, check=False), rows), expected)


def test_every_operation_is_written():
    assert set(EXPORTS) == set(OPERATIONS.values())


@pytest.mark.parametrize("kind", DECLARED)
def test_an_activation(tmp_path, kind):
    """With the parameters that chain files assume, and with others, 0 among them."""
    declared = DECLARED[kind].parameters
    defaults = [0.3 if each.default is None else each.default for each in declared]
    for parameters in {(*defaults,), (0.25,) * len(declared), (0.0,) * len(declared)}:
        draw = Draw(1)
        tensor = draw.mixing("layer", draw.builder.input("input", 5), 30)
        if kind in BEFORE:
            tensor = draw.builder.elementwise("before", tensor, Activation(BEFORE[kind]))
        if kind == "acosh":
            tensor = draw.builder.affine("above 1", tensor, *np.ones((2, 30, 1)))
        tensor = draw.builder.elementwise("activation", tensor, Activation(kind, *parameters))
        network = draw.builder.build((tensor,), ("identity",)).astype(np.float32)
        rows = samples_of(network)
        found = outputs_of(tmp_path / "model.onnx", graph_alone(network), rows)
        np.testing.assert_allclose(found, forward(network, rows, np.float32), 1e-3, 1e-5)


def test_a_graph_as_a_person_would_have_written_it():
    """Convolutions, residuals and pools by their names, and nothing else."""
    assert nodes(graph_alone(residual_network())) == [
        ("Conv", "c0"),
        ("Tanh", "a0"),
        ("Conv", "c1"),
        ("Tanh", "a1"),
        ("Conv", "d"),
        ("Add", "sum"),
        ("Tanh", "a2"),
        ("MaxPool", "p"),
        ("Conv", "c2"),
        ("Tanh", "a3"),
        ("Flatten", "last.flatten"),
        ("Gemm", "output"),
    ]


def test_names_shapes_and_opset(tmp_path):
    graph = graph_alone(convolutional_network())
    assert [(port.name, port.shape) for port in graph.inputs] == [("input", (3, 7, 6))]
    assert [(port.name, port.shape) for port in graph.outputs] == [
        ("classes.softmax", (5,)),
        ("maps", (2, 3, 2)),
    ]
    write_onnx(graph, tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    assert {each.domain: each.version for each in model.opset_import} == {"": 17}
    assert {"stem.weight", "stem.bias"} <= {each.name for each in model.graph.initializer}


def test_relays_are_layers(tmp_path):
    network, plan = relayed(small_plans.random_network(head="identity"), 3)
    graph = graph_alone(network, plan)
    for node_of in (("Gemm", "layer1 relays"), ("Gemm", "layer1 by relays"), ("Add", "layer1 together")):
        assert node_of in nodes(graph)
    rows = samples_of(network)
    assert_close(outputs_of(tmp_path / "model.onnx", graph, rows), forward(network, rows))


def test_what_is_float64_becomes_float32():
    graph = graph_alone(residual_network())
    assert {array.dtype.name for array in graph.constants.values()} == {"float32"}
    assert {port.dtype for port in (*graph.inputs, *graph.outputs)} == {"float32"}


def test_groups_of_convolutions(tmp_path):
    """Neurons without links are of other groups."""
    draw, size = Draw(0), (4, 3)
    weights, bias = draw.weights(6, 4 * 9)
    weights[:3, 18:] = weights[3:, :18] = 0
    x = draw.builder.input("input", 4, size)
    y = draw.builder.mixing("grouped", x, weights, bias, square_window(size))
    network = draw.builder.build((y,), ("identity",)).astype(np.float32)
    graph = graph_alone(network)
    assert graph.steps[0].attributes["group"] == 2
    assert graph.constants["grouped.weight"].shape == (6, 2, 3, 3)
    rows = samples_of(network)
    assert_close(outputs_of(tmp_path / "model.onnx", graph, rows), forward(network, rows))


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama3", "mistral", "retnet"])
def test_transformers_take_texts_of_any_length(tmp_path, name):
    """Tables, rotations and masks are as long as they are; one that is too long is refused."""
    network = load_tokens(TESTS / "data" / "transformers" / name)
    cut = split_network(network, 2)
    path = tmp_path / "model.onnx"
    write_onnx(graph_alone(cut.network, cut.plan), path)
    onnx.checker.check_model(path, full_check=True)
    quietly = onnxruntime.SessionOptions()
    quietly.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, quietly, providers=["CPUExecutionProvider"])
    for tokens in (1, 2, network.longest):
        ids = np.random.default_rng(0).integers(2, 10, (3, tokens))
        (found,) = session.run(None, {"ids": ids})
        assert_close(found.reshape(3, -1), forward(network.at(tokens), ids))
    with pytest.raises(Exception, match="broadcast"):
        session.run(None, {"ids": np.ones((1, network.longest + 1), np.int64)})


# Pads as wide as the kernel, holes, windows that reach beyond the padding, and places that no window sees.
WINDOWS = {
    "wide pads": (Window((5, 4), (2, 2), (2, 2), (1, 1), (2, 1), (4, 3)), (9, 6)),
    "holes": (Window((6, 5), (2, 2), (1, 1), (2, 2), (1, 1), (6, 5)), (8, 7)),
    "ceil mode": (Window((5, 5), (2, 2), (2, 2), (1, 1), (0, 0), (3, 3)), (5, 5)),
    "places left over": (Window((7, 6), (2, 2), (2, 2), (1, 1), (0, 0), (2, 3)), (7, 6)),
}


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize(("kind", "count_padding"), [("max", False), ("average", False), ("average", True)])
def test_windows_of_pools(tmp_path, name, kind, count_padding):
    window, extent = WINDOWS[name]
    if name == "wide pads" and not count_padding:
        pytest.skip("a window that sees nothing has no mean")
    draw = Draw(0)
    x = draw.mixing(
        "first", draw.builder.input("input", 2, window.positions), 3, square_window(window.positions)
    )
    pool = draw.builder.pool("pool", x, kind, window, count_padding, extent)
    network = draw.builder.build((pool,), ("identity",)).astype(np.float32)
    assert isinstance(network.operations[-1], Pool)
    rows = samples_of(network)
    assert_close(outputs_of(tmp_path / "model.onnx", graph_alone(network), rows), forward(network, rows))


@pytest.mark.parametrize("comm_dtype", [name for name in COMM_DTYPES if name != EXACT])
def test_ghosts_are_rounded_as_in_a_run(tmp_path, comm_dtype):
    """A few may be so close to the middle of two values that they are rounded to the other side."""
    network = convolutional_network().astype(np.float32)
    plan = small_plans.random_plan(network, 3, "partitioned", 5)
    network = small_plans.pruned(network, plan)
    plan = small_plans.scaled(network, plan, wire=comm_dtype)
    if comm_dtype in SCALED:
        plan = small_plans.with_outliers(network, plan)
    rows = samples_of(network)
    expected = forward(network, rows, compute=rounded_compute(network, plan, comm_dtype))
    found = outputs_of(tmp_path / "model.onnx", graph_alone(network, plan), rows)
    assert_close(found, expected, ROUNDING + STEPS[comm_dtype])
    least = 1e-6 * np.abs(expected).max()
    assert np.median(np.abs(found - expected)) <= least
    assert np.median(np.abs(forward(network, rows) - expected)) > least


@pytest.mark.parametrize("name", end_models.MODELS)
def test_ends_stay_where_they_are(tmp_path, name):
    """With the names and the dtypes of the original's inputs and outputs."""
    model = end_models.MODELS[name]
    batch = 1 if name == "fixed_batch" else "N"
    network = load_model(model.save(tmp_path / "original.onnx", batch), check=False)
    rows = model.draw(1 if batch == 1 else 4)
    graph = graph_alone(network)
    if network.ends.back is not None and name != "classifier":  # of which one is a list of dictionaries
        assert [port.name for port in graph.outputs] == [*model.outputs]
    if network.ends.front is not None:
        assert [(port.name, port.dtype) for port in graph.inputs] == [
            (name, dtype) for name, (dtype, _) in model.inputs.items()
        ]
    found = outputs_of(tmp_path / "model.onnx", graph, rows.reshape(len(rows), -1))
    np.testing.assert_allclose(found, forward(network, rows), 1e-4, 1e-5)


def test_ends_of_an_old_opset(tmp_path):
    """Their operators are brought to the opset of the others."""
    constants = {"W": end_models.weights(6, 4)}
    chain = [
        node("ReduceSum", "x", "sums", axes=[2], keepdims=0),
        node("MatMul", "sums W", "z"),
        node("Softmax", "z", "p"),
        node("ArgMax", "p", "class", axis=1, keepdims=0),
    ]
    path = save(tmp_path / "old.onnx", chain, constants, ("N", 6, 3), 11, ("p", "class"))
    network = load_model(path, check=False)
    graph = graph_alone(network)
    assert opsets(graph) == {"": 17}
    rows = np.random.default_rng(0).standard_normal((4, 18)).astype(np.float32)
    assert_close(outputs_of(tmp_path / "model.onnx", graph, rows), forward(network, rows))


def test_nodes_inside_of_others_are_refused():
    body = helper.make_graph([], "body", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])])
    branch = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    inside = helper.make_model(helper.make_graph([branch], "end", [], [])).SerializeToString()
    network = small_plans.random_network()
    port = Port("c", (5,), "float32")
    back = Subgraph(
        (port,), (Port("y", (5,), "float32"),), (Step("If", ("c",), ("y",), {}, 17),), model=inside
    )
    with pytest.raises(UserError, match=r"y \(If\): expected a node that stands by itself, .*; leave it out"):
        graph_alone(replace(network, ends=Ends(None, back)))


@pytest.mark.parametrize("number", range(0, 16, 2))
def test_random_graphs(tmp_path, number):
    """What is imported and exported is what was there before."""
    model, _ = random_graph(number)
    onnx.save(model, tmp_path / "original.onnx")
    try:
        network = load_model(tmp_path / "original.onnx", check=False).astype(np.float32)
    except UserError:
        pytest.skip("not supported")
    rows = samples_of(network)
    with np.errstate(all="ignore"):
        expected = forward(network, rows, np.float32)
    found = outputs_of(tmp_path / "model.onnx", graph_alone(network), rows)
    np.testing.assert_allclose(found, expected, 1e-3, 1e-4)


def test_sparse_weights(tmp_path):
    network = sparse_networks.sparse_chain(0)
    rows = samples_of(network)
    assert any(mixing.is_sparse for mixing in network.mixings)
    assert_close(outputs_of(tmp_path / "model.onnx", graph_alone(network), rows), forward(network, rows))


def test_without_onnx(tmp_path, monkeypatch):
    graph, imported = graph_alone(residual_network()), builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.partition(".")[0] == "onnx":
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"writing ONNX graphs needs a package .*; pip install .*\[onnx\]"):
        write_onnx(graph, tmp_path / "model.onnx")
    assert [*tmp_path.iterdir()] == []


def test_constants_too_large_for_one_file(tmp_path):
    """They lie beside it, aligned, and both files are read together."""
    graph = graph_alone(small_plans.random_network(widths=(30, 40, 5)).astype(np.float32))
    files = write_onnx(graph, tmp_path / "large.onnx", largest=1000)
    assert [path.name for path in files] == ["large.onnx", "large.onnx.data"]
    assert {path.name for path in tmp_path.iterdir()} == {"large.onnx", "large.onnx.data"}
    assert files[1].stat().st_size >= 4 * 30 * 40
    model = onnx.load(files[0], load_external_data=False)
    places = [each.external_data for each in model.graph.initializer if each.external_data]
    assert places and all(
        int(entry.value) % 4096 == 0 for place in places for entry in place if entry.key == "offset"
    )
    rows = np.random.default_rng(0).standard_normal((3, 30)).astype(np.float32)
    alone = outputs_of(tmp_path / "small.onnx", graph, rows)
    session = onnxruntime.InferenceSession(files[0], providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"input": rows})[0], alone)
