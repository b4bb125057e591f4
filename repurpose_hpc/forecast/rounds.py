"""The price of a round of exchanges in values, as the model of time has it."""

from __future__ import annotations

from repurpose_hpc.forecast.demand import Demand, all_pairs
from repurpose_hpc.forecast.machine import MachineModel
from repurpose_hpc.forecast.timeline import Clocks

# Values for each pair of ranks in the longer of the two exchanges that tell a round from values.
MANY = 1000


def round_cost(machine: MachineModel, ranks: int) -> float:
    """Values per sample, shared evenly by the links, that take as long as a round; one sample at a time.

    In the round every rank sends a message to every other one.  Values are float32.

    Args:
        machine: with links for so many ranks.
        ranks: P, a worker on each.

    Raises:
        UserError: the machine has no links for so many ranks.
    """
    machine.check_links(ranks, "give the price as a number")
    if ranks == 1:
        return 0.0
    short, long = (_seconds(machine, ranks, values) for values in (1, MANY))
    of_values = (long - short) / (MANY - 1)
    return ranks * (ranks - 1) * (short - of_values) / of_values


def _seconds(machine: MachineModel, ranks: int, values: int) -> float:
    """Of one exchange of so many values for each pair of ranks."""
    exchange = all_pairs(values, ranks, machine.ranks_per_node)
    return Clocks(Demand(ranks, [], [], [exchange]), machine, batch=1).run()
