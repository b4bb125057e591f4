"""PyTorch modules by both exporters, and ``from_torch``."""

import builtins

import h5py
import numpy as np
import pytest

import repurpose_hpc
from repurpose_hpc.errors import UserError
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model

pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from helpers.onnx_models import assert_agrees  # noqa: E402
from helpers.torch_networks import NETWORKS, network  # noqa: E402
from repurpose_hpc.model.importers import torch as torch_import  # noqa: E402

SHAPE = (3, 12, 12)


def _use_exporter(monkeypatch, with_dynamo):
    if with_dynamo:
        pytest.importorskip("onnxscript")
    found = torch_import.importlib.util.find_spec
    monkeypatch.setattr(
        torch_import.importlib.util,
        "find_spec",
        lambda name, *args: found(name, *args) if name != "onnxscript" or with_dynamo else None,
    )


@pytest.mark.slow
@pytest.mark.parametrize("with_dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("name", NETWORKS)
def test_both_exporters(tmp_path, monkeypatch, name, with_dynamo):
    module, path = network(name), tmp_path / "model.onnx"
    _use_exporter(monkeypatch, with_dynamo)
    imported = repurpose_hpc.from_torch(module, torch.zeros(1, *SHAPE), path)
    for samples in (1, 3):
        assert assert_agrees(path, samples).fingerprint() == imported.fingerprint()
    x = torch.randn(3, *SHAPE)
    with torch.no_grad():
        expected = module(x).flatten(1).numpy()
    y = forward(imported, x.flatten(1).numpy())
    assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("with_dynamo", [False, True], ids=["torchscript", "dynamo"])
def test_activations_of_modules(monkeypatch, with_dynamo):
    nn = torch.nn
    activations = [
        nn.SELU(),
        nn.CELU(0.7),
        nn.Softshrink(0.1),
        nn.Softsign(),
        nn.LogSigmoid(),
        nn.Hardshrink(0.2),
    ]
    if with_dynamo:  # the other exporter refuses thresholds
        activations.append(nn.Threshold(-0.1, 0.3))
    module = nn.Sequential(*(part for each in activations for part in (nn.Linear(4, 4), each)))
    _use_exporter(monkeypatch, with_dynamo)
    imported = repurpose_hpc.from_torch(module, torch.zeros(2, 4))
    kinds = ["selu", "celu", "softshrink", "softsign", "log_sigmoid", "hardshrink", "threshold"]
    assert [op.activation.kind for op in imported.operations[1::2]] == kinds[: len(activations)]
    x = torch.randn(50, 4)
    with torch.no_grad():
        np.testing.assert_allclose(forward(imported, x.numpy()), module(x).numpy(), atol=1e-6)


def test_mode_of_the_module_is_left_and_several_inputs(monkeypatch):
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(3, 4), torch.nn.Linear(2, 4)

        def forward(self, x, z):
            return torch.nn.functional.dropout(self.a(x) * self.b(z), training=self.training), self.a(x)

    module = Two().train()
    _use_exporter(monkeypatch, with_dynamo=False)
    imported = repurpose_hpc.from_torch(module, (torch.zeros(2, 3), torch.zeros(2, 2)))
    assert module.training
    module.eval()
    x, z = torch.randn(5, 3), torch.randn(5, 2)
    expected = torch.hstack(module(x, z)).detach().numpy()
    np.testing.assert_allclose(forward(imported, torch.hstack([x, z]).numpy()), expected, atol=1e-6)


def test_what_cannot_be_exported(monkeypatch):
    class Sorted(torch.nn.Module):
        def forward(self, x):
            raise ValueError("no such thing")

    _use_exporter(monkeypatch, with_dynamo=False)
    with pytest.raises(UserError, match=r"Sorted: torch.onnx could not export the module: .*no such thing"):
        repurpose_hpc.from_torch(Sorted(), torch.zeros(2, 3))


def test_without_torch(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("torch"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match="PyTorch is not installed"):
        repurpose_hpc.from_torch(None, ())


@pytest.mark.parametrize(
    ("module", "examples", "message"),
    [
        (torch.nn.Linear(2, 3), [torch.zeros(1, 2)], "found Linear, list"),
        (torch.nn.Linear(2, 3), np.zeros((1, 2)), r"found Linear, ndarray of shape \(1, 2\)"),
        (torch.nn.Linear(2, 3), torch.zeros(2), r"found Linear, Tensor of shape \(2,\)"),
        (torch.nn.Linear(2, 3), (), "found Linear"),
        ("model.pt", torch.zeros(1, 2), "found str, Tensor"),
    ],
)
def test_other_arguments(module, examples, message):
    with pytest.raises(UserError, match=f"expected a torch.nn.Module and a tensor.*{message}"):
        repurpose_hpc.from_torch(module, examples)


def test_another_suffix(tmp_path):
    with pytest.raises(UserError, match="expected the name of an .onnx file"):
        repurpose_hpc.from_torch(torch.nn.Linear(2, 3), torch.zeros(1, 2), tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_package_has_no_other_names():
    with pytest.raises(AttributeError, match="nothing"):
        repurpose_hpc.nothing  # noqa: B018


def test_the_file_is_what_the_commands_take(tmp_path, monkeypatch):
    _use_exporter(monkeypatch, with_dynamo=False)
    path = tmp_path / "vgg.onnx"
    imported = repurpose_hpc.from_torch(network("vgg"), torch.zeros(2, *SHAPE), path)
    assert load_model(path).fingerprint() == imported.fingerprint()


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", ["residual", "squeeze_excitation"])
def test_ranks_compute_what_the_module_does(tmp_path, monkeypatch, mpirun, name, ranks):
    _use_exporter(monkeypatch, with_dynamo=False)
    module, x = network(name), torch.randn(9, *SHAPE)
    repurpose_hpc.from_torch(module, torch.zeros(2, *SHAPE), tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", x.numpy())
    result = mpirun(
        ranks, "-m", "repurpose_hpc.infer", tmp_path / "model.onnx", "--calibration", tmp_path / "x.npy",
        "--comm-budget", 1, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.h5", "--repeat", 1,
        env={"REPURPOSE_HPC_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    with torch.no_grad():
        expected = module(x).flatten(1).numpy()
    with h5py.File(tmp_path / "y.h5") as file:
        np.testing.assert_allclose(file["y"][()], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
