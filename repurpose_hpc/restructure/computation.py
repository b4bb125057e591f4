"""Step 4.1 for computation: columns go until no worker does more than it may (``--compute-budget``).

Every worker may do so many multiply-adds in the whole network.  One price per multiply-add and worker spreads
them over the mixings, as one price per value spreads communication: it is set before each mixing, from what
those before it do and from what those behind it are expected to do at that price.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.plan import Plan, trimmed
from repurpose_hpc.plan.relays import Relays
from repurpose_hpc.restructure.columns import Offer, rank_columns
from repurpose_hpc.restructure.context import CutContext
from repurpose_hpc.restructure.decisions import Decisions
from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.support.reserve import traffic_cost
from repurpose_hpc.restructure.support.tradeoff import Ranking


class ComputeBudgetTooSmall(UserError):
    """A budget below the computation of what cannot go."""


@dataclass(frozen=True, eq=False)
class Workload:
    """What workers compute in a mixing, and could do without.

    Attributes:
        name: of the mixing.
        rows: name of a mixing whose rows go with columns -> multiply-adds of each row, (n,); 0 for those that
            stay.
        load: multiply-adds of each worker with all columns, (P,).
        offer: the columns that may go.
        rankings: of these, one for each worker.
    """

    name: str
    rows: Mapping[str, np.ndarray]
    load: np.ndarray
    offer: Offer
    rankings: Sequence[Ranking]

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
    plan, relays = context.plan(decisions), decisions.relays.get(mixing.name)
    rows = _rows(context, decisions, mixing)
    offer = _offer(context, decisions, mixing, rows)
    owner = context.owner(decisions, mixing.target)
    return Workload(
        name=mixing.name,
        rows=rows,
        load=_load(context.network, plan, mixing, relays),
        offer=offer,
        rankings=rank_columns(problem, owner, plan.mixings[mixing.name], relays, offer),
    )


def removable_with(network: Network, mixing: Mixing) -> list[Mixing] | None:
    """The mixings that make what only ``mixing`` reads, none for inputs; None: others need its source, too.

    Without anybody who reads it, a neuron need not be computed.
    """
    space = network.space(mixing.source)
    readers = [other for other in network.mixings if space.name in network.parts(other.source)]
    makers = [other for other in network.mixings if space.name in network.parts(other.target)]
    is_output = any(space.name in network.parts(tensor) for tensor in network.output_tensors)
    is_whole = not space.parts and all(network.space(maker.target) is space for maker in makers)
    if readers != [mixing] or is_output or not is_whole or any(maker.fixed for maker in makers):
        return None
    return makers if makers or space.name in network.input_spaces else None


def limit_computation(
    context: CutContext,
    decisions: Decisions,
    number: int,
    problem: MixingProblem,
    expected: Mapping[str, Workload],
) -> Decisions:
    """Remove columns of mixing ``number`` until no worker does more than it may; collective.

    Args:
        context, decisions: of the run; the mixing is planned.
        number: of the mixing.
        problem: it.
        expected: workloads of the later ones.

    Raises:
        ComputeBudgetTooSmall: what cannot go is more.
    """
    network, mixing = context.network, context.mixings[number]
    here = workload(context, decisions, mixing, problem)
    ahead = [here, *(expected[later.name] for later in context.mixings[number + 1 :])]
    waiting, plan = {load.name for load in ahead}, context.plan(decisions)
    done = {
        other.name: _load(network, plan, other, decisions.relays.get(other.name))
        for other in network.mixings
        if other.name not in waiting
    }
    limits = allowances(context)
    gone = np.zeros_like(here.offer.offered)
    for worker, limit in enumerate(limits):
        gone[worker, here.gone(worker, _price(worker, limit, ahead, done, limits.sum()))] = True
    return _without(context, decisions, mixing, gone)


def allowances(context: CutContext) -> np.ndarray:
    """Multiply-adds of a sample that each worker may do, (P,)."""
    return context.options.compute_budget * dense_multiply_adds(context.network) * context.speeds


def dense_multiply_adds(network: Network) -> int:
    """Multiply-adds of a sample with nothing pruned."""
    return sum(int(m.links.sum()) * m.taps * network.values(m.target) for m in network.mixings)


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
            f"the {total:,.0f} of this budget is {limit:,.0f}: neurons that others read, too, and fixed sums "
            "are not removed; allow more computation, or less communication, so that fewer are read by others"
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
            loads[maker] *= 1 - float(rows[gone].sum()) / float(whole[maker][worker])
    return sum(loads.values())


def _rows(context: CutContext, decisions: Decisions, mixing: Mixing) -> dict[str, np.ndarray]:
    """``Workload.rows`` of a planned mixing."""
    plan = context.plan(decisions)
    makers = removable_with(context.network, mixing) or []
    alone = ~plan.mixings[mixing.name].ghosts.any(axis=0)
    return {maker.name: np.where(alone, plan.row_loads(context.network, maker), 0) for maker in makers}


def _offer(
    context: CutContext, decisions: Decisions, mixing: Mixing, rows: Mapping[str, np.ndarray]
) -> Offer:
    """The columns of a planned mixing that may go: ghosts, inputs, and neurons that nobody else reads."""
    network, plan = context.network, context.plan(decisions)
    ghosts, source_owner = plan.mixings[mixing.name].ghosts, plan.owner(network, mixing.source)
    own = source_owner == np.arange(plan.workers)[:, None]
    removable = ~ghosts.any(axis=0) & (removable_with(network, mixing) is not None)
    loads = plan.column_loads(network, mixing)
    costs = loads.astype(np.float64)
    for maker, of_row in rows.items():
        # Of a mixing that is not finished, columns are still to go: its rows will be shorter.
        costs += own * of_row * (1.0 if maker in decisions.finished else context.options.compute_budget)
    return Offer((ghosts | own & removable) & (loads > 0), loads, costs)


def _load(network: Network, plan: Plan, mixing: Mixing, relays: Relays | None) -> np.ndarray:
    """Multiply-adds of each worker for a planned mixing and its relays, (P,)."""
    load = plan.column_loads(network, mixing).sum(axis=1)
    if relays is None:
        return load
    rows = np.bincount(plan.owner(network, mixing.target), minlength=plan.workers)
    combining, workers = np.count_nonzero(relays.combined, axis=1), plan.workers
    return (
        load
        + np.bincount(relays.sender, combining, workers)
        + np.bincount(relays.receiver, rows[relays.receiver], workers)
    )


def _without(context: CutContext, decisions: Decisions, mixing: Mixing, gone: np.ndarray) -> Decisions:
    """Decisions without some columns of a mixing, bool (P, n), and without the neurons that go with them."""
    network, before = context.network, decisions
    mask = decisions.masks[mixing.name]
    decisions = decisions.with_mask(mixing.name, replace(mask, ghosts=mask.ghosts & ~gone))
    own = context.owner(decisions, mixing.source) == np.arange(len(gone))[:, None]
    removed, changed = (gone & own).any(axis=0), [mixing]
    if removed.any():
        decisions = replace(
            decisions, removed={**decisions.removed, network.space_of[mixing.source]: removed}
        )
        makers = removable_with(network, mixing) or []
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
    if relays is None:
        return decisions
    return decisions.with_relays(maker.name, replace(relays, weights=relays.weights * ~removed[:, None]))
