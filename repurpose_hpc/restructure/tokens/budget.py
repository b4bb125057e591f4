"""What a budget of communication is a fraction of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from repurpose_hpc.model.network import Network
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.exact import adding_mixings
from repurpose_hpc.restructure.tokens.fits import Shape
from repurpose_hpc.restructure.tokens.forms import DIRECT, Form, Kind
from repurpose_hpc.restructure.tokens.halves import Half


def dense_values(network: Network, workers: int) -> int:
    """Values of a token that dense tensor parallelism sends: an all-reduce for each half of a block.

    The sum of D neurons goes to and from P - 1 workers: 2 D (P - 1) values, whatever the algorithm.

    Args:
        network: of tokens.
        workers: P.
    """
    added = sum(network.space(mixing.target).neurons for mixing in adding_mixings(network))
    return 2 * added * (workers - 1)


def dense_cost(halves: Sequence[Half], workers: int, round_cost: float) -> float:
    """What an all-reduce for each half costs, values of a token and rounds: the cheaper of two ways.

    Args:
        halves: of the network.
        workers: P.
        round_cost: price of a round in values.
    """
    cost = 0.0
    for half in halves:
        forms = DIRECT, Form(Kind.NARROW, Shape(half.width, 0, False), 2)
        cost += min(form.values(half, workers) + round_cost * form.rounds for form in forms)
    return cost


def load_of(network: Network, cut: Cut, part_weights: np.ndarray) -> float:
    """Multiply-adds with weights of the worker that has most for its share, over its share.

    Args:
        network: of tokens, the original.
        cut: the restructured network.
        part_weights: relative capacities of the workers, (P,).
    """
    mixings = [mixing for mixing in cut.network.mixings if not mixing.fixed]
    loads = sum(cut.plan.column_loads(cut.network, mixing).sum(axis=1) for mixing in mixings)
    return float((loads / part_weights).max() * part_weights.sum() / trained_weights(network))


def trained_weights(network: Network) -> int:
    """Weights that are no part of a definition, each a multiply-add of a token."""
    return sum(mixing.W.size for mixing in network.mixings if not mixing.fixed)
