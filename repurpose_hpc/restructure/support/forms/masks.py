"""Step 3.6: the masks of a form at a price."""

from __future__ import annotations

import numpy as np

from repurpose_hpc.plan.masks import MixingPlan, mixing_plan
from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.support.tradeoff import Tradeoff


def mask_of(problem: MixingProblem, tradeoff: Tradeoff, owner: np.ndarray, price: float) -> MixingPlan:
    """Masks of a form at ``price``: the plan of the mixing (step 3.6)."""
    ghosts, sums = problem.own(), np.zeros((problem.workers, owner.size), bool)
    for q, ranking in enumerate(tradeoff.ghosts):
        ghosts[q, ranking.kept(price)] = True
    for i, ranking in enumerate(tradeoff.sums):
        sums[ranking.kept(price), i] = True
    return mixing_plan(ghosts, sums, problem.source_owner, owner)
