"""Data and trained networks of the sensor experiment; needs PyTorch and the idx files of Fashion-MNIST."""

from __future__ import annotations

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

    Samples (x, y): ``calibration.npz``, ``test.npz``.  Chains: ``original.npz``, ``summed.npz``, ``fused.npz``.
    Test samples are made of test images, all others of training images; validation has its own.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    images, labels = read_split(DATA, "train")
    test_images, test_labels = read_split(DATA, "t10k")
    held_out, kept = np.split(rng.permutation(len(images)), [VALIDATION_SAMPLES])
    held_out_images, held_out_labels, images, labels = (
        images[held_out],
        labels[held_out],
        images[kept],
        labels[kept],
    )

    training, training_y = draw_composites(labels, TRAINING_SAMPLES, rng)
    calibration, calibration_y = draw_composites(labels, CALIBRATION_SAMPLES, rng)
    validation, validation_y = draw_composites(held_out_labels, VALIDATION_SAMPLES, rng)
    test, test_y = draw_composites(test_labels, TEST_SAMPLES, rng)
    validation_set = Composites(held_out_images, validation)[ALL], torch.from_numpy(validation_y)

    original = build_network((SENSORS * PIXELS, HIDDEN, HIDDEN, CLASSES))
    print("training the original", flush=True)
    train(original, (Composites(images, training), torch.from_numpy(training_y)), validation_set)
    arrays = {"original": weights_for_raw_pixels(original)}
    width = part_width(sum(W.size for name, W in arrays["original"].items() if name.startswith("W")))
    lesson = _lesson(original, Composites(images, calibration))
    for name, part, head in (
        ("summed", (PIXELS, width, width), (SENSORS * width, CLASSES)),
        ("fused", (PIXELS, width, width, FUSED_VALUES), (SENSORS * FUSED_VALUES, FUSED_HIDDEN, CLASSES)),
    ):
        print(f"distilling independent parts, {name}", flush=True)
        student = Independent(part, head)
        train(student, lesson, validation_set)
        arrays[name] = student.arrays()

    for name, chain in arrays.items():
        np.savez(out / f"{name}.npz", **chain)
    np.savez(out / "calibration.npz", x=compose(images, calibration), y=calibration_y)
    np.savez(out / "test.npz", x=compose(test_images, test), y=test_y)


def _lesson(teacher: nn.Module, samples: Composites) -> tuple[Composites, torch.Tensor]:
    """Every sample DISTILLATION_ROUNDS times, with the class probabilities that ``teacher`` gives it."""
    teacher.eval()
    with torch.no_grad():
        probabilities = teacher(samples[ALL]).softmax(dim=1)
    index = np.tile(samples.index, (DISTILLATION_ROUNDS, 1))
    return Composites(samples.images, index), probabilities.repeat(DISTILLATION_ROUNDS, 1)
