"""One mixing on a rank, forward and backward: the blocks of its workers around what they exchange."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.model.operations.patches import as_map, from_map
from repurpose_hpc.plan.shard import Block
from repurpose_hpc.runtime.buffers import Part
from repurpose_hpc.runtime.hosting import Hosting
from repurpose_hpc.runtime.lowering.mixings import ghost_rows
from repurpose_hpc.tuning.links import GhostLink, SumLink, Transfers
from repurpose_hpc.tuning.parameters import LocalBlock, Update


class TunedMixing:
    """Y = W X + b, of which the rank holds X and Y of its workers.

    Forward, the owners send ghosts of X as soon as X is there, and the workers send partial sums of Y.
    Backward, the owners send the derivatives by Y to who sent them sums, and the workers send the derivatives
    by ghosts back to their owners.

    Attributes:
        mixing: bare.
        ghosts: those of X, common to all mixings that read it; ``sums``: those of Y.
        blocks: of the hosted workers.
    """

    def __init__(
        self,
        mixing: Mixing,
        blocks: Sequence[Block],
        ghosts: GhostLink,
        sums: SumLink,
        hosting: Hosting,
    ) -> None:
        """Copies the weights; nothing is sent.

        Args:
            mixing, ghosts, sums: see the class.
            blocks: one for each hosted worker.
            hosting: of the rank.
        """
        self.mixing, self.ghosts, self.sums = mixing, ghosts, sums
        self._columns, self._rows = hosting.slices(ghosts.space), hosting.slices(sums.space)
        rows = [ghost_rows(*pair) for pair in zip(blocks, ghosts.there.neurons, strict=True)]
        self._ghost_rows = [np.sort(each) for each in rows]
        self.blocks = [
            LocalBlock(mixing, block, worker, np.argsort(places), order)
            for block, worker, places, order in zip(
                blocks, hosting.workers, rows, sums.there.orders, strict=True
            )
        ]

    def forward(self, x: np.ndarray, part: Part, transfers: Transfers, waits: bool) -> np.ndarray:
        """Y from X, each (neurons of the hosted workers, batch) or (neurons, batch, positions); collective.

        The ghosts were posted; ``waits``: no other mixing has waited for them.
        """
        out, sums = self.sums.values.maps(part), self.sums.there
        transfers.begin(sums, part)
        for number, (block, columns, rows) in enumerate(self._of_workers):
            made = block.own.forward(x[columns])
            out[rows] = made[: block.rows]
            sums.buffers[number].maps(part)[...] = made[block.rows :]
        transfers.post(sums, part)
        if waits:
            transfers.complete(self.ghosts.there, part)
        for number, (block, _, rows) in enumerate(self._of_workers):
            came = self._came(number, part)
            if len(came):
                out[rows] += block.ghost.forward(came)
        transfers.complete(sums, part)
        return from_map(out)

    def backward(
        self,
        g: np.ndarray,
        x: np.ndarray,
        part: Part,
        wants_source: bool,
        transfers: Transfers,
        update: Update,
    ) -> np.ndarray | None:
        """Tune the blocks; collective.

        Args:
            g: derivatives by Y, of its shape.
            x: X as it was read.
            part: the batch.
            wants_source: whether derivatives by X are wanted.  Those by ghosts are added to what will be sent
                back to their owners.
            transfers: of the rank.
            update: of a parameter.

        Returns:
            derivatives by X, without what comes back from others; None: they are not wanted.
        """
        back = self.sums.back
        transfers.begin(back, part)
        self.sums.adjoints.maps(part)[...] = as_map(g)
        transfers.post(back, part)
        for number, (block, _, rows) in enumerate(self._of_workers):
            came = self._came(number, part)
            if not len(came):
                continue
            by_ghosts = block.ghost.by_source(g[rows], came) if wants_source else None
            if by_ghosts is not None:
                leaving = self.ghosts.back.buffers[number].maps(part)
                leaving[self._ghost_rows[number]] += as_map(by_ghosts)
            block.ghost.backward(g[rows], came, update)
        transfers.complete(back, part)
        by_source = np.zeros_like(x) if wants_source else None
        for number, (block, columns, rows) in enumerate(self._of_workers):
            by_rows = _joined(g[rows], from_map(back.buffers[number].maps(part)))
            by_own = None if by_source is None else block.own.by_source(by_rows, x[columns])
            if by_source is not None and by_own is not None:
                by_source[columns] = by_own
            block.own.backward(by_rows, x[columns], update)
        return by_source

    @property
    def _of_workers(self) -> Iterable[tuple[LocalBlock, slice, slice]]:
        """Block, columns and rows of each hosted worker."""
        return zip(self.blocks, self._columns, self._rows, strict=True)

    def _came(self, number: int, part: Part) -> np.ndarray:
        """The ghosts that a hosted worker reads here, (ghosts, batch) or (ghosts, batch, positions)."""
        came, rows = self.ghosts.there.buffers[number].maps(part), self._ghost_rows[number]
        return from_map(came if rows.size == len(came) else came[rows])


def _joined(rows: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Both below each other, without a copy where there are no sums."""
    return np.concatenate([rows, sums]) if len(sums) else rows
