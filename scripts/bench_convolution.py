"""Measure convolutions as a program computes them against ONNX Runtime, with one thread.

    OMP_NUM_THREADS=1 python scripts/bench_convolution.py --out convolution.json

``direct`` is the compiled convolution, ``patches`` a patch matrix and BLAS, ``pointwise`` the dense product
of all positions.  A program takes the fastest one.  float32, with a bias, without
activation; 1e9 multiply-adds per second from medians.  The candidates take turns, so that other work on the
machine slows all of them alike; trust the ratios more than the rates.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from statistics import geometric_mean

import numpy as np
import onnx
import onnxruntime
from bench_kernels import medians_us, parse
from onnx import helper, numpy_helper

from repurpose_hpc.bench import machine
from repurpose_hpc.kernels import warm_up
from repurpose_hpc.model.operations import Window
from repurpose_hpc.runtime.buffers import Scratch
from repurpose_hpc.runtime.lowering.blocks import NO_ACTIVATION, DenseProduct, Product
from repurpose_hpc.runtime.lowering.convolution import Direct, Patches, Pointwise

BATCHES = (1, 32)


@dataclass(frozen=True)
class ConvolutionShape:
    """A convolution with square maps and kernels, padded so that stride 1 keeps the size."""

    source: int
    target: int
    kernel: int
    size: int
    stride: int = 1

    @property
    def out_size(self) -> int:
        return (self.size - 1) // self.stride + 1

    @property
    def window(self) -> Window:
        kernel, strides, pads = ((each,) * 2 for each in (self.kernel, self.stride, self.kernel // 2))
        return Window((self.size,) * 2, kernel, strides, (1, 1), pads, (self.out_size,) * 2)

    def __str__(self) -> str:
        return (
            f"{self.source}->{self.target} {self.kernel}x{self.kernel}/{self.stride} {self.size}x{self.size}"
        )


SHAPES = (
    *(
        ConvolutionShape(64, 64, 3, 56),
        ConvolutionShape(128, 128, 3, 28),
        ConvolutionShape(256, 256, 3, 14),
        ConvolutionShape(512, 512, 3, 7),
    ),
    *(ConvolutionShape(256, 64, 1, 56), ConvolutionShape(64, 256, 1, 56), ConvolutionShape(512, 2048, 1, 7)),
    *(
        ConvolutionShape(64, 128, 3, 56, 2),
        ConvolutionShape(256, 512, 3, 14, 2),
        ConvolutionShape(256, 512, 1, 56, 2),
    ),
    # What one of several workers has.
    *(ConvolutionShape(n, m, 3, size) for n, m in ((16, 16), (24, 16), (40, 32)) for size in (28, 14, 7)),
)


def onnxruntime_call(
    shape: ConvolutionShape, W: np.ndarray, bias: np.ndarray, x: np.ndarray
) -> Callable[[], np.ndarray]:
    """The same convolution in ONNX Runtime, samples first."""
    window = shape.window
    node = helper.make_node("Conv", ["x", "W", "b"], ["y"], strides=window.strides, pads=window.pads * 2)
    samples = np.ascontiguousarray(x.swapaxes(0, 1))
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "convolution",
        [helper.make_tensor_value_info("x", float32, samples.shape)],
        [helper.make_tensor_value_info("y", float32, None)],
        [numpy_helper.from_array(W, "W"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"x": samples})[0]


def products(shape: ConvolutionShape, W: np.ndarray) -> dict[str, Product]:
    """The ways in which a program multiplies these weights."""
    weights, window = W.reshape(len(W), -1), shape.window
    ways: dict[str, Product] = {"direct": Direct(window, weights), "patches": Patches(window, weights)}
    return ways | ({"pointwise": Pointwise(DenseProduct, weights)} if window.is_pointwise else {})


def product_call(product: Product, x: np.ndarray, bias: np.ndarray, out: np.ndarray) -> Callable[[], None]:
    """The product with maps, x (n, batch, H, W), into out, (m, batch, OH, OW)."""
    flat = out.reshape(len(out), -1)
    scratch = Scratch(out.dtype, product.scratch(flat.shape[1]))
    X = x.reshape(*x.shape[:2], -1)
    calls = product.calls(X, bias.reshape(-1, 1), flat, scratch, NO_ACTIVATION)

    def call() -> None:
        for _, function, arguments in calls:
            function(*arguments)

    return call


def measure(shape: ConvolutionShape, batch: int) -> dict:
    rng = np.random.default_rng(0)
    W = rng.standard_normal((shape.target, shape.source, shape.kernel, shape.kernel), dtype=np.float32)
    bias = rng.standard_normal(shape.target, dtype=np.float32)
    x = rng.standard_normal((shape.source, batch, shape.size, shape.size), dtype=np.float32)
    out = np.empty((shape.target, batch, shape.out_size, shape.out_size), np.float32)
    peer = onnxruntime_call(shape, W, bias, x)
    ours = {name: product_call(product, x, bias, out) for name, product in products(shape, W).items()}
    expected = peer().swapaxes(0, 1)
    for call in ours.values():
        call()
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    times = medians_us({"onnxruntime": peer, **ours})
    work = W.size * out[0].size
    rates = {name: round(work / us / 1e3, 1) for name, us in times.items()}
    best = max(ours, key=rates.__getitem__)
    ratio = round(times["onnxruntime"] / times[best], 2)
    columns = {name: rates.get(name, "") for name in ("onnxruntime", "direct", "patches", "pointwise")}
    return {"shape": str(shape), "batch": batch, **columns, "of_onnxruntime": ratio}


def main() -> None:
    arguments = parse(__doc__)
    warm_up(np.float32, maps=True)
    results = {"machine": machine.describe(), "rows": []}
    print(machine.render(results["machine"]))
    for shape in SHAPES:
        for batch in BATCHES:
            row = measure(shape, batch)
            if not results["rows"]:
                print("".join(f"{name:>15}" for name in row))
            print("".join(f"{value:>15}" for value in row.values()), flush=True)
            results["rows"].append(row)
    for batch in BATCHES:
        ratios = [row["of_onnxruntime"] for row in results["rows"] if row["batch"] == batch]
        mean = f"{geometric_mean(ratios):.2f} of onnxruntime in the geometric mean"
        print(f"batch {batch}: {mean}, {min(ratios)} at least")
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
