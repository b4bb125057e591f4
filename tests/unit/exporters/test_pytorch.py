"""Whole networks as programs of PyTorch, which it loads alone."""

import builtins

import numpy as np
import pytest

from helpers import end_models, small_plans, small_transformers
from helpers.example_operations import NETWORKS
from helpers.exported import assert_close, graph_alone, joined, samples_of, split
from helpers.small_graphs import convolutional_network, residual_network
from repurpose_hpc.errors import UserError
from repurpose_hpc.exporters.pytorch.file import write_torch
from repurpose_hpc.model.activations import DECLARED, Activation
from repurpose_hpc.model.chain import chain
from repurpose_hpc.model.comm_dtype import STEPS
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.plan.rounding import rounded_compute


def eagerly(graph, rows):
    """What the module of a graph makes of samples."""
    torch = pytest.importorskip("torch")
    from repurpose_hpc.exporters.pytorch.module import GraphModule

    with torch.no_grad():
        return outputs(GraphModule(graph), graph, rows)


def outputs(module, graph, rows):
    """The outputs of a module one after the other, (samples, values)."""
    import torch

    arrays = split(rows, [port.shape for port in graph.inputs], [port.dtype for port in graph.inputs])
    found = module(*map(torch.from_numpy, arrays))
    return joined([each.detach().numpy() for each in (found if isinstance(found, tuple) else (found,))])


def test_a_program_gives_what_the_network_does(tmp_path):
    """Of any number of samples, once PyTorch has read the file again."""
    torch = pytest.importorskip("torch")
    network = convolutional_network().astype(np.float32)
    rows, graph = samples_of(network), graph_alone(network)
    write_torch(graph, tmp_path / "model.pt2")
    module, expected = torch.export.load(tmp_path / "model.pt2").module(), forward(network, rows)
    assert_close(outputs(module, graph, rows), expected)
    assert_close(outputs(module, graph, rows[:1]), expected[:1])


@pytest.mark.parametrize("make", [small_transformers.decoder, small_transformers.retentive])
def test_a_program_takes_texts_of_any_length(tmp_path, make):
    torch = pytest.importorskip("torch")
    network = make(layers=1)
    write_torch(graph_alone(network), tmp_path / "model.pt2")
    module = torch.export.load(tmp_path / "model.pt2").module()
    for tokens in (1, 2, network.longest):
        ids = np.random.default_rng(0).integers(0, 10, (3, tokens))
        found = module(torch.from_numpy(ids)).detach().numpy()
        assert_close(found.reshape(3, -1), forward(network.at(tokens), ids))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_module_gives_what_the_network_does(name):
    network = NETWORKS[name]().astype(np.float32)
    rows = samples_of(network)
    assert_close(eagerly(graph_alone(network), rows), forward(network, rows))


@pytest.mark.parametrize("name", ["channels_last", "tokens", "segmentation", "boxes", "map_softmax"])
def test_ends(tmp_path, name):
    model = end_models.MODELS[name]
    network = load_model(model.save(tmp_path / "original.onnx"), check=False)
    rows = model.draw(4)
    found = eagerly(graph_alone(network), rows.reshape(len(rows), -1))
    np.testing.assert_allclose(found, forward(network, rows), 1e-4, 1e-5)


@pytest.mark.parametrize("wire", ["bfloat16", "float16", "int8", "int4"])
def test_ghosts_are_rounded_as_in_a_run(wire):
    network = convolutional_network().astype(np.float32)
    plan = small_plans.random_plan(network, 3, "partitioned", 5)
    network = small_plans.pruned(network, plan)
    plan = small_plans.scaled(network, plan, wire=wire)
    rows = samples_of(network)
    found = eagerly(graph_alone(network, plan), rows)
    assert_close(
        found, forward(network, rows, compute=rounded_compute(network, plan, wire)), 1e-5 + STEPS[wire]
    )


def test_every_activation():
    for kind in DECLARED:
        network = chain([np.eye(6)], [np.full(6, 0.25)], [Activation(kind, 0.25, 0.5)]).astype(np.float32)
        x = np.linspace(-0.9, 0.7, 24, dtype=np.float32).reshape(4, 6)
        found = eagerly(graph_alone(network), x)
        np.testing.assert_allclose(found, forward(network, x, np.float32), 1e-4, 1e-5, err_msg=kind)


def test_layers_are_modules(tmp_path):
    """Their weights can be trained further."""
    torch = pytest.importorskip("torch")
    write_torch(graph_alone(residual_network()), tmp_path / "model.pt2")
    module = torch.export.load(tmp_path / "model.pt2").module()
    assert {"c0.weight", "c0.bias", "last.weight", "last.bias"} <= {
        name for name, _ in module.named_parameters()
    }


def test_an_operator_without_a_function(tmp_path):
    pytest.importorskip("torch")
    network = load_model(end_models.MODELS["sorted_ends"].save(tmp_path / "original.onnx"), check=False)
    with pytest.raises(
        UserError, match=r"model.pt2: expected operators .*, found TopK of h; export to an .onnx"
    ):
        write_torch(graph_alone(network), tmp_path / "model.pt2")
    assert not (tmp_path / "model.pt2").exists()


def test_without_torch(tmp_path, monkeypatch):
    imported = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.partition(".")[0] == "torch":
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"model.pt2: writing it needs PyTorch, .*; pip install .*\[train\]"):
        write_torch(graph_alone(residual_network()), tmp_path / "model.pt2")
