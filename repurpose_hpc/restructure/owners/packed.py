"""Step 2.3: a start in which workers own whole branches, as far as their capacities allow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.plan import capacities, contiguous_owners
from repurpose_hpc.restructure.context import CutContext
from repurpose_hpc.restructure.decisions import Decisions
from repurpose_hpc.restructure.owners.branches import NONE, Branches, find_branches
from repurpose_hpc.restructure.owners.initial import owners_for
from repurpose_hpc.restructure.owners.packing import SLACK, pack
from repurpose_hpc.restructure.owners.sweep import Piece, draft_owners


def branches_of(context: CutContext) -> Branches | None:
    """The branches of the network if owners are to follow them, else None."""
    options = context.options
    # A limit of memory is one for every mixing, tiles have their owners, and branches run through all stages.
    limited = options.memory_limits is not None or bool(context.network.tile_owners) or options.stages != 1
    if not context.method.branches or options.workers == 1 or options.assignment != "munkres" or limited:
        return None
    energies = {mixing.name: _energies(context, mixing) for mixing in context.mixings}
    return find_branches(context.network, energies)


def pack_branches(context: CutContext, decisions: Decisions, branches: Branches) -> Decisions:
    """Owners of all spaces: whole branches, and within those that are divided as elsewhere; collective."""
    imbalance = context.options.imbalance
    packing = pack(branches.total, context.speeds, SLACK if imbalance is None else imbalance)
    for name, number in branches.number.items():
        if name not in context.network.input_spaces:
            decisions = _seat(context, decisions, name, number, packing)
    shares = {name: _share(load, packing) for name, load in branches.loads.items() if load.any()}
    pieces = [
        piece for name, number in branches.number.items() for piece in _pieces(context, name, number, packing)
    ]
    decisions = _assign(context, replace(decisions, shares=shares), pieces)
    return draft_owners(context, decisions, pieces)


def _energies(context: CutContext, mixing: Mixing) -> np.ndarray:
    """What each source neuron contributes to the mean square of each target neuron, (m, n)."""
    squares = mixing.W.astype(np.float64) ** 2 * np.diag(context.statistics.moments[mixing.name].H)
    return squares.reshape(len(squares), -1, mixing.taps).sum(axis=2)


def _share(load: np.ndarray, packing: np.ndarray) -> np.ndarray:
    """The part of a mixing that each worker holds, (P,), from its loads in the branches, (K,)."""
    return load @ packing / load.sum()


def _open(
    context: CutContext, number: np.ndarray, packing: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Neurons of a space that no branch gives to a worker, those of a branch together, and their capacities.

    Args:
        context: of the run.
        number: the branch of every neuron, (n,).
        packing: as of ``pack``.
    """
    constraints = context.constraints
    for branch in np.unique(number):
        members = np.flatnonzero(number == branch)
        if branch == NONE:
            yield members, capacities(len(members), constraints.part_weights, constraints.imbalance)
        elif np.count_nonzero(packing[branch]) > 1:
            # As many seats as neurons: rounded up, they would add up to too much over many branches.
            blocks = contiguous_owners(len(members), packing[branch])
            yield members, np.bincount(blocks, minlength=packing.shape[1])


def _seat(
    context: CutContext, decisions: Decisions, name: str, number: np.ndarray, packing: np.ndarray
) -> Decisions:
    """First owners of a space, blocks where they are open, and the capacities that follow."""
    owner = packing.argmax(axis=1)[number].astype(np.int32)
    is_open, capacity = np.zeros(len(number), bool), np.zeros(packing.shape[1], np.int64)
    for members, seats in _open(context, number, packing):
        owner[members], is_open[members] = contiguous_owners(len(members), seats), True
        capacity += seats
    capacity += np.bincount(owner[~is_open], minlength=len(capacity))
    decisions = decisions.with_owners({name: owner})
    return replace(decisions, capacities={**decisions.capacities, name: capacity})


def _pieces(context: CutContext, name: str, number: np.ndarray, packing: np.ndarray) -> list[Piece]:
    """The open neurons of a space that mixings make which are not fixed."""
    if name not in context.surroundings:
        return []
    space = context.surroundings[name]
    return [
        Piece(space.restricted(members), members, seats) for members, seats in _open(context, number, packing)
    ]


def _assign(context: CutContext, decisions: Decisions, pieces: list[Piece]) -> Decisions:
    """Owners of open neurons, each for the mixing that makes it first (step 2.1); collective."""
    waiting = list(pieces)
    for number, mixing in enumerate(context.mixings):
        made = [piece for piece in waiting if piece.space.is_made_by(mixing)]
        waiting = [piece for piece in waiting if piece not in made]
        for piece in made:
            owner = decisions.owners[piece.space.name].copy()
            owner[piece.members] = owners_for(context, decisions, number, piece.space, piece.capacity)
            decisions = decisions.with_owners({piece.space.name: owner})
    return decisions
