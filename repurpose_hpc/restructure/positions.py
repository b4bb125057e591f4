"""The network that ``--by-position`` makes before anything is cut: its first layers shared out by position.

Halos are exact and are paid for first; what is left of the budget buys ghosts, sums and relays of the layers
behind them.  How many layers lose least is tried on held-out samples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import FieldError, count
from repurpose_hpc.io.progress import PENDING
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.tiles import gathered_values, halo_values, tileable, tiles_of
from repurpose_hpc.plan.plan import tile_weights
from repurpose_hpc.restructure.constraints import WEIGHT_BYTES, constraints_of
from repurpose_hpc.restructure.context import Log
from repurpose_hpc.restructure.held_out import FEWEST, split
from repurpose_hpc.restructure.options import VALUES, Options
from repurpose_hpc.restructure.promise import BrokenPromise, Outcome
from repurpose_hpc.restructure.sharing import Sharing, division_for, halos_sent, sharing_of
from repurpose_hpc.restructure.support.reserve import BudgetTooSmall


class NoRoom(FieldError):
    """Layers by position whose weights some worker cannot hold."""


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
            f"expected at most {count(most, 'layer')}, up to the last that makes maps, got {layers}; "
            f"{most} are all, 0 none",
        )
    sharing = sharing_of(network, options, layers)
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
        sharing = sharing_of(network, options, layers)
        log(f"by position, {count(layers, 'layer')}{PENDING}")
        try:
            candidate = sharing.of(network, options)
            check_room(candidate, options)
            errors[sharing] = trial(candidate, parts.rest, parts.held_out, log)
        except (BudgetTooSmall, NoRoom) as problem:
            log(f"by position, {count(layers, 'layer')}: {problem}")
            continue
        log(f"by position, {count(layers, 'layer')}: output error {errors[sharing]:.4g} on held-out samples")
    if not errors:
        return Sharing(0, None)
    best = min(errors, key=lambda sharing: errors[sharing])
    log(f"by position: {count(best.layers, 'layer')}")
    return best


def least_that_keeps(
    network: Network, options: Options, keep: Callable[[Sharing], Outcome], log: Log
) -> tuple[Sharing, Outcome]:
    """The number of layers with which a promise takes least, and what it comes to; collective.

    Numbers are tried in the order of what their halos send: those that send more than all of an earlier one
    are not tried.

    Args:
        network: trained.
        options: with a tolerance, and ``auto`` layers by position.
        keep: searches the least budget, or time, for one number of layers.
        log: is given one line for each number.

    Raises:
        BrokenPromise: no number keeps it.
    """
    sharings = {
        sharing: halos_sent(network, options, sharing)
        for sharing in (sharing_of(network, options, layers) for layers in candidates(network, options))
    }
    kept: dict[Sharing, Outcome] = {}
    broken: UserError | None = None
    for sharing in sorted(sharings, key=lambda sharing: sharings[sharing]):
        name, halos = f"by position, {count(sharing.layers, 'layer')}", sharings[sharing]
        if options.minimise == VALUES and any(halos >= values_of(one) for one in kept.values()):
            log(f"{name}: halos alone send {halos:,} values, another number keeps the promise with fewer")
            continue
        log(f"{name}{PENDING}")
        try:
            check_room(sharing.of(network, options), options)
            kept[sharing] = keep(sharing)
        except (BrokenPromise, BudgetTooSmall, NoRoom) as problem:
            broken = problem
            log(f"{name}: {problem}")
    if not kept:
        assert broken is not None
        raise broken
    best = min(kept, key=lambda sharing: _price_of(kept[sharing], options))
    log(f"by position: {count(best.layers, 'layer')}")
    return best, kept[best]


def values_of(outcome: Outcome) -> int:
    """Values per sample that are sent."""
    return int(outcome.cut.traffic_matrix().sum())


def _price_of(outcome: Outcome, options: Options) -> float:
    """What a promise looks for the least of: modelled time, the price of links, or values."""
    if options.minimise != VALUES:
        return float(outcome.findings["modelled_us"])
    if options.link_costs is not None:
        return float((outcome.cut.traffic_matrix() * np.array(options.link_costs)).sum())
    return values_of(outcome)


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
    division = division_for(network, options, most)
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
