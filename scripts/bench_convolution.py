"""Measure convolutions as a program computes them against ONNX Runtime, with one thread.

    OMP_NUM_THREADS=1 python scripts/bench_convolution.py --out convolution.json

``direct`` is the compiled convolution, ``patches`` a patch matrix and BLAS, ``pointwise`` the dense product
of all positions.  A program takes the fastest one.  float32, with a bias, without activation; 1e9
multiply-adds per second from medians.  With ``--formats`` the least time with weights in fewer bits over that
in float32 is measured instead, with ``--local`` that of filters and pools of single maps over that of a copy
of as many bytes; both are 10th percentiles.  The candidates take turns, so that other work on the
machine slows all of them alike; trust the ratios more than the rates.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from statistics import geometric_mean

import numpy as np
import onnx
import onnxruntime
from bench_kernels import parse, times_us
from onnx import helper, numpy_helper

from repurpose_hpc.bench import machine
from repurpose_hpc.kernels import average_pool, depthwise, max_pool, warm_up
from repurpose_hpc.model.comm_dtype import EXACT, WEIGHTS_DTYPES
from repurpose_hpc.model.operations import Window
from repurpose_hpc.runtime.buffers import Scratch
from repurpose_hpc.runtime.lowering.blocks import NO_ACTIVATION, DenseProduct, Product
from repurpose_hpc.runtime.lowering.convolution import Direct, Patches, Pointwise
from repurpose_hpc.runtime.lowering.local import on_two_axes

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

# Windows of 3 x 3 on every map by itself.
LOCAL = ("depthwise", "max_pool", "average_pool")
LOCAL_SHAPES = tuple(
    ConvolutionShape(n, n, 3, size, stride)
    for stride in (1, 2)
    for n, size in ((64, 112), (128, 56), (256, 28), (512, 14), (512, 7))
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


def products(shape: ConvolutionShape, W: np.ndarray, weights_dtype: str = EXACT) -> dict[str, Product]:
    """The ways in which a program multiplies these weights."""
    weights, window = W.reshape(len(W), -1), shape.window
    ways: dict[str, Product] = {"direct": Direct(window, weights, weights_dtype)}
    if weights_dtype == EXACT:
        ways["patches"] = Patches(window, weights)
    if window.is_pointwise:
        ways["pointwise"] = Pointwise(partial(DenseProduct, weights_dtype=weights_dtype), weights)
    return ways


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


def problem(shape: ConvolutionShape, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Weights, bias, maps and room for the result, drawn from a seed."""
    rng = np.random.default_rng(0)
    W = rng.standard_normal((shape.target, shape.source, shape.kernel, shape.kernel), dtype=np.float32)
    bias = rng.standard_normal(shape.target, dtype=np.float32)
    x = rng.standard_normal((shape.source, batch, shape.size, shape.size), dtype=np.float32)
    return W, bias, x, np.empty((shape.target, batch, shape.out_size, shape.out_size), np.float32)


def measure(shape: ConvolutionShape, batch: int) -> dict:
    """Rates of all ways beside ONNX Runtime's."""
    W, bias, x, out = problem(shape, batch)
    peer = onnxruntime_call(shape, W, bias, x)
    ours = {name: product_call(product, x, bias, out) for name, product in products(shape, W).items()}
    expected = peer().swapaxes(0, 1)
    for call in ours.values():
        call()
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    times = times_us({"onnxruntime": peer, **ours})
    work = W.size * out[0].size
    rates = {name: round(work / us / 1e3, 1) for name, us in times.items()}
    best = max(ours, key=rates.__getitem__)
    ratio = round(times["onnxruntime"] / times[best], 2)
    columns = {name: rates.get(name, "") for name in ("onnxruntime", "direct", "patches", "pointwise")}
    return {"shape": str(shape), "batch": batch, **columns, "of_onnxruntime": ratio}


def measure_formats(shape: ConvolutionShape, batch: int) -> dict:
    """The least time in float32, and that in each other format over it."""
    W, bias, x, out = problem(shape, batch)
    calls = {
        (weights_dtype, name): product_call(product, x, bias, out)
        for weights_dtype in WEIGHTS_DTYPES
        for name, product in products(shape, W, weights_dtype).items()
    }
    times = times_us(calls, percentile=10)
    least = {
        each: min(us for (weights_dtype, _), us in times.items() if weights_dtype == each)
        for each in WEIGHTS_DTYPES
    }
    ratios = {each: round(us / least[EXACT], 2) for each, us in least.items() if each != EXACT}
    return {"shape": str(shape), "batch": batch, "float32_us": round(least[EXACT], 1), **ratios}


def measure_local(shape: ConvolutionShape, batch: int) -> dict:
    """The time of a copy of as many bytes as are read and written, and that of each local kernel over it."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((shape.source, batch, shape.size, shape.size), dtype=np.float32)
    out = np.empty((shape.target, batch, shape.out_size, shape.out_size), np.float32)
    filters, bias = (rng.standard_normal((len(x), *axes), dtype=np.float32) for axes in ((3, 3), (1, 1, 1)))
    window = on_two_axes(shape.window)
    read, written = (np.ones((x.size + out.size) // 2, np.float32) for _ in range(2))
    calls = {
        "copy": partial(np.copyto, written, read),
        "depthwise": partial(depthwise, filters, x, window, bias, out, NO_ACTIVATION),
        "max_pool": partial(max_pool, x, window, out),
        "average_pool": partial(average_pool, x, window, (0, 0, 0, 0), out),
    }
    times = times_us(calls, percentile=10)
    ratios = {name: round(times[name] / times["copy"], 2) for name in LOCAL}
    return {"shape": str(shape), "batch": batch, "copy_us": round(times["copy"], 1), **ratios}


def table(
    measured: Callable[[ConvolutionShape, int], dict], shapes: Iterable[ConvolutionShape]
) -> list[dict]:
    """A row for each shape and batch, printed as soon as it is measured."""
    rows: list[dict] = []
    for shape in shapes:
        for batch in BATCHES:
            row = measured(shape, batch)
            if not rows:
                print("".join(f"{name:>20}" for name in row))
            print("".join(f"{value:>20}" for value in row.values()), flush=True)
            rows.append(row)
    return rows


def print_means(rows: list[dict], columns: dict[str, str]) -> None:
    """Geometric means by batch and column, which is described by its value, and the extremes."""
    for batch in BATCHES:
        for column, meaning in columns.items():
            ratios = [row[column] for row in rows if row["batch"] == batch]
            mean = f"{geometric_mean(ratios):.2f} of {meaning} in the geometric mean"
            print(f"batch {batch}: {mean}, {min(ratios)} to {max(ratios)}")


def main() -> None:
    arguments = parse(__doc__, "--formats", "--local")
    warm_up(np.float32, maps=True)
    results = {"machine": machine.describe()}
    print(machine.render(results["machine"]))
    if arguments.formats:
        results["rows"] = table(measure_formats, SHAPES)
        columns = {each: f"the time in float32 with {each}" for each in WEIGHTS_DTYPES if each != EXACT}
    elif arguments.local:
        results["rows"] = table(measure_local, LOCAL_SHAPES)
        columns = {name: f"the time of the copy with {name}" for name in LOCAL}
    else:
        results["rows"] = table(measure, SHAPES)
        columns = {"of_onnxruntime": "the rate of onnxruntime"}
    print_means(results["rows"], columns)
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
