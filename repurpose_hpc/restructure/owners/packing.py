"""Branches as loads that are packed on workers, whole where they fit (step 2.0)."""

from __future__ import annotations

import numpy as np

# By how much a worker may exceed its share for the sake of whole branches, unless a user says (--imbalance).
SLACK = 0.1
# Excesses that are tried, up to the largest.
TRIALS = 11
# Of rounding, relative to the whole load.
TOLERANCE = 1e-9


def pack(loads: np.ndarray, speeds: np.ndarray, slack: float) -> np.ndarray:
    """The part of every branch that each worker takes.

    Of all packings met the one that divides least, and of these the one of the least excess.

    Args:
        loads: of the branches, (K,), >= 0, summing to 1.
        speeds: of the workers, (P,), >= 0, summing to 1.
        slack: no worker is given more than (1 + slack) times its share.

    Returns:
        (K, P) float64, every row summing to 1; a row of one entry is a whole branch.
    """
    packings = [
        _pack(loads, (1 + excess) * speeds, patient)
        for excess in np.unique(np.linspace(0, slack, TRIALS))
        for patient in (False, True)
    ]
    # The first of those that are equal but for rounding.
    return min(packings, key=lambda packing: round(divided(loads, packing), 9))


def divided(loads: np.ndarray, packing: np.ndarray) -> float:
    """What is divided: the load of every branch times its workers but one."""
    return float(loads @ (np.count_nonzero(packing, axis=1) - 1))


def _pack(loads: np.ndarray, room: np.ndarray, patient: bool) -> np.ndarray:
    """The largest branch first: whole where there is most room, or divided.

    Args:
        loads: of the branches, (K,).
        room: of the workers, (P,), in all no less.
        patient: those that fit nowhere are divided last, so that smaller ones stay whole.
    """
    packing = np.zeros((len(loads), len(room)))
    # A worker without room owns nothing, not even what costs nothing.
    room = np.where(room > 0, room, -np.inf)
    waiting = []
    for branch in np.argsort(-loads, kind="stable"):
        worker = int(room.argmax())
        if loads[branch] <= room[worker] + TOLERANCE:
            packing[branch, worker] = 1
            room[worker] -= loads[branch]
        elif patient:
            waiting.append(branch)
        else:
            packing[branch] = _divide(loads[branch], room)
    for branch in waiting:
        packing[branch] = _divide(loads[branch], room)
    return packing


def _divide(load: float, room: np.ndarray) -> np.ndarray:
    """Parts for few workers: the largest rooms, then the least that suffices; uses up ``room``."""
    parts, rest = np.zeros(len(room)), load
    while rest > TOLERANCE:
        fits = np.flatnonzero(room >= rest - TOLERANCE)
        worker = int(fits[room[fits].argmin()]) if fits.size else int(room.argmax())
        # There is room for all loads, but for rounding.
        part = rest if fits.size or room[worker] <= TOLERANCE else float(room[worker])
        parts[worker] += part
        room[worker] -= part
        rest -= part
    return parts / parts.sum()
