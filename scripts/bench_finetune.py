"""Seconds of an epoch of fine-tuning, beside PyTorch's on the same masked network with as many threads.

    python scripts/bench_finetune.py SHARDS --data TRAIN --distill MODEL --ranks 2 --threads 2 --out FILE.csv

Both go through the same samples in the same batches with AdamW, and judge the same share of them in the end.
PyTorch has the whole network in one process, as its users would tune a pruned one: the masks are applied
behind every step.  It knows no relays, which are multiplied out for it.  Epochs take turns, so that whatever
else the machine does meets both.  Needs the extra ``train``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from rows import write_csv
from torch.nn import functional

from repurpose_hpc.io.samples import open_samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Combine, Elementwise, Mixing, Operation, Pool
from repurpose_hpc.plan.files.store import open_plan, read_network
from repurpose_hpc.plan.relays import without_relays

HELD_OUT = 0.1


def main() -> None:
    """Let both take turns, and print a line for each and the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--distill", type=Path, required=True)
    for name, default in (("ranks", 2), ("threads", 2), ("batch-size", 128), ("turns", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    stored = open_plan(args.shards)
    peer = Masked(without_relays(read_network(stored), stored.plan))
    samples = open_samples(args.data)
    x = np.concatenate(list(samples.batches(4096)))
    peer.check(x[:64])
    seconds: dict[str, list[float]] = {"finetune": [], "PyTorch": []}
    for _ in range(args.turns):
        seconds["finetune"].append(ours(args))
        seconds["PyTorch"].append(peer.epoch(x, args.batch_size))
    if args.out is not None:
        write_csv(
            args.out, [dict(zip(seconds, pair, strict=True)) for pair in zip(*seconds.values(), strict=True)]
        )
    for name, times in seconds.items():
        print(f"{name:<9} {median(times):7.2f} s per epoch, of {', '.join(f'{each:.2f}' for each in times)}")
    ratios = [theirs / own for own, theirs in zip(*seconds.values(), strict=True)]
    print(f"PyTorch takes {median(ratios):.2f} times as long, of {min(ratios):.2f} to {max(ratios):.2f}")


def ours(args: argparse.Namespace) -> float:
    """Seconds of one epoch."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        words = ["--shards", args.shards, "--data", args.data, "--distill", args.distill, "--epochs", 1]
        words += ["--batch-size", args.batch_size, "--held-out", HELD_OUT, "--report", report]
        command = ["mpirun", "-n", args.ranks, sys.executable, "-m", "repurpose_hpc", "finetune", *words]
        subprocess.run(
            [*map(str, command), "--out", f"{directory}/tuned"], check=True, stdout=subprocess.DEVNULL
        )
        return json.loads(report.read_text(encoding="utf-8"))["epochs"][1]["seconds"]


class Masked:
    """A network of PyTorch whose masked weights stay zero."""

    def __init__(self, network: Network) -> None:
        self._network, self._parameters, self._masks = network, {}, {}
        for mixing in network.mixings:
            weights = torch.nn.Parameter(torch.from_numpy(mixing.weights.astype(np.float32)))
            bias = torch.nn.Parameter(torch.from_numpy(mixing.bias.astype(np.float32)))
            self._parameters[mixing.name] = weights, bias
            self._masks[mixing.name] = (weights.detach() != 0).float()
        arrays = [array for pair in self._parameters.values() for array in pair]
        self._optimiser = torch.optim.AdamW(arrays, lr=1e-4, weight_decay=0.0)

    def check(self, x: np.ndarray) -> None:
        """See that it is the same network, by the outputs for some samples."""
        with torch.no_grad():
            found = self(torch.from_numpy(x)).numpy()
        expected = forward(replace(self._network, heads=("identity",)), x)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())

    def epoch(self, x: np.ndarray, batch_size: int) -> float:
        """Seconds of one epoch; what outputs are compared with was computed before."""
        count = round(HELD_OUT * len(x))
        rest, held_out = torch.from_numpy(x[count:]), torch.from_numpy(x[:count])
        with torch.no_grad():
            wanted = [functional.softmax(self(part), 1) for part in rest.split(1024)]
        targets = torch.cat(wanted)
        began = perf_counter()
        for batch in torch.randperm(len(rest)).split(batch_size):
            loss = functional.kl_div(
                functional.log_softmax(self(rest[batch]), 1), targets[batch], reduction="batchmean"
            )
            self._optimiser.zero_grad()
            loss.backward()
            self._optimiser.step()
            with torch.no_grad():
                for name, (weights, _) in self._parameters.items():
                    weights.mul_(self._masks[name])
        with torch.no_grad():
            for part in held_out.split(batch_size):
                self(part)
        return perf_counter() - began

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs of samples."""
        network = self._network
        (first,) = network.input_tensors
        tensors = {first: x.reshape(len(x), *network.layout(first))}
        for op in network.operations:
            tensors[op.target] = self._computed(op, *(tensors[source] for source in op.sources))
        return tensors[network.output_tensors[0]].flatten(1)

    def _computed(self, op: Operation, *sources: torch.Tensor) -> torch.Tensor:
        if isinstance(op, Combine) and op.kind == "add":
            return sources[0] + sources[1]
        (x,) = sources
        if isinstance(op, Mixing):
            return self._mixed(op, x)
        if isinstance(op, Elementwise) and op.activation.kind in _ACTIVATIONS:
            return _ACTIVATIONS[op.activation.kind](x)
        if isinstance(op, Pool):
            window = op.window
            pool = functional.max_pool2d if op.kind == "max" else functional.avg_pool2d
            return pool(x, window.kernel, window.strides, window.pads)
        raise SystemExit(f"expected an operation that this script knows in PyTorch, found {op}")

    def _mixed(self, op: Mixing, x: torch.Tensor) -> torch.Tensor:
        weights, bias = self._parameters[op.name]
        if op.window is None or op.window.is_whole_map:
            return functional.linear(x.flatten(1), weights, bias)
        kernels = weights.reshape(len(weights), -1, *op.window.kernel)
        return functional.conv2d(x, kernels, bias, op.window.strides, op.window.pads)


_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "identity": lambda x: x,
}

if __name__ == "__main__":
    main()
