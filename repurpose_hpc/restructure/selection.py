"""Step 3 for one mixing: what travels, selected worker by worker, then with what everybody lacks in view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.plan import MIXED
from repurpose_hpc.restructure.adjustment import adjust
from repurpose_hpc.restructure.context import CutContext
from repurpose_hpc.restructure.decisions import Decisions
from repurpose_hpc.restructure.joint import joint_error, joint_problem
from repurpose_hpc.restructure.method import PriceScope
from repurpose_hpc.restructure.owners.alternation import reassign
from repurpose_hpc.restructure.relayed import fit_relayed, relays_of
from repurpose_hpc.restructure.silence import silence
from repurpose_hpc.restructure.support.balance import limit_ghosts
from repurpose_hpc.restructure.support.forms import tradeoffs
from repurpose_hpc.restructure.support.forms.masks import mask_of
from repurpose_hpc.restructure.support.forms.mixed import with_mixed
from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.support.reserve import dense_cost
from repurpose_hpc.restructure.support.tradeoff import Forms, Tradeoff, cheapest, price_for


def eliminate(
    context: CutContext, decisions: Decisions, number: int, problem: MixingProblem, estimates: Sequence[Forms]
) -> Decisions:
    """Choose owners of the rows, form and masks of mixing ``number``, and pay for them; collective.

    Args:
        context: of the run.
        decisions: those before it are finished.
        number: of the mixing.
        problem: it.
        estimates: trade-offs of this mixing and of all later ones if nothing had changed.
    """
    mixing = context.mixings[number]
    owner = context.owner(decisions, mixing.target)
    expected = price_for(*sharing_price(context, decisions, number, estimates))
    problem = context.at_price(problem, expected)
    # Where nothing has changed yet, the estimate is exact.
    forms = estimates[0] if number == 0 else tradeoffs(problem, owner)  # 3.2
    sharing, budget = sharing_price(context, decisions, number, [forms, *estimates[1:]])  # 3.3
    forms, *later = silence(context, decisions, number, sharing, budget)
    if forms[0].is_silent:
        problem = replace(problem, silent=True)
        forms = tradeoffs(problem, owner)

    def price(forms: Forms) -> float:
        """λ for the forms of this mixing, from what is left of the budget."""
        return price_for([forms, *later], budget)

    decisions, forms = reassign(context, decisions, mixing, problem, forms, price(forms))  # 3.3, 3.4
    forms = _limited(context, decisions, mixing, problem, forms, price)  # 3.5, 3.6
    level = price(forms)
    form = cheapest(forms, level)
    # Where a form gives way to a cheaper one at λ, budget is left over: it is spent in the forms that are.
    level = price_for([[form], *([cheapest(others, level)] for others in later)], budget)
    owner = context.owner(decisions, mixing.target)
    selected = with_form(decisions, mixing, problem, form, owner, level)
    return reselect(context, decisions, selected, mixing, problem)  # 3.7


def reselect(
    context: CutContext, decisions: Decisions, selected: Decisions, mixing: Mixing, problem: MixingProblem
) -> Decisions:
    """Select once more what is sent, for no more values, and keep that if it is better; collective.

    Args:
        context: of the run.
        decisions: the rows of the mixing have owners, and nothing is selected.
        selected: the same, with what step 3.6 selected.
        mixing: it.
        problem: of it.

    Returns:
        ``selected``, or what is better.
    """
    budget = decisions.budget - selected.budget
    if not (context.method.reselect and budget > 0):
        return selected
    L, owner = context.statistics.roots[mixing.name], context.owner(decisions, mixing.target)
    weights = _fitted(context, selected, mixing, problem)
    joint = joint_problem(problem, weights, L, owner)

    def price(forms: Forms) -> float:
        """λ for as many values as were selected before."""
        return price_for([forms], budget)

    forms = _limited(context, decisions, mixing, joint, tradeoffs(joint, owner), price)
    level = price(forms)
    again = with_form(decisions, mixing, joint, cheapest(forms, level), owner, level)
    moments = problem.moments
    best = moments.solve(moments.R)
    both = [best - weights, best - _fitted(context, again, mixing, problem)]
    # One rank judges for all: on processors that differ the last digits would, and then decisions.
    before, after = context.team.map(lambda apart: joint_error(apart, moments.H, L), both)
    return again if after < before else selected


def _limited(
    context: CutContext,
    decisions: Decisions,
    mixing: Mixing,
    problem: MixingProblem,
    forms: Forms,
    price: Callable[[Forms], float],
) -> Forms:
    """The pure forms of a mixing with limited ghosts, and the mixed form; collective."""
    options, owner = context.options, context.owner(decisions, mixing.target)
    if options.imbalance is not None:  # 3.5
        level, allowance = price(forms), (1 + options.imbalance) * context.share(decisions, mixing)
        forms = [limit_ghosts(problem, owner, form, level, allowance) for form in forms]
    if MIXED in context.method.forms:  # 3.6
        forms = with_mixed(problem, owner, forms, price(forms))
    return forms


def _fitted(context: CutContext, decisions: Decisions, mixing: Mixing, problem: MixingProblem) -> np.ndarray:
    """Weights of a mixing as step 4 will adjust them, rounding aside, (m, n k); collective."""
    mask = context.plan(decisions).allowed(context.network, mixing) & mixing.links
    root, passes = context.statistics.roots[mixing.name], context.method.compensation
    relays = decisions.relays.get(mixing.name)
    if relays is None:
        return adjust(mixing, problem.moments, mask, root, context.team, passes=passes).weights
    owner = context.owner(decisions, mixing.target)
    return fit_relayed(mixing, problem.moments, relays, mask, owner, root, context.team, passes)[0].weights


def sharing_price(
    context: CutContext, decisions: Decisions, number: int, estimates: Sequence[Forms]
) -> tuple[Sequence[Forms], float]:
    """Of the trade-offs from mixing ``number`` on those that share one λ, and their budget (step 3.3)."""
    if context.method.price is PriceScope.NETWORK:
        return estimates, decisions.budget
    source = context.mixings[number].source
    return estimates[:1], context.options.comm_budget * dense_cost(context, decisions.owners, source)


def with_form(
    decisions: Decisions,
    mixing: Mixing,
    problem: MixingProblem,
    form: Tradeoff,
    owner: np.ndarray,
    level: float,
) -> Decisions:
    """Decisions that have paid for a form at a price: relays and mask, for rows of these owners, (m,)."""
    decisions = replace(decisions, budget=decisions.budget - form.cost(level))
    if any(ranking.kept(level).size for ranking in form.relays):
        decisions = decisions.with_relays(mixing.name, relays_of(problem, form, owner.size, level))
    return decisions.with_mask(mixing.name, mask_of(problem, form, owner, level))
