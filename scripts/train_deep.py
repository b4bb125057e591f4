"""Train deep perceptrons on Fashion-MNIST, and write them as chain files with their data.

    python scripts/train_deep.py --layers 12 --out DIR

784-1024-...-10 with ReLU, from He's initial weights, without dropout.  Needs the extra ``train`` (PyTorch),
and the idx files of Fashion-MNIST (Debian package ``dataset-fashion-mnist``).

Writes DIR/model.npz, calibration.npz and test.npz, with raw pixels.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn
from train_fashion import (
    DATA,
    accuracy,
    as_tensors,
    read_split,
    train,
    training_and_validation,
    weights_for_raw_pixels,
)

WIDTH = 1024
CALIBRATION_SAMPLES = 5_000


def build_network(layers: int) -> nn.Sequential:
    """A perceptron of ``layers`` dense layers."""
    widths = (784, *(WIDTH,) * (layers - 1), 10)
    modules: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        linear = nn.Linear(inputs, outputs)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def main() -> None:
    """Train, report the accuracy, write the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    images, labels = read_split(options.data, "train")
    held_in, held_out = training_and_validation(len(images), options.seed)
    network = build_network(options.layers)
    parts = (as_tensors(images[each], labels[each]) for each in (held_in, held_out))
    train(network, *parts, epochs=options.epochs)
    test_images, test_labels = read_split(options.data, "t10k")
    print(f"test accuracy {accuracy(network, *as_tensors(test_images, test_labels)):.4f}")
    calibration = held_in[:CALIBRATION_SAMPLES]
    options.out.mkdir(parents=True, exist_ok=True)
    np.savez(options.out / "model.npz", **weights_for_raw_pixels(network))
    np.savez_compressed(options.out / "calibration.npz", x=images[calibration], y=labels[calibration])
    np.savez_compressed(options.out / "test.npz", x=test_images, y=test_labels)


if __name__ == "__main__":
    main()
