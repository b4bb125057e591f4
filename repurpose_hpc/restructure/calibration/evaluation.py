"""Distance of a restructured network from the original, on samples."""

from __future__ import annotations

import math

import numpy as np

from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.bound import OutputBound, spectral_norm
from repurpose_hpc.model.forward import Compute, compute, outputs, trace
from repurpose_hpc.model.network import Network
from repurpose_hpc.restructure.calibration.final import FinalErrors
from repurpose_hpc.restructure.calibration.moments import CalibrationBatches, map_batches
from repurpose_hpc.restructure.team import ALONE, Team


class Comparison:
    """The outputs of two networks for the same samples, added up batch by batch.

    Args:
        network: one of them, for what becomes of its outputs at the end.

    Attributes:
        samples: how many were added.
        agreeing: those of one class in both: that of the model, or the place of the largest output.
        correct, lost, gained: of those with labels, how many the original classifies rightly, how many of
            these the other does not, and how many only the other does.
    """

    def __init__(self, network: Network) -> None:
        self.samples = self.agreeing = self.correct = self.lost = self.gained = 0
        self._network, self._is_labelled = network, False
        self._squares, self._final = np.zeros(2), FinalErrors(network)

    def add(self, z: np.ndarray, z_hat: np.ndarray, labels: np.ndarray | None) -> None:
        """Add a batch: outputs before the head, (outputs, batch), and the samples' labels, (batch,)."""
        self.samples += z.shape[1]
        self._squares += np.sum((z - z_hat) ** 2), np.sum(z**2)
        classes, new_classes = self._final.add(z, z_hat)
        self.agreeing += int(np.count_nonzero(classes == new_classes))
        if labels is not None:
            self._is_labelled = True
            was_right, is_right = classes == labels, new_classes == labels
            self.correct += int(np.count_nonzero(was_right))
            self.lost += int(np.count_nonzero(was_right & ~is_right))
            self.gained += int(np.count_nonzero(is_right & ~was_right))

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
        """Share of the samples of the same class."""
        return self.agreeing / self.samples

    def findings(self) -> dict:
        """``output_error``, ``agreement``, and with labels ``reference_accuracy`` and ``accuracy``.

        With a back those of ``FinalErrors`` as well.
        """
        findings = {"output_error": self.output_error, "agreement": self.agreement, **self._final.findings()}
        if self._is_labelled:
            findings["reference_accuracy"] = self.correct / self.samples
            findings["accuracy"] = (self.correct - self.lost + self.gained) / self.samples
        return findings


def compare(
    original: Network,
    restructured: Network,
    samples: Samples,
    team: Team = ALONE,
    compute: Compute = compute,
) -> Comparison:
    """The outputs of both networks for all samples; collective.

    Args:
        original, restructured: of one graph.
        samples: with labels or without.
        team: shares the work.
        compute: of every operation of the restructured network.
    """

    def output_pair(_: int, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        y, y_hat = trace(original, batch), trace(restructured, batch, compute=compute)
        return outputs(original, y), outputs(restructured, y_hat)

    labels, comparison = _labels(original, samples), Comparison(original)
    for z, z_hat in map_batches(output_pair, CalibrationBatches(original, None, samples), team):
        comparison.add(z, z_hat, _next_labels(labels, comparison.samples, z.shape[1]))
    return comparison


def evaluate(
    original: Network,
    restructured: Network,
    samples: Samples,
    team: Team = ALONE,
    compute: Compute = compute,
) -> dict:
    """Errors and accuracies of the restructured network; collective; see ``compare``.

    Returns:
        the findings of the comparison; ``relative_error``: mixing name -> |y − ŷ| / |y| over all samples, on
        the restructured network's own inputs; ``bound``: a bound of ``output_error``, the root mean square of
        the samples' layer-wise bounds (``model.bound``) over that of their outputs, None where there is none.
    """
    norms = team.map(spectral_norm, restructured.mixings)
    names = (mixing.name for mixing in restructured.mixings)
    output_bound = OutputBound(restructured, dict(zip(names, norms, strict=True)))

    def measure(_: int, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict, np.ndarray]:
        y = trace(original, batch)
        y_hat = trace(restructured, batch, compute=compute)
        squares = {
            mixing.name: _squares(y[mixing.target] - y_hat[mixing.target], y[mixing.target])
            for mixing in original.mixings
        }
        z, z_hat = outputs(original, y), outputs(restructured, y_hat)
        return z, z_hat, squares, _squares(output_bound(y), z)

    squares = {mixing.name: np.zeros(2) for mixing in original.mixings}
    bound_squares, comparison, labels = np.zeros(2), Comparison(original), _labels(original, samples)
    for z, z_hat, batch_squares, batch_bound in map_batches(
        measure, CalibrationBatches(original, None, samples), team
    ):
        comparison.add(z, z_hat, _next_labels(labels, comparison.samples, z.shape[1]))
        bound_squares += batch_bound
        for name, pair in batch_squares.items():
            squares[name] += pair
    return {
        **comparison.findings(),
        "bound": relative(*bound_squares) if math.isfinite(bound_squares[0]) else None,
        "relative_error": {name: relative(*pair) for name, pair in squares.items()},
    }


def relative(squared_error: float, squared_size: float) -> float:
    """Error over size, or the error itself if the size is zero, from their squares."""
    return float(np.sqrt(squared_error / (squared_size or 1.0)))


def _squares(error: np.ndarray, size: np.ndarray) -> np.ndarray:
    return np.array([np.sum(error**2), np.sum(size**2)])


def _labels(network: Network, samples: Samples) -> np.ndarray | None:
    return samples.labels if network.has_classes else None


def _next_labels(labels: np.ndarray | None, first: int, count: int) -> np.ndarray | None:
    return None if labels is None else labels[first : first + count]
