"""One mixing on a rank: the blocks of its workers around the exchanges of ghosts and partial sums."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from repurpose_hpc.kernels import INDEX_DTYPE, activate_in_place, pack
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.shard import Block
from repurpose_hpc.runtime.buffers import Buffer, Part
from repurpose_hpc.runtime.exchange.comm_dtype import Wire
from repurpose_hpc.runtime.exchange.transfers import GhostTransfer, SumTransfer
from repurpose_hpc.runtime.lowering.blocks import COMPUTE, NO_ACTIVATION, PACK, Call, Epilogue, weights_kept
from repurpose_hpc.runtime.lowering.convolution import choose
from repurpose_hpc.runtime.setting import Setting


class MixingStep:
    """Y = act(bias + W X), of which the rank holds X and Y of its workers.

    The neurons that other ranks need are packed as soon as X is there (see ``GhostTransfer``).  Compute the
    sums for other workers (``sum_calls``); while both are on their way, Y = bias + W_own X (``own_calls``);
    when they have come, Y = act(Y + W_ghost ghosts + sums) (``rest_calls``).  What is sent, and when, is the
    matter of ``schedule``.

    Attributes:
        mixing: what it computes, without weights.
        described: the entries of ``Program.blocks``, one for each hosted worker.
        own, ghost, sum: the products with each block's parts.
        ghosts, sums: what it exchanges; mixings that read one tensor have the ghosts in common.
    """

    def __init__(
        self,
        mixing: Mixing,
        blocks: Sequence[Block],
        source: Buffer,
        target: Buffer,
        spaces: tuple[str, str],
        epilogue: Epilogue,
        ghosts: GhostTransfer | None,
        setting: Setting,
    ) -> None:
        """Collective over the ranks of ``setting``.

        Args:
            mixing, blocks: see the class.
            source, target: the tensors' memory.
            spaces: of source and target.
            epilogue: applied last.
            ghosts: those of an earlier mixing that reads the same tensor; None: this is the first.
            setting: of the program.
        """
        self.mixing, self.source, self.target = mixing, source, target
        self.epilogue, self.scratch = epilogue, setting.scratch
        hosting, max_batch = setting.hosting, setting.max_batch
        self.columns, self.rows = (hosting.slices(space) for space in spaces)
        self.ghosts = ghosts or GhostTransfer(
            [block.ghosts for block in blocks], source, spaces[0], setting, Wire(setting.formats.wire, blocks)
        )
        self.sums = SumTransfer([block.sums for block in blocks], target, spaces[1], setting)

        self.picked = [
            _Picked(block, *ghosts, max_batch)
            for block, *ghosts in zip(blocks, self.ghosts.neurons, self.ghosts.buffers, strict=True)
        ]
        self.biases = [block.bias.reshape(-1, 1) for block in blocks]
        kept = [weights_kept(block) for block in blocks]
        self._make_products(blocks, kept, setting)
        self.described = [
            _describe(mixing, worker, block, product.format, count)
            for worker, block, product, count in zip(hosting.workers, blocks, self.own, kept, strict=True)
        ]

    def _make_products(self, blocks: Sequence[Block], kept: Sequence[int], setting: Setting) -> None:
        """``own``, ``ghost`` and ``sum``, and room for what they compute.

        Args:
            blocks: one for each hosted worker.
            kept: how many weights of each are not zero.
            setting: of the program.
        """
        target, taps = self.target, self.mixing.taps
        choice = target.values, setting.max_batch, setting.formats.weights, setting.threads
        made = [
            choose(self.mixing.window, block, count, *choice)
            for block, count in zip(blocks, kept, strict=True)
        ]
        self.own = [make(block.own_weights) for make, block in zip(made, blocks, strict=True)]
        self.ghost = [
            make(_columns(block.ghost_weights, picked.order, taps))
            for make, block, picked in zip(made, blocks, self.picked, strict=True)
        ]
        self.sum = [
            make(block.sum_weights[order])
            for make, block, order in zip(made, blocks, self.sums.orders, strict=True)
        ]
        for product in (*self.own, *self.ghost, *self.sum):
            self.scratch.reserve(product.scratch(setting.max_batch * target.values))

    @property
    def waits(self) -> bool:
        """Whether any rank has a message to wait for; known once all have agreed (see ``rounds``)."""
        return self.ghosts.exchange.active or self.sums.exchange.active

    def sum_calls(self, part: Part) -> list[Call]:
        """Compute the sums for other workers, ready to be sent."""
        return [*self._sum_products(part), *self.sums.pack_calls(part)]

    def own_calls(self, part: Part) -> list[Call]:
        """All that needs no other rank: Y = bias + W_own X, and the sums from workers of this rank."""
        return [*self._own_products(part, self._early_epilogue), *self.sums.near_calls(part)]

    def rest_calls(self, part: Part) -> list[Call]:
        """When ghosts and sums have come: Y = act(Y + W_ghost ghosts + sums)."""
        calls = [*self._ghost_products(part, self._early_epilogue), *self.sums.unpack_calls(part)]
        if self.sums.arrive and self.epilogue != NO_ACTIVATION:
            calls.append((COMPUTE, activate_in_place, (self.target.view(part), *self.epilogue)))
        return calls

    @property
    def _early_epilogue(self) -> Epilogue:
        """Of the products: nothing is activated before the sums are there."""
        return NO_ACTIVATION if self.sums.arrive else self.epilogue

    def _sum_products(self, part: Part) -> list[Call]:
        """The sums of every hosted worker for others."""
        calls: list[Call] = []
        for columns, product, sums in zip(self.columns, self.sum, self.sums.buffers, strict=True):
            if sums.rows:
                zeros = np.zeros((sums.rows, 1), sums.flat.dtype)
                X = self.source.maps(part, columns)
                calls += product.calls(X, zeros, sums.view(part), self.scratch, NO_ACTIVATION)
        return calls

    def _own_products(self, part: Part, epilogue: Epilogue) -> list[Call]:
        """Y = act(bias + W_own X) of every hosted worker; not activated where ghosts are to come."""
        calls: list[Call] = []
        for q, product in enumerate(self.own):
            X, Y = self.source.maps(part, self.columns[q]), self.target.view(part, self.rows[q])
            last = NO_ACTIVATION if self.picked[q].used.size else epilogue
            calls += product.calls(X, self.biases[q], Y, self.scratch, last)
        return calls

    def _ghost_products(self, part: Part, epilogue: Epilogue) -> list[Call]:
        """Y = act(Y + W_ghost ghosts) of every hosted worker that has ghosts."""
        calls: list[Call] = []
        for rows, product, picked in zip(self.rows, self.ghost, self.picked, strict=True):
            if picked.used.size:
                Y = self.target.view(part, rows)
                picking, ghosts = picked.calls(part)
                calls += [*picking, *product.calls(ghosts, Y, Y, self.scratch, epilogue)]
        return calls


class _Picked:
    """The ghosts that a worker uses for one mixing, of those that came for all that read the tensor.

    Attributes:
        used: their rows in the buffer of the transfer, ascending.
        order: which of ``Block.ghost_neurons`` each is.
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
        """What brings them together, and where they are then: (g, batch, values)."""
        picking: list[Call] = []
        if self.buffer is not self.came:
            picking.append((PACK, pack, (self.came.view(part), self.used, self.buffer.view(part))))
        return picking, self.buffer.maps(part)


def _describe(mixing: Mixing, worker: int, block: Block, form: str, kept: int) -> dict:
    """An entry of ``Program.blocks``."""
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
