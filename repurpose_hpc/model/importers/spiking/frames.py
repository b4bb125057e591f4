"""Windows over the maps of every step by itself."""

from __future__ import annotations

from typing import NamedTuple

from repurpose_hpc.model.operations import Window


class Frames(NamedTuple):
    """A window of a map, one or two axes, of which a train has one in every step.

    Attributes:
        steps: of the train.
        size: of the map.
        kernel: entries along each axis.
        strides, dilations: steps between windows, and between the entries of one; () for 1.
        pads: zeros in front of the map and, unless ``behind`` says otherwise, behind it; () for none.
        behind: zeros behind the map; () for as many.
    """

    steps: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    behind: tuple[int, ...] = ()

    @property
    def out(self) -> tuple[int, ...]:
        """Size of the maps that are made; below 1 where there is no window."""
        strides, dilations = self.strides or self._ones, self.dilations or self._ones
        return tuple(
            (front + end - (kernel - 1) * dilation - 1) // stride + 1
            for front, end, kernel, dilation, stride in zip(
                self._pads, self.extent, self.kernel, dilations, strides, strict=True
            )
        )

    @property
    def extent(self) -> tuple[int, ...]:
        """Where map and padding end, see ``Pool``."""
        return tuple(size + behind for size, behind in zip(self.size, self._behind, strict=True))

    def window(self) -> Window:
        """The window over steps and map."""
        ones = self._ones
        return Window(
            (self.steps, *self.size),
            (1, *self.kernel),
            (1, *(self.strides or ones)),
            (1, *(self.dilations or ones)),
            (0, *self._pads),
            (self.steps, *self.out),
        )

    @property
    def _ones(self) -> tuple[int, ...]:
        return (1,) * len(self.size)

    @property
    def _pads(self) -> tuple[int, ...]:
        return self.pads or (0,) * len(self.size)

    @property
    def _behind(self) -> tuple[int, ...]:
        return self.behind or self._pads


def same_pads(kernel: tuple[int, ...], dilations: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Zeros in front and behind with which maps keep their size, the odd one behind, as PyTorch has it."""
    totals = [(entries - 1) * dilation for entries, dilation in zip(kernel, dilations, strict=True)]
    return tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals)
