"""Step 2 as a whole: the owners that leave the least error at the budget (steps 3.1 to 3.3 tell)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from repurpose_hpc.fields import count
from repurpose_hpc.io.progress import PENDING
from repurpose_hpc.restructure.context import CutContext
from repurpose_hpc.restructure.decisions import Decisions
from repurpose_hpc.restructure.method import PriceScope
from repurpose_hpc.restructure.owners.initial import assign_spaces
from repurpose_hpc.restructure.owners.packed import branches_of, pack_branches
from repurpose_hpc.restructure.owners.sweep import draft_owners, whole_spaces
from repurpose_hpc.restructure.silence import price_of_rounds, silence
from repurpose_hpc.restructure.support.forms import tradeoffs
from repurpose_hpc.restructure.support.reserve import BudgetTooSmall, reserve
from repurpose_hpc.restructure.support.tradeoff import Forms, cheapest, price_for

# Mean square error, relative to that of no network at all, below which whole branches need no rival.
NEGLIGIBLE = 1e-12


def choose_owners(context: CutContext, decisions: Decisions) -> tuple[Decisions, list[Forms]]:
    """Owners of all spaces, what is left when fixed mixings are paid for, and the trade-offs; collective.

    Where the network has branches, owners who have whole ones compete with those found space by space.

    Raises:
        BudgetTooSmall: fixed mixings cost more than there is.
    """
    branches = branches_of(context)  # 2.3
    if branches is None:
        return _space_by_space(context, decisions)
    context.log(f"the network has {count(len(branches.total), 'branch')}{PENDING}")
    try:
        packed = _ranked(context, pack_branches(context, decisions, branches))
    except BudgetTooSmall:
        return _space_by_space(context, decisions)
    error = _error_left(context, *packed)
    if error <= NEGLIGIBLE:
        return packed
    try:
        rival = _space_by_space(context, decisions)
    except BudgetTooSmall:
        return packed
    return packed if error < _error_left(context, *rival) else rival


def _space_by_space(context: CutContext, decisions: Decisions) -> tuple[Decisions, list[Forms]]:
    """The same, whatever the branches are; collective."""
    decisions = assign_spaces(context, decisions)  # 2.1
    return _ranked(context, draft_owners(context, decisions, whole_spaces(context, decisions)))  # 2.2


def _ranked(context: CutContext, decisions: Decisions) -> tuple[Decisions, list[Forms]]:
    """Decisions that have paid for fixed mixings, and the estimates that follow from them; collective."""
    decisions = reserve(context, decisions)  # 3.1
    return decisions, rank_all(context, decisions)  # 3.2


def _error_left(context: CutContext, decisions: Decisions, estimates: Sequence[Forms]) -> float:
    """Error that is left at the price that meets the budget, plus that of rounds, relative to no network."""
    estimates = silence(context, decisions, 0, estimates, decisions.budget)
    level = price_for(estimates, decisions.budget)
    forms = [cheapest(forms, level) for forms in estimates]
    error = sum(form.objective(level) - level * form.cost(level) for form in forms)
    error += level * price_of_rounds(context, decisions, 0, estimates)
    statistics = context.statistics
    whole = sum(
        np.diag(statistics.metrics[m.name]) @ statistics.moments[m.name].variance for m in context.mixings
    )
    return float(error / whole) if whole > 0 else 0.0


def rank_all(context: CutContext, decisions: Decisions) -> list[Forms]:
    """Trade-offs of every mixing if nothing before it had changed (step 3.2); collective."""
    estimates: list[Forms] = []
    for mixing in context.mixings:
        context.log(f"estimating what communication buys: {mixing.name}{PENDING}")
        problem, owner = context.original_problem(decisions, mixing)
        if context.method.price is PriceScope.NETWORK:
            # With more mixings to pay for, λ is no lower.
            problem = context.at_price(problem, price_for(estimates, decisions.budget))
        estimates.append(tradeoffs(problem, owner))
    return estimates
