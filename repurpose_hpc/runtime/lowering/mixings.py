"""One mixing on a rank: the blocks of its workers around the exchanges of ghosts and partial sums."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple, TypedDict

import numpy as np

from repurpose_hpc.kernels import INDEX_DTYPE, Region, activate_in_place, pack
from repurpose_hpc.model.comm_dtype import EXACT
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.shard import Block
from repurpose_hpc.runtime.buffers import Buffer, Part
from repurpose_hpc.runtime.calls import COMPUTE, PACK, Call
from repurpose_hpc.runtime.exchange.comm_dtype import EXACT_DTYPE, CommDtype
from repurpose_hpc.runtime.exchange.exchange import Exchange
from repurpose_hpc.runtime.exchange.transfers import (
    CommonSums,
    GhostTransfer,
    SumTransfer,
    decoding,
    encoding,
)
from repurpose_hpc.runtime.lowering.blocks import (
    NO_ACTIVATION,
    Epilogue,
    Product,
    weights_kept,
    weights_of,
)
from repurpose_hpc.runtime.lowering.convolution import Direct, choose
from repurpose_hpc.runtime.lowering.weights import columns_used, let_go, with_columns, with_rows
from repurpose_hpc.runtime.resources import Resources

# Copying a value costs about as much as multiplying it by so many weights.
COPYING = 32


class BlockReport(TypedDict):
    """An entry of ``Program.blocks``: one worker's block of a mixing.

    Keys: name of the mixing; worker; own neurons of target and source; ghosts received; partial sums sent;
    non-zero weights; "dense", "csr", "patches", "direct", or "normalisation" where it is part of one.
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
    """A tensor on a rank.

    Attributes:
        buffer: its memory.
        space: of its neurons.
        comm_dtype: the format in which they travel.
        has_events: many values may be 0, and all others 1.
    """

    buffer: Buffer
    space: str
    comm_dtype: str = EXACT
    has_events: bool = False


