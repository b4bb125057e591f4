"""Networks of spiking neurons: spike for spike beside snnTorch, accuracy against bytes, and steps per second.

    python scripts/spiking_table.py equal DIR
    python scripts/spiking_table.py accuracy DIR --workers 8 --out table.csv
    python scripts/spiking_table.py speed DIR --out table.csv

DIR is what ``train_spiking.py`` wrote.  Needs what that needs, and mpi4py with mpirun beside this Python.
The test data only report.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import h5py
import nir
import numpy as np
import torch
from rows import write_csv
from snntorch import Leaky
from torch import nn
from train_spiking import build_network

from repurpose_hpc.io.samples import open_samples
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.importers.nir.options import SpikingOptions
from repurpose_hpc.model.network import Network
from repurpose_hpc.restructure.calibration.evaluation import compare
from repurpose_hpc.restructure.job import restructure_network
from repurpose_hpc.restructure.team import ALONE
from repurpose_hpc.runtime.program import one_process

STEPS, SAMPLES, RANKS = 25, 1_000, (1, 2, 4)
READING = ["--steps", str(STEPS), "--convention", "snntorch", "--coding", "rate"]
BUDGETS = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
BATCHES, TURNS = (1, 16, 128), 5


def main() -> None:
    """Make one of the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--budgets", type=float, nargs="+", default=BUDGETS, help="of the table of accuracy")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = TABLES[args.table](args)
    print(*rows, sep="\n")
    if args.out is not None:
        write_csv(args.out, rows)


def network_of(folder: Path, read_out: str = "count") -> Network:
    """The trained network, for images."""
    options = SpikingOptions(steps=STEPS, convention="snntorch", coding="rate", read_out=read_out)
    return load_model(folder / "model.nir", spiking=options)


def module_of(folder: Path) -> nn.Sequential:
    """The same as modules of snnTorch, float64."""
    nodes = nir.read(folder / "model.nir").nodes
    layers = [nodes[str(place)] for place in range(len(nodes) - 2)]
    widths = [layers[0].weight.shape[1], *(len(layer.bias) for layer in layers[::2])]
    module = build_network(widths).double()
    for linear, layer in zip(module[::2], layers[::2], strict=True):
        linear.weight.data = torch.from_numpy(np.asarray(layer.weight, np.float64))
        linear.bias.data = torch.from_numpy(np.asarray(layer.bias, np.float64))
    return module


def trains_of(module: nn.Sequential, trains: torch.Tensor) -> torch.Tensor:
    """Spikes of the last layer, (steps, samples, classes), step by step as users of snnTorch write it."""
    for layer in module:
        if isinstance(layer, Leaky):
            layer.reset_mem()
    dtype, steps = next(module.parameters()).dtype, []
    with torch.no_grad():
        for signal in trains:
            for layer in module:
                signal = layer(signal.to(dtype))  # spikes are float32 in float64 modules, too
            steps.append(signal)
    return torch.stack(steps)


def equal(args: argparse.Namespace) -> list[dict[str, object]]:
    """Compare all spikes of the last layer, in float64, on ranks that exchange all there is."""
    x, network = next(open_samples(args.folder / "test.npz").batches(SAMPLES)), network_of(args.folder)
    front = network.ends.front
    assert front is not None
    (trains,) = front.compute([x.reshape(len(x), -1).astype(np.float32)])
    expected = trains_of(module_of(args.folder), torch.from_numpy(trains.swapaxes(0, 1).astype(np.float64)))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/x.npy", x)
        for ranks in RANKS:
            words = [args.folder / "model.nir", *READING, "--read-out", "trains", "--dtype", "float64"]
            words += ["--comm-budget", "1", "--calibration", args.folder / "calibration.npz"]
            words += ["--input", f"{folder}/x.npy", "--output", f"{folder}/y.h5", "--repeat", "0"]
            words += ["--workers", str(max(RANKS))]
            launcher = [Path(sys.executable).with_name("mpirun"), "-n", str(ranks), sys.executable]
            line = [*launcher, "-m", "repurpose_hpc.infer", *words]
            subprocess.run([str(word) for word in line], check=True, stdout=subprocess.DEVNULL)
            with h5py.File(f"{folder}/y.h5") as file:
                spikes = file["y"][:].reshape(len(x), STEPS, -1).swapaxes(0, 1)
            differ = int((spikes != expected.numpy()).sum())
            counts = {"spikes": int(spikes.sum()), "compared": spikes.size, "different": differ}
            rows.append({"network": args.folder.name, "ranks": ranks, "samples": len(x), **counts})
    return rows


def accuracy(args: argparse.Namespace) -> list[dict[str, object]]:
    """Restructure at several budgets."""
    network, rows = network_of(args.folder), []
    calibration, test = (open_samples(args.folder / f"{name}.npz") for name in ("calibration", "test"))
    test = network.ends.feed(test, network.input_shape)
    for budget in args.budgets:
        cut = restructure_network(network, calibration, workers=args.workers, comm_budget=budget)
        found = compare(network, cut.network, test, ALONE).findings()
        rows.append(
            {
                "network": args.folder.name,
                "workers": args.workers,
                "budget": budget,
                "values_sent": cut.report["values_sent"],
                "bytes_per_step": f"{cut.report['bytes_per_sample'] / STEPS:.1f}",
                "test_accuracy": f"{found['accuracy']:.4f}",
                "test_reference_accuracy": f"{found['reference_accuracy']:.4f}",
            }
        )
        print(rows[-1], flush=True)
    return rows


def speed(args: argparse.Namespace) -> list[dict[str, object]]:
    """Steps per second of one process and one thread, in turns with snnTorch in float32."""
    module, network = module_of(args.folder).float(), network_of(args.folder)
    x = next(open_samples(args.folder / "test.npz").batches(max(BATCHES))).astype(np.float32)
    front, rows = network.ends.front, []
    assert front is not None
    (trains,) = front.compute([x.reshape(len(x), -1)])
    for batch in BATCHES:
        program = one_process(network, np.dtype(np.float32), batch)
        ours = np.ascontiguousarray(trains[:batch].reshape(batch, -1)[:, program.input_columns].T)
        theirs = torch.from_numpy(np.ascontiguousarray(trains[:batch].swapaxes(0, 1)))
        calls: dict[str, Callable[[], object]] = {
            "ours": lambda program=program, ours=ours: program.forward(ours),
            "snntorch": lambda theirs=theirs: trains_of(module, theirs),
        }
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(1 + TURNS):
            for name, call in calls.items():
                began = perf_counter()
                call()
                seconds[name].append(perf_counter() - began)
        medians = {name: float(np.median(found[1:])) for name, found in seconds.items()}
        rows.append(
            {
                "network": args.folder.name,
                "batch": batch,
                **{
                    f"{name}_steps_per_s": f"{batch * STEPS / median:.0f}" for name, median in medians.items()
                },
                "ratio": f"{medians['snntorch'] / medians['ours']:.2f}",
            }
        )
    return rows


TABLES = {"equal": equal, "accuracy": accuracy, "speed": speed}

if __name__ == "__main__":
    main()
