"""One mixing on a rank: the blocks of its workers around one exchange, in either form.

Workers of one rank exchange by local copies.  Whatever is added is added in the order of workers
and ranks, so that results are reproducible to the last bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from mpi4py import MPI

from repurpose_hpc.kernels import activate_in_place, pack, unpack_add
from repurpose_hpc.plan.plan import GHOST, PARTIAL
from repurpose_hpc.plan.shard import Block
from repurpose_hpc.runtime.blocks import (
    COMPUTE,
    EXCHANGE,
    NO_ACTIVATION,
    PACK,
    WAIT,
    Call,
    Epilogue,
    choose_product,
)
from repurpose_hpc.runtime.buffers import Buffer
from repurpose_hpc.runtime.exchange import Exchange, Items, merge_items
from repurpose_hpc.runtime.hosting import Hosting


class MixingStep(ABC):
    """What both forms share.

    Attributes:
        blocks: one for each hosted worker, all of one form.
        products: the format of each block: a class of ``blocks``.
        exchange: what travels between ranks.
    """

    sender_owns: bool  # Whether the neurons that travel are the sender's or the receiver's.

    def __init__(
        self,
        blocks: Sequence[Block],
        source: Buffer,
        target: Buffer,
        hosting: Hosting,
        comm: MPI.Comm,
        max_batch: int,
        epilogue: Epilogue,
    ) -> None:
        self.blocks, self.source, self.target = blocks, source, target
        self.hosting, self.max_batch, self.epilogue = hosting, max_batch, epilogue
        self.columns = hosting.slices(blocks[0].source_space)
        self.rows = hosting.slices(blocks[0].target_space)
        self.biases = [block.bias.reshape(-1, 1) for block in blocks]
        self.products = [choose_product(block, max_batch) for block in blocks]
        self.own = [product(block.own_weights) for product, block in zip(self.products, blocks, strict=True)]
        self.scratch = self._buffer(max(block.bias.size for block in blocks))
        sent = self._items([b.sent_to for b in blocks], [b.sent for b in blocks], self.sender_owns)
        received = self._items(
            [b.received_from for b in blocks], [b.received for b in blocks], not self.sender_owns
        )
        self.exchange = Exchange(comm, sent, received, max_batch, target.flat.dtype)
        self._prepare(sent, received)

    @abstractmethod
    def _prepare(self, sent: Items, received: Items) -> None:
        """Set up the remote part of the blocks, given what is exchanged with other ranks."""

    @abstractmethod
    def calls(self, batch: int) -> list[Call]:
        """Everything that this rank does for the mixing, in order."""

    def _buffer(self, rows: int) -> Buffer:
        return Buffer(rows, self.max_batch, self.target.flat.dtype)

    def _is_here(self, workers: np.ndarray) -> np.ndarray:
        """Which of ``workers`` this rank hosts."""
        return self.hosting.rank_of[workers] == self.hosting.rank

    def _items(self, workers: Sequence[np.ndarray], neurons: Sequence[np.ndarray], hosted_own: bool) -> Items:
        """What is exchanged with other ranks.

        Args:
            workers, neurons: for each hosted worker, whom it exchanges with and which neurons.
            hosted_own: whether these neurons are those of the hosted workers or of ``workers``.
        """
        away = [~self._is_here(each) for each in workers]
        workers = [each[mask] for each, mask in zip(workers, away, strict=True)]
        neurons = [each[mask] for each, mask in zip(neurons, away, strict=True)]
        hosted = [np.full_like(each, q) for each, q in zip(workers, self.hosting.workers, strict=True)]
        ranks = [self.hosting.rank_of[each] for each in workers]
        return merge_items(ranks, hosted if hosted_own else workers, neurons, self.hosting.ranks)

    def _own_calls(self, batch: int, q: int, epilogue: Epilogue) -> list[Call]:
        """Y = act(bias + W_own X) of hosted worker number q."""
        X, Y = self.source.view(batch, self.columns[q]), self.target.view(batch, self.rows[q])
        return self.own[q].calls(X, self.biases[q], Y, self.scratch, epilogue)

    def _post_calls(self, batch: int) -> list[Call]:
        exchange = self.exchange
        return [(EXCHANGE, exchange.post, exchange.arguments(batch))] if exchange.active else []

    def _wait_calls(self) -> list[Call]:
        return [(WAIT, self.exchange.wait, ())] if self.exchange.active else []


class GhostMixing(MixingStep):
    """Inputs travel; each worker computes whole rows of its own neurons.

    Pack the neurons that other ranks need and post them; meanwhile Y = bias + W_own X, and fetch
    the ghosts from workers of the same rank; when the others have come, Y = act(Y + W_ghost ghosts).

    A worker's ghosts are stored with those of its rank first (``near``), then those of other
    ranks.  Where a rank hosts one worker, the receive buffer is that matrix, without a copy.
    """

    sender_owns = True

    def _prepare(self, sent: Items, received: Items) -> None:
        space = self.blocks[0].source_space
        self.packed = self.hosting.rows(space, sent.neurons)
        self.arrived = received.positions
        self.near, self.remote = [], []
        for block, product in zip(self.blocks, self.products, strict=True):
            near = self._is_here(block.received_from)
            self.near.append(self.hosting.rows(space, block.received[near]))
            self.remote.append(
                product(np.hstack([block.remote_weights[:, near], block.remote_weights[:, ~near]]))
            )
        alone = len(self.blocks) == 1
        self.ghosts = [
            self.exchange.receive if alone else self._buffer(block.received.size) for block in self.blocks
        ]

    def calls(self, batch: int) -> list[Call]:
        X, send = self.source.view(batch), self.exchange.send.view(batch)
        calls: list[Call] = []
        if self.packed.size:
            calls.append((PACK, pack, (X, self.packed, send)))
        calls += self._post_calls(batch)
        for q, rows in enumerate(self.near):
            has_ghosts = self.ghosts[q].rows > 0
            calls += self._own_calls(batch, q, NO_ACTIVATION if has_ghosts else self.epilogue)
            if rows.size:
                calls.append((PACK, pack, (X, rows, self.ghosts[q].view(batch, slice(rows.size)))))
        calls += self._wait_calls()
        for q, ghosts in enumerate(self.ghosts):
            if ghosts.rows:
                calls += self._ghost_calls(batch, q)
        return calls

    def _ghost_calls(self, batch: int, q: int) -> list[Call]:
        """Y = act(Y + W_ghost ghosts) of hosted worker number q."""
        calls: list[Call] = []
        receive, ghosts = self.exchange.receive, self.ghosts[q]
        if ghosts is not receive and self.arrived[q].size:
            far = ghosts.view(batch, slice(self.near[q].size, None))
            calls.append((PACK, pack, (receive.view(batch), self.arrived[q], far)))
        Y = self.target.view(batch, self.rows[q])
        return calls + self.remote[q].calls(ghosts.view(batch), Y, Y, self.scratch, self.epilogue)


class PartialMixing(MixingStep):
    """Partial sums travel; each worker multiplies its own neurons into rows of others.

    Compute the sums for other workers, add up those for the same neuron of another rank and post
    them; meanwhile Y = bias + W_own X, and add the sums from workers of the same rank; when the
    others have come, add them and apply the activation.

    A worker's sums are stored with those for its rank first (``near``), then those for other
    ranks.  Where a rank hosts one worker, they are computed in the send buffer, without a copy.
    """

    sender_owns = False

    def _prepare(self, sent: Items, received: Items) -> None:
        space = self.blocks[0].target_space
        self.added = self.hosting.rows(space, received.neurons)
        self.departing = sent.positions
        self.near, self.remote = [], []
        for block, product in zip(self.blocks, self.products, strict=True):
            near = self._is_here(block.sent_to)
            self.near.append(self.hosting.rows(space, block.sent[near]))
            self.remote.append(product(np.vstack([block.remote_weights[near], block.remote_weights[~near]])))
        alone = len(self.blocks) == 1
        self.sums = [self.exchange.send if alone else self._buffer(block.sent.size) for block in self.blocks]

    def calls(self, batch: int) -> list[Call]:
        Y = self.target.view(batch)
        is_sum = any(block.received.size for block in self.blocks)
        calls = self._sum_calls(batch) + self._reduce_calls(batch) + self._post_calls(batch)
        for q in range(len(self.blocks)):
            calls += self._own_calls(batch, q, NO_ACTIVATION if is_sum else self.epilogue)
        for rows, sums in zip(self.near, self.sums, strict=True):
            if rows.size:
                calls.append((COMPUTE, unpack_add, (sums.view(batch, slice(rows.size)), rows, Y)))
        calls += self._wait_calls()
        if self.added.size:
            calls.append((COMPUTE, unpack_add, (self.exchange.receive.view(batch), self.added, Y)))
        if is_sum and self.epilogue != NO_ACTIVATION:
            calls.append((COMPUTE, activate_in_place, (Y, *self.epilogue)))
        return calls

    def _sum_calls(self, batch: int) -> list[Call]:
        """The sums of every hosted worker for others."""
        calls: list[Call] = []
        for columns, remote, sums in zip(self.columns, self.remote, self.sums, strict=True):
            if sums.rows:
                zeros = np.zeros((sums.rows, 1), sums.flat.dtype)
                X = self.source.view(batch, columns)
                calls += remote.calls(X, zeros, sums.view(batch), self.scratch, NO_ACTIVATION)
        return calls

    def _reduce_calls(self, batch: int) -> list[Call]:
        """Add up the sums of several hosted workers for the same neuron of another rank."""
        send = self.exchange.send
        if not send.rows or self.sums[0] is send:
            return []
        calls: list[Call] = [(PACK, send.view(batch).fill, (0,))]
        for near, positions, sums in zip(self.near, self.departing, self.sums, strict=True):
            if positions.size:
                far = sums.view(batch, slice(near.size, None))
                calls.append((PACK, unpack_add, (far, positions, send.view(batch))))
        return calls


MIXING_STEPS = {GHOST: GhostMixing, PARTIAL: PartialMixing}
