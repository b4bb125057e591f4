"""Train the bundled network on Fashion-MNIST and write ``repurpose_hpc/bundled/*.npz``.

Needs the extra ``train`` (PyTorch) and the idx files of Fashion-MNIST (Debian package
``dataset-fashion-mnist``).  One run with the default seed takes a few minutes on two cores.
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

from repurpose_hpc import bundled

DATA = Path("/usr/share/datasets/fashion-mnist")
WIDTHS = (784, 512, 512, 512, 10)
SIDE = 28
VALIDATION_SAMPLES = 5_000
CALIBRATION_SAMPLES = 4_000
TEST_SAMPLES = 2_000
EPOCHS = 14
BATCH = 256
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.02
DROPOUT = 0.15


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array of a gzipped idx file; images come flattened, shape (samples, pixels)."""
    raw = gzip.decompress(path.read_bytes())
    dimensions = raw[3]
    shape = np.frombuffer(raw, ">u4", count=dimensions, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape[0], -1).squeeze()


def read_split(data: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 (samples, 784), and labels, uint8 (samples,), of ``split``: ``train`` or ``t10k``."""
    images, labels = (read_idx(data / f"{split}-{name}-ubyte.gz") for name in ("images-idx3", "labels-idx1"))
    return images, labels


def training_and_validation(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Shuffled indices of the images to train on and of the VALIDATION_SAMPLES kept back."""
    order = np.random.default_rng(seed).permutation(samples)
    return order[VALIDATION_SAMPLES:], order[:VALIDATION_SAMPLES]


def build_network(widths: Sequence[int] = WIDTHS) -> nn.Sequential:
    """The multilayer perceptron of ``widths`` with ReLU and dropout between the layers."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(DROPOUT)]
    return nn.Sequential(*layers[:-2])


def augment(x: torch.Tensor) -> torch.Tensor:
    """Mirror the images of a random half of the samples left to right; shape (samples, k · 784)."""
    mirrored = x.view(-1, SIDE, SIDE).flip(-1).view_as(x)
    return torch.where(torch.rand(len(x), 1) < 0.5, mirrored, x)


def accuracy(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Fraction of samples whose largest output is at the label."""
    network.eval()
    with torch.no_grad():
        answers = torch.cat([network(part).argmax(dim=1) for part in x.split(BATCH)])
    return (answers == y).float().mean().item()


def train(network: nn.Module, train_set: tuple, validation_set: tuple, epochs: int = EPOCHS) -> None:
    """AdamW with a one-cycle learning rate; prints the validation accuracy of every epoch."""
    x, y = train_set
    steps = -(-len(x) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=epochs * steps)
    for epoch in range(epochs):
        network.train()
        for batch in torch.randperm(len(x)).split(BATCH):
            loss = nn.functional.cross_entropy(network(augment(x[batch])), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: validation accuracy {accuracy(network, *validation_set):.4f}", flush=True)


def weights_for_raw_pixels(network: nn.Sequential) -> dict[str, np.ndarray]:
    """``W0, b0, W1, ...`` (float32) with the 1/255 of the training input folded into ``W0``."""
    arrays = {}
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    for index, layer in enumerate(linear):
        arrays[f"W{index}"] = layer.weight.detach().numpy()
        arrays[f"b{index}"] = layer.bias.detach().numpy()
    arrays["W0"] = arrays["W0"] / np.float32(255)
    return arrays


def as_tensors(images: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels scaled to [0, 1] as float32, labels as int64."""
    return torch.from_numpy(images.astype(np.float32) / 255), torch.from_numpy(labels.astype(np.int64))


def main() -> None:
    """Train, report the accuracies, write the three files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    images, labels = read_split(options.data, "train")
    test_images, test_labels = read_split(options.data, "t10k")
    torch.manual_seed(options.seed)
    training, validation = training_and_validation(len(images), options.seed)
    calibration = training[:CALIBRATION_SAMPLES]

    network = build_network()
    train(
        network,
        as_tensors(images[training], labels[training]),
        as_tensors(images[validation], labels[validation]),
    )
    head = slice(TEST_SAMPLES)
    print(
        f"all {len(test_images)} test images: {accuracy(network, *as_tensors(test_images, test_labels)):.4f}"
    )
    head_accuracy = accuracy(network, *as_tensors(test_images[head], test_labels[head]))
    print(f"first {TEST_SAMPLES} test images: {head_accuracy:.4f}")

    np.savez_compressed(bundled.MODEL, **weights_for_raw_pixels(network))
    np.savez_compressed(bundled.CALIBRATION, x=images[calibration], y=labels[calibration])
    np.savez_compressed(bundled.TEST, x=test_images[head], y=test_labels[head])


if __name__ == "__main__":
    main()
