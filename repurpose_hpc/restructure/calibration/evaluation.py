"""Distance of a restructured network from the original, on samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.bound import OutputBound, spectral_norm
from repurpose_hpc.model.forward import Compute, compute, outputs, trace
from repurpose_hpc.model.labels import understood
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.quality import Accuracy, LabelRows, decisions, quality_of
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.plan.relays import without_relays
from repurpose_hpc.restructure.calibration.final import FinalErrors
from repurpose_hpc.restructure.calibration.moments import CalibrationBatches, map_batches
from repurpose_hpc.restructure.team import ALONE, Team

# Errors of single columns are told of networks with no more than so many.
MOST_COLUMNS = 32


class Comparison:
    """The outputs and layers of two networks for the same samples, added up batch by batch.

    Args:
        network: the original, or the other: they are of one graph.
        samples: ``understood``; ``y`` is read as batches are added.
        weights: of the squared error of each value, (outputs,); None: all count the same.

    Attributes:
        samples: how many were added.
        original, restructured: how well each agrees with ``y``; None if that means nothing.
        lost, gained: decisions that are right only before, and only after, in all samples together.
        losing, gaining: samples of which any decision is lost, and of which all are gained.
    """

    def __init__(self, network: Network, samples: Samples, weights: np.ndarray | None = None) -> None:
        self.network, self.weights = network, weights
        self.samples = self.lost = self.gained = self.losing = self.gaining = 0
        self.original, self.restructured = quality_of(network, samples), quality_of(network, samples)
        self._decide, self._agreeing = decisions(network, samples), 0.0
        self._y = None if self.original is None or samples.y is None else LabelRows(samples.y)
        self._squares, self._columns = np.zeros(2), np.zeros((2, network.outputs))
        self._final = FinalErrors(network)
        self._layers = {mixing.name: np.zeros(2) for mixing in network.mixings}

    def add_layers(self, squares: Mapping[str, np.ndarray]) -> None:
        """Add what ``_layer_squares`` gives for a batch."""
        for name, pair in squares.items():
            self._layers[name] += pair

    def add(self, z: np.ndarray, z_hat: np.ndarray) -> None:
        """Add a batch of outputs before the head, (outputs, batch)."""
        self.samples += z.shape[1]
        columns = np.array([np.sum((z - z_hat) ** 2, axis=1), np.sum(z**2, axis=1)])
        self._columns += columns
        if self.weights is None:
            self._squares += np.sum((z - z_hat) ** 2), np.sum(z**2)
        else:
            self._squares += columns @ self.weights
        given, new = self._final.add(z, z_hat)
        same = self._decide(given) == self._decide(new)
        self._agreeing += np.count_nonzero(same) / same.shape[1]
        if self._y is not None:
            self._compare_with(self._y.take(z.shape[1]), given, new)

    def _compare_with(self, y: np.ndarray, given: np.ndarray, new: np.ndarray) -> None:
        """Take in what both models give, as ``FinalErrors`` returns it."""
        if isinstance(self.original, Accuracy) and isinstance(self.restructured, Accuracy):
            was_right, is_right = self.original.add(given, y), self.restructured.add(new, y)
            lost, gained = was_right & ~is_right, is_right & ~was_right
            self.lost += int(np.count_nonzero(lost))
            self.gained += int(np.count_nonzero(gained))
            self.losing += int(np.count_nonzero(lost.any(axis=1)))
            self.gaining += int(np.count_nonzero(gained.all(axis=1)))
        elif self.original is not None and self.restructured is not None:
            self.original.add(self._final.with_heads(given), y)
            self.restructured.add(self._final.with_heads(new), y)

    @property
    def layer_errors(self) -> dict[str, float]:
        """Mixing name -> |y − ŷ| / |y| over all samples and the neurons that are computed.

        ŷ is on the restructured network's own inputs.
        """
        return {name: relative(*pair) for name, pair in self._layers.items()}

    @property
    def output_error(self) -> float:
        """|z − ẑ| / |z| over all samples, of the network's outputs before the head."""
        return relative(*self._squares)

    @property
    def promised_error(self) -> float:
        """The error of the real numbers that the model gives, with a back those behind it."""
        return self._final.findings().get("final_output_error", self.output_error)

    @property
    def agreement(self) -> float:
        """Share of the samples of the same class, and of the labels with the same yes or no."""
        return self._agreeing / self.samples

    @property
    def accuracy_drop(self) -> float:
        """The share of right decisions that the restructured network has less, in percentage points."""
        labels = self.original.labels if isinstance(self.original, Accuracy) else 1
        return 100 * (self.lost - self.gained) / (self.samples * labels)

    def findings(self) -> dict:
        """Errors and qualities.

        Returns:
            ``output_error``, ``agreement``, with a back those of ``FinalErrors``, and where ``y`` has a
            meaning ``accuracy``, or ``rmse`` and ``r2``, and the same of the original as ``reference_…``.
        """
        findings: dict[str, Any] = {"output_error": self.output_error, "agreement": self.agreement}
        findings |= self._final.findings()
        if self.original is not None and self.restructured is not None:
            reference = self.original.findings().items()
            findings |= {f"reference_{name}": value for name, value in reference}
            findings |= self.restructured.findings()
        return findings

    def outputs(self) -> list[dict]:
        """The error of every output, and of every column where there are few."""
        found, first = [], 0
        for name in self.network.output_tensors:
            errors = self._columns[:, first : first + self.network.size(name)]
            first += errors.shape[1]
            found.append({"name": name, "columns": errors.shape[1], "error": relative(*errors.sum(axis=1))})
            if self.network.outputs <= MOST_COLUMNS:
                found[-1]["column_errors"] = [relative(*column) for column in errors.T]
        return found


