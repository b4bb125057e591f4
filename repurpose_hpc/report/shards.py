"""Counts of what is in shards: links between neurons, loads of workers, traffic; nothing is drawn here.

A *link* is a pair of neurons of which the one depends on the other by a weight that is not zero.  It is
*between* workers if these neurons have different owners.  What every worker reads of the input by itself is
within each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.model.weights import SparseWeights, Weights, entries, linked, nonzeros
from repurpose_hpc.plan.files.store import StoredPlan, open_plan, read_shard
from repurpose_hpc.plan.masks import EVERYBODY
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.plan.relays import mixings_of_original
from repurpose_hpc.plan.rounds import rounds_before, waiting_mixings
from repurpose_hpc.plan.shard import Block, Shard
from repurpose_hpc.report.words import printable

# Cells of a mask along each side, at most.
MOST_CELLS = 256


class SortedNeurons:
    """The neurons of one side of a mask, sorted by owner and then by number, in cells of about equal size.

    Args:
        owner: of each neuron, (n,).
        workers: P.

    Attributes:
        owner: as given.
        cell: of each neuron, (n,) int64.
        by_owner: neurons of each cell by owner, those of ``EVERYBODY`` first: (cells, 1 + P) int64.
    """

    def __init__(self, owner: np.ndarray, workers: int) -> None:
        self.owner, cells = owner, min(owner.size, MOST_CELLS)
        place = np.empty(owner.size, np.int64)
        place[np.argsort(owner, kind="stable")] = np.arange(owner.size)
        self.cell = place * cells // max(1, owner.size)
        self.by_owner = np.zeros((cells, 1 + workers), np.int64)
        np.add.at(self.by_owner, (self.cell, owner - EVERYBODY), 1)

    @property
    def totals(self) -> np.ndarray:
        """Neurons by owner, those of ``EVERYBODY`` first, (1 + P,)."""
        return self.by_owner.sum(axis=0)


class Mask:
    """The links of a mixing: with nothing pruned, and those that are left.

    Args:
        name: of the mixing.
        rows, columns: neurons of its target and its source.
        is_fixed: whether its weights are part of a definition, as ``Mixing.fixed``.

    Attributes:
        blocks: links that are left, by owner of row and column as in ``SortedNeurons.by_owner``:
            (1 + P, 1 + P) int64.
        cells: links that are left in each cell, first those within and then those between workers:
            (2, row cells, column cells) int64.
        is_sparse: whether only weights that are not zero are stored, so that nothing is known of others.
        relays: values per sample that its relays take.
    """

    def __init__(
        self, name: str, rows: SortedNeurons, columns: SortedNeurons, is_fixed: bool = False
    ) -> None:
        self.name, self.rows, self.columns, self.is_fixed = name, rows, columns, is_fixed
        self.blocks = np.zeros((rows.by_owner.shape[1], columns.by_owner.shape[1]), np.int64)
        self.cells = np.zeros((2, len(rows.by_owner), len(columns.by_owner)), np.int64)
        self.is_sparse, self.relays = False, 0

    def add(self, rows: np.ndarray, columns: np.ndarray, links: Weights) -> None:
        """Count links that are left.

        Args:
            rows, columns: neurons that the rows and columns of ``links`` stand for.
            links: an entry that is not zero for each, (rows, columns).
        """
        self.is_sparse |= isinstance(links, SparseWeights)
        if not links.size:
            return
        for i, j, _ in entries(links):
            row, column = rows[i], columns[j]
            target, source = self.rows.owner[row], self.columns.owner[column]
            self.blocks += _counted(self.blocks.shape, target - EVERYBODY, source - EVERYBODY)
            between = (target != source) & (source != EVERYBODY)
            cells = self.rows.cell[row], self.columns.cell[column]
            self.cells += _counted(self.cells.shape, between.astype(np.int64), *cells)

    @property
    def blocks_before(self) -> np.ndarray:
        """``blocks`` with nothing pruned."""
        return np.outer(self.rows.totals, self.columns.totals)

    @property
    def cells_before(self) -> np.ndarray:
        """``cells`` with nothing pruned."""
        rows, columns = self.rows.by_owner, self.columns.by_owner
        pairs = np.outer(rows.sum(axis=1), columns.sum(axis=1))
        within = rows[:, 1:] @ columns[:, 1:].T + np.outer(rows.sum(axis=1), columns[:, 0])
        return np.stack([within, pairs - within])


def _counted(shape: tuple[int, ...], *places: np.ndarray) -> np.ndarray:
    """How often each place occurs, int64 of ``shape``."""
    numbers = np.ravel_multi_index(places, shape)
    return np.bincount(numbers, minlength=int(np.prod(shape))).reshape(shape)


def between(blocks: np.ndarray) -> np.ndarray:
    """Links between workers of ``Mask.blocks``, by owner of the row, those of common rows first: (1 + P,)."""
    others = ~np.eye(len(blocks), dtype=bool)
    return np.where(others[:, 1:], blocks[:, 1:], 0).sum(axis=1)


@dataclass(frozen=True)
class LayerTraffic:
    """What crosses for a layer: a mixing, or all parts of one that is shared out by position.

    Attributes:
        name: of the layer.
        round: of exchanges in which it travels, from 1, the last one of several; 0: nothing does.
        ghosts, relays, sums: values per sample.
        dense: the same of all together with nothing pruned; None: of tokens, where workers have copies of
            neurons, a plan does not tell.
    """

    name: str
    round: int
    ghosts: int
    relays: int
    sums: int
    dense: int | None

    @property
    def values(self) -> int:
        """Values per sample that cross."""
        return self.ghosts + self.relays + self.sums


@dataclass(frozen=True, eq=False)
class ShardContents:
    """Counts of what is in shards.

    Attributes:
        stored: the plan.
        masks: of the mixings of the original, in order.
        layers: what crosses for each of their layers.
        bytes_sent: bytes per sample in a run in float32, (P, P) int64, [p, q] from worker p to q.
        multiply_adds: of each worker for a sample, (P,) int64.
        memory: bytes of weights and biases of each worker, (P,) int64.
    """

    stored: StoredPlan
    masks: list[Mask]
    layers: list[LayerTraffic]
    bytes_sent: np.ndarray
    multiply_adds: np.ndarray
    memory: np.ndarray

    @property
    def workers(self) -> int:
        """P."""
        return self.stored.plan.workers

    @property
    def unit(self) -> str:
        """What values are sent for."""
        return "token" if self.stored.longest else "sample"


def read_contents(directory: Path) -> ShardContents:
    """Count what is in shards, one after the other.

    Raises:
        UserError: they cannot be read.
    """
    stored = open_plan(directory)
    plan, graph = stored.plan, read_shard(stored, 0).graph
    masks = {mixing.name: _empty_mask(graph, plan, mixing) for mixing in mixings_of_original(graph, plan)}
    # Of sweeps the links in the last one are counted.
    drawn = masks | {between: masks[name] for name, between in _last_between(graph, plan).items()}
    multiply_adds, memory = np.zeros((2, plan.workers), np.int64)
    for worker in range(plan.workers):
        shard = read_shard(stored, worker)
        for mixing in graph.mixings:
            block = shard.blocks[mixing.name]
            parts = (block.own_weights, block.ghost_weights, block.sum_weights)
            multiply_adds[worker] += graph.values(mixing.target) * sum(map(nonzeros, parts))
            memory[worker] += block.bias.nbytes + sum(part.nbytes for part in parts)
            if mixing.name in drawn:
                _count_links(drawn[mixing.name], shard, mixing, block)
    bytes_sent = sum(
        (plan.byte_traffic(graph, mixing, plan.comm_dtype) for mixing in graph.mixings),
        np.zeros((plan.workers, plan.workers), np.int64),
    )
    layers = _layers(graph, plan, masks)
    return ShardContents(stored, list(masks.values()), layers, bytes_sent, multiply_adds, memory)


def _last_between(graph: Network, plan: Plan) -> dict[str, str]:
    """Mixing -> the last of its copies for which something is exchanged."""
    waiting = waiting_mixings(graph, plan)
    return {plan.copies[m.name]: m.name for m in graph.mixings if m.name in plan.copies.keys() & waiting}


def _empty_mask(graph: Network, plan: Plan, mixing: Mixing) -> Mask:
    source, target = plan.ends(graph, mixing)
    rows, columns = (SortedNeurons(owner, plan.workers) for owner in (target, source))
    return Mask(printable(mixing.name), rows, columns, mixing.fixed)


def _count_links(mask: Mask, shard: Shard, mixing: Mixing, block: Block) -> None:
    """Add the part that a worker has of a mixing; of what every worker has a copy of, that of the first."""
    is_copy = bool((mask.rows.owner == EVERYBODY).all()) and not block.is_common
    if is_copy and shard.worker > 0:
        return
    rows, columns = (shard.own[shard.graph.space_of[tensor]] for tensor in (mixing.target, mixing.source))
    mask.add(rows, columns, _links(mixing, block.own_weights))
    mask.add(rows, block.ghost_neurons, _links(mixing, block.ghost_weights))
    if not block.is_common:
        mask.add(block.sums.sent, columns, _links(mixing, block.sum_weights))


def _links(mixing: Mixing, weights: Weights) -> Weights:
    """Whether any of the weights of two neurons is not zero, as ``Mixing.links``."""
    if isinstance(weights, SparseWeights) or not weights.size:
        return weights
    return linked(weights, mixing.taps)


def _layers(graph: Network, plan: Plan, masks: dict[str, Mask]) -> list[LayerTraffic]:
    """What crosses for each layer; tells the masks of their relays."""
    layers: dict[str, LayerTraffic] = {}
    for name, found in zip(masks, _mixings(graph, plan, masks), strict=True):
        layer = printable(graph.layer_of(name))
        found = replace(found, name=layer)
        layers[layer] = _together(layers[layer], found) if layer in layers else found
    return [*layers.values()]


def _together(first: LayerTraffic, second: LayerTraffic) -> LayerTraffic:
    """What crosses for two parts of a layer."""
    dense = None if first.dense is None or second.dense is None else first.dense + second.dense
    return LayerTraffic(
        first.name,
        max(first.round, second.round),
        first.ghosts + second.ghosts,
        first.relays + second.relays,
        first.sums + second.sums,
        dense,
    )


def _mixings(graph: Network, plan: Plan, masks: dict[str, Mask]) -> Iterator[LayerTraffic]:
    """What crosses for each mixing of the original; tells the masks of their relays."""
    by_name = {mixing.name: mixing for mixing in graph.mixings}
    makers = {mixing.target: mixing for mixing in graph.mixings}
    waiting = waiting_mixings(graph, plan)
    complete = rounds_before(graph, waiting)
    for name, mask in masks.items():
        mixing, reader = by_name[name], by_name.get(plan.relays.get(name, ""))
        parts = [mixing] if reader is None else [mixing, makers[reader.source]]
        copies = [part for part in graph.mixings if plan.copies.get(part.name) == name]
        ghosts = sum(int(plan.ghost_traffic(graph, part).sum()) for part in (*parts, *copies))
        sums = sum(int(plan.sum_traffic(graph, part).sum()) for part in (mixing, *copies))
        mask.relays = 0 if reader is None else int(plan.ghost_traffic(graph, reader).sum())
        reads = [copy for copy in copies if copy.name in waiting] or [mixing if reader is None else reader]
        begins = max(complete[part.source] for part in reads)
        number = 1 + begins if ghosts or sums or mask.relays else 0
        # What counts for the first reader of a tensor may count for one that makes relays of it.
        dense = None if graph.longest else sum(plan.dense_values(graph, part) for part in parts)
        yield LayerTraffic(mask.name, number, ghosts, mask.relays, sums, dense)
