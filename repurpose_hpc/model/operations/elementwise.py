"""Activations of a tensor, value by value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from repurpose_hpc.model.activations import Activation, activate, derivative, is_truth, lipschitz
from repurpose_hpc.model.operations.operation import OneSource, Shape, operation, same_positions


@operation
@dataclass(frozen=True)
class Elementwise(OneSource):
    """``target = activation(source)``, value by value; both tensors are of one space."""

    name: str
    source: str
    target: str
    activation: Activation

    def compute(self, *sources: np.ndarray) -> np.ndarray:
        """See ``Operation``."""
        (x,) = sources
        return activate(self.activation, x)

    def vjp(self, g: np.ndarray, target: np.ndarray, *sources: np.ndarray) -> list[np.ndarray]:
        """See ``Operation``."""
        (x,) = sources
        with np.errstate(invalid="ignore"):  # what nothing depends on may be a place without a slope
            return [np.where(g == 0, g, derivative(self.activation, x) * g)]

    def is_binary(self, *sources: bool) -> bool:
        """Comparisons are."""
        return is_truth(self.activation)

    def gain(self, sources: Sequence[Shape], target: Shape) -> list[float]:
        """The Lipschitz constant."""
        return [lipschitz(self.activation)]

    def cost(self, target: Shape) -> None:
        """Nothing: products and maps apply an activation to what they have just computed."""

    def faults(self, sources: Sequence[Shape], target: Shape) -> Iterator[str]:
        """See ``Operation``."""
        (source,) = sources
        yield from same_positions(source, target)
        yield from self.activation.faults()