def compare(
    original: Network,
    restructured: Network,
    samples: Samples,
    team: Team = ALONE,
    compute: Compute = compute,
    weights: np.ndarray | None = None,
    plan: Plan | None = None,
) -> Comparison:
    """The outputs and layers of both networks for all samples; collective.

    Args:
        original, restructured: of one graph.
        samples: with labels or targets, or without.
        team: shares the work.
        compute: of every operation of the restructured network.
        weights: as of ``Comparison``.
        plan: of the restructured network, if it has removed neurons.
    """
    kept = _kept(original, plan)

    def measure(_: int, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        y, y_hat = trace(original, batch), trace(restructured, batch, compute=compute)
        squares = _layer_squares(original, y, y_hat, kept)
        return outputs(original, y), outputs(restructured, y_hat), squares

    comparison = Comparison(original, understood(original, samples), weights)
    for z, z_hat, squares in map_batches(measure, CalibrationBatches(original, None, samples), team):
        comparison.add(z, z_hat)
        comparison.add_layers(squares)
    return comparison


def evaluate(
    original: Network,
    restructured: Network,
    samples: Samples,
    team: Team = ALONE,
    compute: Compute = compute,
    weights: np.ndarray | None = None,
    plan: Plan | None = None,
) -> dict:
    """Errors and accuracies of the restructured network; collective; see ``compare``.

    Args:
        original, restructured, samples, team, compute, weights: as of ``compare``.
        plan: of the restructured network, if it has relays, removed neurons or copies.

    Returns:
        those of ``Comparison.findings``; ``relative_error``: its ``layer_errors``; ``bound``: a bound of
        ``output_error``, the root mean square of the samples' layer-wise bounds (``model.bound``) over that
        of their outputs, None where there is none, as with copies; ``outputs``: see ``Comparison``.
    """
    bounds = _bounds(restructured, team, plan)
    kept = _kept(original, plan)

    def measure(_: int, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict, np.ndarray]:
        y = trace(original, batch)
        y_hat = trace(restructured, batch, compute=compute)
        squares = _layer_squares(original, y, y_hat, kept)
        z, z_hat = outputs(original, y), outputs(restructured, y_hat)
        return z, z_hat, squares, _bound_squares(bounds(y, z), z, weights)

    bound_squares, comparison = np.zeros(2), Comparison(original, understood(original, samples), weights)
    for z, z_hat, batch_squares, batch_bound in map_batches(
        measure, CalibrationBatches(original, None, samples), team
    ):
        comparison.add(z, z_hat)
        bound_squares += batch_bound
        comparison.add_layers(batch_squares)
    return {
        **comparison.findings(),
        "bound": relative(*bound_squares) if math.isfinite(bound_squares[0]) else None,
        "relative_error": comparison.layer_errors,
        "outputs": comparison.outputs(),
    }


def _bounds(
    restructured: Network, team: Team, plan: Plan | None
) -> Callable[[dict[str, np.ndarray], np.ndarray], np.ndarray]:
    """Bounds of the samples' errors by all tensors of the original, and by its outputs; collective."""
    if plan is not None and plan.copies:
        return lambda _, z: np.full(z.shape[1], np.inf)
    bounded = restructured if plan is None else without_relays(restructured, plan)
    norms = team.map(spectral_norm, bounded.mixings)
    names = (mixing.name for mixing in bounded.mixings)
    output_bound = OutputBound(bounded, dict(zip(names, norms, strict=True)))
    return lambda y, _: output_bound(y)


def relative(squared_error: float, squared_size: float) -> float:
    """Error over size, or the error itself if the size is zero, from their squares."""
    return float(np.sqrt(squared_error / (squared_size or 1.0)))


def _kept(network: Network, plan: Plan | None) -> dict[str, np.ndarray | slice]:
    """Mixing name -> the neurons of its target that are computed."""
    if plan is None or not plan.removed:
        return {mixing.name: slice(None) for mixing in network.mixings}
    removed = plan.removed_neurons(network)
    return {mixing.name: ~removed[network.space_of[mixing.target]] for mixing in network.mixings}


def _layer_squares(
    original: Network,
    y: Mapping[str, np.ndarray],
    y_hat: Mapping[str, np.ndarray],
    kept: Mapping[str, np.ndarray | slice],
) -> dict[str, np.ndarray]:
    """Mixing name -> squares of the error and of the size of what it makes of a batch, of some rows.

    Args:
        original: the network.
        y, y_hat: all tensors of it, and of the restructured one.
        kept: of ``_kept``.
    """
    return {
        mixing.name: _squares(y[mixing.target] - y_hat[mixing.target], y[mixing.target], kept[mixing.name])
        for mixing in original.mixings
    }


def _squares(error: np.ndarray, size: np.ndarray, kept: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Sums of the squares, of some rows."""
    return np.array([np.sum(error[kept] ** 2), np.sum(size[kept] ** 2)])


def _bound_squares(bounds: np.ndarray, z: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Squares of the samples' bounds, (batch,), and of their outputs, (outputs, batch), weighted."""
    if weights is None:
        return _squares(bounds, z)
    # All of the error may be in the output that counts most.
    return np.array([weights.max() * np.sum(bounds**2), weights @ np.sum(z**2, axis=1)])
