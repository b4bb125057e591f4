"""Steps 3.2 and 3.6: the forms in which a mixing communicates, as trade-offs, and the masks they lead to.

*Ghost form* (``ghosts``): inputs travel.  *Partial-sum form* (``sums``): sums travel.  *Mixed form*
(``mixed``): neurons that many rows of a worker need are sent, and rows that still lack much get sums as well.
*Relay form* (``relays``): combinations of a worker's neurons travel, of which the others are special cases:
ghosts of those before the window of a mixing, sums of those behind it.  *Silent form* (``silent``): nothing
travels, as no round is worth it.
"""

from __future__ import annotations

import numpy as np

from repurpose_hpc.restructure.support.forms.ghosts import ghost_tradeoff
from repurpose_hpc.restructure.support.forms.relays import relay_tradeoff, unfolded_relay_tradeoff
from repurpose_hpc.restructure.support.forms.silent import silent_tradeoff
from repurpose_hpc.restructure.support.forms.sums import sum_tradeoff
from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.support.tradeoff import Tradeoff


def tradeoffs(problem: MixingProblem, owner: np.ndarray) -> list[Tradeoff]:
    """Rank ghosts, sums and relays, in every pure form, for rows of these owners, (m,); collective."""
    if problem.silent:
        return [silent_tradeoff(problem, owner)]
    # With nothing pruned, all n neurons are sent as ghosts, and all m as partial sums: the second form is for
    # narrow mixings.  Inputs that everybody has leave no sums to send.
    ghosts = problem.source_owner.size * problem.ghost_costs.sum()
    forms = [ghost_tradeoff(problem, owner)]
    if owner.size * problem.sum_costs.sum() < ghosts and not problem.only_ghosts:
        forms.append(sum_tradeoff(problem, owner))
    if problem.relays:
        forms.append(unfolded_relay_tradeoff(problem, owner))
        # A relay before the window is as good as its k columns behind it, which may be no dearer.
        if problem.ghost_costs.sum() < problem.taps * problem.sum_costs.sum():
            forms.append(relay_tradeoff(problem, owner))
    return forms