class MixingStep:
    """Y = act(bias + W X), of which the rank holds X and Y of its workers.

    The neurons that other ranks need are packed as soon as X is there (see ``GhostTransfer``).  ``sum_calls``
    compute the sums for other workers.  While ghosts and sums travel, ``own_calls`` compute
    Y = bias + W_own X.  When they have come, ``rest_calls`` compute Y = act(Y + W_ghost ghosts + sums).
    ``schedule`` decides what is sent when.

    Attributes:
        mixing: what it computes, without weights.
        name: of the mixing.
        source, target: the tensors' memory.
        ghosts, sums: what it exchanges; mixings that read one tensor have the ghosts in common.
        reports: the entries of ``Program.blocks``, one for each hosted worker; none where the weights are
            those of another mixing.
    """

    def __init__(
        self,
        mixing: Mixing,
        blocks: Sequence[Block],
        ends: tuple[Tensor, Tensor],
        epilogue: Epilogue,
        ghosts: GhostTransfer | None,
        resources: Resources,
        twin: MixingStep | None = None,
    ) -> None:
        """Packs the weights, and lists what is exchanged; nothing is sent.

        Args:
            mixing, blocks: see the class; one block for each hosted worker.
            ends: source and target.
            epilogue: applied last.
            ghosts: those of an earlier mixing that reads the same tensor; None: this is the first.
            resources: of the program.
            twin: an earlier mixing that has the same weights; None: there is none.
        """
        source, target = ends
        self.mixing, self.name = mixing, mixing.name
        self.source, self.target = source.buffer, target.buffer
        self._epilogue, self._scratch = epilogue, resources.scratch
        self.ghosts = _ghost_transfer(blocks, source, resources) if ghosts is None else ghosts
        self.sums = self._sum_transfer(blocks, target, resources)
        columns, self._rows = (resources.hosting.slices(tensor.space) for tensor in ends)
        max_batch = resources.max_batch
        read = [_own_columns(mixing, block, source.buffer, target.buffer) for block in blocks]
        blocks = [_with_columns(block, used, mixing.taps) for block, used in zip(blocks, read, strict=True)]
        rounding = self.ghosts.comm_dtype if blocks[0].is_everywhere else EXACT_DTYPE
        neurons = resources.hosting.neurons(source.space)
        self._own = [
            _Picked(source.buffer, place.start + used, max_batch)
            if rounding.is_exact
            else _Rounded(source.buffer, place.start + used, max_batch, rounding, neurons)
            for place, used in zip(columns, read, strict=True)
        ]
        places = [
            ghost_rows(block, neurons) for block, neurons in zip(blocks, self.ghosts.neurons, strict=True)
        ]
        self._came = [
            _Picked(buffer, np.sort(rows), max_batch)
            for rows, buffer in zip(places, self.ghosts.buffers, strict=True)
        ]
        self._biases = [block.bias.reshape(-1, 1) for block in blocks]
        self._orders = [*map(np.argsort, places), *self.sums.orders]
        self._products: list[_Products]
        if twin is not None and all(map(np.array_equal, self._orders, twin._orders)):
            self._products, self.reports = twin._products, []
            return
        kept = [weights_kept(block) for block in blocks]
        self._products = [
            self._make_products(block, count, np.argsort(rows), sums, source.has_events, resources)
            for block, count, rows, sums in zip(blocks, kept, places, self.sums.orders, strict=True)
        ]
        workers = resources.hosting.workers
        self.reports = [
            _report(mixing, worker, block, products.own.format, count)
            for worker, block, products, count in zip(workers, blocks, self._products, kept, strict=True)
        ]

    def _make_products(
        self,
        block: Block,
        kept: int,
        ghosts: np.ndarray,
        sums: np.ndarray,
        has_events: bool,
        resources: Resources,
    ) -> _Products:
        """The products of a hosted worker; room for what they compute is reserved.

        Args:
            block: of the worker.
            kept: how many of its weights are not zero.
            ghosts, sums: the orders in which ghosts and sums are in their buffers.
            has_events: of the source; see ``Tensor``.
            resources: of the program.
        """
        values = self.target.values
        make = choose(self.mixing.window, block, kept, values, resources, has_events)
        products = _Products(
            own=make(block.own_weights),
            ghost=make(with_columns(block.ghost_weights, ghosts, self.mixing.taps)),
            sum=make(with_rows(block.sum_weights, sums)),
        )
        for product in products:
            self._scratch.reserve(product.scratch(resources.max_batch * values))
        # They are packed now: their pages of the shard's file need not stay in memory.
        for weights in weights_of(block):
            let_go(weights)
        return products

    def _sum_transfer(
        self, blocks: Sequence[Block], target: Tensor, resources: Resources
    ) -> SumTransfer | CommonSums:
        """The transfer of its sums; nothing is sent."""
        return SumTransfer([block.sums for block in blocks], target.buffer, target.space, resources)

    @property
    def reads_ghosts(self) -> bool:
        """Whether a hosted worker reads neurons of others for it."""
        return any(came.rows.size for came in self._came)

    @property
    def exchanges(self) -> tuple[Exchange, Exchange]:
        """Those of ghosts and of sums."""
        return self.ghosts.exchange, self.sums.exchange

    def sum_calls(self, part: Part) -> list[Call]:
        """Bring own neurons together, and compute the sums for other workers, ready to be sent."""
        picking = [call for own in self._own for call in own.calls(part)]
        return [*picking, *self._sum_products(part), *self.sums.pack_calls(part)]

    def own_calls(self, part: Part) -> list[Call]:
        """Compute Y = bias + W_own X, and add the sums from workers of this rank: no other rank is needed."""
        return [*self._own_products(part, self._early_epilogue), *self.sums.near_calls(part)]

    @property
    def convolution(self) -> Direct | None:
        """The product that is all of the step, if one of the hosted workers has a part and needs no other."""
        busy = self._busy
        if len(busy) != 1 or self.reads_ghosts or self.sums.receives_any:
            return None
        product, own = self._products[busy[0]].own, self._own[busy[0]]
        return product if isinstance(product, Direct) and own.is_in_place else None

    @property
    def _busy(self) -> list[int]:
        """The hosted workers that have rows, by their places."""
        return [q for q, rows in enumerate(self._rows) if rows.stop > rows.start]

    def region_calls(self, part: Part, regions: Iterable[Region]) -> list[Call]:
        """Compute Y = act(bias + W_own X) in some regions of the maps, by ``convolution``."""
        convolution, (q,) = self.convolution, self._busy
        assert convolution is not None
        X, start, Y = self._own[q].maps(part), self._biases[q], self.target.view(part, self._rows[q])
        return [convolution.call_for(region, X, start, Y, self._epilogue) for region in regions]

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
        for own, products, sums in zip(self._own, self._products, self.sums.buffers, strict=True):
            if sums.rows:
                zeros, X = np.zeros((sums.rows, 1), sums.flat.dtype), own.maps(part)
                calls += products.sum.calls(X, zeros, sums.view(part), self._scratch, NO_ACTIVATION)
        return calls

    def _own_products(self, part: Part, epilogue: Epilogue) -> list[Call]:
        """Y = act(bias + W_own X) of every hosted worker; not activated where ghosts are to come."""
        calls: list[Call] = []
        for q, products in enumerate(self._products):
            X, Y = self._own[q].maps(part), self.target.view(part, self._rows[q])
            last = NO_ACTIVATION if self._came[q].rows.size else epilogue
            calls += products.own.calls(X, self._biases[q], Y, self._scratch, last)
        return calls

    def _ghost_products(self, part: Part, epilogue: Epilogue) -> list[Call]:
        """Y = act(Y + W_ghost ghosts) of every hosted worker that has ghosts."""
        calls: list[Call] = []
        for rows, products, came in zip(self._rows, self._products, self._came, strict=True):
            if came.rows.size:
                Y = self.target.view(part, rows)
                product = products.ghost.calls(came.maps(part), Y, Y, self._scratch, epilogue)
                calls += [*came.calls(part), *product]
        return calls


