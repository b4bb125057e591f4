"""Steps to a target against batch size, dense and sparse: what data parallelism (``--groups``) is good for.

    python scripts/batch_size_study.py --train DATA --out docs/results/batch_size.csv

A perceptron is trained from scratch by the passes of ``finetune``, in one process: SGD with momentum 0.9, a
constant step size, cross-entropy.  All but a share of the weights of each layer are pruned at random before
it begins.  Counted are the steps until the loss on held-out training samples is below a target that was
fixed beforehand.  The step size of each share and batch size is the best of a grid with one seed; the steps
reported are those of other seeds, of initialisation, pruning and order of samples.  No test data are used.

As Lee, Ajanthan, Torr and Jaggi do (ICLR 2021), but for their pruning, which is by sensitivity, and for the
other numbers that they tune.
A second call computes only what is missing.  The picture, which needs matplotlib, is ``NAME.png``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

import numpy as np
from rows import markdown, read_csv, write_csv

from repurpose_hpc.io.samples import open_samples
from repurpose_hpc.model.activations import RELU
from repurpose_hpc.model.chain import sequence
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.plan import single_worker_plan
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.runtime.exchange.transports import DEFAULT_TRANSPORT
from repurpose_hpc.runtime.resources import EXACT_FORMATS
from repurpose_hpc.runtime.streams.outputs import in_order
from repurpose_hpc.tuning.losses import cross_entropy
from repurpose_hpc.tuning.optimisers import OPTIMISERS, Hyperparameters
from repurpose_hpc.tuning.parameters import Parameter
from repurpose_hpc.tuning.passes import Passes

WIDTHS = (784, 300, 100, 10)
DENSITIES = (1.0, 0.3, 0.1)
BATCH_SIZES = tuple(2**power for power in range(4, 11))
RATES = tuple(0.0025 * 2**power for power in range(11))
# Where the search for the best one begins.
FIRST_RATE = RATES[4]
# Of the seeds, the first chooses the step size.
SEEDS = (0, 1, 2, 3)
# Of the loss on held-out samples.
TARGET = 0.45
HELD_OUT = 1_000
# A loss above this says that the step size is too large.
DIVERGED = 10.0
# Held-out samples are looked at after so many times the steps of the last time.
STRIDE = 1.04
MOST_STEPS = 20_000


class Data(NamedTuple):
    """Samples (samples, inputs) float32, and their classes."""

    x: np.ndarray
    y: np.ndarray


class Setting(NamedTuple):
    """What a row of the table is of."""

    density: float
    batch_size: int


def main() -> None:
    """Fill the table, a row at a time, then draw it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    held_out, rest = divided(read(args.train))
    rows = read_csv(args.out)
    for density in DENSITIES:
        rate = FIRST_RATE
        for batch_size in BATCH_SIZES:
            setting = Setting(density, batch_size)
            found = [row for row in rows if row["density"] == f"{density:g}"]
            found = [row for row in found if row["batch_size"] == str(batch_size)]
            if not found:
                found = [measured(setting, rate, held_out, rest)]
                rows += found
                write_csv(args.out, rows)
                print(*found[0].values(), flush=True)
            rate = float(found[0]["rate"])
    print(markdown(("batch", *(f"density {density:g}" for density in DENSITIES)), [*table(rows)]))
    draw(rows, args.out.with_suffix(".png"))


def read(path: Path) -> Data:
    """All samples of a file."""
    samples = open_samples(path)
    assert samples.y is not None
    x = np.concatenate(list(samples.batches(4096)))
    return Data(x, np.concatenate(list(samples.y.batches(4096, dtype=None)))[:, 0])


def divided(data: Data) -> tuple[Data, Data]:
    """Samples that are held out, the same for all settings, and all others."""
    order = np.random.default_rng(0).permutation(len(data.x))
    held_out, rest = order[:HELD_OUT], order[HELD_OUT:]
    return Data(data.x[held_out], data.y[held_out]), Data(data.x[rest], data.y[rest])


def measured(setting: Setting, likely: float, held_out: Data, rest: Data) -> dict[str, str]:
    """A row of the table.

    Args:
        setting: of it.
        likely: step size that is tried first.
        held_out, rest: of the training samples.
    """
    began = perf_counter()
    best = best_rate(setting, likely, held_out, rest)
    found = [steps_to_target(setting, best, seed, MOST_STEPS, held_out, rest) for seed in SEEDS[1:]]
    steps = [float("inf") if count is None else count for count in found]
    row = {
        "density": f"{setting.density:g}",
        "batch_size": setting.batch_size,
        "rate": f"{best:g}",
        "steps": median(steps),
        "steps_least": min(steps),
        "steps_most": max(steps),
        "seconds": f"{perf_counter() - began:.1f}",
    }
    return {name: str(value) for name, value in row.items()}


