"""The steps of a program between its exchanges.

A *round* is what ranks compute without new messages from others, and the messages that they send then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.rounds import rounds_before
from repurpose_hpc.runtime.exchange.exchange import Exchange, everywhere, exchanges_in_use
from repurpose_hpc.runtime.exchange.merged import merge
from repurpose_hpc.runtime.lowering.lower import LoweredOperation, Step
from repurpose_hpc.runtime.lowering.mixings import MixingStep
from repurpose_hpc.runtime.schedule.ahead import Ahead, find_ahead

if TYPE_CHECKING:
    from mpi4py import MPI


class Round(NamedTuple):
    """One round.

    Attributes:
        steps: those that can be begun in it, in order.
        waiting: the mixings among them for which some rank waits for a message, in order.
        exchanges: those that can be begun in it, merged by types of numbers.
        ahead: what this rank does already of steps of the next round.
    """

    steps: list[Step]
    waiting: list[MixingStep]
    exchanges: list[Exchange]
    ahead: list[Ahead]


def in_rounds(
    lowered: Sequence[LoweredOperation], graph: Network, max_batch: int, comm: MPI.Comm | None
) -> list[Round]:
    """The steps in few rounds; collective, and the same rounds on all ranks.

    Every rank tells all others which exchanges it sends anything in, and for which mixings it reads ghosts;
    exchanges in which nobody does are left out.

    Args:
        lowered: of a program, in order.
        graph: that they are of.
        max_batch: most samples of a forward.
        comm: of the ranks; None: this process is alone.
    """
    mixings = [step for *_, step in lowered if isinstance(step, MixingStep)]
    ghosts = {step.mixing.source: step.ghosts.exchange for step in mixings}
    exchanges = [*ghosts.items(), *((step.mixing.source, step.sums.exchange) for step in mixings)]
    used = exchanges_in_use([exchange for _, exchange in exchanges], comm)
    reading = everywhere([step.reads_ghosts for step in mixings], comm)
    waiting = {
        step.mixing.name: step
        for step, reads in zip(mixings, reading, strict=True)
        if step.sums.exchange in used or reads and step.ghosts.exchange in used
    }

    begun = rounds_before(graph, waiting)
    ahead = find_ahead(lowered, begun, waiting)
    rounds = [Round([], [], [], ahead.get(number, [])) for number in range(max(begun.values()) + 1)]
    for _, target, step in lowered:
        waits = isinstance(step, MixingStep) and step.mixing.name in waiting
        rounds[begun[target] - waits].steps.append(step)
    for step in waiting.values():
        rounds[begun[step.mixing.source]].waiting.append(step)
    for tensor, exchange in exchanges:
        if exchange in used:
            rounds[begun[tensor]].exchanges.append(exchange)
    return [one._replace(exchanges=merge(one.exchanges, max_batch)) for one in rounds]
