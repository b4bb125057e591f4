"""What one pass of the original network over the calibration data yields: moments and metrics.

The *metric* M of a mixing says what an error e of its y does to the output: it changes it by about
eᵀ M e.  M = mean Jᵀ F J, with J the derivative of the output (before the head) by y.  For a classifier
F is the Fisher information of its softmax, so that only what can change the class counts; for any
other network F = I.  Random vectors g with covariance F are traced back instead of all outputs.  On maps
M is the sum over positions: errors at different positions are taken to be independent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.backward import backpropagate
from repurpose_hpc.model.forward import trace
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.restructure.calibration.moments import (
    Moments,
    MomentSums,
    ProductSum,
    Stream,
    data_free_moments,
    map_batches,
)
from repurpose_hpc.restructure.support.elimination import metric_root
from repurpose_hpc.restructure.team import Team

# Random directions of the output that are traced back for each sample.
PROBES = 2
# Share of an error that survives the adjustment of each later mixing but the last; chosen on held-out
# calibration data, see docs/method.md.
UNREPAIRED = 0.5
# The share that always survives: what was lost for good is not found again, however many mixings follow.
LOST = 0.25


@dataclass(frozen=True, eq=False)
class Survey:
    """What is known of every mixing that is not fixed before anything is changed, by mixing name.

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
    """Measure moments and metrics of every mixing of the original network that is not fixed; collective.

    What rows of the same mixing and later mixings will repair is discounted.
    """
    mixings = trained(network)
    classified = classified_outputs(network, samples)
    stream = Stream(network, mixings, samples)

    def trace_back(number: int, batch: np.ndarray) -> tuple[dict, dict]:
        rng = np.random.default_rng([seed, number])
        tensors = trace(network, batch)
        gradients = {mixing.name: [] for mixing in network.mixings}
        for _ in range(PROBES):
            g = [_probe(tensors[name], classes, rng) for name, classes in classified]
            for name, gradient in backpropagate(network, tensors, np.concatenate(g)):
                gradients[name].append(gradient)
        ends = {m.name: stream.columns(m, number, tensors[m.source], tensors[m.target]) for m in mixings}
        return ends, {mixing.name: _factor(gradients[mixing.name]) for mixing in mixings}

    sums = {mixing.name: MomentSums(mixing, team) for mixing in mixings}
    squares = {m.name: ProductSum(len(m.bias), len(m.bias), team) for m in mixings}
    for ends, factors in map_batches(trace_back, stream, team):
        for name, pair in ends.items():
            sums[name].add(*pair)
            squares[name].add(factors[name], factors[name])
    metrics, later = {}, _mixings_behind(network)
    for mixing in reversed(mixings):
        M = squares[mixing.name].total() / (PROBES * stream.samples.samples)
        surviving = max(UNREPAIRED ** max(later[mixing.name] - 1, 0), LOST)
        metrics[mixing.name] = _uncompensated(M) * surviving * M
    roots = team.map(metric_root, list(metrics.values()))
    return Survey(
        {name: total.moments() for name, total in sums.items()},
        metrics,
        dict(zip(metrics, roots, strict=True)),
    )


def trained(network: Network) -> list[Mixing]:
    """The mixings that are not fixed."""
    return [mixing for mixing in network.mixings if not mixing.fixed]


def classified_outputs(network: Network, samples: Samples) -> list[tuple[str, bool]]:
    """The outputs, and whether each tells classes: the samples have labels, or it ends in a softmax."""
    labelled = samples.labels is not None and network.has_classes
    heads = zip(network.output_tensors, network.heads, strict=True)
    return [(name, labelled or head != "identity") for name, head in heads]


def _mixings_behind(network: Network) -> dict[str, int]:
    """How many mixings that are not fixed follow each on the longest path to an output."""
    behind, following = {}, dict.fromkeys(network.space_of, 0)
    for op in reversed(network.operations):
        most = following[op.target]
        if isinstance(op, Mixing):
            behind[op.name] = most
            most += not op.fixed
        for source in op.sources:
            following[source] = max(following[source], most)
    return behind


def _factor(gradients: list[np.ndarray]) -> np.ndarray:
    """A matrix whose product with its transpose is Σ g gᵀ over probes, samples and positions: (m, ...).

    On maps, which have too many positions to be sent, an (m, m) one.
    """
    if gradients[0].ndim == 2:
        return np.hstack(gradients)
    g = np.hstack([each.reshape(len(each), -1) for each in gradients])
    eigenvalues, vectors = np.linalg.eigh(g @ g.T)
    return vectors * np.sqrt(np.maximum(eigenvalues, 0))


def _uncompensated(M: np.ndarray) -> float:
    """Share of an error that remains when the rows of a mixing make up for each other, 0 to 1.

    That of the directions of y that the output sees: the effective rank of the metric (the participation
    ratio of its eigenvalues) over the number of rows.
    """
    return float(np.trace(M) ** 2 / (len(M) * np.sum(M * M) or 1.0))


def data_free_survey(network: Network) -> Survey:
    """What is assumed without data: inputs as in ``data_free_moments``, all errors alike."""
    return Survey(
        {mixing.name: data_free_moments(mixing) for mixing in trained(network)},
        {mixing.name: np.eye(len(mixing.bias)) for mixing in trained(network)},
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


def _probe(z: np.ndarray, classes: bool, rng: np.random.Generator) -> np.ndarray:
    """Random g for one output tensor z, (values, batch): by Fisher information, or with covariance I."""
    if classes:
        return _fisher_probe(z, rng)
    values = z.shape[0] * (z.shape[2] if z.ndim == 3 else 1)
    return rng.choice([-1.0, 1.0], size=(values, z.shape[1]))


def _fisher_probe(z: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random g, (outputs, batch), with covariance diag(p) − p pᵀ for p = softmax(z)."""
    exponentials = np.exp(z - z.max(axis=0))
    p = exponentials / exponentials.sum(axis=0)
    noise = np.sqrt(p) * rng.standard_normal(z.shape)
    return noise - p * noise.sum(axis=0)
