"""The small graphs that the onnx package ships (AlexNet, VGG-19, ResNet-50 ...) with random weights.

Their large weights are constants, all alike; here all are drawn at random, scaled by the number of inputs,
so that signals neither vanish nor explode.

    python scripts/light_models.py DIR [NAME ...] [--ranks 2 4]

writes DIR/NAME.onnx and prints how far the outputs of the reference, and of so many ranks, are from those of
onnxruntime: the largest difference relative to the largest output.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import environment
import h5py
import numpy as np
import onnx
from onnx import numpy_helper

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NAMES = tuple(sorted(path.stem.removeprefix("light_") for path in FOLDER.glob("light_*.onnx")))

# What is added to a sum of residuals must be small, or signals double in every block; what Softmax
# reads, too, or all outputs but one are zero.
_RESIDUAL_SCALE = 0.5
_LAST_SCALE = 0.05


def random_model(name: str, seed: int = 0) -> onnx.ModelProto:
    """The graph ``name`` (of ``NAMES``) with random float32 weights as initializers."""
    model = onnx.load(FOLDER / f"light_{name}.onnx")
    graph, rng = model.graph, np.random.default_rng(seed)
    shapes = _weight_shapes(graph)
    readers = {tensor: (node, place) for node in graph.node for place, tensor in enumerate(node.input)}
    makers = {tensor: node.op_type for node in graph.node for tensor in node.output}
    last_mixing = [node for node in graph.node if node.op_type in ("Conv", "Gemm")][-1]
    _keep(graph.node, lambda node: node.op_type != "ConstantOfShape")
    _keep(graph.initializer, lambda item: item.name not in shapes)
    for tensor, shape in shapes.items():
        if tensor not in readers:
            continue
        reader, place = _reader(readers, tensor)
        values = _draw(rng, shape, reader, place)
        values *= np.float32(_scale(reader, place, makers, readers, reader is last_mixing))
        graph.initializer.append(numpy_helper.from_array(values, tensor))
    model.ir_version = 8  # initializers need not be inputs
    read = {tensor for node in graph.node for tensor in node.input}
    drawn = {item.name for item in graph.initializer}
    _keep(graph.initializer, lambda item: item.name in read)
    _keep(graph.input, lambda item: item.name in read - drawn)
    return model


def _weight_shapes(graph: onnx.GraphProto) -> dict[str, list[int]]:
    """Tensor -> shape: of the constants, and of the small weights that are stored."""
    stored = {initializer.name: numpy_helper.to_array(initializer) for initializer in graph.initializer}
    constants = {
        node.output[0]: stored[node.input[0]].tolist()
        for node in graph.node
        if node.op_type == "ConstantOfShape"
    }
    return constants | {name: list(value.shape) for name, value in stored.items() if value.dtype.kind == "f"}


def _keep(items, accepts: Callable[[object], bool]) -> None:
    """Leave those items in a list of a graph that ``accepts`` accepts."""
    accepted = [item for item in items if accepts(item)]
    del items[:]
    items.extend(accepted)


def _reader(readers: dict, tensor: str) -> tuple[onnx.NodeProto, int]:
    """The node that uses a constant, and as which input."""
    node, place = readers[tensor]
    while node.op_type in ("Unsqueeze", "Reshape"):
        node, place = readers[node.output[0]]
    return node, place


def _draw(rng: np.random.Generator, shape: list[int], node: onnx.NodeProto, place: int) -> np.ndarray:
    """Values for input ``place`` of ``node``, float32."""
    if node.op_type == "Mul" or (node.op_type == "BatchNormalization" and place in (1, 4)):
        return rng.uniform(0.9, 1.1, shape).astype(np.float32)
    if node.op_type in ("Conv", "Gemm") and place == 1:
        return rng.standard_normal(shape, np.float32) / np.float32(math.sqrt(math.prod(shape[1:])))
    return rng.normal(0, 0.1, shape).astype(np.float32)


def _scale(node: onnx.NodeProto, place: int, makers: dict, readers: dict, is_last: bool) -> float:
    """Factor of input ``place`` of ``node``, with which signals keep their size."""
    if place != 1:
        return 1.0
    if node.op_type == "BatchNormalization":
        reader, _ = readers.get(node.output[0], (None, 0))
        return _RESIDUAL_SCALE if reader is not None and reader.op_type == "Sum" else 1.0
    if is_last:
        return _LAST_SCALE
    follows_relu = node.op_type in ("Conv", "Gemm") and makers.get(node.input[0]) != "BatchNormalization"
    return math.sqrt(2) if follows_relu else 1.0


def expected_outputs(path: Path, samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random inputs (samples, values), and the outputs of onnxruntime for them, (samples, values)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    x = np.random.default_rng(seed).standard_normal((samples, *source.shape[1:]), np.float32)
    y = np.concatenate([session.run(None, {source.name: sample[None]})[0].ravel()[None] for sample in x])
    return x.reshape(samples, -1), y


def reference_outputs(path: Path, x: np.ndarray) -> np.ndarray:
    """Outputs of the reference of the imported network, (samples, values)."""
    from repurpose_hpc.model.forward import forward
    from repurpose_hpc.model.importers.load import load_model

    return forward(load_model(path), x, np.float32)


def distributed_outputs(path: Path, x: np.ndarray, ranks: int) -> np.ndarray:
    """Outputs of ``ranks`` ranks, with nothing pruned, by the commands as a user runs them."""
    shards, samples, output = (path.with_suffix(suffix) for suffix in (".shards", ".npy", ".h5"))
    np.save(samples, x)
    python = Path(sys.executable)
    commands = [
        [str(python), "-m", "repurpose_hpc.restructure", str(path), "--workers", str(ranks)]
        + ["--calibration", str(samples), "--comm-budget", "1", "--out", str(shards)],
        [*environment.mpi_command(python, ranks), "-m", "repurpose_hpc.infer", "--shards", str(shards)]
        + ["--input", str(samples), "--output", str(output), "--batch-size", "2", "--repeat", "1"],
    ]
    for command in commands:
        subprocess.run(command, env=environment.mpi_environment(), check=True, stdout=subprocess.DEVNULL)
    with h5py.File(output) as file:
        return file["y"][()]


def relative_difference(y: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of the outputs, relative to the largest output."""
    return float(np.abs(y - expected).max() / np.abs(expected).max())


def main() -> None:
    """Write the models named on the command line and compare each with onnxruntime."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(NAMES)}")
    parser.add_argument("--ranks", type=int, nargs="*", default=[], help="run it on so many as well")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in args.names or NAMES:
        path = args.folder / f"{name}.onnx"
        onnx.save(random_model(name), path)
        x, expected = expected_outputs(path, samples=2)
        size = np.abs(expected)
        # A large ratio would mean that the outputs are all alike but one, and the comparison worth little.
        print(f"{name}: largest output {size.max() / np.median(size):.1f} times the median", flush=True)
        print(f"  reference: {relative_difference(reference_outputs(path, x), expected):.1e}", flush=True)
        for ranks in args.ranks:
            difference = relative_difference(distributed_outputs(path, x, ranks), expected)
            print(f"  {ranks} ranks: {difference:.1e}", flush=True)


if __name__ == "__main__":
    main()
