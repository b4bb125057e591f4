"""Train networks of spiking neurons on Fashion-MNIST, and write them as ``.nir`` files with their data.

Images become trains whose values fire with their brightness as probability, drawn anew for every batch; the
class is that of the output neuron that fires most.  Leaky neurons of snnTorch, reset by subtraction, are
trained through the surrogate slope arctan.  Needs PyTorch, snntorch, nir and nirtorch, and the idx files of
Fashion-MNIST (Debian package ``dataset-fashion-mnist``).  An epoch of 784-1000-10 takes about four minutes of
one core.

Writes DIR/model.nir, and calibration.npz, training.npz and test.npz with images from 0 to 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import nir
import numpy as np
import snntorch as snn
import torch
from snntorch import surrogate
from snntorch.export_nir import export_to_nir
from torch import nn
from train_fashion import DATA, as_tensors, read_split, training_and_validation

BETA = 0.9
BATCH = 128
LEARNING_RATE = 1e-3
CALIBRATION_SAMPLES = 5_000
CLASSES = 10


def build_network(widths: Sequence[int]) -> nn.Sequential:
    """Dense layers, each with leaky neurons behind it; a decay for every neuron, as exports want it."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        beta, threshold = torch.full((outputs,), BETA), torch.ones(outputs)
        layers.append(nn.Linear(inputs, outputs))
        layers.append(snn.Leaky(beta, threshold=threshold, spike_grad=surrogate.atan(), init_hidden=True))
    return nn.Sequential(*layers)


def fired(network: nn.Sequential, trains: torch.Tensor) -> torch.Tensor:
    """How often every output neuron fires, (samples, classes), for trains (steps, samples, pixels)."""
    signal = trains
    for layer in network:
        if isinstance(layer, snn.Leaky):
            layer.reset_mem()
            signal = torch.stack([layer(step) for step in signal])
        else:
            signal = layer(signal)
    return signal.sum(dim=0)


def trains_of(x: torch.Tensor, steps: int) -> torch.Tensor:
    """Random trains of images, (steps, samples, pixels)."""
    return torch.bernoulli(x.expand(steps, *x.shape))


def accuracy(network: nn.Sequential, x: torch.Tensor, y: torch.Tensor, steps: int) -> float:
    """Fraction of images whose class fires most."""
    with torch.no_grad():
        answers = [fired(network, trains_of(part, steps)).argmax(dim=1) for part in x.split(BATCH)]
    return (torch.cat(answers) == y).float().mean().item()


def train(network: nn.Sequential, x: torch.Tensor, y: torch.Tensor, options: argparse.Namespace) -> None:
    """Adam on the cross-entropy of how often neurons fire."""
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    for epoch in range(options.epochs):
        for batch in torch.randperm(len(x)).split(BATCH):
            counts = fired(network, trains_of(x[batch], options.steps))
            loss = nn.functional.cross_entropy(counts, y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss of the last batch {loss.item():.3f}", flush=True)


def main() -> None:
    """Train, report the accuracy, write the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--hidden", type=int, nargs="+", default=[1000])
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    images, labels = read_split(options.data, "train")
    held_in, held_out = training_and_validation(len(images), options.seed)
    x, y = as_tensors(images, labels)
    network = build_network((x.shape[1], *options.hidden, CLASSES))
    train(network, x[held_in], y[held_in], options)
    validated = accuracy(network, x[held_out], y[held_out], options.steps)
    print(f"validation accuracy {validated:.4f}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    nir.write(options.out / "model.nir", export_to_nir(network, x[:1], ignore_dims=[0]))
    test = as_tensors(*read_split(options.data, "t10k"))
    calibration = held_in[:CALIBRATION_SAMPLES]
    parts = {
        "calibration": (x[calibration], y[calibration]),
        "training": (x[held_in], y[held_in]),
        "test": test,
    }
    for name, (samples, classes) in parts.items():
        np.savez_compressed(options.out / f"{name}.npz", x=samples.numpy(), y=classes.numpy())


if __name__ == "__main__":
    main()
