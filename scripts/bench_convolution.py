"""Measure convolutions by two ways against ONNX Runtime, with one thread.

    OMP_NUM_THREADS=1 python scripts/bench_convolution.py --out convolution.json

``direct`` is ``convolve_direct``; ``blas_N`` is ``patches`` and ``np.matmul`` in tiles whose patch matrix
takes N KiB (a 1x1 convolution with stride 1 needs none).  float32, with a bias, without activation; 1e9
multiply-adds per second from medians.  The candidates take turns, so that other work on the machine
slows all of them alike; trust the ratios more than the rates.
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
from repurpose_hpc.kernels import (
    ACTIVATION_CODES,
    Epilogue,
    Window2D,
    convolve_direct,
    finish,
    pack_weights,
    patches,
    warm_up,
)

NO_ACTIVATION = Epilogue(ACTIVATION_CODES["identity"], 0.0, 0.0)
TILES_KIB = (128, 512, 2048)
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
    def geometry(self) -> tuple[tuple[int, int], ...]:
        """Kernel, strides, dilations, pads."""
        pad = self.kernel // 2
        return (self.kernel,) * 2, (self.stride,) * 2, (1, 1), (pad, pad)

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
    kernel, strides, dilations, pads = shape.geometry
    node = helper.make_node(
        "Conv", ["x", "W", "b"], ["y"], strides=strides, dilations=dilations, pads=pads * 2
    )
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


def direct_call(
    shape: ConvolutionShape, W: np.ndarray, bias: np.ndarray, x: np.ndarray, out: np.ndarray
) -> Callable:
    weights, start = pack_weights(W.reshape(len(W), -1)), bias.reshape(-1, 1, 1, 1)
    return lambda: convolve_direct(weights, x, Window2D(*shape.geometry), start, out, NO_ACTIVATION)


def blas_call(
    shape: ConvolutionShape, W: np.ndarray, bias: np.ndarray, x: np.ndarray, out: np.ndarray, tile_bytes: int
) -> Callable[[], None]:
    """Tiles of whole output rows, each product written straight into its columns of ``out``."""
    weights, Y, start = W.reshape(len(W), -1), out.reshape(len(W), -1), bias.reshape(-1, 1)
    width, columns = shape.out_size, Y.shape[1]
    if shape.kernel == shape.stride == 1:
        X = x.reshape(len(x), -1)

        def whole() -> None:
            np.matmul(weights, X, out=Y)
            finish(start, Y, Y, NO_ACTIVATION)

        return whole
    rows = max(1, tile_bytes // (4 * weights.shape[1] * width))
    buffer = np.empty(weights.shape[1] * min(rows * width, columns), np.float32)

    def tiled() -> None:
        for begin in range(0, columns, rows * width):
            product = Y[:, begin : begin + rows * width]
            seen = buffer[: weights.shape[1] * product.shape[1]].reshape(weights.shape[1], -1)
            patches(x, begin // width, out.shape[2:], Window2D(*shape.geometry), seen)
            np.matmul(weights, seen, out=product)
        finish(start, Y, Y, NO_ACTIVATION)

    return tiled


def measure(shape: ConvolutionShape, batch: int) -> dict:
    rng = np.random.default_rng(0)
    W = rng.standard_normal((shape.target, shape.source, shape.kernel, shape.kernel), dtype=np.float32)
    bias = rng.standard_normal(shape.target, dtype=np.float32)
    x = rng.standard_normal((shape.source, batch, shape.size, shape.size), dtype=np.float32)
    out = np.empty((shape.target, batch, shape.out_size, shape.out_size), np.float32)
    peer = onnxruntime_call(shape, W, bias, x)
    ours = {"direct": direct_call(shape, W, bias, x, out)}
    ours |= {f"blas_{kib}": blas_call(shape, W, bias, x, out, kib << 10) for kib in TILES_KIB}
    expected = peer().swapaxes(0, 1)
    for call in ours.values():
        call()
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    times = medians_us({"onnxruntime": peer, **ours})
    work = W.size * out[0].size
    rates = {name: round(work / us / 1e3, 1) for name, us in times.items()}
    best = max(ours, key=rates.__getitem__)
    ratio = round(times["onnxruntime"] / times[best], 2)
    return {"shape": str(shape), "batch": batch, **rates, "best": best, "of_onnxruntime": ratio}


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
        print(f"batch {batch}: {geometric_mean(ratios):.2f} of onnxruntime in the geometric mean")
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
