"""The steps of a program between its exchanges.

A *round* is what ranks compute without anything new from others, and then send each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Operation
from repurpose_hpc.plan.rounds import rounds_before
from repurpose_hpc.runtime.exchange.exchange import Exchange, deactivate_empty, number
from repurpose_hpc.runtime.exchange.merged import merged
from repurpose_hpc.runtime.lowering.local import LocalStep
from repurpose_hpc.runtime.lowering.mixings import MixingStep
from repurpose_hpc.runtime.setting import Setting

Step = MixingStep | LocalStep


class Round(NamedTuple):
    """One round.

    Attributes:
        steps: those that can be begun in it, in order.
        exchanges: those that can be begun in it, merged by types of numbers.
    """

    steps: list[Step]
    exchanges: list[Exchange]


def in_rounds(steps: Sequence[tuple[Operation, Step]], graph: Network, setting: Setting) -> list[Round]:
    """Few rounds in which all is done; collective, and the same rounds on all ranks.

    Args:
        steps: of a program, each with its operation, in order.
        graph: that they are of.
        setting: of the program.
    """
    mixings = [step for _, step in steps if isinstance(step, MixingStep)]
    ghosts = {step.mixing.source: step.ghosts.exchange for step in mixings}
    sums = [(step.mixing.source, step.sums.exchange) for step in mixings]
    exchanges = [*ghosts.items(), *sums]
    deactivate_empty([exchange for _, exchange in exchanges], setting.comm)

    begun = rounds_before(graph, [step.mixing.name for step in mixings if step.waits])
    rounds = [Round([], []) for _ in range(max(begun.values()) + 1)]
    for op, step in steps:
        rounds[max(begun[source] for source in op.sources)].steps.append(step)
    for tensor, exchange in exchanges:
        if exchange.active:
            rounds[begun[tensor]].exchanges.append(exchange)
    rounds = [Round(each.steps, merged(each.exchanges, setting)) for each in rounds]
    number([exchange for each in rounds for exchange in each.exchanges])
    return rounds
