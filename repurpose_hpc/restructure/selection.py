"""Step 3 for one mixing: what travels, selected worker by worker, then with what everybody lacks in view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.masks import MIXED
from repurpose_hpc.restructure.adjustment import Fit, adjust
from repurpose_hpc.restructure.context import CutContext
from repurpose_hpc.restructure.decisions import Decisions
from repurpose_hpc.restructure.joint import joint_problem
from repurpose_hpc.restructure.method import PriceScope
from repurpose_hpc.restructure.owners.alternation import reassign
from repurpose_hpc.restructure.relayed import fit_relayed, relays_of
from repurpose_hpc.restructure.silence import silence
from repurpose_hpc.restructure.support.balance import limit_received
from repurpose_hpc.restructure.support.forms import tradeoffs
from repurpose_hpc.restructure.support.forms.masks import mask_of
from repurpose_hpc.restructure.support.forms.mixed import with_mixed
from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.support.reserve import dense_cost
from repurpose_hpc.restructure.support.tradeoff import (
    Forms,
    Tradeoff,
    cheapest,
    lowest_price,
    price_for,
    prices_of,
)

# When ghosts are selected once more, no worker may get more than so many times what any worker had.
GHOSTS_AGAIN = 2


class _Sharing(NamedTuple):
    """What a mixing shares λ with (step 3.3).

    Attributes:
        later: trade-offs of the mixings that follow it.
        budget: of all of them and of it.
    """

    later: Sequence[Forms]
    budget: float

    def price(self, forms: Forms) -> float:
        """λ for the forms of the mixing, from what is left of the budget."""
        return price_for([forms, *self.later], self.budget)

    def choose(self, forms: Forms) -> tuple[Tradeoff, float]:
        """The form of the mixing, and λ.

        Where a form gives way to a cheaper one at λ, budget is left over: it is spent in the forms that are.
        """
        level = self.price(forms)
        form, *later = (cheapest(each, level) for each in (forms, *self.later))
        return form, price_for([[each] for each in (form, *later)], self.budget)

    def limited(self, forms: Forms, limit: Callable[[Tradeoff, float], Tradeoff]) -> Tradeoff:
        """The best form within a limit, at the lowest λ at which all is within the budget.

        Args:
            forms: of the mixing, without the limit.
            limit: from a form and λ to what is left of it, of which nothing is worth λ or less.
        """

        def best(level: float) -> Tradeoff:
            return cheapest([limit(form, level) for form in forms], level)

        def cost(level: float) -> float:
            later = (cheapest(each, level) for each in self.later)
            return sum(form.cost(level) for form in (best(level), *later))

        return best(lowest_price(prices_of([forms, *self.later]), cost, self.budget))


def eliminate(
    context: CutContext, decisions: Decisions, number: int, problem: MixingProblem, estimates: Sequence[Forms]
) -> tuple[Decisions, Fit | None]:
    """Choose owners of the rows, form and masks of mixing ``number``, and pay for them; collective.

    Args:
        context: of the run.
        decisions: those before it are finished.
        number: of the mixing.
        problem: it.
        estimates: trade-offs of this mixing and of all later ones if nothing had changed.

    Returns:
        the decisions, and the weights that step 3.7 found for them; None: it did not look for any.
    """
    mixing = context.mixings[number]
    expected = price_for(*sharing_price(context, decisions, number, estimates))
    problem = context.at_price(problem, expected)
    problem, forms, others = _ranked(context, decisions, number, problem, estimates)  # 3.2
    decisions, forms = reassign(context, decisions, mixing, problem, forms, others.price(forms))  # 3.3, 3.4
    forms = _limited(context, decisions, mixing, problem, forms, others)  # 3.5, 3.6
    form, level = others.choose(forms)
    selected = with_form(decisions, mixing, problem, form, context.owner(decisions, mixing.target), level)
    if form.ghosts:
        most = max(1, *(ranking.kept(level).size for ranking in form.ghosts))
        problem = problem.with_most_ghosts(GHOSTS_AGAIN * most)
    return reselect(context, decisions, selected, mixing, problem, form)  # 3.7


def _ranked(
    context: CutContext, decisions: Decisions, number: int, problem: MixingProblem, estimates: Sequence[Forms]
) -> tuple[MixingProblem, Forms, _Sharing]:
    """Trade-offs of a mixing, and the later ones, of which some may be silent; collective."""
    owner = context.owner(decisions, context.mixings[number].target)
    # Where nothing has changed yet, the estimate is exact.
    forms = estimates[0] if number == 0 else tradeoffs(problem, owner)
    sharing, budget = sharing_price(context, decisions, number, [forms, *estimates[1:]])
    forms, *later = silence(context, decisions, number, sharing, budget)
    if forms[0].is_silent:
        problem = replace(problem, silent=True)
        forms = tradeoffs(problem, owner)
    return problem, forms, _Sharing(later, budget)


def reselect(
    context: CutContext,
    decisions: Decisions,
    selected: Decisions,
    mixing: Mixing,
    problem: MixingProblem,
    form: Tradeoff,
) -> tuple[Decisions, Fit | None]:
    """Select once more what is sent, for no more values, and keep that if it is better; collective.

    Args:
        context: of the run.
        decisions: the rows of the mixing have owners, and nothing is selected.
        selected: the same, with what step 3.6 selected.
        mixing: it.
        problem: of it.
        form: that was selected.

    Returns:
        ``selected``, or what is better, and its weights; None: they were not looked for.
    """
    budget = decisions.budget - selected.budget
    if not (context.method.reselect and budget > 0 and form.rank):
        return selected, None
    L, owner = context.statistics.roots[mixing.name], context.owner(decisions, mixing.target)
    fit = _fitted(context, selected, mixing, problem)
    joint = joint_problem(problem, fit.mixing.W, L, owner)
    # For as many values as were selected before.
    alone = _Sharing([], budget)
    forms = _limited(context, decisions, mixing, joint, [form.rank(joint, owner)], alone)
    chosen, level = alone.choose(forms)
    again = with_form(decisions, mixing, joint, chosen, owner, level)
    other, current = _fitted(context, again, mixing, problem), context.current(decisions)
    networks = [current.network.with_mixings({mixing.name: each.mixing}) for each in (fit, other)]
    before, after = context.propagation.divergences(networks, current, context.divergence)
    return (again, other) if after < before else (selected, fit)


def _limited(
    context: CutContext,
    decisions: Decisions,
    mixing: Mixing,
    problem: MixingProblem,
    forms: Forms,
    others: _Sharing,
) -> Forms:
    """The pure forms of a mixing, or one with limited ghosts and relays, and the mixed form; collective."""
    options, owner = context.options, context.owner(decisions, mixing.target)
    if options.imbalance is not None:  # 3.5
        allowance = (1 + options.imbalance) * context.share(decisions, mixing)
        forms = [others.limited(forms, partial(limit_received, problem, owner, allowance=allowance))]
    if MIXED in context.method.forms:  # 3.6
        forms = with_mixed(problem, owner, forms, others.price(forms))
    return forms


def _fitted(context: CutContext, decisions: Decisions, mixing: Mixing, problem: MixingProblem) -> Fit:
    """Weights of a mixing as step 4 will adjust them, rounding aside; collective."""
    mask = context.plan(decisions).allowed(context.network, mixing) & mixing.links
    root, passes = context.statistics.roots[mixing.name], context.method.compensation
    relays = decisions.relays.get(mixing.name)
    if relays is None:
        return Fit(mask, adjust(mixing, problem.moments, mask, root, context.team, passes=passes))
    owner = context.owner(decisions, mixing.target)
    fitted = fit_relayed(mixing, problem.moments, relays, mask, owner, root, context.team, passes)
    return Fit(mask, *fitted, relays.combined)


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
