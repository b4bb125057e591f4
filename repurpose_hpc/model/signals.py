"""Signals: maps along time that are longer than what a network takes, cut into pieces.

A network that does the same at every position makes of a long signal what it makes of pieces of it, but for
the outputs that see an end of their piece.  So pieces overlap by as much as these see, and those outputs are
taken of the piece in which they are far enough from both ends.  What is left is exactly what the network
would make of the whole signal, if it were built for that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import FieldError
from repurpose_hpc.io.samples import Samples, check_finite
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.reach import reach_of


@dataclass(frozen=True)
class Pieces:
    """How signals are cut for a network.

    Attributes:
        length: positions of a piece, what the network takes.
        step: positions of the signal for each output.
        outputs: positions of the output of a piece.
        before, after: of these, how many see its beginning, or its end.
        axis: of time, in a sample.
        shape: of a sample.
        output_axis: of time, in an output.
        output_shape: of the output for a piece.
    """

    length: int
    step: int
    outputs: int
    before: int
    after: int
    axis: int
    shape: tuple[int, ...]
    output_axis: int
    output_shape: tuple[int, ...]

    @classmethod
    def of(cls, network: Network) -> Pieces:
        """The pieces for a network.

        Raises:
            UserError: it has several inputs or outputs, or others than maps of one axis, something before or
                behind it is left to NumPy, or its outputs are not alike at every position.
        """
        _check_ends(network)
        (source,), (target,) = network.input_tensors, network.output_tensors
        (length,), (outputs,) = network.positions_of[source], network.positions_of[target]
        reach = reach_of(network)
        inner = np.flatnonzero(np.isfinite(reach.first) & np.isfinite(reach.last))
        steps = {*np.diff(reach.first[inner]).tolist(), *np.diff(reach.last[inner]).tolist()}
        if inner.size < 2:
            raise FieldError(
                "signal",
                f"expected outputs of which two in a row or more see neither end of the {length} positions "
                f"of the input, found {inner.size} of {outputs}; a signal needs a network built for longer "
                "inputs, without means over all of them or transposed convolutions",
            )
        is_row = np.ptp(inner) + 1 == inner.size
        if not is_row or len(steps) > 1 or min(steps) < 1 or np.unique(reach.kind[inner]).size > 1:
            raise FieldError(
                "signal",
                f"expected a network that computes all its {outputs} outputs alike, found some that take "
                "their values from other places than their neighbours, as upsampling and borders that repeat "
                "or mirror values make them; run the network sample by sample",
            )
        axes = [1 - network.neuron_axes.get(tensor, 0) for tensor in (source, target)]
        before, after = int(inner[0]), int(outputs - 1 - inner[-1])
        layouts = network.layout(source), network.layout(target)
        step = int(steps.pop())
        return cls(length, step, outputs, before, after, axes[0], layouts[0], axes[1], layouts[1])

    @property
    def neurons(self) -> int:
        """Of an output."""
        return math.prod(self.output_shape) // self.outputs

    @property
    def advance(self) -> int:
        """Positions of the signal from one piece to the next."""
        return self.step * (self.outputs - self.before - self.after)

    def positions(self, shape: tuple[int, ...], name: str) -> int:
        """The positions of a signal, or of a part of one, of such a shape; of one channel it may be a vector.

        Raises:
            UserError: it has other axes than a sample.
        """
        channels = math.prod(self.shape) // self.length
        axes = self.whole(shape[0]) if len(shape) == 1 and channels == 1 else shape
        if len(axes) != 2 or axes != self.whole(axes[self.axis]):
            expected = [str(channels)] * 2
            expected[self.axis] = "length"
            raise UserError(
                f"{name}: expected a signal of shape ({', '.join(expected)}), found {shape}; transpose it, "
                "or take the model that it is for"
            )
        return axes[self.axis]

    def check(self, length: int, name: str) -> None:
        """Refuse a signal that pieces do not cover to its end.

        Raises:
            UserError: it is shorter than a piece, or ends between two steps.
        """
        rest = (length - self.length) % self.step
        if length >= self.length and not rest:
            return
        remedy = f"leave out the last {rest}, or add {self.step - rest}"
        if length < self.length:
            remedy = "take a model that was made for fewer"
        more = f" and a multiple of {self.step} more" if self.step > 1 else ""
        raise UserError(
            f"{name}: expected a signal of {self.length} positions{more}, at least, found {length}; {remedy}"
        )

    def whole(self, length: int) -> tuple[int, ...]:
        """Shape of a signal of so many positions."""
        return (*self.shape[: self.axis], length, *self.shape[self.axis + 1 :])

    def count(self, length: int) -> int:
        """Outputs of a signal."""
        return self.outputs + (length - self.length) // self.step

    def starts(self, length: int) -> np.ndarray:
        """Where pieces begin in a signal, ascending, int64; the last ends with it."""
        return np.append(np.arange(0, length - self.length, self.advance), length - self.length)

    def kept(self, start: int, done: int, is_last: bool) -> slice:
        """Outputs of the piece from ``start`` on that are wanted, ``done`` being there already."""
        return slice(done - start // self.step, self.outputs if is_last else self.outputs - self.after)

    def by_time(self, rows: np.ndarray) -> np.ndarray:
        """Outputs of pieces, (pieces, values), as (pieces, outputs, neurons)."""
        return np.moveaxis(rows.reshape(len(rows), *self.output_shape), 1 + self.output_axis, 1)

    def cut(self, signal: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Pieces of a signal of any length, (pieces, *shape)."""
        views = np.lib.stride_tricks.sliding_window_view(signal, self.length, self.axis)
        chosen = views[(slice(None),) * self.axis + (starts,)]
        return np.moveaxis(chosen, (self.axis, -1), (0, 1 + self.axis))

    def length_in(self, file: Samples) -> int:
        """The positions of the signal in a file.

        Raises:
            UserError: another shape, or a length that does not fit.
        """
        length = self.positions((file.samples, *file.shape), file.name)
        self.check(length, file.name)
        return length

    def samples(self, file: Samples) -> Samples:
        """The pieces of the signal in a file, as samples of the network.

        All of the signal is read at once.

        Raises:
            UserError: another shape, a length that does not fit, NaN or infinity.
        """
        length = self.length_in(file)
        rows = list(file.batches(file.samples, dtype=None))
        signal = np.concatenate(rows).reshape(self.whole(length))
        check_finite(np.atleast_2d(signal), file.name)

        def cut(block: np.ndarray, _: int) -> np.ndarray:
            return self.cut(signal, block[:, 0]).reshape(len(block), -1)

        starts = Samples.of(self.starts(length)[:, None])
        return starts.through(cut, self.shape, signal.dtype, file.name)


class Signal(NamedTuple):
    """How a signal is cut, and its positions."""

    pieces: Pieces
    length: int


def _check_ends(network: Network) -> None:
    tensors = (*network.input_tensors, *network.output_tensors)
    shapes = [network.positions_of[tensor] for tensor in tensors]
    found = f"shapes {', '.join(str(network.layout(tensor)) for tensor in tensors)}"
    if network.ends:
        found = "something before or behind it that NumPy computes, such as a softmax over channels"
    if network.ends or len(tensors) != 2 or any(len(shape) != 1 for shape in shapes):
        raise FieldError(
            "signal",
            "expected a network with one input and one output, both maps of one axis, and nothing around it, "
            f"found {found}; others are run sample by sample",
        )
