"""Stages of a plan: consecutive layers, each computed by workers who compute nothing else.

While a stage computes a batch the one before it computes the next, as ranks wait for nobody but those that
send them something.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.masks import EVERYBODY
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.plan.relays import mixings_of_original


class Stage(NamedTuple):
    """Consecutive mixings and who computes them.

    Attributes:
        mixings: their names, in order; relays go with them.
        workers: ascending, those that own what they make.
    """

    mixings: tuple[str, ...]
    workers: tuple[int, ...]


def stages_of(network: Network, plan: Plan) -> list[Stage]:
    """The stages of a plan, as many as there are; one where all workers take part from end to end.

    Args:
        network: that the plan is of.
        plan: any.
    """
    stages: list[Stage] = []
    for mixing in mixings_of_original(network, plan):
        owner = plan.owner(network, mixing.target)
        workers = set(np.unique(owner[owner != EVERYBODY]).tolist())
        if (owner == EVERYBODY).any():
            workers = set(range(plan.workers))
        first = next(
            (k for k, stage in enumerate(stages) if workers.intersection(stage.workers)), len(stages)
        )
        joined = [*stages[first:], Stage((mixing.name,), tuple(workers))]
        names = tuple(name for stage in joined for name in stage.mixings)
        stages[first:] = [Stage(names, tuple(sorted({q for stage in joined for q in stage.workers})))]
    return stages


def named_stages(network: Network, plan: Plan) -> dict[str, Any]:
    """The stages as reports have them, by layers of the original; empty of one."""
    stages = stages_of(network, plan)
    if len(stages) == 1:
        return {}
    return {"stages": [{"layers": list(mixings), "workers": list(workers)} for mixings, workers in stages]}
