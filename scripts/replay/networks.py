"""Eight small networks and their data, from seeds; nothing of the package takes part."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parent.parent.parent
BUNDLED = ROOT / "repurpose_hpc" / "bundled"
OPSET = 21
SAMPLES = 400
# Of the bundled data; its network is by far the largest here.
BUNDLED_SAMPLES = 200


class RandomGraph:
    """An ONNX graph whose weights are drawn from a seed; every method returns the name of a tensor."""

    def __init__(self, seed: int, **inputs: tuple[int, ...]) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs = inputs

    def node(self, operator: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        """Add a node; of several outputs, the names are ``NAME.0``, ``NAME.1``, ..."""
        name = f"{operator.lower()}{len(self.nodes)}"
        names = [name] if outputs == 1 else [f"{name}.{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), names, name=name, **attributes))
        return name

    def constant(self, values: np.ndarray) -> str:
        """Add a constant."""
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def drawn(self, *shape: int, scale: float = 1.0) -> str:
        """Add a constant of normal numbers."""
        return self.constant((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def dense(self, source: str, inputs: int, outputs: int) -> str:
        """Add a dense layer."""
        weights = self.drawn(outputs, inputs, scale=inputs**-0.5)
        return self.node("Gemm", source, weights, self.drawn(outputs), transB=1)

    def convolution(
        self, source: str, channels: int, outputs: int, kernel: int = 3, groups: int = 1, **attributes: object
    ) -> str:
        """Add a convolution with square windows; without ``pads``, of the same size."""
        taps = channels // groups * kernel**2
        weights = self.drawn(outputs, channels // groups, kernel, kernel, scale=taps**-0.5)
        attributes = {"pads": [kernel // 2] * 4} | attributes
        return self.node("Conv", source, weights, self.drawn(outputs), group=groups, **attributes)

    def scales(self, neurons: int) -> tuple[str, str]:
        """Add the scales, around 1, and the shifts of a normalisation."""
        around_one = (1 + self.rng.standard_normal(neurons) / 4).astype(np.float32)
        return self.constant(around_one), self.drawn(neurons)

    def save(self, path: Path, *outputs: str) -> None:
        """Write the model."""
        values = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            path.stem,
            [values(name, TensorProto.FLOAT, ["N", *shape]) for name, shape in self.inputs.items()],
            [values(name, TensorProto.FLOAT, None) for name in outputs],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        model = onnx.shape_inference.infer_shapes(model)
        for output in model.graph.output:
            output.type.tensor_type.shape.SetInParent()  # the checker wants one in any case
        onnx.save(model, path)


def write(folder: Path) -> None:
    """Write ``NAME.npz`` or ``NAME.onnx`` and ``NAME.data.npz`` of every network into ``folder``."""
    folder.mkdir(parents=True)
    for seed, (name, make) in enumerate(NETWORKS.items()):
        make(folder, name, seed)


def model_path(folder: Path, name: str) -> Path:
    """The file of the network ``name``."""
    return folder / f"{name}.{'npz' if name in CHAINS else 'onnx'}"


def data_path(folder: Path, name: str) -> Path:
    """The samples of the network ``name``."""
    return folder / f"{name}.data.npz"


def _write_data(folder: Path, name: str, seed: int, width: int, classes: int) -> None:
    rng = np.random.default_rng([seed, 1])
    x = rng.standard_normal((SAMPLES, width)).astype(np.float32)
    # Some zeros: weights of what never varies and messages of zeros are cases of their own.
    x[:, ::11] = 0
    np.savez(data_path(folder, name), x=x, y=rng.integers(classes, size=SAMPLES))


def _bundled(folder: Path, name: str, seed: int) -> None:
    shutil.copy(BUNDLED / "model.npz", folder / f"{name}.npz")
    with np.load(BUNDLED / "calibration.npz") as data:
        np.savez(data_path(folder, name), x=data["x"][:BUNDLED_SAMPLES], y=data["y"][:BUNDLED_SAMPLES])


def _uneven(folder: Path, name: str, seed: int) -> None:
    """Sizes that no number of workers divides."""
    rng, sizes, arrays = np.random.default_rng(seed), (23, 37, 29, 41, 7), {}
    for layer, (inputs, outputs) in enumerate(zip(sizes, sizes[1:], strict=False)):
        arrays[f"W{layer}"] = (rng.standard_normal((outputs, inputs)) / inputs**0.5).astype(np.float32)
        arrays[f"b{layer}"] = rng.standard_normal(outputs).astype(np.float32)
    np.savez(folder / f"{name}.npz", **arrays)
    _write_data(folder, name, seed, sizes[0], sizes[-1])


def _activations(folder: Path, name: str, seed: int) -> None:
    """A layer for each kind of activation."""
    graph, neurons = RandomGraph(seed, x=(13,)), 13
    tensor = graph.dense("x", neurons, neurons)
    for operators in (
        *("Relu", "Sigmoid", "Tanh", "HardSwish", "Mish", "Softplus", "Abs", "Neg", "Softplus Sqrt"),
        *("Softplus Reciprocal", "Tanh Exp"),
    ):
        for operator in operators.split():
            tensor = graph.node(operator, tensor)
        tensor = graph.dense(tensor, neurons, neurons)
    for operator, attributes in (
        ("LeakyRelu", {"alpha": 0.1}),
        ("Elu", {"alpha": 0.7}),
        ("HardSigmoid", {"alpha": 0.25, "beta": 0.4}),
        ("Gelu", {}),
        ("Gelu", {"approximate": "tanh"}),
    ):
        tensor = graph.dense(graph.node(operator, tensor, **attributes), neurons, neurons)
    bounds = (graph.constant(np.float32(bound)) for bound in (-0.5, 0.75))
    tensor = graph.dense(graph.node("Clip", tensor, *bounds), neurons, neurons)
    tensor = graph.node("Mul", tensor, graph.node("Sigmoid", tensor))
    tensor = graph.dense(tensor, neurons, neurons)
    tensor = graph.node("Pow", tensor, graph.constant(np.float32(2)))
    tensor = graph.node("LogSoftmax", graph.dense(tensor, neurons, 6), axis=1)
    graph.save(folder / f"{name}.onnx", tensor)
    _write_data(folder, name, seed, neurons, 6)


def _convolutions(folder: Path, name: str, seed: int) -> None:
    """Strides, dilations, groups and both poolings, then layers on whole maps."""
    graph = RandomGraph(seed, x=(3, 9, 8))
    tensor = graph.node("Relu", graph.convolution("x", 3, 10))
    tensor = graph.node("MaxPool", tensor, kernel_shape=[2, 2], strides=[2, 2])
    tensor = graph.node("Relu", graph.convolution(tensor, 10, 14, pads=[2] * 4, dilations=[2, 2]))
    tensor = graph.node("Relu", graph.convolution(tensor, 14, 12, kernel=1, groups=2))
    tensor = graph.node(
        "AveragePool", tensor, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4, count_include_pad=1
    )
    tensor = graph.node("Tanh", graph.convolution(tensor, 12, 11, strides=[2, 2]))
    tensor = graph.node("Relu", graph.dense(graph.node("Flatten", tensor), 44, 17))
    graph.save(folder / f"{name}.onnx", graph.dense(tensor, 17, 5))
    _write_data(folder, name, seed, 3 * 9 * 8, 5)


def _residual(folder: Path, name: str, seed: int) -> None:
    """A shortcut around a depthwise convolution, and squeeze and excitation."""
    graph, channels = RandomGraph(seed, x=(3, 6, 5)), 10
    tensor = graph.node("Relu", graph.convolution("x", 3, channels))
    inner = graph.convolution(tensor, channels, channels, groups=channels)
    variances = graph.constant(np.linspace(0.5, 2, channels, dtype=np.float32))
    inner = graph.node("BatchNormalization", inner, *graph.scales(channels), graph.drawn(channels), variances)
    inner = graph.convolution(graph.node("Relu", inner), channels, channels, kernel=1)
    tensor = graph.node("Relu", graph.node("Add", inner, tensor))
    means = graph.node("GlobalAveragePool", tensor)
    few = graph.node("Relu", graph.convolution(means, channels, 4, kernel=1))
    gate = graph.node("Sigmoid", graph.convolution(few, 4, channels, kernel=1))
    tensor = graph.node("Mul", tensor, gate)
    tensor = graph.node("Relu", graph.convolution(tensor, channels, 9, strides=[2, 2]))
    tensor = graph.node("Flatten", graph.node("GlobalAveragePool", tensor))
    graph.save(folder / f"{name}.onnx", graph.node("Softmax", graph.dense(tensor, 9, 5), axis=1))
    _write_data(folder, name, seed, 3 * 6 * 5, 5)


def _branches(folder: Path, name: str, seed: int) -> None:
    """Two inputs; a tensor split into halves, which are computed apart, joined and shuffled."""
    graph = RandomGraph(seed, vector=(8,), image=(4, 4, 3))
    tensor = graph.node("Relu", graph.convolution("image", 4, 12))
    halves = graph.node("Split", tensor, outputs=2, axis=1, num_outputs=2)
    left = graph.node("Relu", graph.convolution(f"{halves}.0", 6, 6))
    tensor = graph.node("Concat", left, f"{halves}.1", axis=1)
    tensor = graph.node("Gather", tensor, graph.constant(graph.rng.permutation(12)), axis=1)
    pooled = graph.node("MaxPool", tensor, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
    tensor = graph.node("Max", graph.convolution(tensor, 12, 10, kernel=1), graph.convolution(pooled, 12, 10))
    maps = graph.dense(graph.node("Flatten", graph.node("GlobalMaxPool", tensor)), 10, 9)
    deep = graph.dense(graph.node("Tanh", graph.dense("vector", 8, 15)), 15, 9)
    tensor = graph.node("Relu", graph.node("Sub", maps, deep))
    graph.save(folder / f"{name}.onnx", graph.dense(tensor, 9, 6))
    _write_data(folder, name, seed, 8 + 4 * 4 * 3, 6)


def _outputs(folder: Path, name: str, seed: int) -> None:
    """Two outputs that read the same tensor: classes and maps."""
    graph = RandomGraph(seed, x=(2, 5, 6))
    tensor = graph.node("Relu", graph.convolution("x", 2, 9))
    tensor = graph.node("Relu", graph.convolution(tensor, 9, 11, strides=[2, 2]))
    maps = graph.convolution(tensor, 11, 3)
    classes = graph.node("Softmax", graph.dense(graph.node("Flatten", tensor), 99, 4), axis=1)
    graph.save(folder / f"{name}.onnx", classes, maps)
    _write_data(folder, name, seed, 2 * 5 * 6, 4)


def _normalisations(folder: Path, name: str, seed: int) -> None:
    """Each normalisation; their sums over neurons are mixings with fixed weights."""
    graph = RandomGraph(seed, x=(3, 5, 4))
    tensor = graph.convolution("x", 3, 12)
    tensor = graph.node("GroupNormalization", tensor, *graph.scales(12), num_groups=3)
    tensor = graph.convolution(graph.node("Relu", tensor), 12, 8)
    tensor = graph.node("Relu", graph.node("InstanceNormalization", tensor, *graph.scales(8)))
    tensor = graph.node("LRN", tensor, size=3, alpha=0.01, beta=0.75, bias=1.0)
    tensor = graph.dense(graph.node("Flatten", graph.node("GlobalAveragePool", tensor)), 8, 14)
    tensor = graph.node("LayerNormalization", tensor, *graph.scales(14), axis=-1)
    graph.save(folder / f"{name}.onnx", graph.dense(graph.node("Gelu", tensor), 14, 5))
    _write_data(folder, name, seed, 3 * 5 * 4, 5)


NETWORKS: dict[str, Callable[[Path, str, int], None]] = {
    "bundled": _bundled,
    "uneven": _uneven,
    "activations": _activations,
    "convolutions": _convolutions,
    "residual": _residual,
    "branches": _branches,
    "outputs": _outputs,
    "normalisations": _normalisations,
}
# Those without a graph, in a file of NumPy's.
CHAINS = ("bundled", "uneven")
