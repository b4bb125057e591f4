"""Two tensors, value by value."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from repurpose_hpc.model.operations.operation import Cost, Operation, Shape, operation
from repurpose_hpc.model.operations.patches import as_map


class Combination(NamedTuple):
    """A function of two numbers.

    Attributes:
        value: of left and right.
        slopes: the derivatives by left and by right.
        lipschitz: the largest slope by either.
        onnx: the operators that are this function.
    """

    value: Callable[[np.ndarray, np.ndarray], np.ndarray]
    slopes: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray | int, np.ndarray | int]]
    lipschitz: float
    onnx: tuple[str, ...]


# ``kernels.maps`` has compiled twins under the same names.
COMBINATIONS: dict[str, Combination] = {
    "add": Combination(np.add, lambda left, right: (1, 1), 1.0, ("Add", "Sum")),
    "subtract": Combination(np.subtract, lambda left, right: (1, -1), 1.0, ("Sub",)),
    "multiply": Combination(np.multiply, lambda left, right: (right, left), math.inf, ("Mul",)),
    "divide": Combination(np.divide, lambda left, right: (1 / right, -left / right**2), math.inf, ("Div",)),
    "maximum": Combination(np.maximum, lambda left, right: (left >= right, left < right), 1.0, ("Max",)),
    "minimum": Combination(np.minimum, lambda left, right: (left <= right, left > right), 1.0, ("Min",)),
    # Right where left is not 0, else 0, whatever is there.
    "mask": Combination(
        lambda left, right: np.where(left != 0, right, right.dtype.type(0)),
        lambda left, right: (0, left != 0),
        math.inf,
        (),
    ),
}


@operation
@dataclass(frozen=True)
class Combine(Operation):
    """``target = left kind right``, value by value: residual additions, gates.

    All tensors are of one space; one of the sources may be a vector, or of one position, that counts
    for all positions of the other.

    Attributes:
        kind: one of ``COMBINATIONS``.
        sources: left and right.
    """

    name: str
    sources: tuple[str, str]
    target: str
    kind: str

    def compute(self, *sources: np.ndarray) -> np.ndarray:
        """See ``Operation``."""
        left, right = sources
        if left.ndim != right.ndim:
            left, right = as_map(left), as_map(right)
        with np.errstate(all="ignore"):  # as for activations: what is not finite shows in the outputs
            return COMBINATIONS[self.kind].value(left, right)

    def vjp(self, g: np.ndarray, target: np.ndarray, *sources: np.ndarray) -> list[np.ndarray]:
        """See ``Operation``."""
        left, right = sources
        shapes = left.shape, right.shape
        if left.ndim != right.ndim:
            left, right = as_map(left), as_map(right)
        slopes = COMBINATIONS[self.kind].slopes(left, right)
        products = [_product(slope, g) for slope in slopes]
        return [
            product.sum(axis=2) if len(shape) < g.ndim else product
            for product, shape in zip(products, shapes, strict=True)
        ]

    def gain(self, sources: Sequence[Shape], target: Shape) -> list[float]:
        """Products have none; a vector counts for every position of a map."""
        constant = COMBINATIONS[self.kind].lipschitz
        return [constant * math.sqrt(target.values / source.values) for source in sources]

    def cost(self, target: Shape) -> Cost:
        """One pass over all values."""
        return Cost(target.values, False)

    def neurons(self, *sources: np.ndarray) -> np.ndarray:
        """See ``Operation``."""
        return sources[0]

    def ties(self, *sources: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Both sources: their neurons are joined one by one."""
        left, right = sources
        return [(left, right)]

    def faults(self, sources: Sequence[Shape], target: Shape) -> Iterator[str]:
        """See ``Operation``."""
        if self.kind not in COMBINATIONS:
            yield f"is a combination of kind {self.kind!r}, expected one of {', '.join(COMBINATIONS)}"
        sizes = [source.values for source in sources]
        if max(sizes) != target.values or any(values not in (1, target.values) for values in sizes):
            left, right = sources
            yield f"makes maps of {target.positions} from maps of {left.positions} and {right.positions}"


def _product(slope: np.ndarray | int, g: np.ndarray) -> np.ndarray:
    """Slope times g, as for ``Elementwise``; g itself where the slope is 1."""
    if isinstance(slope, int):
        return g if slope == 1 else slope * g
    return np.where(g == 0, g, slope * g)
