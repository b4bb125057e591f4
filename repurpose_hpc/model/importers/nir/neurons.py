"""Neurons of ``.nir`` files: integrators that leak or not, with a current or without, that fire or not."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from repurpose_hpc.model.importers.nir.options import Rules
from repurpose_hpc.model.importers.nir.parameters import Parameters
from repurpose_hpc.model.importers.spiking.trains import Dynamics
from repurpose_hpc.model.operations.membrane import NONE, SET


class Kind(NamedTuple):
    """A type of neurons.

    Attributes:
        leaks: whether the potential goes back to rest.
        has_current: whether a current of its own stands between input and potential.
        fires: whether spikes come out, else the potential.
    """

    leaks: bool
    has_current: bool
    fires: bool

    @property
    def times(self) -> tuple[str, ...]:
        """Names of the time constants."""
        if self.has_current:
            return "tau_mem", "tau_syn"
        return ("tau",) if self.leaks else ()


NEURONS = {
    "LIF": Kind(leaks=True, has_current=False, fires=True),
    "CubaLIF": Kind(leaks=True, has_current=True, fires=True),
    "IF": Kind(leaks=False, has_current=False, fires=True),
    "LI": Kind(leaks=True, has_current=False, fires=False),
    "CubaLI": Kind(leaks=True, has_current=True, fires=False),
    "I": Kind(leaks=False, has_current=False, fires=False),
}


def dynamics_of(node: Parameters, rules: Rules, shape: tuple[int, ...]) -> Dynamics:
    """What the neurons of a node do in a step.

    Args:
        node: of one of ``NEURONS``.
        rules: by which it is read.
        shape: of a step: neurons, and the axes of their maps.

    Raises:
        UserError: a parameter is missing, of the wrong shape or out of range; names it, and its unit.
    """
    kind, convention = NEURONS[node.node.kind], rules.convention
    times = {key: _time(node, key, rules, shape) for key in kind.times}
    resistance = node.per_value("r", shape)
    zeros, ones = np.zeros((shape[0], 1)), np.ones((shape[0], 1))
    synapse = zeros
    if kind.leaks:
        tau = times["tau_mem" if kind.has_current else "tau"]
        decay, resistance = convention.membrane(tau, resistance, rules.time_step)
        rest = node.per_value("v_leak", shape)
    else:
        decay, rest = ones, zeros
        resistance = convention.integrator(resistance, rules.time_step)
    if kind.has_current:
        weight = node.per_value("w_in", shape) if node.has("w_in") else ones
        synapse, gain = convention.synapse(times["tau_syn"], weight, rules.time_step)
        resistance = resistance * gain
    for key, values in zip(kind.times, (decay, synapse), strict=False):
        _check_decay(node, key, times[key], values, rules)
    if not kind.fires:
        return Dynamics(decay, resistance, synapse, zeros, zeros, rest, NONE, fires=False)
    threshold = node.per_value("v_threshold", shape)
    reset_value = threshold
    if convention.reset == SET:
        reset_value = node.per_value("v_reset", shape) if node.has("v_reset") else zeros
    if convention.fires_at_threshold:
        threshold = below(threshold)
    return Dynamics(
        decay, resistance, synapse, threshold, reset_value, rest, convention.reset, convention.is_delayed
    )


def below(threshold: np.ndarray) -> np.ndarray:
    """Numbers just below, so that what is at a threshold is above them, in single and in double precision."""
    return np.nextafter(threshold.astype(np.float32), np.float32(-np.inf)).astype(np.float64)


def _time(node: Parameters, key: str, rules: Rules, shape: tuple[int, ...]) -> np.ndarray:
    tau = node.per_value(key, shape)
    if tau.min() <= 0:
        raise node.fault(
            f"expected a time constant {key} above 0 {rules.unit}, found {tau.min():g} {rules.unit}"
        )
    return tau


def _check_decay(node: Parameters, key: str, tau: np.ndarray, decay: np.ndarray, rules: Rules) -> None:
    """Refuse what would swing instead of decay."""
    if decay.min() < 0:
        least = tau.flat[decay.argmin()]
        raise node.fault(
            f"expected a time constant {key} of at least a step of {rules.time_step:g} {rules.unit}, found "
            f"{least:g} {rules.unit}, which makes a decay of {decay.min():g}",
            "give the --convention of the program that wrote it, or its --time-step",
        )
