"""Where maps that are shared out by position are cut, and which halos workers compute themselves.

Two aims: the least time, or the fewest values.  A plan whose budget pays for all that the fastest cuts send
takes these, as nothing can be won with fewer values.  Others take the cuts that send least, and compute halos
of the first layers themselves, so that more of the budget is left for layers by channel.
"""

from __future__ import annotations

from typing import NamedTuple

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.tiles import (
    Division,
    Tiles,
    divisions,
    halo_values,
    most_multiply_adds,
    tiled,
    tiles_of,
)
from repurpose_hpc.plan.plan import REPLICATED, Plan, dense_plan
from repurpose_hpc.restructure.constraints import constraints_of
from repurpose_hpc.restructure.options import VALUES, Options

# What the busiest worker may compute in layers by position, relative to its share, where it computes halos
# itself so that fewer values are sent.
MOST_REPEATED = 1.4
# Multiply-adds that take as long as a value that is sent: four bytes on a cable of a gigabit, 32 ns, and a
# core that makes 30 in a nanosecond.
VALUE = 1000


class Sharing(NamedTuple):
    """Layers that are shared out by position.

    Attributes:
        layers: how many leading mixings, fixed ones not counted.
        division: where maps are cut; None: none is.
        repeated: leading ones of them whose halos workers compute instead of receiving them.
    """

    layers: int
    division: Division | None
    repeated: int = 0

    def of(self, network: Network, options: Options) -> Network:
        """The network with these layers shared out so."""
        if self.division is None:
            return network
        counts = options.input_placement != REPLICATED
        return tiled(network, self.layers, self.division, self.repeated, counts)

    def record(self) -> dict[str, object]:
        """It as JSON values, from which ``plan.files.origin`` makes the network again."""
        assert self.division is not None
        return {"layers": self.layers, "division": self.division.record(), "repeated": self.repeated}


def sharing_of(network: Network, options: Options, layers: int) -> Sharing:
    """So many layers by position, cut for the least time if the budget allows it, else to send least."""
    if (options.promises and options.minimise == VALUES) or options.link_costs is not None:
        return cheapest(network, options, layers)
    fast = fastest(network, options, layers)
    if fast.division is None or options.promises or _is_paid_for(network, options, fast):
        return fast
    return cheapest(network, options, layers)


def cheapest(network: Network, options: Options, layers: int) -> Sharing:
    """The layers with the cuts that send least, halos of the first computed where that costs little."""
    division = division_for(network, options, layers)
    if division is None:
        return Sharing(0, None)
    repeated = _repeated(network, layers, division) if options.input_placement == REPLICATED else 0
    return Sharing(layers, division, repeated)


def fastest(network: Network, options: Options, layers: int) -> Sharing:
    """The layers with the cuts of the least time by ``VALUE``, halos computed where that is faster."""
    found = _divisions(network, options, layers)
    times = {division: _time(network, division, tiles) for division, tiles in found.items()}
    division = min(times, key=lambda division: times[division], default=None)
    if division is None:
        return Sharing(0, None)
    repeated, least = 0, times[division]
    for more in range(1, layers if options.input_placement == REPLICATED else 0):
        time = _time(network, division, tiles_of(network, layers, division, more))
        if time > least:
            break
        repeated, least = more, time
    return Sharing(layers, division, repeated)


def division_for(network: Network, options: Options, layers: int) -> Division | None:
    """The cuts that send least; None: nothing is cut."""
    found = _divisions(network, options, layers)
    sent = {division: halo_values(network, tiles) for division, tiles in found.items()}
    return min(sent, key=lambda division: sent[division], default=None)


def _divisions(network: Network, options: Options, layers: int) -> dict[Division, Tiles]:
    """The cuts of which one is chosen, with the tiles that they make; none where nothing is cut."""
    shapes = [shape for shape in network.positions_of.values() if shape]
    if not layers or not shapes:
        return {}
    found = divisions(shapes, constraints_of(options).part_weights)
    tiles_by_division = {division: tiles_of(network, layers, division) for division in found}
    return {division: tiles for division, tiles in tiles_by_division.items() if tiles.own}


def _time(network: Network, division: Division, tiles: Tiles) -> float:
    """Multiply-adds of the busiest worker, and what an average worker is sent in the same measure."""
    sent = halo_values(network, tiles) / division.workers
    return most_multiply_adds(network, tiles) + VALUE * sent


def halos_sent(network: Network, options: Options, sharing: Sharing) -> int:
    """Values per sample that are sent whatever is pruned: halos, and maps that are brought together."""
    cut, plan = _everything(network, options, sharing)
    return sum(plan.values_sent(cut, mixing) for mixing in cut.mixings if mixing.fixed)


def _is_paid_for(network: Network, options: Options, sharing: Sharing) -> bool:
    """Whether the budget pays for all that is sent when nothing is pruned."""
    cut, plan = _everything(network, options, sharing)
    dense = sum(plan.dense_values(cut, mixing) for mixing in cut.mixings)
    sent = sum(plan.values_sent(cut, mixing) for mixing in cut.mixings)
    return sent <= options.comm_budget * dense


def _everything(network: Network, options: Options, sharing: Sharing) -> tuple[Network, Plan]:
    """The network, and the plan that prunes nothing."""
    cut, part_weights = sharing.of(network, options), constraints_of(options).part_weights
    return cut, dense_plan(cut, options.workers, options.input_placement, part_weights)


def _repeated(network: Network, layers: int, division: Division) -> int:
    """The leading layers whose halos are computed by all who need them, where that is little to compute."""
    most = MOST_REPEATED * most_multiply_adds(network, tiles_of(network, layers, division))
    for repeated in range(1, layers):
        if most_multiply_adds(network, tiles_of(network, layers, division, repeated)) > most:
            return repeated - 1
    return max(layers - 1, 0)
