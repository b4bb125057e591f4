"""The operations of a network.

A ``Mixing`` is the only one that leads from one space to another; the others work neuron by neuron.
They are data: ``reference`` computes them in NumPy, ``gradient`` differentiates them, the runtime
compiles them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from repurpose_hpc.model.activations import Activation

COMBINATIONS = ("add", "subtract", "multiply", "divide", "maximum", "minimum")


@dataclass(frozen=True)
class Window:
    """What positions of a map every position of another is computed from: convolution and pooling.

    All tuples have one entry for each axis of the map.

    Attributes:
        positions: shape of the source map.
        kernel: entries along each axis.
        strides, dilations: steps between windows, and between the entries of one.
        pads: zeros in front of the map; those behind it follow from ``out``.
        out: shape of the target map; with every axis 1 the target may be a vector.
    """

    positions: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    out: tuple[int, ...]

    @property
    def taps(self) -> int:
        """Entries of the kernel (k)."""
        return math.prod(self.kernel)

    @property
    def is_pointwise(self) -> bool:
        """Whether every position is computed from itself alone."""
        return self.taps == 1 and self.out == self.positions and not any(self.pads)

    @property
    def is_whole_map(self) -> bool:
        """Whether the one position of the target sees every value of the map, as in ``whole_map``."""
        is_close = all(dilation == 1 for dilation in self.dilations)
        return self.kernel == self.positions and math.prod(self.out) == 1 and is_close and not any(self.pads)

    def indices(self) -> np.ndarray:
        """Flat source position of every entry of every window, -1 in the padding: (positions out, k)."""
        flat, inside = np.zeros((1, 1), np.int64), np.ones((1, 1), bool)
        for size, kernel, stride, dilation, pad, out in zip(
            self.positions, self.kernel, self.strides, self.dilations, self.pads, self.out, strict=True
        ):
            at = np.arange(out)[:, None] * stride + np.arange(kernel) * dilation - pad
            shape = flat.shape[0] * out, flat.shape[1] * kernel
            flat = (flat[:, None, :, None] * size + at[None, :, None, :]).reshape(shape)
            here = ((at >= 0) & (at < size))[None, :, None, :]
            inside = (inside[:, None, :, None] & here).reshape(shape)
        return np.where(inside, flat, -1)


def pointwise(positions: tuple[int, ...]) -> Window | None:
    """The window of a mixing that sees one position at a time; None for vectors."""
    ones, zeros = (1,) * len(positions), (0,) * len(positions)
    return Window(positions, ones, ones, ones, zeros, positions) if positions else None


def whole_map(positions: tuple[int, ...]) -> Window:
    """The window of a layer that sees a whole map at once, as a dense layer after Flatten does."""
    ones, zeros = (1,) * len(positions), (0,) * len(positions)
    return Window(positions, positions, ones, ones, zeros, ones)


@dataclass(frozen=True, eq=False)
class Mixing:
    """``target = weights @ source + bias``: every neuron of B from every neuron of A.

    Attributes:
        name: unique within the network; reports use it.
        source: the tensor that is read.
        target: the tensor that is made.
        weights: W, shape (m, n k), float32 or float64: column j k + t is entry t of the kernel for
            neuron j; k is 1 for dense layers on vectors.
        bias: b, shape (m,), the dtype of ``weights``.
        window: of a convolution, or of a dense layer on maps (``whole_map``); None on vectors.
        fixed: whether the weights are part of a definition (the sums of a normalisation) rather than
            trained, so that nothing may be pruned or adjusted.
    """

    name: str
    source: str
    target: str
    weights: np.ndarray
    bias: np.ndarray
    window: Window | None = None
    fixed: bool = False

    @property
    def sources(self) -> tuple[str, ...]:
        """The tensors that are read."""
        return (self.source,)

    @property
    def taps(self) -> int:
        """k: weights for each pair of neurons."""
        return self.window.taps if self.window else 1

    @cached_property  # asked for by every step of restructuring
    def links(self) -> np.ndarray:
        """Which neurons depend on which: bool (m, n), true where any of the k weights is not zero."""
        return (self.weights != 0).reshape(len(self.weights), -1, self.taps).any(axis=2)


class _OneSource:
    """An operation that reads one tensor."""

    source: str

    @property
    def sources(self) -> tuple[str, ...]:
        """The tensors that are read."""
        return (self.source,)


@dataclass(frozen=True)
class Elementwise(_OneSource):
    """``target = activation(source)``, value by value; both tensors are of one space."""

    name: str
    source: str
    target: str
    activation: Activation


@dataclass(frozen=True, eq=False)
class Affine(_OneSource):
    """``target = scale * source + shift``, neuron by neuron: a normalisation that could not be folded.

    Attributes:
        scale, shift: (n, 1), or (n, positions) where they differ from place to place.
    """

    name: str
    source: str
    target: str
    scale: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True)
class Pool(_OneSource):
    """The largest or the mean value of every window, neuron by neuron.

    Attributes:
        kind: ``max`` or ``average``.
        window: entries in the padding never count for ``max``.
        count_padding: whether padding counts, as zeros, in the mean; only as far as ``extent`` reaches.
        extent: last position along each axis, exclusive, of map and padding together; windows may
            reach beyond (ceil mode), where nothing counts.
    """

    name: str
    source: str
    target: str
    kind: str
    window: Window
    count_padding: bool = False
    extent: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Depthwise(_OneSource):
    """A convolution of every neuron by itself: both tensors are of one space.

    Attributes:
        weights: (n, k).
        bias: (n,).
        window: of the convolution.
    """

    name: str
    source: str
    target: str
    weights: np.ndarray
    bias: np.ndarray
    window: Window


@dataclass(frozen=True, eq=False)
class Rearrange(_OneSource):
    """Other positions, neuron by neuron: padding, nearest resize, slices of a map.

    Attributes:
        index: (positions out,) int64, flat source position, or -1 for ``fill``.
        fill: a number.
    """

    name: str
    source: str
    target: str
    index: np.ndarray
    fill: float = 0.0


@dataclass(frozen=True)
class Combine:
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


@dataclass(frozen=True, eq=False)
class Select:
    """Some neurons of other tensors, in any order: Concat, Split, Slice, channel shuffles.

    Attributes:
        sources: tensors with the same positions.
        index: (neurons,) int64: the place of each among those of ``sources``, one after the other.
    """

    name: str
    sources: tuple[str, ...]
    target: str
    index: np.ndarray


Operation = Mixing | Elementwise | Affine | Pool | Depthwise | Rearrange | Combine | Select
