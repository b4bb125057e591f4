"""What a budget of communication is a fraction of."""

from __future__ import annotations

from collections.abc import Sequence

from repurpose_hpc.model.network import Network
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.exact import adding_mixings
from repurpose_hpc.restructure.tokens.choice import Budget
from repurpose_hpc.restructure.tokens.fits import Shape
from repurpose_hpc.restructure.tokens.forms import Form, Kind
from repurpose_hpc.restructure.tokens.halves import Half
from repurpose_hpc.restructure.tokens.options import TokenOptions


def dense_values(network: Network, workers: int) -> int:
    """Values of a token that dense tensor parallelism sends: an all-reduce for each half of a block.

    The sum of D neurons goes to and from P - 1 workers: 2 D (P - 1) values, whatever the algorithm.

    Args:
        network: of tokens.
        workers: P.
    """
    added = sum(network.space(mixing.target).neurons for mixing in adding_mixings(network))
    return 2 * added * (workers - 1)


def budget_of(network: Network, halves: Sequence[Half], options: TokenOptions) -> Budget:
    """What the halves of a network may cost together.

    Args:
        network: of tokens.
        halves: its halves.
        options: ``comm_budget`` is a fraction of what dense tensor parallelism costs, values and rounds;
            ``load`` is relative to an even share of all multiply-adds.
    """
    P, price = options.workers, options.round_cost
    dense = 0.0
    for half in halves:
        forms = Form(Kind.DIRECT, None, 1), Form(Kind.NARROW, Shape(half.width, 0, False), 2)
        dense += min(form.values(half, P) + price * form.rounds for form in forms)
    share = _multiply_adds(network) / P
    of_halves = sum(half.inner_multiply_adds() + half.out.weights.size for half in halves) / P
    return Budget(options.comm_budget * dense, options.load * share - (share - of_halves))


def load_of(network: Network, cut: Cut) -> float:
    """Multiply-adds with weights of the busiest worker of a restructured network, over an even share.

    Args:
        network: of tokens, the original.
        cut: the restructured network.
    """
    loads = [cut.plan.column_loads(cut.network, m) for m in cut.network.mixings if not m.fixed]
    busiest = float(sum(load.sum(axis=1) for load in loads).max())
    return busiest * cut.plan.workers / _multiply_adds(network)


def _multiply_adds(network: Network) -> int:
    """Of a token, with trained weights."""
    return sum(mixing.weights.size for mixing in network.mixings if not mixing.fixed)
