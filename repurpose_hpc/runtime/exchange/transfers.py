"""Transfers of ghosts and partial sums between the workers of a rank and between ranks.

The owner of a neuron sends it as a ghost to the workers that have it in their masks.  Workers that have a
neuron in their masks send partial sums to its owner.  So both transfers are set up alike, with the worker
that has the mask at one end and the owner at the other.

Workers of one rank exchange by local copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from repurpose_hpc.kernels import (
    INDEX_DTYPE,
    clear,
    pack,
    pack_bits,
    pack_bytes,
    pack_codes,
    unpack_add,
    unpack_bits,
    unpack_bytes,
    unpack_codes,
)
from repurpose_hpc.plan.shard import Lists
from repurpose_hpc.runtime.buffers import Buffer, Part
from repurpose_hpc.runtime.calls import COMPUTE, PACK, Call
from repurpose_hpc.runtime.exchange.comm_dtype import EXACT_DTYPE, CommDtype, Layout
from repurpose_hpc.runtime.exchange.exchange import Exchange, Items, merge_items
from repurpose_hpc.runtime.resources import Resources


class _Peers(NamedTuple):
    """Workers that a hosted worker exchanges with, and the neurons, in the same order."""

    workers: np.ndarray
    neurons: np.ndarray


class Transfer:
    """The common part of ghosts and sums.

    A hosted worker's ghosts, or sums, are stored with those from, or for, its own rank first.  In a
    deterministic program, where what is added up has the order of workers, they have their places between
    those of lower and those of higher ranks.
    Where a rank hosts one worker, its buffer is that of the exchange, without a copy.

    Attributes:
        exchange: with other ranks.
        buffers: the ghosts, or sums, of each hosted worker.
        orders: for each hosted worker, the position in its list of the item in each row of its buffer.
        neurons: for each hosted worker, the neuron in each row of its buffer.
    """

    sender_owns: bool  # True: the neurons that travel are the sender's; False: the receiver's.

    def __init__(
        self,
        lists: Sequence[Lists],
        activations: Buffer,
        space: str,
        resources: Resources,
        comm_dtype: CommDtype = EXACT_DTYPE,
    ) -> None:
        """Allocates the buffers; nothing is sent.

        Args:
            lists: of each hosted worker.
            activations: of the hosted workers' neurons of ``space``: ghosts are copied from there,
                sums are added there.
            space: of the neurons in ``lists``.
            resources: of the program.
            comm_dtype: of what is sent.
        """
        self.activations, self.hosting, self.comm_dtype = activations, resources.hosting, comm_dtype
        self.deterministic = resources.deterministic
        max_batch = resources.max_batch
        sending = [_Peers(worker.sent_to, worker.sent) for worker in lists]
        receiving = [_Peers(worker.received_from, worker.received) for worker in lists]
        sent, received = self._items(sending, self.sender_owns), self._items(receiving, not self.sender_owns)
        dtype, values = activations.flat.dtype, activations.values
        self.sent_layout, self.received_layout = (
            comm_dtype.layout(items.neurons, items.counts) for items in (sent, received)
        )
        rows = self.sent_layout.rows, self.received_layout.rows
        codes, sent_neurons = comm_dtype.codes(dtype), sent.neurons.size
        self.exchange = Exchange(*rows, max_batch, codes, values, sent_neurons)
        # What came, as numbers.
        self.arrived = self.exchange.receive
        if not comm_dtype.is_exact:
            self.arrived = Buffer(received.neurons.size, max_batch, dtype, values)
        owned, masked = (sent, received) if self.sender_owns else (received, sent)
        self.owned = self.hosting.rows(space, owned.neurons)  # in the masks of other ranks
        self.far = masked.positions  # in the buffer of the exchange
        if self.sender_owns:
            self._place(receiving, space, self.arrived, max_batch)
        else:
            self._place(sending, space, self.exchange.send, max_batch)

    def _place(self, masked: Sequence[_Peers], space: str, exchanged: Buffer, max_batch: int) -> None:
        """Find where each hosted worker has what is in its mask.

        Args:
            masked: for each hosted worker, the neurons in its mask, with their owners.
            space: of the neurons.
            exchanged: what of these is exchanged with other ranks.
            max_batch: most samples.
        """
        self.near: list[np.ndarray] = []
        self.near_places: list[slice] = []
        self.orders: list[np.ndarray] = []
        self.neurons: list[np.ndarray] = []
        self.buffers: list[Buffer] = []
        dtype, values = exchanged.flat.dtype, exchanged.values
        for workers, neurons in masked:
            is_near = self._is_here(workers)
            order = np.argsort(~is_near, kind="stable")
            first, count = 0, int(np.count_nonzero(is_near))
            if self.deterministic:
                order = np.arange(neurons.size)
                first = int(np.count_nonzero(self.hosting.rank_of[workers] < self.hosting.rank))
            self.near.append(self.hosting.rows(space, neurons[is_near]))
            self.near_places.append(slice(first, first + count))
            self.orders.append(order)
            self.neurons.append(neurons[order])
            alone = len(masked) == 1
            self.buffers.append(exchanged if alone else Buffer(neurons.size, max_batch, dtype, values))

    def _is_here(self, workers: np.ndarray) -> np.ndarray:
        """A mask of those of ``workers`` that this rank hosts."""
        return self.hosting.rank_of[workers] == self.hosting.rank

    def _items(self, peers: Sequence[_Peers], hosted_own: bool) -> Items:
        """The items that are exchanged with other ranks.

        Args:
            peers: for each hosted worker.
            hosted_own: whether the neurons are those of the hosted workers or of the others.
        """
        is_remote = [~self._is_here(workers) for workers, _ in peers]
        workers = [part.workers[mask] for mask, part in zip(is_remote, peers, strict=True)]
        neurons = [part.neurons[mask] for mask, part in zip(is_remote, peers, strict=True)]
        hosted = [
            np.full_like(array, worker) for array, worker in zip(workers, self.hosting.workers, strict=True)
        ]
        ranks = [self.hosting.rank_of[array] for array in workers]
        owners, masked = (hosted, workers) if hosted_own else (workers, hosted)
        apart = self.deterministic and not self.sender_owns
        return merge_items(ranks, [masked, owners] if apart else [owners], neurons, self.hosting.ranks)

    def _near_views(self, part: Part) -> list[tuple[np.ndarray, np.ndarray]]:
        """The rows of the neurons of near items, and the items, of each worker that has any."""
        triples = zip(self.near, self.near_places, self.buffers, strict=True)
        return [(rows, buffer.view(part, place)) for rows, place, buffer in triples if rows.size]

    def _far_views(self, part: Part) -> list[tuple[np.ndarray, np.ndarray]]:
        """The rows, in the exchange, of far items that are stored twice, and the items, of each worker."""
        if len(self.buffers) == 1:
            return []
        return [
            (rows, buffer.view(part, place))
            for near, far, buffer in zip(self.near_places, self.far, self.buffers, strict=True)
            for rows, place in (
                (far[: near.start], slice(near.start)),
                (far[near.start :], slice(near.stop, None)),
            )
            if rows.size
        ]


class GhostTransfer(Transfer):
    """Ghosts, from the activations of their owners to ``buffers``."""

    sender_owns = True

    def pack_calls(self, part: Part) -> list[Call]:
        """Pack what other ranks need."""
        if not self.owned.size:
            return []
        X, send = self.activations.view(part), self.exchange.send.view(part)
        if self.comm_dtype.is_exact:
            return [(PACK, pack, (X, self.owned, send))]
        return [encoding(X, self.owned, self.sent_layout, send)]

    def near_calls(self, part: Part) -> list[Call]:
        """Fetch the ghosts that workers of this rank own."""
        X = self.activations.view(part)
        if self.comm_dtype.is_exact:
            return [(PACK, pack, (X, rows, ghosts)) for rows, ghosts in self._near_views(part)]
        near = (neurons[place] for place, neurons in zip(self.near_places, self.neurons, strict=True))
        layouts = [self.comm_dtype.layout(part, np.array([part.size])) for part in near if part.size]
        calls: list[Call] = []
        # Through the codes of messages: outputs do not depend on which workers a rank hosts.
        for (rows, ghosts), layout in zip(self._near_views(part), layouts, strict=True):
            codes = np.empty((layout.rows.item(), ghosts.shape[1]), self.exchange.send.flat.dtype)
            calls += [encoding(X, rows, layout, codes), decoding(codes, layout, ghosts)]
        return calls

    def unpack_calls(self, part: Part) -> list[Call]:
        """Bring the ghosts that came from other ranks to their workers."""
        receive = self.arrived.view(part)
        decoded: list[Call] = []
        if not self.comm_dtype.is_exact and self.arrived.rows:
            decoded.append(decoding(self.exchange.receive.view(part), self.received_layout, receive))
        fetching = [(PACK, pack, (receive, rows, ghosts)) for rows, ghosts in self._far_views(part)]
        return decoded + fetching


def encoding(X: np.ndarray, rows: np.ndarray, layout: Layout, codes: np.ndarray) -> Call:
    """The call that makes codes of some rows of X."""
    if layout.steps.size:
        return PACK, pack_bytes, (X, rows, layout.steps, layout.places, layout.halves, codes)
    if layout.places.size:
        return PACK, pack_bits, (X, rows, layout.places, codes)
    return PACK, pack_codes, (X, rows, codes)


def decoding(codes: np.ndarray, layout: Layout, values: np.ndarray) -> Call:
    """The call that makes numbers of codes."""
    if layout.steps.size:
        return PACK, unpack_bytes, (codes, layout.steps, layout.places, layout.halves, values)
    if layout.places.size:
        return PACK, unpack_bits, (codes, layout.places, values)
    return PACK, unpack_codes, (codes, values)


class SumTransfer(Transfer):
    """Partial sums, from ``buffers`` to the activations of their owners, who add them.

    They are added in the order of workers and ranks, so that results are reproducible to the last bit: those
    from this rank while others travel, those from another rank added up there before.  In a deterministic
    program the ranks do not enter: every worker's are added by themselves, when all have come.
    """

    sender_owns = False

    @property
    def receives_any(self) -> bool:
        """True if any hosted worker receives a sum, from this or another rank."""
        return bool(self.owned.size or any(rows.size for rows in self.near))

    def pack_calls(self, part: Part) -> list[Call]:
        """Add up the sums of several hosted workers for the same neuron of another rank."""
        send = self.exchange.send.view(part)
        adding: list[Call] = [(PACK, unpack_add, (sums, rows, send)) for rows, sums in self._far_views(part)]
        if adding:
            adding.insert(0, (PACK, clear, (send,)))
        return adding

    def near_calls(self, part: Part) -> list[Call]:
        """Add the sums from workers of this rank, unless those from lower ranks come first."""
        return [] if self.deterministic else self._adding(part, self._near_views(part))

    def unpack_calls(self, part: Part) -> list[Call]:
        """Add the sums that came from other ranks, and those from this one if they are not added yet."""
        if not self.deterministic:
            return self._adding(part, self._received(part, slice(None)))
        lower = int(self.exchange.received[: self.hosting.rank].sum())
        below, above = self._received(part, slice(lower)), self._received(part, slice(lower, None))
        return self._adding(part, [*below, *self._near_views(part), *above])

    def _received(self, part: Part, items: slice) -> list[tuple[np.ndarray, np.ndarray]]:
        """The rows of the neurons of some items that came, and these items, if there are any."""
        rows = self.owned[items]
        return [(rows, self.exchange.receive.view(part, items))] if rows.size else []

    def _adding(self, part: Part, sums: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[Call]:
        Y = self.activations.view(part)
        return [(COMPUTE, unpack_add, (values, rows, Y)) for rows, values in sums]


class CommonSums:
    """What all workers add to neurons of which each has a copy: from every rank to all others.

    A rank sends one sum of what its workers add.  What comes is added in the order of ranks, behind what the
    hosted workers add in their order.

    Attributes:
        exchange: with other ranks.
        buffers: what each hosted worker adds; without rows if it adds nothing.
        orders: for each hosted worker, nothing: it has no weights for others alone.
    """

    def __init__(self, lists: Sequence[Lists], activations: Buffer, space: str, resources: Resources) -> None:
        """Allocates the buffers; nothing is sent.

        Args:
            lists: of each hosted worker.
            activations: of the hosted workers' copies of the neurons of ``space``.
            space: of the neurons.
            resources: of the program.
        """
        hosting, dtype, values = resources.hosting, activations.flat.dtype, activations.values
        self._activations, self._copies = activations, hosting.slices(space)
        self._rows = self._copies[0].stop
        # A worker alone sends to nobody; then it is the only one, and adds all there is.
        adds = [bool(own.sent.size) or len(hosting.rank_of) == 1 for own in lists]
        counts = [self._rows if any_adds else 0 for any_adds in adds]
        self.buffers = [Buffer(count, resources.max_batch, dtype, values) for count in counts]
        self.orders = [np.empty(0, np.int64) for _ in lists]
        other = np.arange(hosting.ranks) != hosting.rank
        sent = np.where(other, self._rows * any(adds), 0)
        received = np.zeros(hosting.ranks, np.int64)
        received[hosting.rank_of[np.concatenate([own.received_from for own in lists])]] = self._rows
        self.exchange = Exchange(sent, np.where(other, received, 0), resources.max_batch, dtype, values)

    @property
    def receives_any(self) -> bool:
        """True: every worker receives sums."""
        return True

    def pack_calls(self, part: Part) -> list[Call]:
        """Add up what the hosted workers add, once for each other rank."""
        send = self.exchange.send
        blocks = [send.view(part, block) for block in self._blocks(send.rows)]
        clearing: list[Call] = [(PACK, clear, (send.view(part),))] if blocks else []
        return [*clearing, *(call for block in blocks for call in self._adding(part, block))]

    def near_calls(self, part: Part) -> list[Call]:
        """Copies of what the hosted workers add, for each of them."""
        clearing: list[Call] = [(COMPUTE, clear, (self._activations.view(part),))]
        copies = [self._activations.view(part, copy) for copy in self._copies]
        return [*clearing, *(call for copy in copies for call in self._adding(part, copy))]

    def unpack_calls(self, part: Part) -> list[Call]:
        """Add what came from other ranks to the copy of each hosted worker."""
        receive = self.exchange.receive
        copies = [self._activations.view(part, copy) for copy in self._copies]
        blocks = [receive.view(part, block) for block in self._blocks(receive.rows)]
        return [(COMPUTE, unpack_add, (block, self._all, copy)) for block in blocks for copy in copies]

    def _adding(self, part: Part, target: np.ndarray) -> list[Call]:
        terms = [buffer.view(part) for buffer in self.buffers if buffer.rows]
        return [(COMPUTE, unpack_add, (term, self._all, target)) for term in terms]

    @property
    def _all(self) -> np.ndarray:
        return np.arange(self._rows, dtype=INDEX_DTYPE)

    def _blocks(self, rows: int) -> list[slice]:
        """The rows of each rank in a buffer of so many."""
        return [slice(first, first + self._rows) for first in range(0, rows, self._rows)]
