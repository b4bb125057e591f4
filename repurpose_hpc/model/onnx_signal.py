"""What the ONNX importer knows about a tensor that depends on the network's input.

A graph without branches turns the input into the output by *steps*: mixings and
activations.  Exporters also write one activation as several element-wise nodes (a Gelu as
Div, Erf, Add, Mul, Mul), in ways that differ by exporter and version.  So a signal also carries
the values of its element-wise expression over a grid of arguments (its *curve*); every
such node is applied to the curve, and whoever needs to know compares it with the
activations there are.  The form in which the exporter wrote it does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from repurpose_hpc.model.activations import KINDS, Activation, activate
from repurpose_hpc.model.network import Step

GRID = np.linspace(-8, 8, 257)
_CANDIDATES = tuple(Activation(kind) for kind in KINDS if kind != "leaky_relu")

# Largest difference of a curve from the activation it is taken for, by the precision of its
# constants.  Gelu and its tanh approximation are 5e-4 apart.
SINGLE_PRECISION_TOLERANCE = 1e-6
HALF_PRECISION_TOLERANCE = 2e-4


@dataclass(frozen=True, eq=False)
class Signal:
    """A tensor computed from the input: ``curve`` applied to the result of ``steps``.

    Attributes:
        shape: with the samples on the first axis.
        steps: what makes it from the input, the features flattened in C order.
        curve: values at ``GRID`` of the element-wise function that comes after ``steps``.
        tolerance: largest error to be expected of ``curve``.
        head: Softmax or LogSoftmax applied last.
        origin: the node that made it, for messages.
    """

    shape: tuple[int, ...]
    steps: tuple[Step, ...] = ()
    curve: np.ndarray = field(default_factory=lambda: GRID)
    tolerance: float = SINGLE_PRECISION_TOLERANCE
    head: str = "identity"
    origin: str = "the input"

    @property
    def features(self) -> int:
        """Values per sample."""
        return int(np.prod(self.shape[1:]))

    @property
    def is_plain(self) -> bool:
        """Whether nothing comes after ``steps``."""
        return self.curve is GRID

    def then(self, step: Step, shape: tuple[int, ...]) -> Signal:
        """The plain signal that ``step`` makes of this plain one."""
        return replace(self, steps=(*self.steps, step), shape=shape)

    def settled(self) -> Signal | None:
        """The plain signal whose last step is the activation that ``curve`` shows; None if it is none."""
        if self.is_plain:
            return self
        differences = [np.abs(self.curve - activate(known, GRID)).max() for known in _CANDIDATES]
        nearest = int(np.argmin(differences))  # NaN, from a division by zero, counts as the smallest
        if not differences[nearest] <= self.tolerance:
            return None
        plain = replace(self, curve=GRID, tolerance=SINGLE_PRECISION_TOLERANCE)
        known = _CANDIDATES[nearest]
        return plain if known.kind == "identity" else plain.then(known, self.shape)
