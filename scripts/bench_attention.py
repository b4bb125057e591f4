"""Measure attention as a program computes it against PyTorch and ONNX Runtime, with one thread.

    OMP_NUM_THREADS=1 python scripts/bench_attention.py --out attention.json

float32, sizes of heads 64 and 128.  As many queries as keys, where every query sees all keys or those up to
its own, and one query against the keys of a past.  PyTorch and ONNX Runtime are left out where they are not
installed; of ONNX Runtime the fastest operator counts.  Medians in microseconds; 1e9 multiply-adds of both
products per second, of what is seen.  The candidates take turns, so that other work on the machine slows
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


def torch_calls(problem: Problem) -> dict[str, Callable[[], np.ndarray]]:
    """The same in PyTorch, dimensions last, as it likes them best."""
    import torch

    torch.set_num_threads(1)
    tensors = [torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 3, 1))) for x in problem.arrays]
    attention = partial(torch.nn.functional.scaled_dot_product_attention, is_causal=problem.causal)

    def call() -> np.ndarray:
        with torch.inference_mode():
            return attention(*tensors)[0].numpy().swapaxes(1, 2)[:, :, None]

    return {"torch": call}


def onnxruntime_calls(problem: Problem) -> dict[str, Callable[[], np.ndarray]]:
    """The same in ONNX Runtime, by each of its operators: the standard one, and two of its own."""
    by_head = [np.ascontiguousarray(x.transpose(2, 0, 3, 1)) for x in problem.arrays]
    by_position = [
        np.ascontiguousarray(x[:, :, 0].transpose(2, 0, 1).reshape(1, x.shape[3], -1)) for x in problem.arrays
    ]
    heads, causal = {"num_heads": HEADS}, int(problem.causal)
    calls = {
        "Attention": operator_call("Attention", by_head, is_causal=causal),
        "MultiHeadAttention": operator_call(
            "MultiHeadAttention", by_position, unidirectional=causal, **heads
        ),
    }
    if problem.causal:
        past = np.zeros((1, HEADS, 0, problem.size), np.float32)
        lengths = np.array([problem.keys - 1], np.int32), np.array(problem.keys, np.int32)
        inputs = [*by_position, past, past, *lengths]
        calls["GroupQueryAttention"] = operator_call(
            "GroupQueryAttention", inputs, kv_num_heads=HEADS, **heads
        )

    def by_heads(call: Callable[[], np.ndarray]) -> np.ndarray:
        out = call()[0]
        if out.ndim == 2:
            out = out.reshape(problem.queries, HEADS, problem.size).swapaxes(0, 1)
        return out.swapaxes(1, 2)[:, :, None]

    return {name: partial(by_heads, call) for name, call in calls.items()}


def operator_call(operator: str, inputs: list[np.ndarray], **attributes: int) -> Callable[[], np.ndarray]:
    """The first output of an operator of ONNX Runtime."""
    import onnxruntime
    from onnx import TensorProto, helper

    names = [f"input_{k}" for k in range(len(inputs))]
    outputs = ["out", "keys", "values"] if operator == "GroupQueryAttention" else ["out"]
    domain = "" if operator == "Attention" else "com.microsoft"
    graph = helper.make_graph(
        [helper.make_node(operator, names, outputs, domain=domain, **attributes)],
        "attention",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for name, x in zip(names, inputs, strict=True)
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = dict(zip(names, inputs, strict=True))
    return lambda: session.run(["out"], feed)[0]


def measure(problem: Problem, peers: dict[str, Callable[[Problem], dict[str, Callable]]]) -> dict:
    """Times of the kernel and of each peer's fastest call, and those of the peers over that of the kernel."""
    calls = {name: make(problem) for name, make in peers.items()}
    everything = {"kernel": own_call(problem)}
    for own in calls.values():
        everything |= own
    expected = everything["kernel"]()
    for name, call in everything.items():
        close = dict(rtol=0, atol=1e-4 * np.abs(expected).max(), err_msg=name)
        np.testing.assert_allclose(call(), expected, **close)
    times = times_us(everything)
    fastest = {name: min(times[each] for each in own) for name, own in calls.items()}
    ratios = {f"{name}_ratio": round(us / times["kernel"], 2) for name, us in fastest.items()}
    scores = problem.queries * problem.keys / (2 if problem.causal else 1)
    rate = round(2 * HEADS * problem.size * scores / times["kernel"] / 1e3, 1)
    row = {"size": problem.size, "queries": problem.queries, "keys": problem.keys, "causal": problem.causal}
    return {**row, "kernel": times["kernel"], **fastest, "1e9_per_s": rate, **ratios}


def main() -> None:
    arguments = parse(__doc__)
    makers = {"torch": torch_calls, "onnxruntime": onnxruntime_calls}
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
