"""Steps 3.2 and 3.6: the forms in which a mixing communicates, as trade-offs, and the masks they lead to.

*Ghost form* (``ghosts``): inputs travel.  *Partial-sum form* (``sums``): sums travel.  *Mixed form*
(``mixed``): neurons that many rows of a worker need are sent, and rows that still lack much get sums as well.
*Relay form* (``relays``): combinations of a worker's neurons travel, of which the others are special cases:
ghosts of those before the window of a mixing, sums of those behind it.  *Silent form* (``silent``): nothing
travels, as no round is worth it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from repurpose_hpc.restructure.support.forms.ghosts import ghost_tradeoff
from repurpose_hpc.restructure.support.forms.relays import relay_tradeoff, unfolded_relay_tradeoff
from repurpose_hpc.restructure.support.forms.silent import silent_tradeoff
from repurpose_hpc.restructure.support.forms.sums import sum_tradeoff
from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.support.tradeoff import Tradeoff

# Of a problem and the owners of its rows, (m,): what it ranks, in one form.
Form = Callable[[MixingProblem, np.ndarray], Tradeoff]


def tradeoffs(problem: MixingProblem, owner: np.ndarray) -> list[Tradeoff]:
    """Rank ghosts, sums and relays, in every pure form, for rows of these owners, (m,); collective."""
    return [rank(problem, owner) for rank in pure_forms(problem, owner.size)]


def pure_forms(problem: MixingProblem, rows: int) -> list[Form]:
    """The functions that rank a problem of so many rows in its pure forms, as ``tradeoffs`` does."""
    if problem.silent:
        return [silent_tradeoff]
    # With nothing pruned, all n neurons are sent as ghosts, and all m as partial sums: the second form is for
    # narrow mixings.  Inputs that everybody has leave no sums to send.
    ghosts = problem.source_owner.size * problem.ghost_costs.sum()
    forms: list[Form] = [ghost_tradeoff]
    if rows * problem.sum_costs.sum() < ghosts and not problem.only_ghosts:
        forms.append(sum_tradeoff)
    if problem.relays:
        forms.append(unfolded_relay_tradeoff)
        # A relay before the window is as good as its k columns behind it, which may be no dearer.
        if problem.ghost_costs.sum() < problem.taps * problem.sum_costs.sum():
            forms.append(relay_tradeoff)
    return forms
