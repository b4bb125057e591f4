"""Load, which is weights and not neurons: how many neurons and ghosts make a fair share of it.

Where workers hardly communicate, a worker with a share s of all neurons holds about s² of the weights
between two spaces; where they exchange everything, s.
"""

from __future__ import annotations

import numpy as np

from repurpose_hpc.model.network import Network
from repurpose_hpc.restructure.support.forms import Problem
from repurpose_hpc.restructure.support.tradeoff import Tradeoff

# The limits follow the total, which they lower: rounds until they agree.
ROUNDS = 20


def neuron_shares(network: Network, speeds: np.ndarray, fraction: float, replicated: bool) -> np.ndarray:
    """The share of all neurons with which every worker has its share of the weights.

    Args:
        network: trained.
        speeds: relative speeds of the workers, (P,), >= 0.
        fraction: of the dense communication that will remain, 0 to 1.
        replicated: whether everybody has the input.

    Returns:
        (P,), summing to 1.
    """
    linear = square = 0.0
    for mixing in network.mixings:
        weights = mixing.weights.size
        is_input = network.space_of[mixing.source] in network.input_spaces
        everything = (replicated and is_input) or network.size(mixing.target) < network.size(mixing.source)
        # s of the rows; of the columns s of their own and a fraction of the others.
        linear += weights * (1.0 if everything else fraction)
        square += 0.0 if everything else weights * (1 - fraction)
    low, high = 0.0, (linear + square) / speeds.max()

    def shares(load: float) -> np.ndarray:
        """s with linear s + square s² = load × speed."""
        wanted = load * speeds
        root = linear + np.sqrt(linear**2 + 4 * square * wanted)
        return np.divide(2 * wanted, root, out=np.zeros_like(wanted), where=wanted > 0)

    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if shares(middle).sum() < 1 else (low, middle)
    found = shares(high)
    return found / found.sum()


def limit_ghosts(
    problem: Problem, owner: np.ndarray, form: Tradeoff, price: float, allowance: np.ndarray
) -> Tradeoff:
    """The form with so few ghosts at ``price`` that no worker holds more than its allowance of the weights.

    Args:
        problem: the mixing.
        owner: of its rows, (m,).
        form: with a unit for each worker, or in partial-sum form, which is left as it is.
        price: λ.
        allowance: largest share of the weights of the mixing that each worker may hold, (P,).
    """
    if not form.ghosts:
        return form
    rows, own = np.bincount(owner, minlength=problem.workers), problem.own().sum(axis=1)
    kept = np.array([unit.kept(price).size for unit in form.ghosts])
    for _ in range(ROUNDS):
        total = float(rows @ (own + kept))
        most = np.floor(allowance * total / np.maximum(rows, 1) - own).astype(np.int64)
        limited = np.minimum(kept, np.maximum(most, 0))
        if (limited == kept).all():
            break
        kept = limited
    units = [
        unit.first(count) if count < unit.kept(price).size else unit
        for unit, count in zip(form.ghosts, kept, strict=True)
    ]
    lost = sum(unit.savings @ unit.costs for unit in form.ghosts) - sum(u.savings @ u.costs for u in units)
    return Tradeoff(form.floor + float(lost), units, form.sums)
