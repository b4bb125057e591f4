"""One mixing on a rank: the blocks of its workers around the exchanges of ghosts and partial sums."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mpi4py import MPI

from repurpose_hpc.kernels import activate_in_place
from repurpose_hpc.plan.shard import Block
from repurpose_hpc.runtime.blocks import COMPUTE, NO_ACTIVATION, Call, Epilogue, choose_product
from repurpose_hpc.runtime.buffers import Buffer
from repurpose_hpc.runtime.hosting import Hosting
from repurpose_hpc.runtime.transfers import GhostTransfer, SumTransfer


class MixingStep:
    """Y = act(bias + W X), of which the rank holds X and Y of its workers.

    Send the neurons that other ranks need; compute the sums for other workers and send them;
    meanwhile Y = bias + W_own X, and exchange between the workers of the rank; when the ghosts
    have come, Y = act(Y + W_ghost ghosts); when sums have come, add them, and only then activate.
    A mixing without ghosts, or without sums, has nothing to do for them, not even a collective.

    Attributes:
        blocks: one for each hosted worker.
        products: the format of each block: a class of ``blocks``.
        exchanges: what travels between ranks: ghosts, then sums.
    """

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
        self.hosting, self.epilogue = hosting, epilogue
        source_space, target_space = blocks[0].source_space, blocks[0].target_space
        self.columns, self.rows = hosting.slices(source_space), hosting.slices(target_space)
        common = hosting, comm, max_batch
        self.ghosts = GhostTransfer([block.ghosts for block in blocks], source, source_space, *common)
        self.sums = SumTransfer([block.sums for block in blocks], target, target_space, *common)
        self.exchanges = self.ghosts.exchange, self.sums.exchange

        self.products = [choose_product(block, max_batch) for block in blocks]
        formats = list(zip(self.products, blocks, self.ghosts.orders, self.sums.orders, strict=True))
        self.own = [product(block.own_weights) for product, block, _, _ in formats]
        self.ghost = [product(block.ghost_weights[:, order]) for product, block, order, _ in formats]
        self.sum = [product(block.sum_weights[order]) for product, block, _, order in formats]
        self.biases = [block.bias.reshape(-1, 1) for block in blocks]
        self.scratch = Buffer(max(block.bias.size for block in blocks), max_batch, target.flat.dtype)

    def calls(self, batch: int) -> list[Call]:
        """Everything that this rank does for the mixing, in order."""
        ghosts, sums = self.ghosts, self.sums
        activated_last = sums.arrive and self.epilogue != NO_ACTIVATION
        epilogue = NO_ACTIVATION if activated_last else self.epilogue
        return [
            *ghosts.post_calls(batch),
            *self._sum_calls(batch),
            *sums.post_calls(batch),
            *self._own_calls(batch, epilogue),
            *ghosts.near_calls(batch),
            *sums.near_calls(batch),
            *ghosts.wait_calls(batch),
            *self._ghost_calls(batch, epilogue),
            *sums.wait_calls(batch),
            *([(COMPUTE, activate_in_place, (self.target.view(batch), *self.epilogue))] * activated_last),
        ]

    def _sum_calls(self, batch: int) -> list[Call]:
        """The sums of every hosted worker for others."""
        calls: list[Call] = []
        for columns, product, sums in zip(self.columns, self.sum, self.sums.buffers, strict=True):
            if sums.rows:
                zeros = np.zeros((sums.rows, 1), sums.flat.dtype)
                X = self.source.view(batch, columns)
                calls += product.calls(X, zeros, sums.view(batch), self.scratch, NO_ACTIVATION)
        return calls

    def _own_calls(self, batch: int, epilogue: Epilogue) -> list[Call]:
        """Y = act(bias + W_own X) of every hosted worker; not activated where ghosts are to come."""
        calls: list[Call] = []
        for q, product in enumerate(self.own):
            X, Y = self.source.view(batch, self.columns[q]), self.target.view(batch, self.rows[q])
            last = NO_ACTIVATION if self.ghosts.buffers[q].rows else epilogue
            calls += product.calls(X, self.biases[q], Y, self.scratch, last)
        return calls

    def _ghost_calls(self, batch: int, epilogue: Epilogue) -> list[Call]:
        """Y = act(Y + W_ghost ghosts) of every hosted worker that has ghosts."""
        calls: list[Call] = []
        for rows, product, ghosts in zip(self.rows, self.ghost, self.ghosts.buffers, strict=True):
            if ghosts.rows:
                Y = self.target.view(batch, rows)
                calls += product.calls(ghosts.view(batch), Y, Y, self.scratch, epilogue)
        return calls
