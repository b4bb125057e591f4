"""The parameters of a node, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.importers.arrays import as_weights
from repurpose_hpc.model.importers.nir.file import REMEDY, StoredNode
from repurpose_hpc.model.importers.spiking.trains import by_map

# More entries of a kernel, zeros of padding or steps of a delay than any network has.
_LARGEST = 1 << 24


@dataclass(frozen=True, eq=False)
class Parameters:
    """Those of a node.

    Attributes:
        path: of the file.
        name: of the node.
        node: as it is stored.
        ending: of the names of what is made of it, where that is several times.
    """

    path: Path
    name: str
    node: StoredNode
    ending: str = ""

    @property
    def layer(self) -> str:
        """Name of what is made of the node."""
        return f"{self.name}{self.ending}"

    def fault(self, text: str, remedy: str = REMEDY) -> UserError:
        """The error that says what is wrong with the node."""
        return UserError(f"{self.path}: node {self.name} ({self.node.kind}): {text}; {remedy}")

    def has(self, key: str) -> bool:
        """Whether there is such a parameter."""
        return key in self.node.parameters

    def text(self, key: str) -> str | None:
        """A parameter that is a text; None: it is none."""
        value = self.node.parameters.get(key)
        return value if isinstance(value, str) else None

    def numbers(self, key: str) -> np.ndarray:
        """Finite numbers, float32 or float64, of any shape."""
        value = self.node.parameters.get(key)
        if value is None or isinstance(value, str):
            found = "none" if value is None else repr(value)
            raise self.fault(f"expected numbers {key}, found {found}")
        if value.dtype.kind in "iub":
            value = value.astype(np.float64)
        array = as_weights(value, f"{self.path}: node {self.name} ({self.node.kind}): {key}")
        return array if value.ndim else array.reshape(())  # the same array for all that share it

    def weights(self, axes: int) -> np.ndarray:
        """Parameter ``weight``, with so many axes of 1 or more."""
        value = self.numbers("weight")
        if value.ndim != axes or not value.size:
            raise self.fault(f"expected a weight with {axes} axes, found one of shape {value.shape}")
        return value

    def bias(self, weights: np.ndarray) -> np.ndarray:
        """Parameter ``bias``, one for each row of weights, in their type; zeros where there is none."""
        if not self.has("bias"):
            return np.zeros(len(weights), weights.dtype)
        value = self.numbers("bias").astype(weights.dtype)
        if value.shape != weights.shape[:1]:
            raise self.fault(f"expected a bias for each of {len(weights)} outputs, found shape {value.shape}")
        return value

    def per_value(self, key: str, shape: tuple[int, ...]) -> np.ndarray:
        """Float64 numbers of neurons, of one for all, for each neuron, or for each value.

        Args:
            key: of the parameter.
            shape: of a step: neurons, and the axes of their maps.

        Returns:
            (n, 1), or (n, positions) where they differ within a map.
        """
        value = self.numbers(key).astype(np.float64)
        if value.size == 1:
            return np.full((shape[0], 1), value.item())
        if value.ndim > len(shape) and len(value) == 1:
            value = value[0]  # of an exporter that was given a sample with an axis of samples
        by_neuron = value.reshape(len(value), -1)
        numbers = by_map(by_neuron)
        fits = by_neuron.shape in ((shape[0], 1), (shape[0], math.prod(shape[1:])))
        if not fits or numbers.shape[1] > 1 and value.shape != shape:
            raise self.fault(
                f"expected {key} for values of shape {shape}, or one for all, found shape {value.shape}"
            )
        return numbers

    def per_neuron(self, key: str, shape: tuple[int, ...]) -> np.ndarray:
        """The same with a number for each neuron, (n,)."""
        by_value = self.per_value(key, shape)
        if by_value.shape[1] > 1:
            first = by_value[np.ptp(by_value, axis=1).argmax()]
            raise self.fault(
                f"expected one {key} for all positions of a map, found {first.min():g} to {first.max():g} in "
                f"a map of shape {shape[1:]}",
                "give each map one",
            )
        return by_value[:, 0]

    def whole(self, key: str, axes: int, least: int, default: int | None = None) -> tuple[int, ...]:
        """Whole numbers, one for each axis; one stands for all."""
        if not self.has(key) and default is not None:
            return (default,) * axes
        value = self.numbers(key).ravel()
        if (
            value.size not in (1, axes)
            or (value != np.rint(value)).any()
            or not (least <= value.min() <= value.max() <= _LARGEST)
        ):
            raise self.fault(f"expected {axes} whole numbers {key} of {least} or more, found {_shown(value)}")
        entries = tuple(map(int, value.tolist()))
        return entries * axes if len(entries) == 1 else entries


def _shown(values: np.ndarray) -> str:
    first = ", ".join(f"{value:g}" for value in values[:4].tolist())
    return f"{first}{', …' if values.size > 4 else ''}" if values.size else "none"
