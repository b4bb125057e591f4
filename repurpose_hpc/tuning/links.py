"""Transfers made one at a time, there and back.

A *link* is what crosses for one tensor or one mixing: ghosts, which owners send, or partial sums, which they
receive.  Derivatives go the opposite way.  Where a ghost was sent, its derivatives come back to the owner,
who adds them up, as it does with sums.  Where a sum was sent, the derivative of what it was added to comes
back, as a ghost does.  So the transpose of a transfer is one of the other kind, with the lists exchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from repurpose_hpc.plan.shard import Block
from repurpose_hpc.runtime.buffers import Buffer, Part
from repurpose_hpc.runtime.calls import PHASES, Call
from repurpose_hpc.runtime.exchange.comm_dtype import CommDtype
from repurpose_hpc.runtime.exchange.exchange import exchanges_in_use
from repurpose_hpc.runtime.exchange.messages import Request
from repurpose_hpc.runtime.exchange.transfers import GhostTransfer, SumTransfer
from repurpose_hpc.runtime.exchange.transport import TRANSPORTS, Transport
from repurpose_hpc.runtime.resources import Formats, Resources
from repurpose_hpc.runtime.schedule.replay import Replay, carry_out, record

if TYPE_CHECKING:
    from mpi4py import MPI

_NO_REQUEST = Request([], [], [])


class Link:
    """What crosses of one tensor on a rank, there and back.

    Attributes:
        there, back: the two transfers.  The buffers of both have their rows in the same order.
        values: of the tensor, on the way there, and ``adjoints``: their derivatives, on the way back: memory
            of the hosted workers' neurons.
    """

    there: GhostTransfer | SumTransfer
    back: GhostTransfer | SumTransfer

    def __init__(self, tensor: str, space: str, positions: int, resources: Resources) -> None:
        self.tensor, self.space = tensor, space
        rows, dtype = resources.hosting.neurons(space).size, resources.scratch.dtype
        self.values, self.adjoints = (
            Buffer(rows, resources.max_batch, dtype, positions) for _ in ("there", "back")
        )


class GhostLink(Link):
    """Ghosts of a tensor, which several mixings may read.

    In a comm dtype that rounds, derivatives go through the rounding as if it were none.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        tensor: str,
        space: str,
        positions: int,
        comm_dtype: str,
        resources: Resources,
    ) -> None:
        """Allocates memory; nothing is sent.

        Args:
            blocks: of the first mixing that reads the tensor, one for each hosted worker.
            tensor, space: names of the tensor and of its space.
            positions: values of a neuron.
            comm_dtype: the format in which they travel.
            resources: of the rank.
        """
        super().__init__(tensor, space, positions, resources)
        lists = [block.ghosts for block in blocks]
        there = CommDtype(comm_dtype, blocks)
        self.there = GhostTransfer(lists, self.values, space, resources, there)
        self.back = SumTransfer([part.transposed for part in lists], self.adjoints, space, resources)


class SumLink(Link):
    """Partial sums of the target of a mixing; arguments as of ``GhostLink``, of the target."""

    def __init__(
        self, blocks: Sequence[Block], tensor: str, space: str, positions: int, resources: Resources
    ) -> None:
        super().__init__(tensor, space, positions, resources)
        lists = [block.sums for block in blocks]
        self.there = SumTransfer(lists, self.values, space, resources)
        self.back = GhostTransfer([part.transposed for part in lists], self.adjoints, space, resources)


class _Steps(NamedTuple):
    """What is called for a transfer, and the request whose addresses the calls have."""

    begin: list[Call | Replay]
    post: list[Call | Replay]
    complete: list[Call | Replay]
    request: Request


class Transfers:
    """Carries transfers between ranks, each when it is posted.

    A transfer is first begun, then its buffers are filled, it is posted, and completed.  *Collective* are the
    constructor, these three and ``free``: all ranks make them in the same order, for the same transfers and
    batch sizes.

    Attributes:
        seconds: spent so far by phase, (4,) float64; see ``calls.PHASES``.
    """

    def __init__(
        self,
        transfers: Sequence[GhostTransfer | SumTransfer],
        comm: MPI.Comm | None,
        transport: str,
        dtype: np.dtype,
        formats: Formats,
    ) -> None:
        """Every rank tells all others what it sends.

        Args:
            transfers: all that there are, the same on all ranks and in the same order.
            comm: of the ranks; None: this process hosts all workers.
            transport: one of ``TRANSPORTS``.
            dtype: of numbers.
            formats: of what is sent.

        Raises:
            UserError: on all ranks: the transport lacks something.
        """
        exchanges = [transfer.exchange for transfer in transfers]
        self._used = exchanges_in_use(exchanges, comm)
        self._transport: Transport | None = None
        if comm is not None:
            used = [exchange for exchange in exchanges if exchange in self._used]
            self._transport = TRANSPORTS[transport](used, comm)
        self._types = dtype, formats
        self._steps: dict[tuple[GhostTransfer | SumTransfer, Part], _Steps] = {}
        self.seconds = np.zeros(len(PHASES))

    def begin(self, transfer: GhostTransfer | SumTransfer, part: Part) -> None:
        """See that what was sent the last time is not needed any more, and be ready to receive."""
        carry_out(self._of(transfer, part).begin, self.seconds)

    def post(self, transfer: GhostTransfer | SumTransfer, part: Part) -> None:
        """Pack and send what other ranks need."""
        carry_out(self._of(transfer, part).post, self.seconds)

    def complete(self, transfer: GhostTransfer | SumTransfer, part: Part) -> None:
        """Bring what the workers of this rank need of one another, then wait for what other ranks sent."""
        carry_out(self._of(transfer, part).complete, self.seconds)

    def free(self) -> None:
        """Give back what MPI keeps."""
        self._steps.clear()
        if self._transport is not None:
            self._transport.free()
            self._transport = None

    def _of(self, transfer: GhostTransfer | SumTransfer, part: Part) -> _Steps:
        """The steps of a transfer; the first time for a part they are made, which is collective."""
        key = transfer, part
        if key not in self._steps:
            request = self._request(transfer, part)
            posting = [*transfer.pack_calls(part), *request.post]
            waiting = [*request.wait, *request.end]
            completing = [*transfer.near_calls(part), *waiting, *transfer.unpack_calls(part)]
            begin, post, complete = (
                record(calls, *self._types) for calls in (request.begin, posting, completing)
            )
            self._steps[key] = _Steps(begin, post, complete, request)
        return self._steps[key]

    def _request(self, transfer: GhostTransfer | SumTransfer, part: Part) -> Request:
        if self._transport is None or transfer.exchange not in self._used:
            return _NO_REQUEST
        return self._transport.request(transfer.exchange, part)