def best_rate(setting: Setting, likely: float, held_out: Data, rest: Data) -> float:
    """The step size with the fewest steps: larger ones are tried, then smaller, while they are better."""
    best, fewest = RATES.index(likely), MOST_STEPS
    fewest = steps_to_target(setting, likely, SEEDS[0], fewest, held_out, rest) or fewest
    for direction in (1, -1):
        while 0 <= best + direction < len(RATES):
            rate = RATES[best + direction]
            steps = steps_to_target(setting, rate, SEEDS[0], fewest, held_out, rest)
            if steps is None:
                break
            best, fewest = best + direction, steps
    return RATES[best]


def steps_to_target(
    setting: Setting, rate: float, seed: int, most: int, held_out: Data, rest: Data
) -> int | None:
    """Steps until the loss on held-out samples is below the target; None: not in fewer than ``most``."""
    rng = np.random.default_rng(seed)
    training = Training(fresh(setting.density, rng), setting.batch_size, rate)
    look = 1
    for step, batch in enumerate(batches(len(rest.x), setting.batch_size, rng), 1):
        if step >= most:
            return None
        training.step(rest.x[batch], rest.y[batch])
        if step < look:
            continue
        loss = training.loss(held_out)
        if loss < TARGET:
            return step
        if not loss < DIVERGED:
            return None
        look = max(step + 1, round(STRIDE * step))
    return None


def fresh(density: float, rng: np.random.Generator) -> Network:
    """A perceptron with random weights, of which a share is left, as large as what is left of them wants."""
    steps = []
    for inputs, outputs in pairwise(WIDTHS):
        weights = rng.standard_normal((outputs, inputs)) * np.sqrt(2 / (density * inputs))
        weights[rng.random(weights.shape) >= density] = 0
        steps += [(weights.astype(np.float32), np.zeros(outputs, np.float32)), RELU]
    return sequence(WIDTHS[0], steps[:-1])


def batches(samples: int, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Numbers of the samples of each step, without end; every epoch in another order."""
    while True:
        order = rng.permutation(samples)
        yield from order[: samples // batch_size * batch_size].reshape(-1, batch_size)


class Training:
    """A network that is trained in this process."""

    def __init__(self, network: Network, batch_size: int, rate: float) -> None:
        shard = make_shard(network, single_worker_plan(network), 0, np.float32)
        most = max(batch_size, HELD_OUT)
        self._passes = Passes([shard], None, most, EXACT_FORMATS, DEFAULT_TRANSPORT)
        self._optimiser, self._rate = OPTIMISERS["sgd"](Hyperparameters(momentum=0.9)), rate

    def step(self, x: np.ndarray, y: np.ndarray) -> None:
        """Change all weights by the gradient of a batch."""
        with np.errstate(over="ignore", invalid="ignore"):
            _, gradient = cross_entropy(self._outputs(x), y)
            self._optimiser.begin_step(self._rate)
            self._passes.backward(np.ascontiguousarray(gradient.T[self._passes.output_columns]), self._update)

    def loss(self, data: Data) -> float:
        """The loss on samples."""
        with np.errstate(over="ignore", invalid="ignore"):
            return cross_entropy(self._outputs(data.x), data.y).value

    def _outputs(self, x: np.ndarray) -> np.ndarray:
        rows = self._passes.forward(np.ascontiguousarray(x.T[self._passes.input_columns]))
        return in_order(rows, self._passes.output_columns)

    def _update(self, parameter: Parameter, gradient: np.ndarray) -> None:
        self._optimiser.update(parameter.name, parameter.values, gradient, decays=False)


def table(rows: Sequence[dict[str, str]]) -> Iterator[list[str]]:
    """Lines of the table for people: steps, and in brackets their product with the batch size."""
    found = {(row["density"], row["batch_size"]): float(row["steps"]) for row in rows}
    for batch_size in BATCH_SIZES:
        steps = [found[f"{density:g}", str(batch_size)] for density in DENSITIES]
        yield [f"{batch_size}", *(f"{count:,.0f} ({count * batch_size / 1000:,.0f}k)" for count in steps)]


def draw(rows: Sequence[dict[str, str]], path: Path) -> None:
    """Steps against batch size, with the range of the seeds, and the slope of a perfect gain."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4.5))
    for density in DENSITIES:
        curve = [row for row in rows if row["density"] == f"{density:g}"]
        sizes = [int(row["batch_size"]) for row in curve]
        steps = np.array([float(row["steps"]) for row in curve])
        below, above = (
            np.abs(steps - [float(row[name]) for row in curve]) for name in ("steps_least", "steps_most")
        )
        drawn = axes.errorbar(sizes, steps, (below, above), marker="o", label=f"density {density:g}")
        ideal = steps[0] * sizes[0] / np.array(sizes)
        axes.plot(sizes, ideal, ":", color=drawn.lines[0].get_color(), linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="batch size", ylabel=f"steps to a held-out loss of {TARGET}", yscale="log")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
