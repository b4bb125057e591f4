"""Layers of a network under construction whose samples are trains of steps."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.builder import Builder
from repurpose_hpc.model.importers.arrays import ungrouped
from repurpose_hpc.model.importers.spiking.frames import Frames
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Membrane, Mixing, Window, pointwise
from repurpose_hpc.model.operations.membrane import NONE, SUBTRACT

# Of weights with which maps become neurons: as many as an ONNX file may have of them.
_MOST_MOVED = 1 << 20


class Train(NamedTuple):
    """A tensor of a network under construction.

    Attributes:
        tensor: its name.
        shape: of one step: neurons, and the axes of the maps that they are.
        is_flat: whether all values of a step are one after the other for what reads it.
    """

    tensor: str
    shape: tuple[int, ...]
    is_flat: bool = False

    @property
    def neurons(self) -> int:
        """How many."""
        return self.shape[0]

    @property
    def frame(self) -> tuple[int, ...]:
        """Axes of the map of one step, () for a vector."""
        return self.shape[1:]

    @property
    def size(self) -> int:
        """Values of one step."""
        return math.prod(self.shape)


class Dynamics(NamedTuple):
    """What a layer of neurons does in a step, see ``Membrane``.

    Arrays have a number for each neuron, (n, 1), or for each value of a step, (n, positions).

    Attributes:
        rest: of the potential, where it begins, from which ``threshold`` and ``reset_value`` are measured.
        fires: whether spikes come out, else the potential.
    """

    decay: np.ndarray
    resistance: np.ndarray
    synapse: np.ndarray
    threshold: np.ndarray
    reset_value: np.ndarray
    rest: np.ndarray
    reset: str = SUBTRACT
    is_delayed: bool = False
    fires: bool = True


class Trains:
    """Adds layers, see ``Builder``; shapes are those of one step and are right.

    Args:
        steps: of a sample.
        builder: of the network; None: a new one.
    """

    def __init__(self, steps: int, builder: Builder | None = None) -> None:
        self.steps, self.builder = steps, builder or Builder()
        self._inputs: list[str] = []

    def single_step(self) -> Trains:
        """Layers of the same network, on single steps."""
        return Trains(1, self.builder)

    def input(self, name: str, shape: tuple[int, ...]) -> Train:
        """The input of a network, neurons on the axis behind the steps."""
        tensor = self.builder.input(name, shape[0], (self.steps, *shape[1:]))
        self._inputs.append(tensor)
        return Train(tensor, shape)

    def dense(
        self, name: str, source: Train, weights: np.ndarray, bias: np.ndarray, fixed: bool = False
    ) -> Train:
        """A dense layer that sees all values of a step: weights (m, values) and bias (m,)."""
        frame = source.frame if math.prod(source.frame) > 1 else ()
        if frame:
            window: Window | None = Frames(self.steps, frame, frame).window()
        else:
            window = pointwise(self.builder.positions(source.tensor) and (self.steps,))
        op = Mixing(name, source.tensor, f"{name}.y", weights, bias, window, fixed)
        return Train(self.builder.add(op, (self.steps,)), (len(weights),))

    def convolution(
        self, name: str, source: Train, weights: np.ndarray, bias: np.ndarray, frames: Frames, groups: int = 1
    ) -> Train:
        """A convolution of every step: weights (m, n / groups, kernel) and bias (m,)."""
        outputs, taps = len(weights), weights.reshape(len(weights), weights.shape[1], -1)
        window, shape = frames.window(), (outputs, *frames.out)
        if groups == source.neurons > 1:
            tensor = source.tensor
            if outputs > groups:
                repeated = np.arange(outputs) // (outputs // groups)
                tensor = self.builder.select(f"{name}.repeat", (tensor,), repeated)
            taps = np.ascontiguousarray(taps[:, 0])
            return Train(self.builder.depthwise(name, tensor, taps, bias, window), shape)
        W = ungrouped(taps, groups).reshape(outputs, -1)
        return Train(self.builder.mixing(name, source.tensor, W, bias, window), shape)

    def sum_pool(self, name: str, source: Train, frames: Frames) -> Train:
        """The sum of every window of every step."""
        ones = np.ones((source.neurons, math.prod(frames.kernel)), np.float32)
        zeros = np.zeros(source.neurons, np.float32)
        target = self.builder.depthwise(name, source.tensor, ones, zeros, frames.window())
        return Train(target, (source.neurons, *frames.out))

    def pool(self, name: str, source: Train, kind: str, frames: Frames, count_padding: bool = False) -> Train:
        """The largest or the mean value of every window of every step; see ``Pool``."""
        extent = (self.steps, *frames.extent)
        target = self.builder.pool(name, source.tensor, kind, frames.window(), count_padding, extent)
        return Train(target, (source.neurons, *frames.out))

    def flatten(self, name: str, source: Train) -> Train:
        """A neuron for each value of a step, by fixed weights; dense layers need none.

        Raises:
            UserError: these are too many.
        """
        size = source.size
        if math.prod(source.frame) == 1:
            return Train(source.tensor, (size,))
        if size * size > _MOST_MOVED:
            raise UserError(
                f"{name}: expected a dense layer behind values of shape {source.shape} that are flattened: "
                f"as neurons by themselves they take {size * size} fixed weights, more than {_MOST_MOVED}; "
                "write what reads them for maps of this shape"
            )
        eye, zeros = np.eye(size, dtype=np.float32), np.zeros(size, np.float32)
        return self.dense(name, source, eye, zeros, fixed=True)

    def affine(self, name: str, source: Train, scale: np.ndarray, shift: np.ndarray) -> Train:
        """A scale and a shift of each neuron, (n,) or (n, 1), or of each value of a step, (n, positions)."""
        target = self.builder.affine(name, source.tensor, self._at_steps(scale), self._at_steps(shift))
        return Train(target, source.shape)

    def _at_steps(self, values: np.ndarray) -> np.ndarray:
        if values.ndim == 1 or values.shape[1] == 1:
            return values.reshape(-1, 1)
        return np.tile(values, (1, self.steps))

    def step_function(self, name: str, source: Train, threshold: np.ndarray) -> Train:
        """1 where a value is above its threshold, (n, 1) or (n, positions), else 0."""
        if (threshold == threshold[0, 0]).all():
            above = Activation("greater", float(threshold[0, 0]))
        else:
            shifted = self.affine(f"{name}.shift", source, np.ones_like(threshold), -threshold)
            source, above = shifted, Activation("greater", 0.0)
        return Train(self.builder.elementwise(name, source.tensor, above), source.shape)

    def neurons(self, name: str, source: Train, dynamics: Dynamics) -> Train:
        """Neurons that integrate, and fire or not.

        They are at rest at first, where ``Membrane`` is at 0: potentials are those above rest.
        """
        rest = dynamics.rest
        shift = rest if dynamics.fires else 0
        is_set = dynamics.reset not in (SUBTRACT, NONE)
        numbers = (
            dynamics.synapse,
            dynamics.decay,
            dynamics.resistance,
            dynamics.threshold - shift,
            dynamics.reset_value - shift if is_set else dynamics.reset_value,
        )
        synapse, decay, resistance, threshold, reset_value = map(_of_membrane, numbers)
        op = Membrane(
            name,
            source.tensor,
            f"{name}.y",
            self.steps,
            synapse,
            decay,
            resistance,
            threshold,
            reset_value,
            dynamics.reset,
            dynamics.is_delayed,
            dynamics.fires,
        )
        target = Train(self.builder.membrane(op), source.shape)
        if dynamics.fires or not rest.any():
            return target
        return self.affine(f"{name}.rest", target, np.ones_like(rest), rest)

    def delay(self, name: str, source: Train, steps: np.ndarray) -> Train:
        """Every neuron late by its own number of steps, (n,) int64; 0 before."""
        different = np.unique(steps)
        if len(different) == 1:
            return self._late(name, source, int(steps[0]))
        parts, order = [], []
        for late in different.tolist():
            members = np.flatnonzero(steps == late)
            chosen = self.builder.select(f"{name}.of{late}", (source.tensor,), members)
            parts.append(self._late(f"{name}.by{late}", Train(chosen, source.shape), late).tensor)
            order.append(members)
        back = np.argsort(np.concatenate(order))
        return Train(self.builder.select(name, tuple(parts), back), source.shape)

    def _late(self, name: str, source: Train, late: int) -> Train:
        if not late:
            return source
        values = math.prod(source.frame)
        places = np.arange(self.steps * values) - min(late, self.steps) * values
        positions = (self.steps, *source.frame)
        return Train(
            self.builder.rearrange(name, source.tensor, np.maximum(places, -1), positions), source.shape
        )

    def add(self, name: str, sources: list[Train]) -> Train:
        """The sum of some tensors of one shape."""
        total, *others = sources
        for place, other in enumerate(others):
            last = f"{name}.sum{place}"
            total = Train(self.builder.combine(last, total.tensor, other.tensor, "add"), total.shape)
        return total

    def build(self, output: Train, by_step: bool) -> Network:
        """The network with this output.

        Args:
            output: a tensor.
            by_step: whether it has a value for every step: then neurons lie behind the steps in a sample.
        """
        trains = (*self._inputs, *((output.tensor,) if by_step else ()))
        axes = {tensor: 1 for tensor in trains if self.builder.positions(tensor)}
        return self.builder.build((output.tensor,), ("identity",), axes=axes)


def by_map(values: np.ndarray) -> np.ndarray:
    """Numbers for each value of a step, (n, positions), as (n, 1) where they are the same within all maps."""
    is_even = (values == values[:, :1]).all()
    return np.ascontiguousarray(values[:, :1] if is_even else values)


def _of_membrane(numbers: np.ndarray) -> np.ndarray:
    """Numbers as ``Membrane`` has them."""
    return numbers[:, 0] if numbers.shape[1] == 1 else numbers
