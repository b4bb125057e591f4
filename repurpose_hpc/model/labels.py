"""What ``y``, which stands beside samples, means for a network: classes, labels or targets.

The rules look at the shape of ``y``, at its values, and at how the network ends; docs/models.md lists them.
What fits none of them is left alone: data may have a ``y`` for something else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from repurpose_hpc.io.meaning import CLASSES, LEFT_ALONE, MULTILABEL, TARGETS, Meaning
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.ends import Subgraph, class_column, has_scores
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Affine, Combine, Depthwise, Elementwise, Mixing, Operation

# How a tensor ends that no activation has made.
SUM, OTHER = "sum", "other"
# The value above which an output says yes, by how it ends: behind activations that make probabilities, each
# by itself, and of logits.
_LEVELS = {"sigmoid": 0.5, "hard_sigmoid": 0.5, SUM: 0.0}
# Rows of probabilities sum to 1 but for the rounding of float16.
SUM_TOLERANCE = 1e-3
_ONE_HOT = Meaning(CLASSES, "one-hot rows; the largest output counts")
# Rows of y that are looked at together.
ROWS = 4096


def understood(network: Network, samples: Samples) -> Samples:
    """The samples, once it is known what their ``y`` means for a network.

    Reads ``y`` once where its shape may fit, batch by batch.  What is known already stays: a part of the
    samples is understood as all of them were.

    Raises:
        UserError: ``y`` cannot be read.
    """
    if samples.y is None or samples.meaning is not None:
        return samples
    return replace(samples, meaning=_meaning(network, samples.y, samples.samples))


def is_classified(samples: Samples) -> bool:
    """True if it is known that ``y`` tells classes or labels, so that there is an accuracy."""
    return samples.meaning is not None and samples.meaning.kind in (CLASSES, MULTILABEL)


def thresholds(network: Network) -> np.ndarray | None:
    """The value above which each output says yes, (outputs,): 0.5 behind a sigmoid, 0 of a logit.

    None if the network ends otherwise anywhere: with a softmax, or with another activation.
    """
    ends = last_activations(network)
    levels = [_LEVELS.get(ends[tensor]) for tensor in network.output_tensors]
    if None in levels or {*network.heads} != {"identity"}:
        return None
    return np.repeat(np.array(levels, float), [network.size(tensor) for tensor in network.output_tensors])


def last_activations(network: Network) -> dict[str, str]:
    """Of every tensor the activation whose values it has, in another order or pooled.

    Returns:
        tensor -> its kind; ``SUM``: weighted sums, perhaps with something added; ``OTHER``: all else.
    """
    kinds = dict.fromkeys(network.input_tensors, OTHER)
    for op in network.operations:
        kinds[op.target] = _last_activation(op, {kinds[source] for source in op.sources})
    return kinds


def _last_activation(op: Operation, kinds: set[str]) -> str:
    """That of the target, from those of the sources."""
    if isinstance(op, (Mixing, Depthwise)):
        return SUM
    if isinstance(op, Elementwise) and op.activation.kind != "identity":
        return op.activation.kind
    if isinstance(op, (Affine, Combine)):
        return SUM if SUM in kinds else OTHER
    return kinds.pop() if len(kinds) == 1 else OTHER


@dataclass(frozen=True)
class _Values:
    """Findings in the rows of a ``y``; True means: in all of them.

    Attributes:
        is_finite: no NaN, no infinity.
        is_whole: integers, of whatever type.
        is_binary: 0 or 1.
        is_one_hot: a single 1, all else 0.
        is_probable: not negative, and the sum is 1.
        least, most: of all values.
    """

    is_finite: bool = True
    is_whole: bool = True
    is_binary: bool = True
    is_one_hot: bool = True
    is_probable: bool = True
    least: float = np.inf
    most: float = -np.inf

    def with_rows(self, rows: np.ndarray) -> _Values:
        """Look at further rows, (rows, width) float64."""
        if not (self.is_finite and np.isfinite(rows).all()):
            return replace(self, is_finite=False)
        sums = rows.sum(axis=1)
        is_binary = self.is_binary and bool(((rows == 0) | (rows == 1)).all())
        is_near_1 = bool((rows >= 0).all() and (np.abs(sums - 1) <= SUM_TOLERANCE).all())
        return _Values(
            is_whole=self.is_whole and bool((rows == np.rint(rows)).all()),
            is_binary=is_binary,
            is_one_hot=self.is_one_hot and is_binary and bool((sums == 1).all()),
            is_probable=self.is_probable and is_near_1,
            least=min(self.least, float(rows.min())),
            most=max(self.most, float(rows.max())),
        )


def _meaning(network: Network, y: Samples, samples: int) -> Meaning:
    """The meaning of ``y`` beside so many samples."""
    if y.dtype.kind not in "biuf":
        return _left_alone(f"values of type {y.dtype}, no real numbers")
    if y.samples != samples:
        return _left_alone(f"{y.samples} rows beside {samples} samples")
    outputs = network.given
    if y.width not in (1, outputs):
        return _left_alone(
            f"{y.width} values for each sample, where the network has {_count(outputs, 'output')}"
        )
    values = _Values()
    for rows in y.batches(ROWS, dtype=np.float64):
        values = values.with_rows(rows)
    if not values.is_finite:
        return _left_alone("NaN or infinite values")
    if network.ends.back is not None:
        return _of_back(network.ends.back, y.width, values)
    rule: Callable[[Network, _Values], Meaning] = _of_numbers if y.width < outputs else _of_rows
    return rule(network, values)


def _of_back(back: Subgraph, width: int, values: _Values) -> Meaning:
    """Values for each sample, one or as many as the model gives behind a back."""
    outputs = sum(port.size for port in back.outputs)
    if width == 1 and class_column(back) is not None:
        if values.is_whole:
            return Meaning(CLASSES, "class numbers, as the model gives them")
        return _left_alone("one number for each sample, no integer, where the model gives class numbers")
    if has_scores(back) and outputs > 1:
        if width == 1:
            return _of_class_numbers(values, outputs)
        if values.is_one_hot:
            return _ONE_HOT
    if width == outputs:
        return _targets(outputs)
    return _left_alone(f"one number for each sample, where the model gives {outputs} values and no classes")


def _of_numbers(network: Network, values: _Values) -> Meaning:
    """One number for each sample, where the network has several values."""
    found = "one number for each sample"
    if not network.has_classes:
        return _left_alone(
            f"{found}, where the network has {_count(len(network.output_tensors), 'output')} of "
            f"{network.outputs} values and no value for each class"
        )
    return _of_class_numbers(values, network.outputs)


def _of_class_numbers(values: _Values, outputs: int) -> Meaning:
    """One number for each sample, where there is an output for each class."""
    if not values.is_whole:
        return _left_alone(f"one number for each sample, no integer, where the network has {outputs} outputs")
    if values.least < 0 or values.most >= outputs:
        return _left_alone(
            f"labels from {values.least:g} to {values.most:g}, expected 0 to {outputs - 1} as the "
            f"network has {outputs} outputs; check that data and model belong together"
        )
    return Meaning(CLASSES, "class numbers; the largest output counts")


def _of_rows(network: Network, values: _Values) -> Meaning:
    """As many values for each sample as the network has."""
    levels, exclusive = thresholds(network), network.has_classes and network.outputs > 1
    if exclusive and values.is_one_hot:
        return _ONE_HOT
    if exclusive and values.is_probable and (network.heads[0] != "identity" or _all(levels, 0.0)):
        return Meaning(CLASSES, "probabilities of classes; the largest counts, of the outputs too")
    if values.is_binary and levels is not None:
        kind = CLASSES if network.outputs == 1 else MULTILABEL
        limits = " or ".join(f"{level:g}" for level in np.unique(levels))
        return Meaning(kind, f"0 or 1 for {_count(network.outputs, 'output')}; above {limits} counts as 1")
    return _targets(network.outputs)


def _targets(outputs: int) -> Meaning:
    return Meaning(TARGETS, f"values that {_count(outputs, 'output')} should have")


def _all(levels: np.ndarray | None, level: float) -> bool:
    return levels is not None and bool((levels == level).all())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _left_alone(reason: str) -> Meaning:
    return Meaning(LEFT_ALONE, reason)
