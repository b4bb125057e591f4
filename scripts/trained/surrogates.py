"""Surrogates of simulations: the original's answer is the truth, inputs are drawn as for its training."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np

from trained.network import Task, export_torch, onnx_outputs, package, seeds, trained


def _uniform(rng: np.random.Generator, samples: int, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Samples drawn evenly from a box with this mean and standard deviation, float32."""
    return (mean + std * np.sqrt(3) * rng.uniform(-1, 1, (samples, len(mean)))).astype(np.float32)


def _write_chain(path: Path, layers: Sequence[tuple[np.ndarray, np.ndarray]], activation: str) -> None:
    arrays = {f"W{i}": weights for i, (weights, _) in enumerate(layers)}
    arrays |= {f"b{i}": bias for i, (_, bias) in enumerate(layers)}
    activations = [activation] * (len(layers) - 1) + ["identity"]
    np.savez(path, activations=np.array(activations), **arrays)


def _chain_outputs(layers, activation: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """Outputs of dense layers in float64."""
    y = x.astype(np.float64)
    for i, (weights, bias) in enumerate(layers):
        y = y @ np.asarray(weights, np.float64).T + bias
        y = activation(y) if i < len(layers) - 1 else y
    return y


@trained(
    "neuralfoil xlarge",
    wheel="neuralfoil==0.3.3",
    licence="MIT",
    weights="`nn-xlarge.npz`, as a chain file",
    measure="error of the lift coefficient of an airfoil (median)",
    suffix=".npz",
)
def neuralfoil(path: Path) -> Task:
    folder = package("neuralfoil") / "nn_weights_and_biases"
    stored, inputs = np.load(folder / "nn-xlarge.npz"), np.load(folder / "scaled_input_distribution.npz")
    layers = [(stored[f"net.{i}.weight"], stored[f"net.{i}.bias"]) for i in range(0, 12, 2)]
    _write_chain(path, layers, "silu")
    drawn = [
        rng.multivariate_normal(inputs["mean_inputs_scaled"], inputs["cov_inputs_scaled"], 2000)
        for rng in seeds()
    ]
    calibration, test = (_and_flipped(x).astype(np.float32) for x in drawn)
    original = _chain_outputs(layers, lambda y: y / (1 + np.exp(-y)), test)

    def score(y: np.ndarray) -> float:
        return float(np.median(np.abs(_lift(y) - _lift(original))))

    return Task(calibration, test, original, score)


def _and_flipped(x: np.ndarray) -> np.ndarray:
    """The cases, then the same upside down: NeuralFoil evaluates both and takes the mean."""
    flipped = x.copy()
    flipped[:, :8], flipped[:, 8:16] = -x[:, 8:16], -x[:, :8]
    flipped[:, [16, 18]] *= -1
    flipped[:, [23, 24]] = x[:, [24, 23]]
    return np.concatenate([x, flipped])


def _lift(y: np.ndarray) -> np.ndarray:
    upright, flipped = np.split(y[:, 1], 2)
    return (upright - flipped) / 4


@trained(
    "QLKNN 7.11",
    wheel="fusion_surrogates==0.4.7",
    licence="Apache-2.0",
    weights="`qlknn_7_11.onnx`",
    measure="RMS error of the turbulent fluxes in a tokamak, of their spread (mean of eight)",
)
def qlknn(path: Path) -> Task:
    import onnx

    source = package("fusion_surrogates") / "qlknn/models/qlknn_7_11.onnx"
    shutil.copy(source, path)
    constants = {
        node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t)
        for node in onnx.load(source).graph.node
        if node.op_type == "Constant"
    }
    mean, std = (constants[f"/Constant_{i}_output_0"].ravel() for i in (8, 9))
    calibration, test = (_uniform(rng, 4000, mean, std) for rng in seeds())
    original = onnx_outputs(path, test)
    spread = original.std(axis=0)

    def score(y: np.ndarray) -> float:
        return float(np.mean(np.sqrt(np.mean((y - original) ** 2, axis=0)) / spread))

    return Task(calibration, test, original, score)


@trained(
    "TGLF-NN multi-machine, electron heat",
    wheel="tglfnn_ukaea==0.3.0",
    licence="LGPL-3.0",
    weights="`multimachine/3.2.1.npz`, five perceptrons and their mean written in PyTorch",
    measure="error of the heat flux in a tokamak on the package's 64 reference points (median)",
)
def tglfnn(path: Path) -> Task:
    folder = package("tglfnn_ukaea")
    stored, reference = (
        np.load(folder / kind / "multimachine/3.2.1.npz") for kind in ("weights", "reference")
    )
    mean, std = stored["input_mean"][0], stored["input_std"][0]
    rng = next(seeds())
    calibration = mean + std * rng.standard_normal((4000, len(mean)))
    test, expected = reference["inputs"], reference["efe_gb"][:, :1]
    outputs = export_torch(_ensemble(stored, "efe_gb"), calibration[:2], path)

    def score(y: np.ndarray) -> float:
        return float(np.median(np.abs(y - expected) / np.abs(expected)))

    return Task(calibration.astype(np.float32), test.astype(np.float32), outputs(test), score)


