"""Step 3.3 with ``--round-cost``: the mixings that send nothing, as their round is not worth its price."""

from __future__ import annotations

from collections.abc import Sequence

from repurpose_hpc.plan.rounds import rounds_before
from repurpose_hpc.restructure.context import CutContext
from repurpose_hpc.restructure.decisions import Decisions
from repurpose_hpc.restructure.support.rounds import Member, worthwhile_rounds
from repurpose_hpc.restructure.support.tradeoff import Forms, silent


def silence(
    context: CutContext, decisions: Decisions, number: int, estimates: Sequence[Forms], budget: float
) -> list[Forms]:
    """Trade-offs in which mixings send nothing where a round is not worth its price.

    Args:
        context, decisions: of the run.
        number: of the first mixing in ``estimates``; those before it are decided.
        estimates: trade-offs of some mixings in order.
        budget: that they share.
    """
    cost = context.options.round_cost
    if not cost:
        return [*estimates]
    begun, rounds = _begun(context, decisions), _rounds(context, number, len(estimates))
    members: dict[int, list[Member]] = {own: [] for own in rounds}
    for own, mixing, forms in zip(rounds, context.mixings[number:], estimates, strict=False):
        members[own].append(Member(forms, context.statistics.surviving[mixing.name]))
    costs = {own: 0.0 if own in begun else cost for own in members}
    kept = worthwhile_rounds(members, costs, budget)
    return [
        forms if own in kept else [silent(forms[0].silent_error)]
        for forms, own in zip(estimates, rounds, strict=True)
    ]


def price_of_rounds(
    context: CutContext, decisions: Decisions, number: int, estimates: Sequence[Forms]
) -> float:
    """Cost of the rounds that these mixings have for themselves; for the arguments see ``silence``."""
    rounds = _rounds(context, number, len(estimates))
    speaking = {own for forms, own in zip(estimates, rounds, strict=True) if not forms[0].is_silent}
    return context.options.round_cost * len(speaking - _begun(context, decisions))


def _rounds(context: CutContext, number: int, count: int) -> list[int]:
    """The rounds of ``count`` mixings from ``number`` on, if all mixings send something."""
    rounds = _rounds_of_tensors(context)
    return [rounds[mixing.source] for mixing in context.mixings[number : number + count]]


def _rounds_of_tensors(context: CutContext) -> dict[str, int]:
    network = context.network
    return rounds_before(network, {mixing.name for mixing in network.mixings})


def _begun(context: CutContext, decisions: Decisions) -> set[int]:
    """The rounds in which mixings that are decided send something."""
    plan, rounds = context.plan(decisions), _rounds_of_tensors(context)
    return {
        rounds[mixing.source]
        for mixing in context.network.mixings
        if mixing.name in decisions.relays
        or (mixing.name in decisions.masks and plan.traffic(context.network, mixing).any())
    }