class CommonMixingStep(MixingStep):
    """Y = act(Σ of what all workers compute from their own neurons), the same for every worker.

    ``sum_calls`` compute what the rank adds, which travels to all others; ``own_calls`` add up what its own
    workers add, ``rest_calls`` what came.
    """

    def _sum_transfer(self, blocks: Sequence[Block], target: Tensor, resources: Resources) -> CommonSums:
        return CommonSums([block.sums for block in blocks], target.buffer, target.space, resources)

    def sum_calls(self, part: Part) -> list[Call]:
        """Compute what the hosted workers add, and bring it together for the other ranks."""
        calls = [call for own in self._own for call in own.calls(part)]
        for own, products, bias, terms in zip(
            self._own, self._products, self._biases, self.sums.buffers, strict=True
        ):
            if terms.rows:
                X, out = own.maps(part), terms.view(part)
                calls += products.own.calls(X, bias, out, self._scratch, NO_ACTIVATION)
        return [*calls, *self.sums.pack_calls(part)]

    def own_calls(self, part: Part) -> list[Call]:
        """Add up what the hosted workers add."""
        return self.sums.near_calls(part)

    def rest_calls(self, part: Part) -> list[Call]:
        """Add what came, and activate."""
        calls = self.sums.unpack_calls(part)
        if self._epilogue != NO_ACTIVATION:
            calls.append((COMPUTE, activate_in_place, (self.target.view(part), *self._epilogue)))
        return calls


class _Products(NamedTuple):
    """The products with the parts of a block."""

    own: Product
    ghost: Product
    sum: Product


class _Picked:
    """Some rows of a buffer, brought together where others lie between them.

    Attributes:
        rows: ascending, (r,).
        is_in_place: whether they are read where they are.
    """

    def __init__(self, buffer: Buffer, rows: np.ndarray, max_batch: int) -> None:
        self._source, self.rows = buffer, rows.astype(INDEX_DTYPE)
        first, end = (rows[0], rows[-1] + 1) if rows.size else (0, 0)
        self._slice, self.is_in_place = slice(first, end), rows.size == end - first
        size = 0 if self.is_in_place else rows.size
        self._buffer = Buffer(size, max_batch, buffer.flat.dtype, buffer.values)

    def calls(self, part: Part) -> list[Call]:
        """Calls that bring them together."""
        if self.is_in_place:
            return []
        return [(PACK, pack, (self._source.view(part), self.rows, self._buffer.view(part)))]

    def maps(self, part: Part) -> np.ndarray:
        """Where they are then: (r, batch, values)."""
        return self._source.maps(part, self._slice) if self.is_in_place else self._buffer.maps(part)


