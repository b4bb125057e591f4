"""ONNX Runtime in one process: ``Gemm`` and ``Relu``, which it fuses, samples first, its own thread pool."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import h5py
import numpy as np
import onnxruntime
from onnx import helper, numpy_helper

from repurpose_hpc.bench.candidate import Candidate
from repurpose_hpc.bench.peers.numpy_alone import Layers
from repurpose_hpc.bench.turns import Conditions

# What a model without files of its own can hold.
MOST_BYTES = 2**31 - 2**16


def fits(layers: Layers) -> bool:
    """True if the weights are few enough for a model in memory."""
    return sum(W.nbytes + b.nbytes for W, b in layers) < MOST_BYTES


def session(layers: Layers, threads: int) -> onnxruntime.InferenceSession:
    """A chain of dense layers with ReLU between them; threads keep the cores that its maker has.

    Args:
        layers: (W, b) of shapes (m, n) and (m,).
        threads: that share an operation.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(_model(layers), options, providers=["CPUExecutionProvider"])


def network(running: onnxruntime.InferenceSession, X: np.ndarray, conditions: Conditions) -> Candidate:
    """``running`` on a batch X (n, batch), input and output bound to memory once."""
    binding, x = running.io_binding(), np.ascontiguousarray(X.T)
    binding.bind_cpu_input("x", x)
    outputs = running.get_outputs()[0].shape[1]
    y = onnxruntime.OrtValue.ortvalue_from_numpy(np.empty((len(x), outputs), x.dtype))
    binding.bind_ortvalue_output("y", y)
    return Candidate(lambda: running.run_with_iobinding(binding), lambda _: y.numpy().T, conditions)


def stream(running: onnxruntime.InferenceSession, source: Path, target: Path, batch: int) -> None:
    """Go through a file as a short script would: read, compute and write batch by batch.

    Args:
        running: a session.
        source: samples, ``.h5`` with data set ``x``, or ``.npy``.
        target: ``.h5``, gets data set ``y``.
        batch: samples per batch.
    """
    with ExitStack() as opened:
        is_npy = source.suffix == ".npy"
        x = np.load(source, mmap_mode="r") if is_npy else opened.enter_context(h5py.File(source))["x"]
        results = opened.enter_context(h5py.File(target, "w"))
        y = results.create_dataset("y", (len(x), running.get_outputs()[0].shape[1]), x.dtype)
        for first in range(0, len(x), batch):
            y[first : first + batch] = running.run(None, {"x": x[first : first + batch]})[0]


def _model(layers: Layers) -> bytes:
    kind = helper.np_dtype_to_tensor_dtype(layers[0][0].dtype)
    nodes, tensors, source = [], [], "x"
    for index, (W, b) in enumerate(layers):
        last = index == len(layers) - 1
        tensors += [numpy_helper.from_array(W, f"W{index}"), numpy_helper.from_array(b, f"b{index}")]
        target = "y" if last else f"z{index}"
        nodes.append(helper.make_node("Gemm", [source, f"W{index}", f"b{index}"], [target], transB=1))
        if not last:
            nodes.append(helper.make_node("Relu", [target], [f"x{index}"]))
            source = f"x{index}"
    ends = layers[0][0].shape[1], len(layers[-1][0])
    infos = [
        helper.make_tensor_value_info(name, kind, ["batch", size])
        for name, size in zip("xy", ends, strict=True)
    ]
    graph = helper.make_graph(nodes, "chain", infos[:1], infos[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()
