"""The network that ``--by-position`` makes before anything is cut: its first layers shared out by position.

Halos are exact and are paid for first; what is left of the budget buys ghosts, sums and relays of the layers
behind them.  How many layers lose least is tried on held-out samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from repurpose_hpc.fields import FieldError
from repurpose_hpc.io.progress import PENDING
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.tiles import (
    Division,
    divisions,
    gathered_values,
    halo_values,
    most_multiply_adds,
    tileable,
    tiled,
    tiles_of,
)
from repurpose_hpc.plan.plan import REPLICATED, tile_weights
from repurpose_hpc.restructure.constraints import WEIGHT_BYTES, constraints_of
from repurpose_hpc.restructure.context import Log
from repurpose_hpc.restructure.held_out import FEWEST, split
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.support.reserve import BudgetTooSmall

# What the busiest worker may compute in layers by position, relative to its share, where it computes halos
# itself.  A value of one of the first layers takes some hundred multiply-adds, which is less time than four
# bytes take on a link of a gigabit.
MOST_REPEATED = 1.4


class NoRoom(FieldError):
    """Layers by position whose weights some worker cannot hold."""


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


# The error of the network that a sharing leads to, on the second samples, made with the first.
Trial = Callable[[Network, Samples, Samples, Log], float]


def sharing_for(network: Network, samples: Samples, options: Options, trial: Trial, log: Log) -> Sharing:
    """The layers that the options share out by position, and where; collective, the same on all ranks.

    Args:
        network: trained.
        samples: calibration data, of which a part is held out for trials.
        options: with ``by_position``.
        trial: the error of a network that is restructured, on samples that are held out; raises
            BudgetTooSmall.
        log: is given one line for each trial.

    Raises:
        FieldError: more layers than can be; too few samples for trials.
        BudgetTooSmall: no number of layers fits into the budget.
    """
    most, layers = tileable(network), options.by_position
    if isinstance(layers, str):
        return _least_error(network, samples, options, trial, log)
    if layers > most:
        raise FieldError(
            "by_position",
            f"expected at most {most} layers, up to the last that makes maps, got {layers}; {most} are all, "
            "0 none",
        )
    sharing = cheapest(network, options, layers)
    check_room(sharing.of(network, options), options)
    return sharing


def _least_error(network: Network, samples: Samples, options: Options, trial: Trial, log: Log) -> Sharing:
    if samples.samples < FEWEST:
        raise FieldError(
            "by_position",
            f"expected {FEWEST} calibration samples or more, of which some are held out to try numbers of "
            f"layers on, found {samples.samples}; give a number of layers, or more samples",
        )
    parts, errors = split(samples, options.seed), {}
    for layers in candidates(network, options):
        sharing = cheapest(network, options, layers)
        log(f"by position, {layers} layers{PENDING}")
        try:
            candidate = sharing.of(network, options)
            check_room(candidate, options)
            errors[sharing] = trial(candidate, parts.rest, parts.held_out, log)
        except (BudgetTooSmall, NoRoom) as problem:
            log(f"by position, {layers} layers: {problem}")
            continue
        log(f"by position, {layers} layers: output error {errors[sharing]:.4g} on held-out samples")
    if not errors:
        return Sharing(0, None)
    best = min(errors, key=lambda sharing: errors[sharing])
    log(f"by position: {best.layers} layers")
    return best


def check_room(network: Network, options: Options) -> None:
    """Refuse layers by position of which every worker should have all weights, and some has no room for them.

    Raises:
        NoRoom: with both numbers.
    """
    held, room = tile_weights(network, options.workers), constraints_of(options).room
    missing = np.flatnonzero(held > room)
    if missing.size:
        worker, mib = missing[0], WEIGHT_BYTES / 2**20
        raise NoRoom(
            "by_position",
            f"expected weights that fit into memory_limits, found {held[worker] * mib:.3g} MiB of the layers "
            f"by position for worker {worker}, which has {room[worker] * mib:.3g}; share out fewer layers by "
            "position, others by channel",
        )


def candidates(network: Network, options: Options) -> list[int]:
    """Numbers of leading layers that are tried: none, all, and those for which less is sent than for others.

    Behind a pool maps are smaller, and behind a residual block only one is to be brought together.
    """
    most = tileable(network)
    division = _division(network, options, most)
    if division is None:
        return [0]
    sent = []
    for layers in range(most + 1):
        tiles = tiles_of(network, layers, division)
        # A worker has some of the map, which need not travel.
        gathered = gathered_values(network, tiles) * (1 - 1 / options.workers)
        sent.append(halo_values(network, tiles) + gathered)
    least = [n for n in range(1, most) if sent[n] < min(sent[n - 1], sent[n + 1])]
    return [0, *least, most]


def cheapest(network: Network, options: Options, layers: int) -> Sharing:
    """The layers with the cuts that send least, halos of the first computed where that costs little."""
    division = _division(network, options, layers)
    if division is None:
        return Sharing(0, None)
    repeated = _repeated(network, layers, division) if options.input_placement == REPLICATED else 0
    return Sharing(layers, division, repeated)


def _division(network: Network, options: Options, layers: int) -> Division | None:
    """The cuts that send least; None: nothing is cut."""
    shapes = [shape for shape in network.positions_of.values() if shape]
    if not layers or not shapes:
        return None
    sent = {}
    for division in divisions(shapes, constraints_of(options).part_weights):
        tiles = tiles_of(network, layers, division)
        if tiles.own:
            sent[division] = halo_values(network, tiles)
    return min(sent, key=lambda division: sent[division], default=None)


def _repeated(network: Network, layers: int, division: Division) -> int:
    """The leading layers whose halos are computed by all who need them, where that is little to compute."""
    most = MOST_REPEATED * most_multiply_adds(network, tiles_of(network, layers, division))
    for repeated in range(1, layers):
        if most_multiply_adds(network, tiles_of(network, layers, division, repeated)) > most:
            return repeated - 1
    return max(layers - 1, 0)
