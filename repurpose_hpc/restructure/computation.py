"""Step 4.1 for computation: columns go until no worker does more than it may (``--compute-budget``).

Every worker may do so many multiply-adds in the whole network.  One price per multiply-add and worker spreads
them over the mixings, as one price per value spreads communication: it is set before each mixing, from what
those before it do and from what those behind it are expected to do at that price.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.model.weights import nonzeros
from repurpose_hpc.plan.masks import trimmed
from repurpose_hpc.plan.relays import RelayLoads, making, relay_loads
from repurpose_hpc.restructure.columns import Offer, rank_columns
from repurpose_hpc.restructure.constraints import constraints_of
from repurpose_hpc.restructure.context import CutContext
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.decisions import Decisions
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.support.reserve import BudgetTooSmall, traffic_cost
from repurpose_hpc.restructure.support.tradeoff import Ranking


class ComputeBudgetTooSmall(BudgetTooSmall):
    """A budget below the computation of what cannot go."""


@dataclass(frozen=True, eq=False)
class Workload:
    """What workers compute in a mixing, and could do without.

    Attributes:
        name: of the mixing.
        rows: name of a mixing whose rows go with columns -> multiply-adds of each row, (n,); 0 for those that
            stay.
        offer: the columns that may go.
        rankings: of these, one for each worker.
        relays: multiply-adds of each worker for relays, which stay, (P,).
    """

    name: str
    rows: Mapping[str, np.ndarray]
    offer: Offer
    rankings: Sequence[Ranking]
    relays: np.ndarray

    @property
    def load(self) -> np.ndarray:
        """Multiply-adds of each worker with all columns, (P,)."""
        return self.offer.loads.sum(axis=1) + self.relays

    def gone(self, worker: int, price: float) -> np.ndarray:
        """The columns of a worker that are not worth ``price`` per multiply-add."""
        ranking = self.rankings[worker]
        return ranking.groups[ranking.savings <= price]


def workload(context: CutContext, decisions: Decisions, mixing: Mixing, problem: MixingProblem) -> Workload:
    """The workload of a mixing as it is planned; collective.

    Args:
        context, decisions: of the run; the mixing and those before it are planned.
        mixing: the original.
        problem: it.
    """
    rows = _rows(context, decisions, mixing)
    offer = _offer(context, decisions, mixing, rows)
    owner, relays = context.owner(decisions, mixing.target), decisions.relays.get(mixing.name)
    return Workload(
        name=mixing.name,
        rows=rows,
        offer=offer,
        rankings=rank_columns(problem, owner, decisions.masks[mixing.name], offer, relays),
        relays=_relay_loads(context, decisions, mixing).workers,
    )


def limit_computation(
    context: CutContext,
    decisions: Decisions,
    number: int,
    problem: MixingProblem,
    expected: Mapping[str, Workload],
) -> tuple[Decisions, np.ndarray]:
    """Remove columns of mixing ``number`` until no worker does more than it may; collective.

    Args:
        context, decisions: of the run; the mixing is planned.
        number: of the mixing.
        problem: it.
        expected: workloads of the later ones.

    Returns:
        the decisions, and the mask of the weights that the mixing keeps, bool (m, n).

    Raises:
        ComputeBudgetTooSmall: what cannot go is more.
    """
    mixing = context.mixings[number]
    here = workload(context, decisions, mixing, problem)
    ahead = [here, *(expected[later.name] for later in context.mixings[number + 1 :])]
    network, plan = context.current(decisions).network, context.plan(decisions)
    waiting = {load.name for load in ahead}
    done = {
        m.name: plan.column_loads(network, m).sum(axis=1) + _relay_loads(context, decisions, m).workers
        for m in network.mixings
        if m.name not in waiting
    }
    limits = allowances(context)
    gone = np.zeros_like(here.offer.offered)
    for worker, limit in enumerate(limits):
        gone[worker, here.gone(worker, _price(worker, limit, ahead, done, limits.sum()))] = True
    kept = ~gone[plan.holders(network, mixing), np.arange(gone.shape[1])]
    decisions = _without(context, decisions, mixing, gone)
    return decisions, kept & mixing.links & context.plan(decisions).allowed(context.network, mixing)


def makers_of(network: Network, mixing: Mixing) -> list[Mixing] | None:
    """The mixings that make what only ``mixing`` reads, none for inputs; None: others need its source, too.

    Without anybody who reads it, a neuron need not be computed.
    """
    space = network.space(mixing.source)
    readers = [other.name for other in network.mixings if space.name in network.parts(other.source)]
    makers = [other for other in network.mixings if space.name in network.parts(other.target)]
    is_output = any(space.name in network.parts(tensor) for tensor in network.output_tensors)
    is_whole = not space.parts and all(network.space(maker.target) is space for maker in makers)
    if readers != [mixing.name] or is_output or not is_whole or any(maker.fixed for maker in makers):
        return None
    return makers if makers or space.name in network.input_spaces else None


def allowances(context: CutContext) -> np.ndarray:
    """Multiply-adds of a sample that each worker may do, (P,)."""
    return context.options.compute_budget * dense_multiply_adds(context.network) * context.speeds


def dense_multiply_adds(network: Network) -> int:
    """Multiply-adds of a sample with nothing pruned."""
    return sum(nonzeros(m.pattern) * m.taps * network.values(m.target) for m in network.mixings)


def compute_fraction(network: Network, cut: Cut, options: Options) -> float:
    """Multiply-adds of the busiest worker of a cut over its share, by speed, of those of the original.

    0 of a network that has none.
    """
    speeds = constraints_of(options).part_weights
    working = speeds > 0
    shares = max(dense_multiply_adds(network), 1) * speeds[working] / speeds.sum()
    return float((cut.plan.multiply_adds(cut.network)[working] / shares).max())


def _price(
    worker: int, limit: float, ahead: Sequence[Workload], done: Mapping[str, np.ndarray], total: float
) -> float:
    """The lowest price of a multiply-add at which a worker does at most ``limit`` in all.

    Args:
        worker: its number.
        limit: of its multiply-adds.
        ahead: workloads of the mixings of which columns may go.
        done: multiply-adds of each worker in every other mixing, (P,), by name.
        total: of the limits of all workers, for the message.

    Raises:
        ComputeBudgetTooSmall: there is none.
    """
    prices = np.unique(np.concatenate([[0.0], *(load.rankings[worker].savings for load in ahead)]))
    low, high = 0, len(prices) - 1
    while low < high:
        middle = (low + high) // 2
        if _multiply_adds(worker, prices[middle], ahead, done) <= limit:
            high = middle
        else:
            low = middle + 1
    least = _multiply_adds(worker, prices[low], ahead, done)
    if least > limit * (1 + 1e-12):
        raise ComputeBudgetTooSmall(
            f"compute_budget: expected at least {least:,.0f} multiply-adds of worker {worker}, whose part of "
            f"the {total:,.0f} of this budget is {limit:,.0f}: the sums of normalisations and "
            "relays are not removed; allow more computation"
        )
    return float(prices[low])


def _multiply_adds(
    worker: int, price: float, ahead: Sequence[Workload], done: Mapping[str, np.ndarray]
) -> float:
    """Multiply-adds of a worker if columns go that are not worth ``price``; see ``_price``."""
    whole = {**done, **{workload.name: workload.load for workload in ahead}}
    loads = {name: float(load[worker]) for name, load in whole.items()}
    for workload in ahead:
        gone = workload.gone(worker, price)
        loads[workload.name] -= float(workload.offer.loads[worker, gone].sum())
        for maker, rows in workload.rows.items():
            # Of rows that have lost columns themselves, less goes.
            loads[maker] *= 1 - float(rows[gone].sum()) / max(float(whole[maker][worker]), 1)
    return sum(loads.values())


def _rows(context: CutContext, decisions: Decisions, mixing: Mixing) -> dict[str, np.ndarray]:
    """``Workload.rows`` of a planned mixing."""
    network, plan = context.current(decisions).network, context.plan(decisions)
    makers, removable = makers_of(network, mixing) or [], _removable(context, decisions, mixing)
    loads = {m.name: plan.row_loads(network, m) + _relay_loads(context, decisions, m).rows for m in makers}
    return {name: np.where(removable, of_rows, 0) for name, of_rows in loads.items()}


def _removable(context: CutContext, decisions: Decisions, mixing: Mixing) -> np.ndarray:
    """The neurons that only their owners read, and only for this planned mixing, bool (n,)."""
    if makers_of(context.network, mixing) is None:
        return np.zeros(context.network.space(mixing.source).neurons, bool)
    needed = decisions.masks[mixing.name].ghosts.any(axis=0)
    relays = decisions.relays.get(mixing.name)
    if relays is not None:
        needed = needed | making(mixing, relays, "relays").links.any(axis=0)
    return np.logical_not(needed)


def _relay_loads(context: CutContext, decisions: Decisions, mixing: Mixing) -> RelayLoads:
    """``relay_loads`` of a planned mixing."""
    relays = decisions.relays.get(mixing.name)
    return relay_loads(context.network, context.plan(decisions), mixing, relays)


def _offer(
    context: CutContext, decisions: Decisions, mixing: Mixing, rows: Mapping[str, np.ndarray]
) -> Offer:
    """The columns of a planned mixing: own neurons, ghosts, and inputs of everybody."""
    network, plan = context.network, context.plan(decisions)
    own = plan.owner(network, mixing.source) == np.arange(plan.workers)[:, None]
    loads = plan.column_loads(network, mixing)
    costs = loads.astype(np.float64)
    for maker, of_row in rows.items():
        # Of a mixing that is not finished, columns are still to go: its rows will be shorter.
        costs += own * of_row * (1.0 if maker in decisions.finished else context.options.compute_budget)
    return Offer((plan.mixings[mixing.name].ghosts | own) & (loads > 0), loads, costs)


def _without(context: CutContext, decisions: Decisions, mixing: Mixing, gone: np.ndarray) -> Decisions:
    """Decisions without some columns of a mixing, bool (P, n), and without neurons that nobody reads then."""
    network, before = context.network, decisions
    mask = decisions.masks[mixing.name]
    own = context.owner(decisions, mixing.source) == np.arange(len(gone))[:, None]
    removed, changed = (gone & own).any(axis=0) & _removable(context, decisions, mixing), [mixing]
    decisions = decisions.with_mask(mixing.name, replace(mask, ghosts=mask.ghosts & ~gone))
    if removed.any():
        space = network.space_of[mixing.source]
        decisions = replace(decisions, removed={**decisions.removed, space: removed})
        makers = makers_of(network, mixing) or []
        for maker in makers:
            decisions = _without_rows(context, decisions, maker, removed)
        changed += makers
    saved = sum(traffic_cost(context, before, m) - traffic_cost(context, decisions, m) for m in changed)
    return replace(decisions, budget=decisions.budget + saved)


def _without_rows(context: CutContext, decisions: Decisions, maker: Mixing, removed: np.ndarray) -> Decisions:
    """Decisions in which nothing is sent for the removed rows, bool (m,), of a finished mixing."""
    links = decisions.finished[maker.name].links & ~removed[:, None]
    owners = (context.owner(decisions, end) for end in (maker.source, maker.target))
    decisions = decisions.with_mask(maker.name, trimmed(decisions.masks[maker.name], links, *owners))
    relays = decisions.relays.get(maker.name)
    return decisions if relays is None else decisions.with_relays(maker.name, relays.without_rows(removed))
