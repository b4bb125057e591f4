"""Membranes: neurons with a state that integrate what they read, step after step, and fire."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from repurpose_hpc.model.operations.operation import (
    Cost,
    OneSource,
    Rows,
    Shape,
    dtype_faults,
    operation,
    same_positions,
)

# What a spike does to the potential.
SUBTRACT, SET, NONE = "subtract", "set", "none"
RESETS = (SUBTRACT, SET, NONE)
# The fields of a membrane with numbers of its neurons.
PER_NEURON = ("synapse", "decay", "resistance", "threshold", "reset_value")
# Passes over its values that a membrane takes as long as: a step waits for the one before.
_PASSES = 4


class _Course(NamedTuple):
    """What becomes of the potential, by step: (neurons, steps, batch, positions).

    Attributes:
        potential: behind what is read in a step, before it is reset by that.
        was_reset: whether it was reset at the beginning of a step, or at the end of the one before.
    """

    potential: np.ndarray
    was_reset: np.ndarray


@operation
@dataclass(frozen=True, eq=False)
class Membrane(OneSource):
    """``target`` = spikes, or the potential, of leaky integrators that read ``source`` step by step.

    The maps of both are those of one step, one step after the other.  All is 0 before the first.  In a step::

        current   = synapse · current + source
        potential = decay · potential + resistance · current
        spike     = 1 if potential > threshold else 0

    and a spike subtracts ``reset_value`` from the potential, or sets it to that: at once, or, where resets
    are *delayed*, in the next step, between the decay and the current.  Source: Neftci, Mostafa and Zenke,
    "Surrogate gradient learning in spiking neural networks" (2019).

    Attributes:
        steps: how many.
        synapse, decay, resistance, threshold, reset_value: of each neuron, (n,), or of each value of a step,
            (n, positions); a synapse of 0 is none.
        reset: one of ``RESETS``.
        is_delayed: see above.
        fires: whether the target is spikes, 0 or 1; else it is the potential, before it is reset at once.
    """

    name: str
    source: str
    target: str
    steps: int
    synapse: np.ndarray
    decay: np.ndarray
    resistance: np.ndarray
    threshold: np.ndarray
    reset_value: np.ndarray
    reset: str = SUBTRACT
    is_delayed: bool = False
    fires: bool = True

    def compute(self, *sources: np.ndarray) -> np.ndarray:
        """See ``Operation``."""
        (x,) = sources
        course = self._course(self._by_step(x)).potential
        if self.fires:
            course = (course > self._of_neurons("threshold", x.dtype)[:, None]).astype(x.dtype)
        return course.swapaxes(1, 2).reshape(x.shape)

    def vjp(self, g: np.ndarray, target: np.ndarray, *sources: np.ndarray) -> list[np.ndarray]:
        """See ``Operation``; of spikes a surrogate, as their own is zero almost everywhere.

        The slope of a spike is taken to be that of ``arctan(π u) / π``, u the potential beyond the threshold
        in units of the threshold; resets are taken as they came.
        """
        (x,) = sources
        course, g_steps = self._course(self._by_step(x)), self._by_step(g)
        if self.fires:
            g_steps = g_steps * self._surrogate(course.potential)
        synapse, decay, resistance, *_ = (self._of_neurons(name, x.dtype) for name in PER_NEURON)
        g_x, g_current = np.empty_like(g_steps), np.zeros_like(g_steps[:, 0])
        g_later = np.zeros_like(g_current)
        for step in reversed(range(self.steps)):
            g_potential = g_steps[:, step] + g_later
            g_current = resistance * g_potential + synapse * g_current
            g_x[:, step] = g_current
            g_later = decay * g_potential
            if self.reset == SET:
                g_later = np.where(course.was_reset[:, step], 0, g_later)
        return [g_x.swapaxes(1, 2).reshape(x.shape)]

    def _by_step(self, x: np.ndarray) -> np.ndarray:
        """Maps step by step: (neurons, steps, batch, positions of one step)."""
        batch = x.shape[1]
        positions = math.prod(x.shape[2:]) // self.steps
        return x.reshape(len(x), batch, self.steps, positions).swapaxes(1, 2)

    def _course(self, x: np.ndarray) -> _Course:
        """What becomes of the potential when x is read step by step."""
        synapse, decay, resistance, threshold, reset_value = (
            self._of_neurons(name, x.dtype) for name in PER_NEURON
        )
        course, was_reset = np.empty_like(x), np.zeros(x.shape, bool)
        current = potential = np.zeros_like(x[:, 0])
        spike = was_reset[:, 0]
        for step in range(self.steps):
            current = synapse * current + x[:, step]
            if self.is_delayed:
                potential = self._after(decay * potential, spike, reset_value)
            else:
                potential = decay * self._after(potential, spike, reset_value)
            potential = potential + resistance * current
            course[:, step], was_reset[:, step] = potential, spike
            spike = (potential > threshold) & (self.reset != NONE)
        return _Course(course, was_reset)

    def _after(self, potential: np.ndarray, spike: np.ndarray, reset_value: np.ndarray) -> np.ndarray:
        """The potential with what spikes do to it."""
        return np.where(spike, reset_value if self.reset == SET else potential - reset_value, potential)

    def _surrogate(self, potential: np.ndarray) -> np.ndarray:
        threshold = self._of_neurons("threshold", potential.dtype)[:, None]
        unit = np.where(threshold == 0, 1, np.abs(threshold))
        return 1 / (unit * (1 + (np.pi * (potential - threshold) / unit) ** 2))

    def by_position(self, name: str) -> np.ndarray:
        """A field of ``PER_NEURON``: (neurons, 1), or (neurons, positions)."""
        numbers = getattr(self, name)
        return numbers[:, None] if numbers.ndim == 1 else numbers

    def _of_neurons(self, name: str, dtype: np.dtype) -> np.ndarray:
        """Numbers of neurons, to be combined with those of one step: (neurons, 1, positions or 1)."""
        return self.by_position(name).astype(dtype, copy=False)[:, None]

    def restricted(self, target: Rows, *sources: Rows) -> Membrane:
        """See ``Operation``."""
        return replace(self, **{name: getattr(self, name)[target.neurons] for name in PER_NEURON})

    def is_binary(self, *sources: bool) -> bool:
        """Spikes are."""
        return self.fires

    def gain(self, sources: Sequence[Shape], target: Shape) -> list[float]:
        """None where there is a threshold; else a filter, whose gain is at most the sum of its response."""
        if self.fires or self.reset != NONE:
            return [math.inf]
        synapse, decay, resistance = (
            np.abs(self.by_position(name).astype(np.float64)) for name in ("synapse", "decay", "resistance")
        )
        sums = ((factor[..., None] ** np.arange(self.steps)).sum(axis=-1) for factor in (synapse, decay))
        return [float(math.prod(sums, start=resistance).max())]

    def cost(self, target: Shape) -> Cost:
        """Several passes over all values, as steps wait for one another."""
        return Cost(_PASSES * target.values, False)

    def faults(self, sources: Sequence[Shape], target: Shape) -> Iterator[str]:
        """See ``Operation``."""
        (source,) = sources
        yield from same_positions(source, target)
        arrays = {name: getattr(self, name) for name in PER_NEURON}
        yield from dtype_faults(**arrays)
        positions = source.values // max(self.steps, 1)
        for name, array in arrays.items():
            if array.shape not in ((source.neurons,), (source.neurons, positions)):
                yield f"has {name} of shape {array.shape} for {source.neurons} neurons, {positions} in a map"
        if self.steps < 1 or source.values % self.steps:
            yield f"has {self.steps} steps, which do not share out the {source.values} values of a neuron"
        if self.reset not in RESETS:
            yield f"has the reset {self.reset!r}, expected one of {', '.join(RESETS)}"
