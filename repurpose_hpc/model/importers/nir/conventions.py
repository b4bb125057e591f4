"""What programs mean by the numbers that they write into ``.nir`` files, which do not say who wrote them.

NIR defines neurons by differential equations.  A program computes steps: it has a step and a rule by which
time constants become decays, and it may write something else than the equations mean.  Read of their code:
snntorch 1.0.0, norse 1.1.0, sinabs 3.1.3, spikingjelly 2.0.0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from repurpose_hpc.model.operations.membrane import SET, SUBTRACT

Values = np.ndarray
"""Of a parameter: (n, 1), one for each neuron, or (n, positions), one for each value of a step."""


class Filter(NamedTuple):
    """A leaky integrator in steps: ``state = decay · state + gain · input``."""

    decay: Values
    gain: Values


@dataclass(frozen=True)
class Convention:
    """How a program writes and steps neurons.

    Attributes:
        writer: its name in words.
        time_step: of its steps, in seconds; None: the file does not settle it.
        counts_steps: whether time constants are numbers of steps, not seconds.
        reset: what a spike does, one of ``RESETS``.
        is_delayed: whether it does that in the next step.
        fires_at_threshold: whether a potential that is just the threshold makes a spike.
        membrane: of time constant, resistance and step.
        synapse: of time constant, weight of the input and step.
        integrator: gain of one that does not leak, of resistance and step.
    """

    writer: str
    time_step: float | None
    counts_steps: bool
    reset: str
    is_delayed: bool
    fires_at_threshold: bool
    membrane: Callable[[Values, Values, float], Filter]
    synapse: Callable[[Values, Values, float], Filter]
    integrator: Callable[[Values, float], Values]


def _euler(tau: Values, gain: Values, step: float) -> Filter:
    """A step of Euler's method on ``tau dv/dt = gain · input − v``."""
    return Filter(1 - step / tau, gain * step / tau)


def _norse(tau: Values, gain: Values, step: float) -> Filter:
    """The same with what Norse writes: the time constant times the step."""
    return _euler(tau / step, gain, step)


def _norse_synapse(tau: Values, gain: Values, step: float) -> Filter:
    """A current into which inputs jump."""
    return Filter(_norse(tau, gain, step).decay, gain)


def _exponential(tau: Values, gain: Values, step: float) -> Filter:
    return Filter(np.exp(-step / tau), gain)


def _exponential_synapse(tau: Values, gain: Values, step: float) -> Filter:
    """A current that decays together with what has just come in."""
    decay = np.exp(-step / tau)
    return Filter(decay, decay * gain)


CONVENTIONS = {
    "nir": Convention(
        writer="NIR's equations, in Euler steps",
        time_step=None,
        counts_steps=False,
        reset=SET,
        is_delayed=False,
        fires_at_threshold=False,
        membrane=_euler,
        synapse=_euler,
        integrator=lambda gain, step: gain * step,
    ),
    "snntorch": Convention(
        writer="snnTorch",
        time_step=1e-4,
        counts_steps=False,
        reset=SUBTRACT,
        is_delayed=True,
        fires_at_threshold=False,
        membrane=_euler,
        synapse=_euler,
        integrator=lambda gain, step: gain * step,
    ),
    "norse": Convention(
        writer="Norse",
        time_step=1e-3,
        counts_steps=False,
        reset=SET,
        is_delayed=False,
        fires_at_threshold=False,
        membrane=_norse,
        synapse=_norse_synapse,
        integrator=lambda gain, step: gain,
    ),
    "sinabs": Convention(
        writer="Sinabs",
        time_step=1.0,
        counts_steps=True,
        reset=SUBTRACT,
        is_delayed=False,
        fires_at_threshold=True,
        membrane=_exponential,
        synapse=_exponential_synapse,
        integrator=lambda gain, step: gain,
    ),
    "spikingjelly": Convention(
        writer="SpikingJelly",
        time_step=1e-4,
        counts_steps=False,
        reset=SET,
        is_delayed=False,
        fires_at_threshold=True,
        membrane=_euler,
        synapse=_euler,
        integrator=lambda gain, step: gain * step,
    ),
}
