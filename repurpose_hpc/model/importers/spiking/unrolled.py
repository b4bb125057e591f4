"""Neurons that read their own spikes: every step has operations of its own.

``Membrane`` computes all steps of a layer at once, which needs all of its input beforehand.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from repurpose_hpc.errors import Note
from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.importers.spiking.trains import Dynamics, Train, Trains
from repurpose_hpc.model.operations import Rearrange, Stitch
from repurpose_hpc.model.operations.membrane import NONE, SET

# Steps beyond which a note says how many mixings there are.
_MANY = 64

Back = Callable[[Trains, str, Train], Train]
"""Adds the way from the spikes of a step to the next one, of trains of one step and an ending of names."""


class _State(NamedTuple):
    """What a step leaves behind; None where there is nothing."""

    potential: Train
    current: Train | None
    spikes: Train


def recurrent(trains: Trains, name: str, source: Train, dynamics: Dynamics, back: Back) -> Train:
    """Spiking neurons, to whose input what ``back`` makes of their last spikes is added in every step.

    All mixings of ``back`` share their weights as far as they are given the same arrays.
    """
    if trains.steps > _MANY:
        text = f"{name}: reads its own spikes: each of {trains.steps} steps has operations of its own"
        warnings.warn(text, Note, stacklevel=4)
    single, state, spikes = trains.single_step(), None, []
    cell = _Cell(single, name, dynamics)
    for step in range(trains.steps):
        ending = f".{step}"
        x = _at(trains, f"{name}.x{ending}", source, step)
        last = cell.silent(x) if state is None else state.spikes
        x = single.add(f"{name}.in{ending}", [x, back(single, ending, last)])
        state = cell.step(x, ending, state)
        spikes.append(state.spikes)
    return _joined(trains, name, spikes)


class _Cell:
    """The operations of a step of ``Membrane``.

    Args:
        single: adds them.
        name: of the neurons.
        dynamics: of the neurons.
    """

    def __init__(self, single: Trains, name: str, dynamics: Dynamics) -> None:
        self._trains, self._name, self._dynamics = single, name, dynamics

    def silent(self, like: Train) -> Train:
        """No spikes, of the neurons of another tensor."""
        return self._scaled("silent", like, np.zeros(like.neurons))

    def step(self, x: Train, ending: str, before: _State | None) -> _State:
        """What comes of an input; ``ending`` is that of names."""
        dynamics = self._dynamics
        current: Train | None = x if dynamics.synapse.any() else None
        if current is not None and before is not None and before.current is not None:
            kept = self._scaled(f"synapse{ending}", before.current, dynamics.synapse)
            current = self._combined(f"current{ending}", kept, x, "add")
        potential = self._scaled(f"driven{ending}", current or x, dynamics.resistance)
        if before is not None:
            left = self._left(ending, before)
            potential = self._combined(f"potential{ending}", left, potential, "add")
        above = self._shifted(f"above{ending}", potential, -(dynamics.threshold - dynamics.rest))
        greater = Activation("greater", 0.0)
        spikes = self._trains.builder.elementwise(f"{self._name}.spikes{ending}", above.tensor, greater)
        return _State(potential, current, Train(spikes, x.shape))

    def _left(self, ending: str, before: _State) -> Train:
        """What is left of the potential."""
        decay = self._dynamics.decay
        if self._dynamics.reset == NONE:
            return self._scaled(f"decayed{ending}", before.potential, decay)
        if self._dynamics.is_delayed:
            decayed = self._scaled(f"decayed{ending}", before.potential, decay)
            return self._reset(ending, decayed, before.spikes)
        return self._scaled(f"decayed{ending}", self._reset(ending, before.potential, before.spikes), decay)

    def _reset(self, ending: str, potential: Train, spikes: Train) -> Train:
        dynamics = self._dynamics
        if dynamics.reset != SET:
            taken = self._scaled(f"taken{ending}", spikes, dynamics.reset_value)
            return self._combined(f"reset{ending}", potential, taken, "subtract")
        value = dynamics.reset_value - dynamics.rest
        ones = np.ones(spikes.neurons)
        silent = self._trains.affine(f"{self._name}.quiet{ending}", spikes, -ones, ones)
        kept = self._combined(f"kept{ending}", silent, potential, "mask")
        if not value.any():
            return kept
        set_to = self._scaled(f"value{ending}", spikes, value)
        return self._combined(f"reset{ending}", kept, set_to, "add")

    def _scaled(self, name: str, source: Train, scale: np.ndarray) -> Train:
        return self._trains.affine(f"{self._name}.{name}", source, scale, np.zeros_like(scale))

    def _shifted(self, name: str, source: Train, shift: np.ndarray) -> Train:
        return self._trains.affine(f"{self._name}.{name}", source, np.ones_like(shift), shift)

    def _combined(self, name: str, left: Train, right: Train, kind: str) -> Train:
        full = f"{self._name}.{name}"
        return Train(self._trains.builder.combine(full, left.tensor, right.tensor, kind), left.shape)


def _at(trains: Trains, name: str, source: Train, step: int) -> Train:
    """One step of a train."""
    values = source.size // source.neurons
    places = np.arange(step * values, (step + 1) * values)
    op = Rearrange(name, source.tensor, f"{name}.y", places)
    return Train(trains.builder.add(op, source.frame), source.shape)


def _joined(trains: Trains, name: str, parts: list[Train]) -> Train:
    """A train of its steps."""
    tensors = tuple(part.tensor for part in parts)
    values = trains.steps * parts[0].size // parts[0].neurons
    op = Stitch(name, tensors, f"{name}.y", np.arange(values))
    return Train(trains.builder.add(op, (trains.steps, *parts[0].frame)), parts[0].shape)
