"""How well outputs agree with ``y``: accuracy of classes and labels, errors of targets, batch by batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from repurpose_hpc.io.meaning import CLASSES, TARGETS
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.ends import class_column
from repurpose_hpc.model.labels import ROWS, is_classified, thresholds
from repurpose_hpc.model.network import Network

# From outputs, (batch, outputs), the class of each sample, (batch, 1), or its yes or no, (batch, outputs).
Decide = Callable[[np.ndarray], np.ndarray]


def decisions(network: Network, samples: Samples) -> Decide:
    """What outputs are taken for: classes or labels as ``y`` means them, else the largest.

    Args:
        network: any.
        samples: ``understood``.
    """
    back = network.ends.back
    if back is not None:
        column = class_column(back)
        return _largest if column is None else lambda outputs: outputs[:, column, None].astype(np.int64)
    by_value = network.outputs == 1 or (is_classified(samples) and not _is_exclusive(network, samples))
    if not by_value:
        return _largest
    levels = thresholds(network)
    limits = np.zeros(network.outputs) if levels is None else levels
    return lambda outputs: outputs > limits


def _is_exclusive(network: Network, samples: Samples) -> bool:
    """True if ``y`` tells one class of several for each sample."""
    several = network.outputs > 1 or network.ends.back is not None
    return samples.meaning is not None and samples.meaning.kind == CLASSES and several


def _largest(values: np.ndarray) -> np.ndarray:
    return values.argmax(axis=1)[:, None]


def _class_numbers(y: np.ndarray) -> np.ndarray:
    """The class that every row of ``y`` names by its number, or by its largest value: (batch, 1) int64."""
    return y.astype(np.int64) if y.shape[1] == 1 else _largest(y)


class LabelRows:
    """The rows of ``y``, handed out in order in batches of any size."""

    def __init__(self, y: Samples) -> None:
        self._blocks = y.batches(ROWS, dtype=np.float64)
        self._rest = np.zeros((0, y.width))

    def take(self, count: int) -> np.ndarray:
        """The next rows, (count, width) float64."""
        while len(self._rest) < count:
            self._rest = np.concatenate([self._rest, next(self._blocks)])
        rows, self._rest = self._rest[:count], self._rest[count:]
        return rows


class Accuracy:
    """The share of classes, or of single labels, that outputs tell rightly.

    Args:
        network: that the outputs are of.
        samples: ``understood``, with classes or labels.

    Attributes:
        samples: how many were added.
        labels: decisions for each of them: 1 for classes.
        right: decisions that were right.
    """

    def __init__(self, network: Network, samples: Samples) -> None:
        self._exclusive = _is_exclusive(network, samples)
        self._decide = decisions(network, samples)
        self.labels = 1 if self._exclusive else network.outputs
        self.samples = self.right = 0
        # How often each class, or the yes of each label, occurs.
        self._classes: Counter[int] = Counter()
        self._counts = np.zeros(network.outputs, np.int64)

    def add(self, outputs: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Add a batch.

        Args:
            outputs: (batch, outputs), heads applied or not; with a back those of the model, packed.
            y: (batch, width).

        Returns:
            bool (batch, labels): the decisions that are right.
        """
        truth = _class_numbers(y) if self._exclusive else y == 1
        right: np.ndarray = self._decide(outputs) == truth
        self.samples += len(outputs)
        self.right += int(np.count_nonzero(right))
        if self._exclusive:
            self._classes.update(truth[:, 0].tolist())
        else:
            self._counts += np.count_nonzero(truth, axis=0)
        return right

    def findings(self) -> dict[str, float]:
        """``accuracy``."""
        return {"accuracy": self.right / (self.samples * self.labels)}

    def _usual(self) -> float:
        """The accuracy of always saying what is most frequent."""
        if self._exclusive:
            return max(self._classes.values()) / self.samples
        shares = self._counts / self.samples
        return float(np.maximum(shares, 1 - shares).mean())

    def doubts(self) -> list[str]:
        """The reasons, in words, why an accuracy of these outputs says little."""
        usual = self._usual()
        if usual == 1:
            return ["all labels are the same, so that no error can be told from no error"]
        accuracy = self.findings()["accuracy"]
        if accuracy <= usual:
            return [
                f"the original network has an accuracy of {accuracy:.4f}, no more than always to say what is "
                f"most frequent ({usual:.4f}): it does not predict these labels"
            ]
        return []


class TargetError:
    """The distance of outputs from their targets.

    Args:
        network: that the outputs are of.

    Attributes:
        samples: how many were added.
    """

    def __init__(self, network: Network) -> None:
        self.samples = 0
        self._errors, self._sums, self._squares = np.zeros((3, network.given))
        # Sums are relative to the first sample: means far from zero must not drown the variances.
        self._first: np.ndarray | None = None

    def add(self, outputs: np.ndarray, y: np.ndarray) -> None:
        """Add a batch: outputs and y, (batch, outputs), heads applied, behind the back."""
        if self._first is None:
            self._first = y[0].copy()
        moved = y - self._first
        self.samples += len(y)
        self._errors += np.sum((outputs - y) ** 2, axis=0)
        self._sums += moved.sum(axis=0)
        self._squares += np.sum(moved**2, axis=0)

    def findings(self) -> dict[str, float | None]:
        """``rmse``, root mean square error over samples and outputs; ``r2``, None if no target varies."""
        error = float(self._errors.sum())
        varying = float(np.sum(self._squares - self._sums**2 / self.samples))
        r2 = 1 - error / varying if varying > 0 else None
        return {"rmse": float(np.sqrt(error / (self.samples * self._errors.size))), "r2": r2}


Quality = Accuracy | TargetError


def quality_of(network: Network, samples: Samples) -> Quality | None:
    """What measures outputs of ``network`` with the ``y`` of samples; None if that means nothing to it.

    Args:
        network: any.
        samples: ``understood``.
    """
    if is_classified(samples):
        return Accuracy(network, samples)
    if samples.meaning is not None and samples.meaning.kind == TARGETS:
        return TargetError(network)
    return None