class _Rounded:
    """Rows of a buffer as they arrive at others: what is computed from them everywhere is the same then."""

    is_in_place = False

    def __init__(
        self, buffer: Buffer, rows: np.ndarray, max_batch: int, comm_dtype: CommDtype, neurons: np.ndarray
    ) -> None:
        self._source, self.rows = buffer, rows.astype(INDEX_DTYPE)
        self._layout = comm_dtype.layout(neurons[rows], np.array([rows.size]))
        codes = comm_dtype.codes(buffer.flat.dtype)
        self._codes = Buffer(self._layout.rows.item(), max_batch, codes, buffer.values)
        self._buffer = Buffer(rows.size, max_batch, buffer.flat.dtype, buffer.values)

    def calls(self, part: Part) -> list[Call]:
        """Calls that round them."""
        if not self.rows.size:
            return []
        X, codes, rounded = (buffer.view(part) for buffer in (self._source, self._codes, self._buffer))
        return [
            encoding(X, self.rows, self._layout, codes),
            decoding(codes, self._layout, rounded),
        ]

    def maps(self, part: Part) -> np.ndarray:
        """Where they are then: (r, batch, values)."""
        return self._buffer.maps(part)


def _own_columns(mixing: Mixing, block: Block, source: Buffer, target: Buffer) -> np.ndarray:
    """The own neurons that a block multiplies, by their places; all, unless leaving some out pays."""
    rows, taps = len(block.bias), mixing.taps
    used = columns_used(block.own_weights, taps) | columns_used(block.sum_weights, taps)
    unused = used.size - np.count_nonzero(used)
    saved = unused * rows * taps * target.values
    pays = saved > COPYING * np.count_nonzero(used) * source.values
    return np.flatnonzero(used) if pays else np.arange(used.size)


def _with_columns(block: Block, used: np.ndarray, taps: int) -> Block:
    """The block with some of its own neurons only."""
    if used.size == block.own_weights.shape[1] // taps:
        return block
    own, sums = (with_columns(weights, used, taps) for weights in (block.own_weights, block.sum_weights))
    return replace(block, own_weights=own, sum_weights=sums)


def ghost_rows(block: Block, neurons: np.ndarray) -> np.ndarray:
    """The rows in which the ghosts of a block came, of those for all mixings that read the tensor, (g,)."""
    place = np.argsort(neurons)
    return place[np.searchsorted(neurons, block.ghost_neurons, sorter=place)]


def _ghost_transfer(blocks: Sequence[Block], source: Tensor, resources: Resources) -> GhostTransfer:
    """The transfer of the ghosts of ``source`` to the hosted workers; nothing is sent."""
    lists = [block.ghosts for block in blocks]
    comm_dtype = CommDtype(source.comm_dtype, blocks)
    return GhostTransfer(lists, source.buffer, source.space, resources, comm_dtype)


def _report(mixing: Mixing, worker: int, block: Block, form: str, kept: int) -> BlockReport:
    shape = block.bias.size, block.own_weights.shape[1] // mixing.taps
    exchanged = block.ghosts.received.size, block.sums.sent.size
    return block_report(mixing.name, worker, shape, kept, form, exchanged)


def block_report(
    layer: str,
    worker: int,
    shape: tuple[int, int],
    weights: int,
    form: str,
    exchanged: tuple[int, int] = (0, 0),
) -> BlockReport:
    """An entry of ``Program.blocks``; ``shape`` and ``exchanged`` are each two of its numbers, in order."""
    (rows, columns), (ghosts, sums) = shape, exchanged
    return {
        "layer": layer,
        "worker": worker,
        "rows": rows,
        "columns": columns,
        "ghosts": ghosts,
        "sums": sums,
        "weights": weights,
        "format": form,
    }
