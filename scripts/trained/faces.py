"""Detectors of faces: the 100 faces and 100 other patches that scikit-image ships."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from trained.network import Task, export_torch, halves, package, trained

_WHEEL = {"wheel": "facenet_pytorch==2.6.0", "licence": "MIT", "needs": ("scikit-image==0.26.0",)}


def _trained(name: str, file: str):
    weights = f"`{file}`, loaded into its PyTorch module"
    return trained(name, weights=weights, measure="accuracy, face or not (LFW patches), %", **_WHEEL)


@_trained("MTCNN proposal", "pnet.pt")
def proposal(path: Path) -> Task:
    return _task("PNet", 12, path)


@_trained("MTCNN refinement", "rnet.pt")
def refinement(path: Path) -> Task:
    return _task("RNet", 24, path)


@_trained("MTCNN output", "onet.pt")
def output(path: Path) -> Task:
    return _task("ONet", 48, path)


def _task(name: str, size: int, path: Path) -> Task:
    """Faces have the last of the outputs above one half."""
    patches = np.load(package("skimage") / "data/lfw_subset.npy")
    faces = np.arange(len(patches)) < len(patches) // 2
    (calibration, _), (test, _) = (([*part], None) for part in halves(list(_resized(patches, size))))
    _, truth = halves(list(faces))
    calibration, test = np.stack(calibration), np.stack(test)
    # Mirrored patches are patches.
    calibration = np.concatenate([calibration, calibration[..., ::-1]])
    outputs = export_torch(_modules()[name](), test[:2], path)

    def score(y: np.ndarray) -> float:
        return 100 * float(np.mean((y[:, -1] > 0.5) == truth))

    return Task(calibration, test, outputs(test), score)


def _resized(patches: np.ndarray, size: int) -> np.ndarray:
    """Grey patches (samples, 25, 25) from 0 to 1 as the networks take them, (samples, 3, size, size)."""
    import torch

    scaled = torch.nn.functional.interpolate(
        torch.from_numpy(patches[:, None].astype(np.float32)), (size, size), mode="bilinear", antialias=True
    )
    return (scaled.numpy().repeat(3, axis=1) * 255 - 127.5) * 0.0078125


def _modules() -> dict:
    """The classes of the three networks: the file of the package up to what needs torchvision."""
    file = package("facenet_pytorch") / "models/mtcnn.py"
    source = file.read_text(encoding="utf-8").split("class MTCNN(")[0]
    source = source.replace("from .utils.detect_face import detect_face, extract_face", "")
    names: dict = {"__file__": os.fspath(file), "__name__": "mtcnn"}
    exec(compile(source, os.fspath(file), "exec"), names)
    return names
