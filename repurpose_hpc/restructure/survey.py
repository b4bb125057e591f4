"""What one pass of the original network over the calibration data yields: moments and metrics.

The *metric* M of a mixing says what an error e of its y does to the output: it changes it by about
eᵀ M e.  M = mean Jᵀ F J, with J the derivative of the output (before the head) by y.  For a classifier
F is the Fisher information of its softmax, so that only what can change the class counts; for any
other network F = I.  Random vectors g with covariance F are traced back instead of all outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from repurpose_hpc.data import Samples
from repurpose_hpc.model.activations import derivative
from repurpose_hpc.model.network import Mixing, Network
from repurpose_hpc.model.reference import trace
from repurpose_hpc.restructure.elimination import metric_root
from repurpose_hpc.restructure.statistics import (
    Moments,
    MomentSums,
    ProductSum,
    data_free_moments,
    map_batches,
)
from repurpose_hpc.restructure.team import Team

# Random directions of the output that are traced back for each sample.
PROBES = 2
# Share of an error that survives the adjustment of each later mixing but the last; chosen on held-out
# calibration data, see docs/method.md.
UNREPAIRED = 0.5


@dataclass(frozen=True, eq=False)
class Survey:
    """What is known of every mixing before anything is changed, by mixing name.

    Attributes:
        moments: with x̂ = x, as if nothing before the mixing had changed.
        metrics: M, (m, m).
        roots: L, (k, m) with few k, such that Lᵀ L is M but for METRIC_TOLERANCE of its trace; only where
            rows can make up for each other.
    """

    moments: dict[str, Moments]
    metrics: dict[str, np.ndarray]
    roots: dict[str, np.ndarray]


def survey(network: Network, samples: Samples, seed: int, team: Team) -> Survey:
    """Measure moments and metrics of every mixing of the original network; collective.

    What rows of the same mixing and later mixings will repair is discounted.
    """
    classifier = samples.labels is not None or network.head != "identity"

    def trace_back(number: int, batch: np.ndarray) -> tuple[dict, dict]:
        rng = np.random.default_rng([seed, number])
        tensors = trace(network, batch)
        z, gradients = tensors[network.output], {mixing.name: [] for mixing in network.mixings}
        for _ in range(PROBES):
            g = _fisher_probe(z, rng) if classifier else rng.choice([-1.0, 1.0], size=z.shape)
            for name, gradient in _backpropagate(network, tensors, g):
                gradients[name].append(gradient)
        ends = {m.name: (tensors[m.source], tensors[m.target]) for m in network.mixings}
        return ends, {name: np.hstack(each) for name, each in gradients.items()}

    sums = {mixing.name: MomentSums(mixing, team) for mixing in network.mixings}
    sizes = {mixing.name: len(mixing.bias) for mixing in network.mixings}
    squares = {name: ProductSum(m, m, team) for name, m in sizes.items()}
    for ends, gradients in map_batches(trace_back, samples, team):
        for name, pair in ends.items():
            sums[name].add(*pair)
            squares[name].add(gradients[name], gradients[name])
    metrics = {}
    for later, mixing in enumerate(reversed(network.mixings)):
        M = squares[mixing.name].total() / (PROBES * samples.samples)
        metrics[mixing.name] = _uncompensated(M) * UNREPAIRED ** max(later - 1, 0) * M
    roots = team.map(metric_root, list(metrics.values()))
    return Survey(
        {name: total.moments() for name, total in sums.items()},
        metrics,
        dict(zip(metrics, roots, strict=True)),
    )


def _uncompensated(M: np.ndarray) -> float:
    """Share of an error that remains when the rows of a mixing make up for each other, 0 to 1.

    That of the directions of y that the output sees: the effective rank of the metric (the participation
    ratio of its eigenvalues) over the number of rows.
    """
    return float(np.trace(M) ** 2 / (len(M) * np.sum(M * M) or 1.0))


def data_free_survey(network: Network) -> Survey:
    """What is assumed without data: inputs as in ``data_free_moments``, all errors alike."""
    return Survey(
        {mixing.name: data_free_moments(mixing) for mixing in network.mixings},
        {mixing.name: np.eye(len(mixing.bias)) for mixing in network.mixings},
        {},
    )


def one_shot_survey(measured: Survey) -> Survey:
    """A survey that knows the second moment of every input but not what the inputs have in common.

    Scores made with it are |Ŵ_qj|² G_jj: nothing is refitted while ghosts are eliminated.
    """
    moments = {}
    for name, full in measured.moments.items():
        diagonal = np.diag(full.H)
        target = full.solve(full.R)
        R = target * diagonal
        variance = np.einsum("ij,ij->i", R, target)
        moments[name] = Moments(np.diag(diagonal), R, variance, full.mean_x, full.mean_y)
    return Survey(moments, {name: np.eye(len(M)) for name, M in measured.metrics.items()}, {})


def _fisher_probe(z: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random g, (outputs, batch), with covariance diag(p) − p pᵀ for p = softmax(z)."""
    exponentials = np.exp(z - z.max(axis=0))
    p = exponentials / exponentials.sum(axis=0)
    noise = np.sqrt(p) * rng.standard_normal(z.shape)
    return noise - p * noise.sum(axis=0)


def _backpropagate(
    network: Network, tensors: dict[str, np.ndarray], g: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """The gradient of gᵀ output by the target of every mixing, last mixing first."""
    gradients = {network.output: g}
    for op in reversed(network.operations):
        gradient = gradients.pop(op.target, None)
        if gradient is None:
            continue
        if isinstance(op, Mixing):
            yield op.name, gradient
            gradient = op.weights.T.astype(np.float64) @ gradient
        else:
            gradient = derivative(op.activation, tensors[op.source]) * gradient
        gradients[op.source] = gradients.get(op.source, 0) + gradient
