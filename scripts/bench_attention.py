"""Measure attention as a program computes it against PyTorch and ONNX Runtime, with one thread.

    OMP_NUM_THREADS=1 python scripts/bench_attention.py --out attention.json

float32, sizes of heads 64 and 128.  As many queries as keys, where every query sees all keys or those up to
its own, and one query against the keys of a past.  PyTorch and ONNX Runtime are left out where they are not
installed.  Medians in microseconds.  The candidates take turns, so that other work on the machine slows
all of them alike; trust the ratios more than the times.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import numpy as np
from bench_kernels import parse, times_us

from repurpose_hpc.bench import machine
from repurpose_hpc.kernels import AttentionRule, attend

HEADS = 8
SIZES = (64, 128)
LENGTHS = (128, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Problem:
    """Heads of ``size`` dimensions, so many queries and keys."""

    size: int
    queries: int
    keys: int
    causal: bool

    @property
    def arrays(self) -> list[np.ndarray]:
        """Queries, keys and values, neuron-major, (heads, size, 1, positions), drawn from a seed."""
        rng = np.random.default_rng(0)
        return [
            rng.standard_normal((HEADS, self.size, 1, count), dtype=np.float32)
            for count in (self.queries, self.keys, self.keys)
        ]


def own_call(problem: Problem) -> Callable[[], np.ndarray]:
    """The compiled kernel; returns (heads, size, 1, queries)."""
    queries, keys, values = problem.arrays
    bias, out = np.zeros((0, 1, 1, problem.keys), np.float32), np.empty_like(queries)
    rule = AttentionRule(1 / math.sqrt(problem.size), 0.0, -1, 0 if problem.causal else -1)

    def call() -> np.ndarray:
        attend(queries, keys, values, bias, rule, out)
        return out

    return call


def torch_call(problem: Problem) -> Callable[[], np.ndarray]:
    """The same in PyTorch, dimensions last, as it likes them best."""
    import torch

    torch.set_num_threads(1)
    tensors = [torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 3, 1))) for x in problem.arrays]
    attention = partial(torch.nn.functional.scaled_dot_product_attention, is_causal=problem.causal)

    def call() -> np.ndarray:
        with torch.inference_mode():
            return attention(*tensors)[0].numpy().swapaxes(1, 2)[:, :, None]

    return call


def onnxruntime_call(problem: Problem) -> Callable[[], np.ndarray]:
    """The same in ONNX Runtime, by the operator of its own, all heads of a position together."""
    import onnxruntime
    from onnx import TensorProto, helper

    names = ["queries", "keys", "values"]
    node = helper.make_node(
        "MultiHeadAttention",
        names,
        ["out"],
        domain="com.microsoft",
        num_heads=HEADS,
        unidirectional=int(problem.causal),
    )
    inputs = [
        np.ascontiguousarray(x[:, :, 0].transpose(2, 0, 1).reshape(1, x.shape[3], -1)) for x in problem.arrays
    ]
    graph = helper.make_graph(
        [node],
        "attention",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape)
            for name, x in zip(names, inputs, strict=True)
        ],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = dict(zip(names, inputs, strict=True))

    def call() -> np.ndarray:
        out = session.run(None, feed)[0][0]
        return out.reshape(problem.queries, HEADS, problem.size).transpose(1, 2, 0)[:, :, None]

    return call


def measure(problem: Problem, peers: dict[str, Callable[[Problem], Callable]]) -> dict:
    """Times of all, and those of the peers over that of the kernel."""
    calls = {"kernel": own_call(problem), **{name: make(problem) for name, make in peers.items()}}
    expected = calls["kernel"]()
    for name in peers:
        np.testing.assert_allclose(calls[name](), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    times = times_us(calls)
    row = {"size": problem.size, "queries": problem.queries, "keys": problem.keys, "causal": problem.causal}
    ratios = {f"{name}_ratio": round(times[name] / times["kernel"], 2) for name in peers}
    scores = problem.queries * problem.keys / (2 if problem.causal else 1)
    rate = round(2 * HEADS * problem.size * scores / times["kernel"] / 1e3, 1)
    return {**row, **times, "1e9_per_s": rate, **ratios}


def main() -> None:
    arguments = parse(__doc__)
    makers = {"torch": torch_call, "onnxruntime": onnxruntime_call}
    peers = {name: make for name, make in makers.items() if find_spec(name)}
    results = {"machine": machine.describe(), "missing": [name for name in makers if name not in peers]}
    print(machine.render(results["machine"]))
    for name in results["missing"]:
        print(f"{name} is not installed, so it is left out")
    problems = [
        Problem(size, queries or keys, keys, causal)
        for size in SIZES
        for queries, causal in ((0, False), (0, True), (1, False))
        for keys in LENGTHS
    ]
    rows: list[dict] = []
    for problem in problems:
        rows.append(measure(problem, peers))
        if len(rows) == 1:
            print("".join(f"{name:>18}" for name in rows[0]))
        print("".join(f"{value:>18}" for value in rows[-1].values()), flush=True)
    results["rows"] = rows
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
