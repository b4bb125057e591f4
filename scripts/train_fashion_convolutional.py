"""Train a VGG-like or a ResNet-like network on Fashion-MNIST and export it to ONNX, in both ways of PyTorch.

    python scripts/train_fashion_convolutional.py vgg --out DIRECTORY

Writes ``fashion_vgg.onnx`` (the TorchScript exporter), ``fashion_vgg_dynamo.onnx`` (the exporter built on
torch.export) and ``fashion_vgg.pt`` (the state of the exported network), and beside them the data to
restructure with: ``fashion_calibration.npz``, images kept back from training;
``fashion_calibration_20000.npz``, these and others, of which the network is surer; and ``fashion_test.npz``.
The exported networks take raw pixels, float32 (batch, 1, 28, 28) with any batch size.  Needs what
``train_fashion.py`` needs, onnxscript and onnxruntime; one run takes about half an hour on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn
from train_fashion import (
    BATCH,
    DATA,
    SIDE,
    accuracy,
    as_tensors,
    read_split,
    train,
    training_and_validation,
)

MORE_SAMPLES = 20_000
EPOCHS = {"vgg": 8, "resnet": 6}
IMAGE = (1, SIDE, SIDE)


def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """A convolution that keeps the map (or divides it by ``stride``), and its batch normalisation."""
    mixing = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return [mixing, nn.BatchNorm2d(outputs)]


def vgg() -> nn.Sequential:
    """Six convolutions, the map halved after every second, then a dense head of two layers."""
    layers: list[nn.Module] = []
    inputs = 1
    for outputs in (32, 64, 128):
        layers += [*convolution(inputs, outputs), nn.ReLU(), *convolution(outputs, outputs), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
        inputs = outputs
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 3 * 3, 128), nn.ReLU(), nn.Linear(128, 10))


class ResidualBlock(nn.Module):
    """A basic residual block; where it changes channels or map, its shortcut is a convolution 1 x 1."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *convolution(inputs, outputs, stride=stride), nn.ReLU(), *convolution(outputs, outputs)
        )
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Sequential(
            *([] if same else convolution(inputs, outputs, kernel=1, stride=stride))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.branch(x) + self.shortcut(x))


def resnet() -> nn.Sequential:
    """Eleven convolutions: a stem, four basic blocks (two of them halve the map), a pooled linear head."""
    return nn.Sequential(
        *convolution(1, 48),
        nn.ReLU(),
        nn.MaxPool2d(2),
        ResidualBlock(48, 48),
        ResidualBlock(48, 96, stride=2),
        ResidualBlock(96, 96),
        ResidualBlock(96, 192, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(192, 10),
    )


BUILD = {"vgg": vgg, "resnet": resnet}


def scale_for_raw_pixels(network: nn.Sequential) -> None:
    """Fold the 1/255 of the training input into the first convolution, which has no bias."""
    with torch.no_grad():
        network[0].weight /= 255


def calibrations(training: np.ndarray, validation: np.ndarray) -> dict[str, np.ndarray]:
    """Images to restructure with: those kept back, or these and some of the others, shuffled."""
    more = np.concatenate([validation, training[: MORE_SAMPLES - len(validation)]])
    shuffled = np.random.default_rng(0).permutation(more)
    return {"fashion_calibration": validation, f"fashion_calibration_{MORE_SAMPLES}": shuffled}


def export(network: nn.Module, path: Path, dynamo: bool) -> None:
    """Write ``network`` as one self-contained ONNX file with a dynamic batch size."""
    network.eval()
    example = torch.zeros(2, *IMAGE)
    names = {"input_names": ["pixels"], "output_names": ["scores"]}
    if dynamo:
        shapes = ({0: torch.export.Dim("batch")},)
        torch.onnx.export(network, (example,), path, **names, dynamic_shapes=shapes, external_data=False)
    else:
        axes = {"pixels": {0: "batch"}, "scores": {0: "batch"}}
        torch.onnx.export(network, (example,), path, **names, dynamic_axes=axes, dynamo=False)


def exported_accuracy(path: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Fraction of the images, uint8 (samples, 784), that onnxruntime classifies as labelled."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pixels = images.reshape(-1, *IMAGE).astype(np.float32)
    batches = np.split(pixels, range(BATCH, len(pixels), BATCH))
    answers = [session.run(None, {"pixels": batch})[0].argmax(axis=1) for batch in batches]
    return float((np.concatenate(answers) == labels).mean())


def main() -> None:
    """Train, write the files, report the accuracies."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", choices=sorted(BUILD))
    parser.add_argument("--out", type=Path, required=True, help="the directory to write to")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    images, labels = read_split(options.data, "train")
    test_images, test_labels = read_split(options.data, "t10k")
    torch.manual_seed(options.seed)
    training, validation = training_and_validation(len(images), options.seed)

    network = BUILD[options.network]().to(memory_format=torch.channels_last)
    from_rows = nn.Sequential(nn.Unflatten(1, IMAGE), network)
    sets = [as_tensors(images[part], labels[part]) for part in (training, validation)]
    train(from_rows, *sets, EPOCHS[options.network])
    print(f"test accuracy: {accuracy(from_rows, *as_tensors(test_images, test_labels)):.4f}")

    options.out.mkdir(parents=True, exist_ok=True)
    for name, chosen in calibrations(training, validation).items():
        np.savez_compressed(options.out / f"{name}.npz", x=images[chosen], y=labels[chosen])
    np.savez_compressed(options.out / "fashion_test.npz", x=test_images, y=test_labels)
    network.to(memory_format=torch.contiguous_format)
    scale_for_raw_pixels(network)
    torch.save(network.state_dict(), options.out / f"fashion_{options.network}.pt")
    for dynamo in (False, True):
        path = options.out / f"fashion_{options.network}{'_dynamo' if dynamo else ''}.onnx"
        export(network, path, dynamo)
        print(f"{path.name}, onnxruntime: {exported_accuracy(path, test_images, test_labels):.4f}")


if __name__ == "__main__":
    main()
