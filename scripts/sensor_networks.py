"""Data and trained networks of the sensor experiment; needs PyTorch and the idx files of Fashion-MNIST."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import block_diag
from sensor_setting import CLASSES, PIXELS, SENSORS, compose, draw_composites, part_width
from torch import nn
from train_fashion import (
    DATA,
    VALIDATION_SAMPLES,
    build_network,
    read_split,
    train,
    weights_for_raw_pixels,
)

HIDDEN = 400  # does not divide by SENSORS
TRAINING_SAMPLES = 40_000
CALIBRATION_SAMPLES = 6_000
TEST_SAMPLES = 5_000
# Distillation sees every calibration sample so many times as often as training sees a training sample.
DISTILLATION_ROUNDS = 4
# Values that each part sends to the worker that joins them, and the width of what joins them.
FUSED_VALUES, FUSED_HIDDEN = 8, 64

ALL = slice(None)


class Composites:
    """Composite samples as a tensor that is never made as a whole: what ``train`` asks of its data."""

    def __init__(self, images: np.ndarray, index: np.ndarray) -> None:
        self.images, self.index = images, index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, batch: torch.Tensor | slice) -> torch.Tensor:
        chosen = batch if isinstance(batch, slice) else batch.numpy()
        return torch.from_numpy(compose(self.images, self.index[chosen])).float() / 255


class Independent(nn.Module):
    """A network for each sensor; ``head`` sees the outputs of all.

    With one layer in the head the sensors' outputs are added up, with two a small network joins them.
    """

    def __init__(self, part_widths: tuple[int, ...], head_widths: tuple[int, ...]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(build_network(part_widths) for _ in range(SENSORS))
        self.head = build_network(head_widths)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = [part(block) for part, block in zip(self.parts, x.chunk(SENSORS, dim=1), strict=True)]
        return self.head(torch.cat(found, dim=1).relu())

    def arrays(self) -> dict[str, np.ndarray]:
        """The same function as one chain for raw pixels, its first layers block diagonal."""
        parts = [weights_for_raw_pixels(part) for part in self.parts]
        arrays = {}
        for name in parts[0]:
            blocks = [part[name] for part in parts]
            arrays[name] = block_diag(*blocks) if name.startswith("W") else np.concatenate(blocks)
        layers = len(arrays) // 2
        for index, layer in enumerate(layer for layer in self.head if isinstance(layer, nn.Linear)):
            arrays[f"W{layers + index}"] = layer.weight.detach().numpy()
            arrays[f"b{layers + index}"] = layer.bias.detach().numpy()
        return arrays


def prepare(out: Path, seed: int = 0) -> None:
    """Draw the samples, train the original, distil the independent networks, and write all into ``out``.

    Samples (x, y) go to ``calibration.npz`` and ``test.npz``, chains to ``original.npz``, ``summed.npz`` and
    ``fused.npz``.  Test samples are made of test images, all others of training images.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    images, labels = read_split(DATA, "train")
    held_out, kept = np.split(rng.permutation(len(images)), [VALIDATION_SAMPLES])
    training = _draw(images[kept], labels[kept], TRAINING_SAMPLES, rng)
    calibration = _draw(images[kept], labels[kept], CALIBRATION_SAMPLES, rng)
    composites, classes = _draw(images[held_out], labels[held_out], VALIDATION_SAMPLES, rng)
    validation = composites[ALL], classes
    test = _draw(*read_split(DATA, "t10k"), TEST_SAMPLES, rng)

    print("training the original", flush=True)
    original = build_network((SENSORS * PIXELS, HIDDEN, HIDDEN, CLASSES))
    train(original, training, validation)
    np.savez(out / "original.npz", **weights_for_raw_pixels(original))
    lesson = _lesson(original, calibration[0])
    for name, student in _students(original):
        print(f"distilling independent parts, {name}", flush=True)
        train(student, lesson, validation)
        np.savez(out / f"{name}.npz", **student.arrays())
    for name, (samples, classes) in (("calibration", calibration), ("test", test)):
        np.savez(out / f"{name}.npz", x=compose(samples.images, samples.index), y=classes.numpy())


def _draw(
    images: np.ndarray, labels: np.ndarray, samples: int, rng: np.random.Generator
) -> tuple[Composites, torch.Tensor]:
    index, classes = draw_composites(labels, samples, rng)
    return Composites(images, index), torch.from_numpy(classes)


def _students(original: nn.Module) -> Iterator[tuple[str, Independent]]:
    """Untrained independent parts that are together as large as the original."""
    width = part_width(sum(layer.weight.numel() for layer in original if isinstance(layer, nn.Linear)))
    yield "summed", Independent((PIXELS, width, width), (SENSORS * width, CLASSES))
    head = SENSORS * FUSED_VALUES, FUSED_HIDDEN, CLASSES
    yield "fused", Independent((PIXELS, width, width, FUSED_VALUES), head)


def _lesson(teacher: nn.Module, samples: Composites) -> tuple[Composites, torch.Tensor]:
    """Every sample DISTILLATION_ROUNDS times, with the class probabilities that ``teacher`` gives it."""
    teacher.eval()
    with torch.no_grad():
        probabilities = teacher(samples[ALL]).softmax(dim=1)
    index = np.tile(samples.index, (DISTILLATION_ROUNDS, 1))
    return Composites(samples.images, index), probabilities.repeat(DISTILLATION_ROUNDS, 1)
