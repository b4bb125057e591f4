"""Step 1: the statistics of every mixing, from one pass of the original network over the calibration data.

The *moments* (step 1.1) are those of ``moments``.

The *metric* M (step 1.2) of a mixing says what an error e of its y does to the output: it changes it by
about eᵀ M e.  M = mean Jᵀ F J, with J the derivative of the output (before the head) by y, and F what errors
of the output matter.  Random vectors g with covariance F (``probes``) are traced back instead of all outputs.
On maps M is the sum over positions: errors at different positions are taken to be independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.backward import backpropagate
from repurpose_hpc.model.forward import joined_values, trace
from repurpose_hpc.model.labels import understood
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.restructure.calibration.divergence import output_kinds
from repurpose_hpc.restructure.calibration.moments import (
    CalibrationBatches,
    InputSums,
    Moments,
    SquareSum,
    data_free_moments,
    map_batches,
)
from repurpose_hpc.restructure.calibration.probes import Probe, value_weights
from repurpose_hpc.restructure.method import Gram, Method, Metric
from repurpose_hpc.restructure.options import Options
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
class Statistics:
    """Moments and metrics of every mixing that is not fixed before anything is changed, by mixing name.

    Attributes:
        moments: with x̂ = x, as if nothing before the mixing had changed.
        metrics: M, (m, m).
        roots: L, (k, m) with few k, such that Lᵀ L is M but for METRIC_TOLERANCE of its trace.
        surviving: the share of an error that later mixings do not repair, with which M is discounted.
    """

    moments: dict[str, Moments]
    metrics: dict[str, np.ndarray]
    roots: dict[str, np.ndarray]
    surviving: Mapping[str, float]

    def forget(self, name: str) -> None:
        """Free the memory of a mixing of which nothing will be asked any more."""
        for of_mixings in (self.moments, self.metrics, self.roots):
            del of_mixings[name]


class _MixingSums(NamedTuple):
    """Sums over batches for one mixing.

    Attributes:
        inputs: for its moments; all mixings that are given the same vectors share them, as in an ensemble,
            whose members all read the input.
        is_first: it is the first of these.
        squares: Σ g gᵀ, for its metric.
    """

    inputs: InputSums
    is_first: bool
    squares: SquareSum


def _all_sums(mixings: Sequence[Mixing], team: Team) -> dict[str, _MixingSums]:
    """Sums for every mixing, by name."""
    readers: dict[str, InputSums] = {}
    sums = {}
    for mixing in mixings:
        m, n = mixing.weights.shape
        # Patches of maps are drawn for each mixing by itself.
        key = mixing.source if mixing.window is None else mixing.name
        is_first = key not in readers
        if is_first:
            readers[key] = InputSums(n, team)
        sums[mixing.name] = _MixingSums(readers[key], is_first, SquareSum(m, team))
    return sums


def statistics_for(
    method: Method, network: Network, samples: Samples, options: Options, team: Team
) -> Statistics:
    """Statistics as a method looks at them in steps 2 and 3; collective.

    Args:
        method: what it needs to know.
        network: trained.
        samples: calibration data; looked at only if the method needs them.
        options: of the restructuring: the seed, and the weights of the outputs.
        team: shares the work.
    """
    if not method.needs_data:
        return data_free_statistics(network)
    weights = value_weights(network, options.output_weights)
    measured = measure_statistics(network, samples, options.seed, team, weights)
    moments = {name: _gram(method.gram, network, name, m) for name, m in measured.moments.items()}
    metrics, roots, surviving = measured.metrics, measured.roots, measured.surviving
    if method.metric is not Metric.OUTPUT:
        surviving = dict.fromkeys(metrics, 1.0)
        metrics = {name: _uniform(method.metric, M) for name, M in metrics.items()}
        roots = {name: np.sqrt(M) for name, M in metrics.items()}
    return Statistics(moments, metrics, roots, surviving)


def measure_statistics(
    network: Network, samples: Samples, seed: int, team: Team, weights: np.ndarray | None = None
) -> Statistics:
    """Measure moments and metrics of every mixing of the original network that is not fixed; collective.

    The metric is discounted by what rows of the same mixing and later mixings will repair.

    Args:
        network, samples, seed, team: as of ``statistics_for``.
        weights: of the squared error of each value of the outputs, (outputs,); None: all count the same.
    """
    mixings = trained(network)
    probes = [kind.probe for kind in output_kinds(network, understood(network, samples))]
    scales = None if weights is None else np.sqrt(weights)[:, None]
    batches = CalibrationBatches(network, mixings, samples)

    sums = _all_sums(mixings, team)

    def trace_back(number: int, batch: np.ndarray) -> list[tuple[np.ndarray | None, np.ndarray]]:
        tensors = trace(network, batch)
        factors = _traced_back(network, tensors, probes, scales, np.random.default_rng([seed, number]))
        inputs = {
            m.name: batches.columns(m, number, tensors[m.source], tensors[m.target])[0]
            for m in mixings
            if sums[m.name].is_first
        }
        return [(inputs.get(m.name), factors[m.name]) for m in mixings]

    for batch in map_batches(trace_back, batches, team):
        for total, (x, factor) in zip(sums.values(), batch, strict=True):
            if x is not None:
                total.inputs.add(x)
            total.squares.add_square(factor)
    depths = _depths(network)
    surviving = {m.name: max(UNREPAIRED ** max(depths[m.name] - 1, 0), LOST) for m in mixings}
    moments, metrics = {}, {}
    for mixing in reversed(mixings):
        # Sums take as much memory as what is made of them.
        total = sums.pop(mixing.name)
        M = total.squares.total()
        M /= PROBES * batches.samples.samples
        _check_range(M, mixing.name, samples.name)
        M *= _uncompensated(M) * surviving[mixing.name]
        metrics[mixing.name], moments[mixing.name] = M, total.inputs.moments(mixing)
    roots = team.map(metric_root, list(metrics.values()))
    return Statistics(moments, metrics, dict(zip(metrics, roots, strict=True)), surviving)


def _check_range(M: np.ndarray, name: str, samples_name: str) -> None:
    """Refuse a metric whose squares double precision cannot hold."""
    size = float(np.trace(M))
    if not size < np.sqrt(np.finfo(np.float64).max) / len(M):
        raise UserError(
            f"{samples_name}: expected outputs that depend on {name!r} within what double precision holds, "
            f"found a mean squared slope of {size:.3g}; scale the data as for training, or keep arguments "
            "away from where an activation is infinite"
        )


def _traced_back(
    network: Network,
    tensors: dict[str, np.ndarray],
    probes: list[Probe],
    scales: np.ndarray | None,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """A factor of Σ g gᵀ for every mixing, over random vectors g that are traced back to its target."""
    gradients: dict[str, list[np.ndarray]] = {mixing.name: [] for mixing in network.mixings}
    z = [joined_values(network, name, tensors[name]) for name in network.output_tensors]
    for _ in range(PROBES):
        g = np.concatenate([probe(values, rng) for probe, values in zip(probes, z, strict=True)])
        for name, gradient in backpropagate(network, tensors, g if scales is None else scales * g):
            gradients[name].append(gradient)
    return {mixing.name: _factor(gradients[mixing.name]) for mixing in trained(network)}


def trained(network: Network) -> list[Mixing]:
    """The mixings that are not fixed."""
    return [mixing for mixing in network.mixings if not mixing.fixed]


def _depths(network: Network) -> dict[str, int]:
    """The number of mixings, not fixed, behind each mixing on the longest path to an output."""
    depths: dict[str, int] = {}
    following = dict.fromkeys(network.space_of, 0)
    for op in reversed(network.operations):
        depth = following[op.target]
        if isinstance(op, Mixing):
            depths[op.name] = depth
            depth += not op.fixed
        for source in op.sources:
            following[source] = max(following[source], depth)
    return depths


def _factor(gradients: list[np.ndarray]) -> np.ndarray:
    """A matrix whose product with its transpose is Σ g gᵀ over probes, samples and positions: (m, ...).

    On maps, which have too many positions to be sent, an (m, m) one.
    """
    if gradients[0].ndim == 2:
        return np.hstack(gradients)
    g = np.hstack([gradient.reshape(len(gradient), -1) for gradient in gradients])
    eigenvalues, vectors = np.linalg.eigh(g @ g.T)
    return vectors * np.sqrt(np.maximum(eigenvalues, 0))


def _uncompensated(M: np.ndarray) -> float:
    """Share of an error that remains when the rows of a mixing make up for each other, 0 to 1.

    That of the directions of y that the output sees: the effective rank of the metric (the participation
    ratio of its eigenvalues) over the number of rows.
    """
    return float(np.trace(M) ** 2 / (len(M) * np.sum(M * M) or 1.0))


def data_free_statistics(network: Network) -> Statistics:
    """Assume inputs as in ``data_free_moments``, and errors that all count the same."""
    identities = {mixing.name: np.eye(len(mixing.bias)) for mixing in trained(network)}
    moments = {mixing.name: data_free_moments(mixing) for mixing in trained(network)}
    return Statistics(moments, identities, dict(identities), dict.fromkeys(identities, 1.0))


def _gram(gram: Gram, network: Network, name: str, measured: Moments) -> Moments:
    """Moments of mixing ``name`` with the Gram matrix that a method asks for, from the measured ones."""
    if gram is Gram.MEASURED:
        return measured
    if gram is Gram.DIAGONAL:
        return _second_moments(measured)
    return data_free_moments(next(mixing for mixing in network.mixings if mixing.name == name))


def _second_moments(measured: Moments) -> Moments:
    """Moments that tell the second moment of every input but not what the inputs have in common.

    Scores made with them are |Ŵ_qj|² G_jj: nothing is refitted while ghosts are eliminated.
    """
    diagonal = np.diag(measured.H)
    target = measured.best
    R = target * diagonal
    variance = np.einsum("ij,ij->i", R, target)
    return Moments(np.diag(diagonal), R, variance, measured.mean_x, measured.mean_y)


def _uniform(metric: Metric, M: np.ndarray) -> np.ndarray:
    """A metric in which errors of all rows count the same."""
    size = np.trace(M) / len(M) if metric is Metric.FLAT else 1.0
    return size * np.eye(len(M))
