"""Windows: the positions of a map that every position of another is computed from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from repurpose_hpc.model.operations.operation import Shape


@dataclass(frozen=True)
class Window:
    """The geometry of a convolution or a pooling.

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
        """True if every position is computed from itself alone."""
        return self.taps == 1 and self.out == self.positions and not any(self.pads)

    @property
    def is_whole_map(self) -> bool:
        """True if the one position of the target sees every value of the map, as in ``whole_map``."""
        is_close = all(dilation == 1 for dilation in self.dilations)
        return self.kernel == self.positions and math.prod(self.out) == 1 and is_close and not any(self.pads)

    @property
    def is_frame_by_frame(self) -> bool:
        """True if the first axis, such as that of steps, is of maps of which each is seen by itself."""
        first = (self.kernel[0], self.strides[0], self.pads[0], self.out[0])
        return first == (1, 1, 0, self.positions[0])

    @property
    def is_convolution(self) -> bool:
        """True if a position sees a part of the map that is more than itself."""
        return not (self.is_pointwise or self.is_whole_map)

    def backward(self) -> Window | None:
        """The window of the gradient by the source where that is a convolution as large, else None.

        It is where maps keep their size and strides are 1: over the target, with the kernel reversed.
        """
        reach = [
            (kernel - 1) * dilation for kernel, dilation in zip(self.kernel, self.dilations, strict=True)
        ]
        pads = tuple(last - pad for last, pad in zip(reach, self.pads, strict=True))
        if self.out != self.positions or max(self.strides) > 1 or min(pads) < 0:
            return None
        return replace(self, pads=pads)

    def indices(self) -> np.ndarray:
        """Flat source position of every entry of every window, -1 in the padding: (positions out, k)."""
        flat, is_inside = np.zeros((1, 1), np.int64), np.ones((1, 1), bool)
        for size, kernel, stride, dilation, pad, out in zip(
            self.positions, self.kernel, self.strides, self.dilations, self.pads, self.out, strict=True
        ):
            places = np.arange(out)[:, None] * stride + np.arange(kernel) * dilation - pad
            shape = flat.shape[0] * out, flat.shape[1] * kernel
            flat = (flat[:, None, :, None] * size + places[None, :, None, :]).reshape(shape)
            axis_is_inside = ((places >= 0) & (places < size))[None, :, None, :]
            is_inside = (is_inside[:, None, :, None] & axis_is_inside).reshape(shape)
        return np.where(is_inside, flat, -1)

    def overlap(self) -> int:
        """The largest number of windows that a value is in (q)."""
        indices = self.indices()
        return int(np.bincount(indices[indices >= 0]).max(initial=0))

    def faults(self, source: Shape, target: Shape) -> Iterator[str]:
        """Faults of the window between maps of these shapes, in words."""
        axes = len(self.positions)
        sizes = (self.kernel, self.strides, self.dilations, self.out)
        if any(len(entries) != axes for entries in (*sizes, self.pads)):
            yield f"expected a window with {axes} entries for everything, found {self}"
        elif min(self.positions + sum(sizes, ()), default=1) < 1 or min(self.pads, default=0) < 0:
            yield f"expected a window of sizes of 1 or more and pads of 0 or more, found {self}"
        elif axes > 2 and not (self.is_whole_map or axes == 3 and self.is_frame_by_frame):
            yield f"expected a window over two axes, or over those behind the first of three, found {self}"
        # A map may be seen in another shape; one of a single position is a vector.
        if math.prod(self.positions) != source.values:
            yield f"has a window over maps of {self.positions} and reads maps of {source.positions}"
        if math.prod(self.out) != target.values:
            yield f"has a window that makes maps of {self.out}, in a tensor with maps of {target.positions}"


def pointwise(positions: tuple[int, ...]) -> Window | None:
    """The window of a mixing that sees one position at a time; None for vectors."""
    positions = _two_axes(positions)
    ones, zeros = (1,) * len(positions), (0,) * len(positions)
    return Window(positions, ones, ones, ones, zeros, positions) if positions else None


def whole_map(positions: tuple[int, ...]) -> Window:
    """The window of a layer that sees a whole map at once, as a dense layer after Flatten does."""
    positions = _two_axes(positions)
    ones, zeros = (1,) * len(positions), (0,) * len(positions)
    return Window(positions, positions, ones, ones, zeros, ones)


def _two_axes(positions: tuple[int, ...]) -> tuple[int, ...]:
    """The positions of a map as kernels know them: where all are alike, more than two axes are one."""
    return positions if len(positions) <= 2 else (math.prod(positions),)
