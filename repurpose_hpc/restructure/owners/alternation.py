"""Step 3.4: assignment and elimination in turn; rows go to the workers that have their inputs."""

from __future__ import annotations

import numpy as np

from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.restructure.context import CutContext
from repurpose_hpc.restructure.decisions import Decisions
from repurpose_hpc.restructure.owners.costs import assign_rows, benefits
from repurpose_hpc.restructure.support.forms import tradeoffs
from repurpose_hpc.restructure.support.forms.masks import mask_of
from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.support.tradeoff import Tradeoff, cheapest


def reassign(
    context: CutContext,
    decisions: Decisions,
    mixing: Mixing,
    problem: MixingProblem,
    forms: list[Tradeoff],
    price: float,
) -> tuple[Decisions, list[Tradeoff]]:
    """``alternate``, where the owners of the rows of ``mixing`` are still open; collective.

    Args:
        context, decisions: of the run.
        mixing: to be restructured.
        problem: it.
        forms: its trade-offs.
        price: λ.
    """
    if context.options.assignment != "munkres" or not _is_free(context, decisions, mixing):
        return decisions, forms
    space = context.network.space_of[mixing.target]
    capacity, later_gains = decisions.capacities[space], _later_gains(context, decisions, mixing)
    owner, repeats = decisions.owners[space], context.method.alternations - 1
    owner, forms = alternate(problem, capacity, owner, forms, price, later_gains, repeats)
    return decisions.with_owners({space: owner}), forms


def alternate(
    problem: MixingProblem,
    capacity: np.ndarray,
    owner: np.ndarray,
    forms: list[Tradeoff],
    price: float,
    later_gains: np.ndarray,
    repeats: int = 1,
) -> tuple[np.ndarray, list[Tradeoff]]:
    """Assign rows to the present supports and rank ghosts again, as long as the objective falls; collective.

    The objective, error plus ``price`` times the communication, minus what the next mixing gains from the
    owners, never rises.

    Args:
        problem: the mixing.
        capacity: of the workers in the target space, (P,).
        owner: of the rows, (m,).
        forms: their trade-offs.
        price: λ.
        later_gains: what the next mixing gains if row i is worker q's, (m, P).
        repeats: times that rows are assigned anew, at most.

    Returns:
        owner and trade-offs, the best ones met.
    """

    def objective(owner: np.ndarray, forms: list[Tradeoff]) -> float:
        gained = float(later_gains[np.arange(owner.size), owner].sum())
        return cheapest(forms, price).objective(price) - gained

    for _ in range(repeats):
        # Relays are made for the owners that there are: they say nothing of others.
        form = cheapest([form for form in forms if not form.relays], price)
        if form.sums:
            break
        supports = mask_of(problem, form, owner, price).ghosts | problem.own()
        new_owner = assign_rows(problem, supports, capacity, later_gains)
        new_forms = tradeoffs(problem, new_owner)
        if objective(new_owner, new_forms) >= objective(owner, forms):
            break
        owner, forms = new_owner, new_forms
    return owner, forms


def _is_free(context: CutContext, decisions: Decisions, mixing: Mixing) -> bool:
    """True if the owners of the rows may change, and divide the rows of no other mixing."""
    network, space = context.network, context.network.space(mixing.target)
    if space.parts or space.name in decisions.settled(network):
        return False
    is_inside = space.name in network.parts(mixing.source)
    return len(context.surroundings[space.name].makers) == 1 and not is_inside


def _later_gains(context: CutContext, decisions: Decisions, mixing: Mixing) -> np.ndarray:
    """Gain of the mixings that read the target for every owner of its neurons, (m, P); collective."""
    space = context.surroundings[context.network.space_of[mixing.target]]
    total = np.zeros((len(mixing.bias), context.options.workers))
    for user in space.users:
        problem, owner = context.original_problem(decisions, user)
        total += space.scatter(benefits(problem, owner), user.source)
    return total
