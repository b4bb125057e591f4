"""Neurons that integrate what they read, step after step, and fire.

Maps are (neurons, batch, values), C-contiguous; the values of a neuron are its map of one step after that of
the other.  Shapes are not checked.
"""

from __future__ import annotations

import numpy as np

from ..arguments import MEMBRANE, REAL, Array, MembraneRule
from ..registry import kernel

# What a spike does to the potential.
RESET_CODES: dict[str, int] = {"none": 0, "subtract": 1, "set": 2}
_NONE, _SUBTRACT, _SET = range(3)

_MAPS, _NUMBERS = Array(REAL, 3), Array(REAL, 2)


@kernel(
    arguments={
        "x": _MAPS,
        "synapse": _NUMBERS,
        "decay": _NUMBERS,
        "resistance": _NUMBERS,
        "threshold": _NUMBERS,
        "reset_value": _NUMBERS,
        "rule": MEMBRANE,
        "out": _MAPS,
    },
    replayed=True,
)
def integrate_and_fire(
    x: np.ndarray,
    synapse: np.ndarray,
    decay: np.ndarray,
    resistance: np.ndarray,
    threshold: np.ndarray,
    reset_value: np.ndarray,
    rule: MembraneRule,
    out: np.ndarray,
) -> None:
    """Spikes, or the potential, of neurons that read x; the equations are those of ``operations.Membrane``.

    Args:
        x: (n, batch, steps · positions).
        synapse, decay, resistance, threshold, reset_value: of each neuron, (n, 1), or of each value of a
            step, (n, positions); all alike.
        rule: what all neurons have in common.
        out: as x.
    """
    positions, is_spread = x.shape[2] // rule.steps, synapse.shape[1] > 1
    one, zero = x.dtype.type(1), x.dtype.type(0)
    for j in range(x.shape[0]):
        for b in range(x.shape[1]):
            row, result = x[j, b], out[j, b]
            for p in range(positions):
                q = p if is_spread else 0
                passed, kept, factor = synapse[j, q], decay[j, q], resistance[j, q]
                limit, value = threshold[j, q], reset_value[j, q]
                current = potential = zero
                fired = False
                for place in range(p, row.size, positions):
                    current = passed * current + row[place]
                    if rule.is_delayed:
                        potential *= kept
                    if fired and rule.reset == _SUBTRACT:
                        potential -= value
                    elif fired and rule.reset == _SET:
                        potential = value
                    if not rule.is_delayed:
                        potential *= kept
                    potential += factor * current
                    fired = potential > limit
                    result[place] = (one if fired else zero) if rule.fires else potential
