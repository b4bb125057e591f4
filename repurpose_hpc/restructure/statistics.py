"""Step 1: what the calibration data say about a mixing, streamed batch by batch.

Two things are measured.  *Moments* of the inputs x̂ of the restructured network and the
pre-activations y of the original one: with them every least-squares question about the mixing
is linear algebra.  The *metric* of each mixing says what an error of y does to the output.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from repurpose_hpc.data import Samples, check_finite
from repurpose_hpc.model.activations import activate, derivative
from repurpose_hpc.model.network import Mixing, Network

# Samples propagated at a time; part of the result, since it orders the sums.
BATCH = 2000
# Weight of staying near the original weights, relative to the mean variance of an input.
RIDGE = 1e-3
# Random directions of the output that are traced back for each sample.
PROBES = 2
# Share of an error that survives the adjustment of each later mixing, which repairs the rest (and large
# errors of the output saturate); chosen on held-out calibration data, see docs/method.md.
UNREPAIRED = 0.4


@dataclass(frozen=True, eq=False)
class Moments:
    """The least-squares problem of one mixing.

    The error of weights Ŵ (with the best bias) is, up to a constant,
    ``mean |y − Ŵ x̂ − b̂|² + α |Ŵ − W|²  =  Σ_i variance_i − 2 Ŵ_i R_iᵀ + Ŵ_i H Ŵ_iᵀ``: the second term
    keeps weights that the data do not determine at their original value.

    Attributes:
        H: centred Gram matrix of x̂ plus α I, (n, n).
        R: centred mean of y x̂ᵀ plus α W, (m, n).
        variance: of y, plus α |W_i|², (m,).
        mean_x, mean_y: (n,) and (m,).
    """

    H: np.ndarray
    R: np.ndarray
    variance: np.ndarray
    mean_x: np.ndarray
    mean_y: np.ndarray

    @cached_property
    def target(self) -> np.ndarray:
        """Wt = R H⁻¹, the best weights without any restriction, (m, n)."""
        return np.linalg.solve(self.H, self.R.T).T


def data_free_moments(mixing: Mixing) -> Moments:
    """The moments of uncorrelated inputs of variance 1: G = I, the Frobenius form of the paper."""
    W = mixing.weights.astype(np.float64)
    m, n = W.shape
    return Moments(np.eye(n), W, np.einsum("ij,ij->i", W, W), np.zeros(n), np.zeros(m))


class MomentSums:
    """Sums over batches from which the moments of one mixing are made.

    All samples are taken relative to the first one: means far from zero must not drown the variances
    in rounding, and an input that never changes has variance 0 exactly.
    """

    def __init__(self, mixing: Mixing) -> None:
        m, n = mixing.weights.shape
        self.W = mixing.weights.astype(np.float64)
        self.xx, self.yx, self.yy = np.zeros((n, n)), np.zeros((m, n)), np.zeros(m)
        self.x, self.y = np.zeros(n), np.zeros(m)
        self.first_x, self.first_y = np.zeros(n), np.zeros(m)
        self.count = 0

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Add a batch: x̂ (n, batch) and y (m, batch)."""
        if not self.count:
            self.first_x, self.first_y = x[:, 0].copy(), y[:, 0].copy()
        x, y = x - self.first_x[:, None], y - self.first_y[:, None]
        self.xx += x @ x.T
        self.yx += y @ x.T
        self.yy += np.einsum("ij,ij->i", y, y)
        self.x += x.sum(axis=1)
        self.y += y.sum(axis=1)
        self.count += x.shape[1]

    def moments(self) -> Moments:
        """The moments of all batches added."""
        W, mean_x, mean_y = self.W, self.x / self.count, self.y / self.count
        G = self.xx / self.count - np.outer(mean_x, mean_x)
        alpha = RIDGE * np.trace(G) / len(G) or 1.0
        return Moments(
            H=G + alpha * np.eye(len(G)),
            R=self.yx / self.count - np.outer(mean_y, mean_x) + alpha * W,
            variance=self.yy / self.count - mean_y**2 + alpha * np.einsum("ij,ij->i", W, W),
            mean_x=self.first_x + mean_x,
            mean_y=self.first_y + mean_y,
        )


