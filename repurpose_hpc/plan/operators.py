"""The exchange of a layer as linear operators, to be looked at and composed with others.

With x the neurons of its source, (n,), and W_q the weights that worker q holds, a layer computes::

    y = reduce · diag(W_0, ..., W_P-1) · gather · x + b

``gather`` brings every worker the neurons that it multiplies: its own, and its ghosts.  ``reduce`` adds the
partial sums of all workers to the rows of their owners.  Their adjoints are their transposes: that of
``gather`` adds up, at its owner, what workers say of a neuron; that of ``reduce`` sends a row's gradient to
all that add to it.  A backward pass exchanges by these (``tuning.links``).  Source: Hewett and Grady, "A
linear algebraic approach to model parallelism in deep learning" (2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from scipy.sparse import csr_array

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.files.store import StoredPlan, open_plan, read_network
from repurpose_hpc.plan.masks import EVERYBODY, all_pairs, holders
from repurpose_hpc.plan.plan import Plan


class Cut(Protocol):
    """A network that was restructured, such as ``Restructured``."""

    @property
    def network(self) -> Network:
        """The adjusted weights."""

    @property
    def plan(self) -> Plan:
        """Owners and masks."""


class ExchangeOperators(NamedTuple):
    """The linear operators of a layer; maps count as one value a neuron, batches as columns.

    Attributes:
        gather: (Σ columns of all workers, n), zeros and ones.
        reduce: (m, Σ rows of all workers), zeros and ones.
        columns: the neurons of the source that each worker has: its own, and its ghosts; ascending.
        rows: the neurons of the target to which each worker adds: its own, and those it sends sums for.
        holder: the worker that holds the weights of each pair of neurons, (m, n).
    """

    gather: csr_array
    reduce: csr_array
    columns: tuple[np.ndarray, ...]
    rows: tuple[np.ndarray, ...]
    holder: np.ndarray

    def block(self, worker: int, weights: np.ndarray) -> np.ndarray:
        """W_q: those of the weights, (m, n), that a worker holds, (rows, columns)."""
        held = np.where(self.holder == worker, weights, 0)
        return held[np.ix_(self.rows[worker], self.columns[worker])]


def exchange_operator(source: Cut | StoredPlan | str | Path, layer: str) -> ExchangeOperators:
    """The exchange of a layer as sparse matrices, whose adjoints are their transposes.

    Args:
        source: what ``restructure_network`` returned, or a directory of shards, or what ``open_plan`` read.
        layer: name of a mixing.

    Raises:
        UserError: there is no such layer, or every worker has all of its outputs.
    """
    network, plan = _opened(source)
    mixing = next((mixing for mixing in network.mixings if mixing.name == layer), None)
    if mixing is None:
        names = ", ".join(mixing.name for mixing in network.mixings)
        raise UserError(f"layer: expected one of {names}, got {layer!r}; name one of them")
    from_owner, to_owner = plan.ends(network, mixing)
    if (to_owner == EVERYBODY).any():
        raise UserError(
            f"{layer}: expected outputs that have one owner each, found common ones; take another"
        )
    masks, workers = plan.mixings[layer], np.arange(plan.workers)[:, None]
    columns = [np.flatnonzero(mask) for mask in masks.ghosts | (from_owner == workers)]
    rows = [np.flatnonzero(mask) for mask in masks.sums | (to_owner == workers)]
    return ExchangeOperators(
        _choosing(columns, from_owner.size),
        _choosing(rows, to_owner.size).T.tocsr(),
        tuple(columns),
        tuple(rows),
        holders(masks, from_owner, to_owner, all_pairs(from_owner, to_owner)),
    )


def _opened(source: Cut | StoredPlan | str | Path) -> tuple[Network, Plan]:
    """A network and its plan."""
    if isinstance(source, (str, Path)):
        source = open_plan(source)
    network = read_network(source) if isinstance(source, StoredPlan) else source.network
    return network, source.plan


def _choosing(chosen: Sequence[np.ndarray], size: int) -> csr_array:
    """The matrix that takes the chosen ones of ``size`` numbers, of one worker after the other."""
    index = np.concatenate(chosen)
    return csr_array((np.ones(index.size), (np.arange(index.size), index)), (index.size, size))