def _ensemble(stored, flux: str):
    """The mean of the ensemble of one flux, in its physical unit."""
    import torch

    class Ensemble(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            members = range(int(stored["num_estimators"][0]))
            self.members = torch.nn.ModuleList(self.member(which) for which in members)
            place = [str(name) for name in stored["output_labels"]].index(flux)
            for name in ("input_mean", "input_std"):
                self.register_buffer(name, torch.tensor(stored[name][place], dtype=torch.float32))
            self.mean, self.std = (float(stored[name][place]) for name in ("output_mean", "output_std"))

        def member(self, which: int) -> torch.nn.Sequential:
            parts: list[torch.nn.Module] = []
            for i in range(int(stored["num_layers"][0])):
                weights, bias = (torch.tensor(stored[f"{flux}/layer_{i}/{kind}"][which]) for kind in _KINDS)
                layer = torch.nn.Linear(*reversed(weights.shape))
                layer.load_state_dict({"weight": weights, "bias": bias})
                parts += [torch.nn.ReLU(), layer] if parts else [layer]
            return torch.nn.Sequential(*parts)

        def forward(self, x):
            x = (x - self.input_mean) / self.input_std
            total = sum(member(x)[:, :1] for member in self.members)
            return total / len(self.members) * self.std + self.mean

    return Ensemble()


_KINDS = ("weight", "bias")


@trained(
    "DeepGlow, interstellar medium",
    wheel="DeepGlow==1.1.0",
    licence="BSD-2-Clause",
    weights="`model-ism-final.hdf5`, as a chain file",
    measure="error of the afterglow of a gamma-ray burst (median), %",
    suffix=".npz",
)
def deepglow(path: Path) -> Task:
    folder = package("DeepGlow") / "data"
    with h5py.File(folder / "model-ism-final.hdf5") as file:
        groups = [file[f"model_weights/{name}/{name}"] for name in ("dense", "dense_1", "dense_2", "dense_3")]
        layers = [(group["kernel:0"][()].T, group["bias:0"][()]) for group in groups]
    _write_chain(path, layers, "softplus")
    inputs = layers[0][0].shape[1]
    calibration, test = (_uniform(rng, 2000, np.zeros(inputs), np.ones(inputs)) for rng in seeds())
    original = _chain_outputs(layers, lambda y: np.logaddexp(0, y), test)
    spread = np.loadtxt(folder / "scale_facs_ism_final.csv")[-234:][1::2]

    def score(y: np.ndarray) -> float:
        return float(100 * np.median(10 ** (np.abs(y - original) * spread) - 1))

    return Task(calibration, test, original, score)


@trained(
    "CosmoPower, linear power spectrum",
    wheel="cosmopower_jax==0.5.8",
    licence="GPL-3.0",
    weights="`mpk_lin.pkl`, written in PyTorch",
    measure="error of the power spectrum of matter (median), %",
)
def cosmopower(path: Path) -> Task:
    with open(package("cosmopower_jax") / "trained_models/mpk_lin.pkl", "rb") as file:
        layers, slopes, mean, std, feature_mean, feature_std = _Arrays(file).load()[:6]
    outputs = export_torch(_swish_network(layers, slopes, mean, std), np.zeros((2, len(mean))), path)
    calibration, test = (_uniform(rng, 2000, mean, std) for rng in seeds())
    original = outputs(test)

    def score(y: np.ndarray) -> float:
        return float(100 * np.median(10 ** (np.abs(y - original) * feature_std) - 1))

    return Task(calibration, test, original, score)


class _Arrays(pickle.Unpickler):
    """Reads pickles of NumPy arrays; refuses everything else, which could run any code."""

    def find_class(self, module: str, name: str):
        if module.split(".")[0] != "numpy":
            raise pickle.UnpicklingError(f"expected NumPy arrays only, found {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _swish_network(layers, slopes, mean: np.ndarray, std: np.ndarray):
    """CosmoPower's network: every neuron has its own mixture of the identity and Swish."""
    import torch

    tensors = [[torch.from_numpy(np.array(array)) for array in layer] for layer in layers]
    shapes = [[torch.from_numpy(np.array(array)) for array in pair] for pair in slopes]
    shift, scale = torch.from_numpy(np.array(mean)), torch.from_numpy(np.array(std))

    class Swish(torch.nn.Module):
        def forward(self, x):
            x = (x - shift) / scale
            for (weights, bias), (alpha, beta) in zip(tensors, shapes, strict=False):
                x = torch.nn.functional.linear(x, weights, bias)
                x = (beta + torch.sigmoid(alpha * x) * (1 - beta)) * x
            return torch.nn.functional.linear(x, *tensors[-1])

    return Swish()