def measure_moments(original: Network, restructured: Network, mixing: Mixing, samples: Samples) -> Moments:
    """Stream the calibration data through both networks up to ``mixing``.

    Args:
        original: the trained network; y is taken from it.
        restructured: the same graph, already adjusted in front of ``mixing``; x̂ is taken from it.
        mixing: one of ``original``.
        samples: calibration data.
    """
    sums = MomentSums(mixing)
    for batch in calibration_batches(samples):
        x = propagate(restructured, batch, mixing.source)[mixing.source]
        sums.add(x, propagate(original, batch, mixing.target)[mixing.target])
    return sums.moments()


@dataclass(frozen=True, eq=False)
class Survey:
    """What one pass of the original network over the calibration data yields, by mixing name.

    Attributes:
        moments: with x̂ = x, as if nothing before the mixing had changed.
        metrics: M, (m, m): an error e of a mixing's y changes the output by about eᵀ M e.
    """

    moments: dict[str, Moments]
    metrics: dict[str, np.ndarray]


def survey(network: Network, samples: Samples, seed: int) -> Survey:
    """Measure moments and metrics of every mixing of the original network.

    M = mean Jᵀ F J, with J the derivative of the output (before the head) by y.  For a classifier F is
    the Fisher information of its softmax, so that only what can change the class counts; for any
    other network F = I.  Random vectors g with covariance F are traced back instead of all outputs.
    What later mixings will repair is discounted (UNREPAIRED).
    """
    rng = np.random.default_rng(seed)
    classifier = samples.labels is not None or network.head != "identity"
    sums = {mixing.name: MomentSums(mixing) for mixing in network.mixings}
    metrics = {mixing.name: np.zeros((len(mixing.bias),) * 2) for mixing in network.mixings}
    for batch in calibration_batches(samples):
        tensors = propagate(network, batch, network.output)
        for mixing in network.mixings:
            sums[mixing.name].add(tensors[mixing.source], tensors[mixing.target])
        z = tensors[network.output]
        for _ in range(PROBES):
            g = _fisher_probe(z, rng) if classifier else rng.choice([-1.0, 1.0], size=z.shape)
            for name, gradient in _backpropagate(network, tensors, g):
                metrics[name] += gradient @ gradient.T / (PROBES * samples.samples)
    for later, mixing in enumerate(reversed(network.mixings)):
        metrics[mixing.name] *= UNREPAIRED**later
    return Survey({name: total.moments() for name, total in sums.items()}, metrics)


def data_free_survey(network: Network) -> Survey:
    """What is assumed without data: inputs as in ``data_free_moments``, all errors alike."""
    return Survey(
        {mixing.name: data_free_moments(mixing) for mixing in network.mixings},
        {mixing.name: np.eye(len(mixing.bias)) for mixing in network.mixings},
    )


def calibration_batches(samples: Samples) -> Iterator[np.ndarray]:
    """The samples as (inputs, batch) float64, every value checked.

    Raises:
        UserError: NaN or infinity.
    """
    first = 0
    for batch in samples.batches(BATCH, dtype=np.float64):
        check_finite(batch, samples.path, first)
        first += len(batch)
        yield np.ascontiguousarray(batch.T)


def propagate(network: Network, batch: np.ndarray, last: str) -> dict[str, np.ndarray]:
    """Every tensor up to ``last`` for a batch (inputs, batch): name -> (neurons, batch) float64."""
    tensors = {network.input: batch}
    for op in network.operations:
        if last in tensors:
            break
        if isinstance(op, Mixing):
            tensors[op.target] = op.weights.astype(np.float64) @ tensors[op.source] + op.bias[:, None]
        else:
            tensors[op.target] = activate(op.activation, tensors[op.source])
    return tensors


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
