"""Measure ensembles: whole branches for workers beside owners found space by space, as CSV and Markdown.

    python scripts/branches_table.py --out docs/results/branches.csv

Perceptrons (784-64-64-10) side by side, whose outputs are averaged: trained on the bundled calibration data
from different seeds, or with random weights.  The same function is measured as one chain of block-diagonal
layers.  The calibration data restructure, the bundled test data only report; seconds are of one processor.
Needs PyTorch (extra ``torch``).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from rows import write_csv
from scipy.linalg import block_diag
from torch import nn

from repurpose_hpc import bundled, from_torch
from repurpose_hpc.io.samples import Samples, open_samples
from repurpose_hpc.model.network import Network
from repurpose_hpc.restructure.calibration.evaluation import evaluate
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.method import DATA
from repurpose_hpc.restructure.options import Options

WIDTHS = (784, 64, 64, 10)
EPOCHS, BATCH, LEARNING_RATE = 6, 100, 1e-3
# Owners, as the table calls them, and the method that finds them.
OWNERS = {"space by space": replace(DATA, branches=False), "whole branches": DATA}
# Weights, members, form, workers, input placement, budget.
CASES = (
    *(("trained", 5, "ensemble", 5, "replicated", budget) for budget in (0.1, 0.05)),
    ("trained", 5, "ensemble", 5, "partitioned", 0.1),
    *(("trained", 5, "ensemble", workers, "replicated", 0.1) for workers in (2, 4, 8)),
    ("random", 4, "ensemble", 4, "replicated", 0.1),
    *(("trained", 5, "chain", workers, "replicated", 0.1) for workers in (4, 5, 8)),
)


class Ensemble(nn.Module):
    """The mean of the outputs of its members."""

    def __init__(self, members: Sequence[nn.Sequential]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return sum(member(x) for member in self.members) / len(self.members)


def main() -> None:
    """Measure every case with both owners."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="CSV file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    calibration, test = pixels(bundled.CALIBRATION), pixels(bundled.TEST)
    networks = {case: network(*case, calibration) for case in dict.fromkeys(case[:3] for case in CASES)}
    rows = []
    for weights, count, form, workers, placement, budget in CASES:
        for owners, method in OWNERS.items():
            options = Options(workers, budget, placement)
            case = (weights, count, form, workers, placement, budget, owners)
            columns = ("weights", "members", "form", "workers", "input_placement", "budget", "owners")
            found = measured(networks[weights, count, form], options, method, calibration, test)
            rows.append({**dict(zip(columns, case, strict=True)), **found})
            print(*rows[-1].values(), flush=True)
    write_csv(args.out, rows)
    print(markdown(rows))


def pixels(path: object) -> Samples:
    """Images from 0 to 1, and labels."""
    samples = open_samples(path)
    (x,) = samples.batches(samples.samples, dtype=None)
    return Samples.of(x.astype(np.float32) / 255, samples.labels)


def network(weights: str, count: int, form: str, data: Samples) -> Network:
    """An ensemble, or the chain that computes the same."""
    members = []
    for seed in range(count):
        torch.manual_seed(seed)
        members.append(perceptron())
        if weights == "trained":
            train(members[-1], data)
    module = Ensemble(members) if form == "ensemble" else chain(members)
    return from_torch(module, torch.zeros(1, WIDTHS[0]))


def perceptron() -> nn.Sequential:
    """One member."""
    layers = [[nn.Linear(n, m), nn.ReLU()] for n, m in zip(WIDTHS, WIDTHS[1:], strict=False)]
    return nn.Sequential(*sum(layers, [])[:-1])


def train(member: nn.Sequential, data: Samples) -> None:
    """Adam on the cross entropy."""
    (images,) = data.batches(data.samples, dtype=None)
    x, y = torch.from_numpy(images), torch.from_numpy(np.asarray(data.labels).astype(np.int64))
    optimizer = torch.optim.Adam(member.parameters(), LEARNING_RATE)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(member(x[batch]), y[batch]).backward()
            optimizer.step()


def chain(members: Sequence[nn.Sequential]) -> nn.Sequential:
    """The mean of members as one chain of block-diagonal layers."""
    count, layers = len(members), []
    for place in range(0, len(members[0]), 2):
        blocks = [member[place].weight.detach().numpy() for member in members]
        biases = [member[place].bias.detach().numpy() for member in members]
        first, last = place == 0, place == len(members[0]) - 1
        if last:
            W, b = np.hstack(blocks) / count, np.mean(biases, axis=0)
        else:
            W, b = np.vstack(blocks) if first else block_diag(*blocks), np.concatenate(biases)
        layer = nn.Linear(W.shape[1], W.shape[0])
        layer.weight.data, layer.bias.data = torch.from_numpy(W), torch.from_numpy(b)
        layers += [layer] if last else [layer, nn.ReLU()]
    return nn.Sequential(*layers)


def measured(
    original: Network, options: Options, method: object, calibration: Samples, test: Samples
) -> dict[str, object]:
    """Values sent per sample, accuracy and error on the test data, and seconds."""
    began = time.process_time()
    cut = restructure(original, calibration, options, method=method)
    seconds = time.process_time() - began
    findings = evaluate(original, cut.network, test)
    return {
        "values_sent": int(cut.traffic_matrix().sum()),
        "reference_accuracy": round(findings["reference_accuracy"], 4),
        "accuracy": round(findings["accuracy"], 4),
        "agreement": round(findings["agreement"], 4),
        "output_error": float(f"{findings['output_error']:.2g}"),
        "seconds": round(seconds, 1),
    }


def markdown(rows: Sequence[dict[str, object]]) -> str:
    """The rows as a table."""
    names = [*rows[0]]
    lines = [names, ["---"] * len(names), *([str(row[name]) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
