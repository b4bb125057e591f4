"""Masks: who needs what from whom, of one mixing.

*Ghosts.*  ``ghosts[q, j]``: worker q reads neuron j of the source space, which its owner sends.

*Partial sums.*  ``sums[p, i]``: worker p multiplies its own neurons of the source space into
neuron i of the target space and sends the sum to the owner of i, who adds it.

A mixing may use both.  Every weight is then still multiplied once: by the owner q of its row if q
owns its column or has it as a ghost, else by the owner of its column, as part of a sum.  So the
sum of p for a neuron of q is over those of p's neurons that are not ghosts of q.

Entries of own neurons, ``ghosts[owner[j], j]`` and ``sums[owner[i], i]``, mean nothing and are
False: ``mixing_plan`` and its kin clear them.  The neurons of a replicated input are nobody's own:
``ghosts[q, j]`` says that q reads neuron j of the input, and nobody sends anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from repurpose_hpc.model.weights import Weights, entries

GHOST = "ghost"
PARTIAL = "partial"
MIXED = "mixed"
RELAY = "relay"
# Of a layer whose maps are shared out by position.
POSITION = "position"

# The owner of the neurons of a replicated input, which every worker reads by itself, and of *common* neurons,
# of which every worker computes a copy.  A mixing into those sums what all workers send to all others; or
# every worker computes all rows, from common neurons and from ghosts.
EVERYBODY = -1


class Pairs(NamedTuple):
    """Neurons of the target and of the source, as indices that broadcast.

    Attributes:
        rows, columns: (pairs,) each; of all pairs (m, 1) and (1, n).
    """

    rows: np.ndarray
    columns: np.ndarray


def all_pairs(source_owner: np.ndarray, target_owner: np.ndarray) -> Pairs:
    """Every neuron of the target with every one of the source, from their owners (n,) and (m,)."""
    return Pairs(np.arange(target_owner.size)[:, None], np.arange(source_owner.size)[None])


@dataclass(frozen=True, eq=False)
class MixingPlan:
    """The spread of one mixing over the workers.

    Attributes:
        ghosts: bool, (P, n); see the module.
        sums: bool, (P, m).
    """

    ghosts: np.ndarray
    sums: np.ndarray

    @property
    def form(self) -> str:
        """The form that it uses: ``GHOST`` (also where nothing is sent), ``PARTIAL`` or ``MIXED``."""
        if not self.sums.any():
            return GHOST
        return MIXED if self.ghosts.any() else PARTIAL


def mixing_plan(
    ghosts: np.ndarray, sums: np.ndarray, source_owner: np.ndarray, target_owner: np.ndarray
) -> MixingPlan:
    """A plan from masks in which the entries of own neurons may be anything.

    Args:
        ghosts: bool, (P, n).
        sums: bool, (P, m).
        source_owner, target_owner: owners of the two spaces, (n,) and (m,).
    """
    workers = np.arange(len(ghosts))[:, None]
    return MixingPlan(ghosts & (source_owner != workers), sums & (target_owner != workers))


def ghost_plan(ghosts: np.ndarray, source_owner: np.ndarray, target_owner: np.ndarray) -> MixingPlan:
    """``mixing_plan`` without partial sums."""
    return mixing_plan(ghosts, np.zeros((len(ghosts), target_owner.size), bool), source_owner, target_owner)


def partial_plan(sums: np.ndarray, source_owner: np.ndarray, target_owner: np.ndarray) -> MixingPlan:
    """``mixing_plan`` without ghosts; not for a replicated input, of which it would read nothing."""
    return mixing_plan(np.zeros((len(sums), source_owner.size), bool), sums, source_owner, target_owner)


def allowed(plan: MixingPlan, source_owner: np.ndarray, target_owner: np.ndarray, pairs: Pairs) -> np.ndarray:
    """The interdependency mask: the weights of ``pairs`` that may be non-zero, bool.

    Weight (i, j), with i owned by q and j by p: if p is q, or ``ghosts[q, j]``, or
    ``sums[p, i]``; if j is of a replicated input, only if ``ghosts[q, j]``; if i is everybody's, also if
    everybody has j.
    """
    source, target = source_owner[pairs.columns], target_owner[pairs.rows]
    summed = plan.sums[source, pairs.rows] & (source != EVERYBODY)
    return (target == source) | fetched(plan, source_owner, target_owner, pairs) | summed


def allowed_count(plan: MixingPlan, source_owner: np.ndarray, target_owner: np.ndarray) -> int:
    """How many of all pairs are ``allowed``, without looking at each."""
    own = source_owner == np.arange(len(plan.ghosts))[:, None]
    common = (plan.ghosts | own).all(axis=0) | (source_owner == EVERYBODY)
    # Columns that a row reads, by its owner; those of EVERYBODY are the last.
    reads = np.vstack([own | plan.ghosts, common])
    summed = own.astype(np.int64) @ ~reads.T
    workers, rows = np.nonzero(plan.sums)
    return int(reads.sum(axis=1)[target_owner].sum() + summed[workers, target_owner[rows]].sum())


def fetched(plan: MixingPlan, source_owner: np.ndarray, target_owner: np.ndarray, pairs: Pairs) -> np.ndarray:
    """The ``pairs`` whose source neuron comes to whoever computes the row, from others or the input, bool."""
    own = source_owner == np.arange(len(plan.ghosts))[:, None]
    by_all, target = (plan.ghosts | own).all(axis=0), target_owner[pairs.rows]
    return np.where(target == EVERYBODY, by_all[pairs.columns], plan.ghosts[target, pairs.columns])


def holders(plan: MixingPlan, source_owner: np.ndarray, target_owner: np.ndarray, pairs: Pairs) -> np.ndarray:
    """The worker that holds the weights of each of ``pairs``: that of the row or of the column.

    ``EVERYBODY`` where each worker has a copy of both neurons.
    """
    source, target = source_owner[pairs.columns], target_owner[pairs.rows]
    away = (source != target) & (source != EVERYBODY)
    return np.where(away & ~fetched(plan, source_owner, target_owner, pairs), source, target)


def trimmed(
    plan: MixingPlan, pattern: Weights, source_owner: np.ndarray, target_owner: np.ndarray
) -> MixingPlan:
    """The plan without ghosts and sums that no weight makes use of.

    Args:
        plan: allows all of ``pattern``.
        pattern: the neurons that depend on each other, (m, n); see ``Mixing.pattern``.
        source_owner, target_owner: owners of the two spaces, (n,) and (m,).
    """
    ghosts, sums = np.zeros_like(plan.ghosts), np.zeros_like(plan.sums)
    for rows, columns, _ in entries(pattern):
        owned = target_owner[rows] != EVERYBODY
        ghosts[target_owner[rows[owned]], columns[owned]] = True
    ghosts &= plan.ghosts
    for rows, columns, _ in entries(pattern):
        summed = ~ghosts[target_owner[rows], columns] & (source_owner[columns] != EVERYBODY)
        sums[source_owner[columns[summed]], rows[summed]] = True
    return MixingPlan(ghosts, plan.sums & sums)


def everywhere_plan(source: np.ndarray, target: np.ndarray, workers: int) -> MixingPlan:
    """A mixing of which every worker computes all rows: it has the neurons of the others as ghosts.

    Args:
        source, target: owners of the two spaces, (n,) and (m,), the latter ``EVERYBODY``.
        workers: P.
    """
    return ghost_plan(np.ones((workers, source.size), bool), source, target)


def common_mixing_plan(source: np.ndarray, target: np.ndarray, workers: int) -> MixingPlan:
    """A mixing into common neurons: who owns inputs sends all sums, and worker 0 the bias.

    Args:
        source, target: owners of the two spaces, (n,) and (m,), the latter ``EVERYBODY``.
        workers: P.
    """
    everywhere = (source == EVERYBODY).all()
    ghosts = np.full((workers, source.size), everywhere)
    numbers = np.arange(workers)
    adds = (np.isin(numbers, source) | (numbers == 0)) & ~everywhere
    return MixingPlan(ghosts, np.repeat(adds[:, None], target.size, axis=1))


def dense_mixing_plan(source: np.ndarray, target: np.ndarray, narrow: bool, workers: int) -> MixingPlan:
    """Send everything to everybody; workers without neurons on the receiving or sending side take no part.

    Args:
        source, target: owners of the two spaces, (n,) and (m,).
        narrow: sums are fewer values than ghosts.
        workers: P.
    """
    numbers = np.arange(workers)
    if narrow and not (source == EVERYBODY).any():
        sums = np.isin(numbers, source)[:, None] & np.ones(len(target), bool)
        return partial_plan(sums, source, target)
    ghosts = np.isin(numbers, target)[:, None] & np.ones(len(source), bool)
    return ghost_plan(ghosts, source, target)
