"""Parts of the workers, played by onnxruntime alone as ``parts.json`` says, give what the network does."""

import json

import numpy as np
import onnx
import pytest

from helpers import end_models, small_plans, sparse_networks
from helpers.example_operations import NETWORKS
from helpers.exported import ROUNDING, assert_close, played, relayed, samples_of
from helpers.small_graphs import convolutional_network, residual_network
from repurpose_hpc.errors import UserError
from repurpose_hpc.exporters.parts.directory import write_parts
from repurpose_hpc.model.comm_dtype import EXACT, STEPS
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.tiles import divisions, tiled
from repurpose_hpc.plan.plan import dense_plan
from repurpose_hpc.plan.rounding import rounded_compute
from repurpose_hpc.plan.rounds import rounds_of
from repurpose_hpc.plan.shard import make_shard


def written(directory, network, plan):
    """The description of the parts of a network."""
    shards = (make_shard(network, plan, worker) for worker in range(plan.workers))
    return write_parts(network, plan, shards, directory)


def cut_at_random(network, workers, placement="partitioned", wire=EXACT):
    """A network in float32 without the weights that a random plan leaves out, and the plan."""
    plan = small_plans.random_plan(network, workers, placement, 5)
    network = small_plans.pruned(network.astype(np.float32), plan)
    return network, small_plans.scaled(network, plan, wire=wire)


def values_sent(description, network, workers):
    """Values per sample from worker to worker, (P, P), counted from the messages."""
    sent, by_name = (
        np.zeros((workers, workers), np.int64),
        {mixing.name: mixing for mixing in network.mixings},
    )
    for each_round in description["rounds"]:
        for message in each_round["messages"]:
            mixing = by_name[message["layer"]]
            tensor = mixing.source if message["kind"] == "ghosts" else mixing.target
            sent[message["from"], message["to"]] += len(message["neurons"]) * network.values(tensor)
    return sent


CASES = [
    ("residual", 2, "partitioned", EXACT),
    ("convolutional", 3, "replicated", "bfloat16"),
    ("branching", 8, "root", "float16"),
    ("normalised", 4, "replicated", EXACT),
    ("transformer", 2, "partitioned", EXACT),
    ("two heads", 4, "root", EXACT),
    ("Attention", 4, "root", "int8"),
    ("Rearrange", 1, "partitioned", EXACT),
]


@pytest.mark.parametrize(("name", "workers", "placement", "wire"), CASES)
def test_they_give_what_the_network_does(tmp_path, name, workers, placement, wire):
    """With the messages of the plan, value by value, in as many rounds."""
    network, plan = cut_at_random(NETWORKS[name](), workers, placement, wire)
    description = written(tmp_path / "parts", network, plan)
    rows = samples_of(network)
    expected = forward(network, rows, compute=rounded_compute(network, plan, wire))
    assert_close(played(tmp_path / "parts", rows), expected, ROUNDING + STEPS[wire])
    expected_traffic = sum(plan.traffic(network, mixing) for mixing in network.mixings)
    np.testing.assert_array_equal(values_sent(description, network, workers), expected_traffic)
    assert len(description["rounds"]) == 1 + rounds_of(network, plan)
    assert not description["rounds"][-1]["messages"]


@pytest.mark.parametrize("wire", [EXACT, "int8"])
def test_relays(tmp_path, wire):
    network, plan = relayed(small_plans.random_network(), 3, wire)
    written(tmp_path / "parts", network, plan)
    rows = samples_of(network)
    expected = forward(network, rows, compute=rounded_compute(network, plan, wire))
    assert_close(played(tmp_path / "parts", rows), expected, ROUNDING + STEPS[wire])


def test_sparse_weights(tmp_path):
    network = sparse_networks.sparse_chain(0).astype(np.float32)
    plan = dense_plan(network, 3, "partitioned", np.ones(3))
    written(tmp_path / "parts", network, plan)
    rows = samples_of(network)
    assert_close(played(tmp_path / "parts", rows), forward(network, rows))


def test_layers_by_position(tmp_path):
    """Halos are ghosts like others."""
    network = residual_network().astype(np.float32)
    shapes = [shape for shape in network.positions_of.values() if shape]
    cut = tiled(network, 3, next(divisions(shapes, np.ones(3))))
    written(tmp_path / "parts", cut, dense_plan(cut, 3, "replicated", np.ones(3)))
    rows = samples_of(network)
    assert_close(played(tmp_path / "parts", rows), forward(network, rows))


@pytest.mark.parametrize("name", ["channels_last", "tokens", "one_hot_and_reals", "classifier", "boxes"])
def test_ends_have_files_of_their_own(tmp_path, name):
    model = end_models.MODELS[name]
    network = load_model(model.save(tmp_path / "original.onnx"), check=False)
    plan = small_plans.random_plan(network, 3, "partitioned", 5)
    network = small_plans.pruned(network, plan)
    description = written(tmp_path / "parts", network, plan)
    assert (description["front"] is not None) == (network.ends.front is not None)
    assert (description["back"] is not None) == (
        network.ends.back is not None or network.heads != ("identity",)
    )
    rows = model.draw(4)
    found = played(tmp_path / "parts", rows.reshape(len(rows), -1))
    np.testing.assert_allclose(found, forward(network, rows), 1e-4, 1e-5)


def test_workers_of_which_some_have_nothing(tmp_path):
    """They need no file; neurons that nothing leads to still have their biases."""
    network = small_plans.random_network(widths=(4, 3, 2), head="identity").astype(np.float32)
    plan = dense_plan(network, 6, "partitioned", np.array([0.0, 1, 0, 1, 1, 0]))
    for mixing in plan.mixings.values():
        mixing.ghosts[:] = mixing.sums[:] = False
    network = small_plans.pruned(network, plan)
    description = written(tmp_path / "parts", network, plan)
    assert {stage["worker"] for each in description["rounds"] for stage in each["stages"]} <= {1, 3, 4}
    rows = samples_of(network)
    assert_close(played(tmp_path / "parts", rows), forward(network, rows))


def test_a_stage_is_a_graph_by_itself(tmp_path):
    """It has the inputs and outputs that the description says, and a shape for each."""
    network, plan = cut_at_random(convolutional_network(), 3)
    description = written(tmp_path / "parts", network, plan)
    for stage in (stage for each in description["rounds"] for stage in each["stages"]):
        path = tmp_path / "parts" / stage["file"]
        onnx.checker.check_model(path, full_check=True)
        graph = onnx.load(path).graph
        assert [each.name for each in graph.input] == stage["inputs"]
        assert [each.name for each in graph.output] == stage["outputs"]
        for each in (*graph.input, *graph.output):
            samples, *sizes = each.type.tensor_type.shape.dim
            assert samples.dim_param == "samples" and all(size.dim_value > 0 for size in sizes)


def test_earlier_parts_are_replaced_and_nothing_else(tmp_path):
    directory = tmp_path / "parts"
    written(directory, *cut_at_random(small_plans.random_network(), 4))
    written(directory, *cut_at_random(small_plans.random_network(), 2))
    assert sorted(path.name for path in directory.iterdir() if path.is_dir()) == ["worker_0", "worker_1"]
    assert json.loads((directory / "parts.json").read_text())["workers"] == 2
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("kept")
    with pytest.raises(UserError, match="other: expected an empty directory, .*; choose another one"):
        written(other, *cut_at_random(small_plans.random_network(), 2))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
