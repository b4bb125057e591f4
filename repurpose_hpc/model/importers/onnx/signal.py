"""Knowledge of the ONNX importer about a value that depends on the network's input.

A ``Signal`` is an ``Expression`` with the shape that it has in ONNX: where each of its values lies in the
neuron-major tensor.  Reshaping and transposing change this *index* alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from repurpose_hpc.model.importers.onnx.expression import Expression
from repurpose_hpc.model.importers.onnx.varying import Varying


class Unsupported(Exception):
    """Refusal of something that cannot be represented; the message says what was found."""


class DoesNotFit(Unsupported):
    """A shape asks for another number of values than there are."""


@dataclass(frozen=True, eq=False)
class Signal:
    """A value of the graph.

    Attributes:
        expression: what is computed.
        shape: in ONNX, the samples on the first axis.
        index: of every value of a sample, its place in the neuron-major tensor, int64 of shape
            ``shape[1:]``; None: all values in their order.
        head: Softmax or LogSoftmax applied last.
        origin: the node that made it, for messages.
    """

    expression: Expression
    shape: tuple[int, ...]
    index: np.ndarray | None = None
    head: str = "identity"
    origin: str = "the input"

    @property
    def features(self) -> int:
        """Values per sample."""
        return math.prod(self.shape[1:])

    @property
    def places(self) -> np.ndarray:
        """``index``, written out."""
        if self.index is not None:
            return self.index
        return np.arange(self.features).reshape(self.shape[1:])

    def reshaped(self, shape: tuple[int, ...]) -> Signal:
        """The same values in the same order in another shape, samples included."""
        index = None if self.index is None else self.index.reshape(shape[1:])
        return replace(self, shape=shape, index=index)

    def placed(self, index: np.ndarray) -> Signal:
        """Other values of the same tensor, see ``index``."""
        is_whole = index.size == self.expression.size and np.array_equal(index.ravel(), np.arange(index.size))
        shape = (self.shape[0], *index.shape)
        return replace(self, shape=shape, index=None if is_whole else np.ascontiguousarray(index))

    def is_permuted(self) -> bool:
        """True if every value of the tensor is there once, in whatever order."""
        if self.index is None:
            return True
        if self.index.size != self.expression.size:
            return False
        is_there = np.zeros(self.expression.size, bool)
        is_there[self.index] = True
        return bool(is_there.all())

    def lies_like(self, other: Signal) -> bool:
        """True if the values of both lie at the same places of their tensors."""
        if self.shape != other.shape:
            return False
        if self.index is None or other.index is None:
            return self.index is other.index
        return self.index is other.index or np.array_equal(self.index, other.index)


@dataclass(frozen=True, eq=False)
class Moved:
    """A value of the graph whose samples are not alone on the first axis.

    Recurrent layers have them behind the steps, (S, N, F), and exporters put them on one axis with the
    positions, (N·S, F), before a layer that acts position by position.

    Attributes:
        signal: the same values with the samples in front.
        axis: how many axes of a sample are before the samples.
        shape: in ONNX: that of the values in this order, or any other of as many.
    """

    signal: Signal
    axis: int
    shape: tuple[int, ...]

    @property
    def is_aligned(self) -> bool:
        """True if the samples have an axis of their own."""
        samples, *sizes = self.signal.shape
        return self.shape == (*sizes[: self.axis], samples, *sizes[self.axis :])


Value = Signal | Moved | np.ndarray | Varying
