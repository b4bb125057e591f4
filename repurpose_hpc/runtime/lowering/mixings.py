"""One mixing on a rank: the blocks of its workers around the exchanges of ghosts and partial sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np

from repurpose_hpc.kernels import INDEX_DTYPE, activate_in_place, pack
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.files.mapped import release
from repurpose_hpc.plan.shard import Block
from repurpose_hpc.runtime.buffers import Buffer, Part
from repurpose_hpc.runtime.calls import COMPUTE, PACK, Call
from repurpose_hpc.runtime.exchange.comm_dtype import CommDtype
from repurpose_hpc.runtime.exchange.exchange import Exchange
from repurpose_hpc.runtime.exchange.transfers import GhostTransfer, SumTransfer
from repurpose_hpc.runtime.lowering.blocks import (
    NO_ACTIVATION,
    Epilogue,
    Product,
    weights_kept,
    weights_of,
)
from repurpose_hpc.runtime.lowering.convolution import choose
from repurpose_hpc.runtime.resources import Resources


class BlockReport(TypedDict):
    """An entry of ``Program.blocks``: one worker's block of a mixing.

    Keys: name of the mixing; worker; own neurons of target and source; ghosts received; partial sums sent;
    non-zero weights; "dense", "csr", "patches" or "direct".
    """

    layer: str
    worker: int
    rows: int
    columns: int
    ghosts: int
    sums: int
    weights: int
    format: str


class Tensor(NamedTuple):
    """A tensor on a rank: its memory, and the space of its neurons."""

    buffer: Buffer
    space: str


class MixingStep:
    """Y = act(bias + W X), of which the rank holds X and Y of its workers.

    The neurons that other ranks need are packed as soon as X is there (see ``GhostTransfer``).  ``sum_calls``
    compute the sums for other workers.  While ghosts and sums travel, ``own_calls`` compute
    Y = bias + W_own X.  When they have come, ``rest_calls`` compute Y = act(Y + W_ghost ghosts + sums).
    ``schedule`` decides what is sent when.

    Attributes:
        mixing: what it computes, without weights.
        source, target: the tensors' memory.
        ghosts, sums: what it exchanges; mixings that read one tensor have the ghosts in common.
        reports: the entries of ``Program.blocks``, one for each hosted worker.
    """

    def __init__(
        self,
        mixing: Mixing,
        blocks: Sequence[Block],
        ends: tuple[Tensor, Tensor],
        epilogue: Epilogue,
        ghosts: GhostTransfer | None,
        resources: Resources,
    ) -> None:
        """Packs the weights, and lists what is exchanged; nothing is sent.

        Args:
            mixing, blocks: see the class; one block for each hosted worker.
            ends: source and target.
            epilogue: applied last.
            ghosts: those of an earlier mixing that reads the same tensor; None: this is the first.
            resources: of the program.
        """
        source, target = ends
        self.mixing, self.source, self.target = mixing, source.buffer, target.buffer
        self._epilogue, self._scratch = epilogue, resources.scratch
        self.ghosts = _ghost_transfer(blocks, source, resources) if ghosts is None else ghosts
        self.sums = SumTransfer([block.sums for block in blocks], target.buffer, target.space, resources)
        self._columns, self._rows = (resources.hosting.slices(tensor.space) for tensor in ends)
        self._picked = [
            _Picked(block, neurons, buffer, resources.max_batch)
            for block, neurons, buffer in zip(blocks, self.ghosts.neurons, self.ghosts.buffers, strict=True)
        ]
        self._biases = [block.bias.reshape(-1, 1) for block in blocks]
        kept = [weights_kept(block) for block in blocks]
        self._products = [
            self._make_products(block, count, picked.order, sums, resources)
            for block, count, picked, sums in zip(blocks, kept, self._picked, self.sums.orders, strict=True)
        ]
        workers = resources.hosting.workers
        self.reports = [
            _report(mixing, worker, block, products.own.format, count)
            for worker, block, products, count in zip(workers, blocks, self._products, kept, strict=True)
        ]

    def _make_products(
        self, block: Block, kept: int, ghosts: np.ndarray, sums: np.ndarray, resources: Resources
    ) -> _Products:
        """The products of a hosted worker; room for what they compute is reserved.

        Args:
            block: of the worker.
            kept: how many of its weights are not zero.
            ghosts, sums: the orders in which ghosts and sums are in their buffers.
            resources: of the program.
        """
        values = self.target.values
        make = choose(self.mixing.window, block, kept, values, resources)
        products = _Products(
            own=make(block.own_weights),
            ghost=make(_columns(block.ghost_weights, ghosts, self.mixing.taps)),
            sum=make(block.sum_weights[sums]),
        )
        for product in products:
            self._scratch.reserve(product.scratch(resources.max_batch * values))
        # They are packed now: their pages of the shard's file need not stay in memory.
        for weights in weights_of(block):
            release(weights)
        return products

    @property
    def exchanges(self) -> tuple[Exchange, Exchange]:
        """Those of ghosts and of sums."""
        return self.ghosts.exchange, self.sums.exchange

    def sum_calls(self, part: Part) -> list[Call]:
        """Compute the sums for other workers, ready to be sent."""
        return [*self._sum_products(part), *self.sums.pack_calls(part)]

    def own_calls(self, part: Part) -> list[Call]:
        """Compute Y = bias + W_own X, and add the sums from workers of this rank: no other rank is needed."""
        return [*self._own_products(part, self._early_epilogue), *self.sums.near_calls(part)]

    def rest_calls(self, part: Part) -> list[Call]:
        """Compute Y = act(Y + W_ghost ghosts + sums), when ghosts and sums have come."""
        calls = [*self._ghost_products(part, self._early_epilogue), *self.sums.unpack_calls(part)]
        if self.sums.receives_any and self._epilogue != NO_ACTIVATION:
            calls.append((COMPUTE, activate_in_place, (self.target.view(part), *self._epilogue)))
        return calls

    @property
    def _early_epilogue(self) -> Epilogue:
        """The epilogue of products: nothing is activated before the sums are there."""
        return NO_ACTIVATION if self.sums.receives_any else self._epilogue

    def _sum_products(self, part: Part) -> list[Call]:
        """The sums of every hosted worker for others."""
        calls: list[Call] = []
        for columns, products, sums in zip(self._columns, self._products, self.sums.buffers, strict=True):
            if sums.rows:
                zeros = np.zeros((sums.rows, 1), sums.flat.dtype)
                X = self.source.maps(part, columns)
                calls += products.sum.calls(X, zeros, sums.view(part), self._scratch, NO_ACTIVATION)
        return calls

    def _own_products(self, part: Part, epilogue: Epilogue) -> list[Call]:
        """Y = act(bias + W_own X) of every hosted worker; not activated where ghosts are to come."""
        calls: list[Call] = []
        for q, products in enumerate(self._products):
            X, Y = self.source.maps(part, self._columns[q]), self.target.view(part, self._rows[q])
            last = NO_ACTIVATION if self._picked[q].used.size else epilogue
            calls += products.own.calls(X, self._biases[q], Y, self._scratch, last)
        return calls

    def _ghost_products(self, part: Part, epilogue: Epilogue) -> list[Call]:
        """Y = act(Y + W_ghost ghosts) of every hosted worker that has ghosts."""
        calls: list[Call] = []
        for rows, products, picked in zip(self._rows, self._products, self._picked, strict=True):
            if picked.used.size:
                Y = self.target.view(part, rows)
                picking, ghosts = picked.calls(part)
                calls += [*picking, *products.ghost.calls(ghosts, Y, Y, self._scratch, epilogue)]
        return calls


class _Products(NamedTuple):
    """The products with the parts of a block."""

    own: Product
    ghost: Product
    sum: Product


class _Picked:
    """The ghosts that a worker uses for one mixing, of those that came for all that read the tensor.

    Attributes:
        used: their rows in the buffer of the transfer, ascending.
        order: the position of each in ``Block.ghost_neurons``.
    """

    def __init__(self, block: Block, neurons: np.ndarray, came: Buffer, max_batch: int) -> None:
        self.came = came
        place = np.argsort(neurons)
        rows = place[np.searchsorted(neurons, block.ghost_neurons, sorter=place)]
        self.order = np.argsort(rows)
        self.used = rows[self.order].astype(INDEX_DTYPE)
        all_used = self.used.size == came.rows
        self.buffer = came if all_used else Buffer(self.used.size, max_batch, came.flat.dtype, came.values)

    def calls(self, part: Part) -> tuple[list[Call], np.ndarray]:
        """Calls that bring them together, and where they are then: (g, batch, values)."""
        picking: list[Call] = []
        if self.buffer is not self.came:
            picking.append((PACK, pack, (self.came.view(part), self.used, self.buffer.view(part))))
        return picking, self.buffer.maps(part)


def _ghost_transfer(blocks: Sequence[Block], source: Tensor, resources: Resources) -> GhostTransfer:
    """The transfer of the ghosts of ``source`` to the hosted workers; nothing is sent."""
    lists = [block.ghosts for block in blocks]
    comm_dtype = CommDtype(resources.formats.comm_dtype, blocks)
    return GhostTransfer(lists, source.buffer, source.space, resources, comm_dtype)


def _report(mixing: Mixing, worker: int, block: Block, form: str, kept: int) -> BlockReport:
    return {
        "layer": mixing.name,
        "worker": worker,
        "rows": block.bias.size,
        "columns": block.own_weights.shape[1] // mixing.taps,
        "ghosts": block.ghosts.received.size,
        "sums": block.sums.sent.size,
        "weights": kept,
        "format": form,
    }


def _columns(weights: np.ndarray, order: np.ndarray, taps: int) -> np.ndarray:
    """``weights`` (m, g taps) with its groups of columns in another order."""
    return weights.reshape(len(weights), order.size, taps)[:, order].reshape(weights.shape)
