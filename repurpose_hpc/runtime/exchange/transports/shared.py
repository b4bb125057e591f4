"""The transport ``shared``: between ranks of one node, through memory that all of them see.

All ranks allocate one segment of shared memory for all exchanges of a program.  The part of a rank has, for
each exchange, its send buffer and a flag for every message: for every rank that it sends to, and every part
of a batch.  Only the rank itself writes to its buffers: it packs there, and then sets the flags.  A receiver
waits for the flag, copies its block from the sender's buffer to its own receive buffer, and takes the flag
back.  At the beginning of the next forward the sender waits until all flags are taken back: then everything
has been read and it may pack again.  So a block is copied once (one of merged exchanges once more on each
side), and MPI is not called.

Ranks that wait long call MPI_Iprobe, which lets MPI finish what it still does for others: they may have to
complete an earlier call before they can come here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from repurpose_hpc.fields import FieldError
from repurpose_hpc.kernels import aligned, await_read, collect, publish
from repurpose_hpc.kernels.llvm.addresses import SIGNATURES
from repurpose_hpc.runtime.buffers import Part
from repurpose_hpc.runtime.calls import EXCHANGE, WAIT, Call
from repurpose_hpc.runtime.exchange.exchange import Exchange
from repurpose_hpc.runtime.exchange.messages import Message, Request
from repurpose_hpc.runtime.exchange.transport import Probe, Transport, transport

if TYPE_CHECKING:
    from mpi4py import MPI

# A cache line: what ranks write to at the same time is not in the same one.
LINE = 64
# Where Linux has shared memory, often little of it in containers; a process that writes to more is killed.
SHARED_MEMORY = Path("/dev/shm")


class Segment:
    """A segment of shared memory: every rank of a node has a part of it, and all see all parts.

    Attributes:
        memory: the part of this rank, uint8, zero.
    """

    def __init__(self, size: int, comm: MPI.Comm) -> None:
        """Collective.

        Args:
            size: bytes that this rank wants.
            comm: all its ranks are on one node.

        Raises:
            FieldError: there is not as much, on all ranks.
        """
        from mpi4py import MPI

        total, free = comm.allreduce(size + LINE), comm.allreduce(_free_bytes(), MPI.MIN)
        expected = f"expected {total} bytes of shared memory for shared, "
        if total > free:
            raise FieldError(
                "transport",
                f"{expected}{SHARED_MEMORY} has {free}; make it larger, take smaller batches, or another "
                "transport",
            )
        self._window = MPI.WIN_NULL
        with suppress(MPI.Exception):
            self._window = MPI.Win.Allocate_shared(size + LINE, comm=cast("MPI.Intracomm", comm))
        if comm.allreduce(self._window == MPI.WIN_NULL, MPI.LOR):
            raise FieldError("transport", f"{expected}MPI does not give them; take another transport")
        part = np.asarray(self._window.Shared_query(comm.rank)[0], np.uint8)
        offset = -part.ctypes.data % LINE
        self.memory = part[offset : offset + size]
        self.memory.fill(0)
        self._base = part.ctypes.data
        comm.Barrier()  # nobody may look at flags before they are cleared

    def offset(self, address: int) -> int:
        """The offset of an address in this rank's part, as ``address`` takes it on other ranks."""
        return address - self._base

    def address(self, rank: int, offset: int) -> int:
        """The address at which this rank sees what is in the part of ``rank``."""
        return self._window.Shared_query(rank)[0].address + offset

    def free(self) -> None:
        """Give it back; collective."""
        self._window.Free()


class Outbox:
    """A rank's place in a segment for one exchange.

    Attributes:
        segment: that one.
        buffer: to send from, uint8.
        flags: their addresses, for each part of a batch and each rank that gets something,
            (parts, receivers) int64.
    """

    def __init__(self, segment: Segment, memory: np.ndarray, size: int, receivers: int, parts: int) -> None:
        """Take ``outbox_bytes`` of ``memory`` for a buffer of ``size`` bytes."""
        self.segment, self.buffer = segment, memory[:size]
        places = np.arange(parts * receivers, dtype=np.int64).reshape(parts, receivers)
        self.flags = memory.ctypes.data + _whole_lines(size) + LINE * places


def outbox_bytes(size: int, receivers: int, parts: int) -> int:
    """Bytes that an ``Outbox`` takes."""
    return _whole_lines(size) + LINE * receivers * parts


def on_one_node(comm: MPI.Comm) -> bool:
    """Tell whether all ranks can share memory; collective, and the same on all."""
    from mpi4py import MPI

    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    is_whole_job = node.size == comm.size
    node.Free()
    return is_whole_job


@transport("shared")
class Shared(Transport):
    """No messages: each rank packs in a segment that all ranks see, where the others collect."""

    absence = "the ranks are on several nodes"

    def __init__(self, exchanges: Sequence[Exchange], comm: MPI.Comm, parts: int = 1) -> None:
        """Allocates the segment and moves the send buffers there; collective.

        Raises:
            FieldError: on all ranks: there is not enough shared memory.
        """
        super().__init__(exchanges, comm, parts)
        sizes = [outbox_bytes(exchange.send.flat.nbytes, exchange.messages, parts) for exchange in exchanges]
        self._segment = Segment(sum(sizes), comm)
        self._outboxes: dict[Exchange, Outbox] = {}
        ends = np.cumsum(sizes).tolist()
        for exchange, size, end in zip(exchanges, sizes, ends, strict=True):
            buffer, memory = exchange.send.flat, self._segment.memory[end - size : end]
            outbox = Outbox(self._segment, memory, buffer.nbytes, exchange.messages, parts)
            exchange.send.move(outbox.buffer.view(buffer.dtype))
            self._outboxes[exchange] = outbox

    @classmethod
    def is_available(cls, comm: MPI.Comm) -> bool:
        """Tell whether all ranks are on one node; collective."""
        return on_one_node(comm)

    def _request(self, exchange: Exchange, part: Part, sent: Message, received: Message) -> Request:
        outbox = self._outboxes[exchange]
        # The last forward may have had its parts elsewhere in the buffer: all of them must have been read.
        all_flags, flags = outbox.flags.reshape(-1), outbox.flags[part.number]
        offsets = _offsets(self.comm, sent, outbox, flags)
        blocks, idle = _blocks(self._segment, offsets, received), Probe(self.comm)
        begin: list[Call] = [(WAIT, await_read, (all_flags, _as_kernels_take(idle)))] if sent.peers else []
        post: list[Call] = [(EXCHANGE, publish, (flags,))] if sent.peers else []
        wait: list[Call] = [(WAIT, collect, (blocks, _as_kernels_take(idle)))] if received.peers else []
        return Request(begin, post, wait, (sent, received, idle))

    def free(self) -> None:
        """Move the send buffers to memory of the ranks' own, and free the segment; collective."""
        for exchange in self._outboxes:
            exchange.send.move(aligned(exchange.send.flat.shape, exchange.send.flat.dtype))
        self._outboxes.clear()
        self._segment.free()
        super().free()


def _offsets(comm: MPI.Comm, sent: Message, outbox: Outbox, flags: np.ndarray) -> np.ndarray:
    """Offsets, in each rank's part of the segment, of the flag and the block that it has for this rank.

    Collective: every rank tells every other where its message for it will be; (R, 2) int64.
    """
    local, remote = np.zeros((comm.size, 2), np.int64), np.empty((comm.size, 2), np.int64)
    for rank, flag in zip(sent.peers, flags.tolist(), strict=True):
        block = sent.buffer.ctypes.data + int(sent.displacements[rank]) * sent.buffer.itemsize
        local[rank] = [outbox.segment.offset(address) for address in (flag, block)]
    comm.Alltoall(local, remote)
    return remote


def _blocks(segment: Segment, offsets: np.ndarray, received: Message) -> np.ndarray:
    """Flags, blocks, targets and sizes of what this rank collects, as the kernel takes them."""
    size = received.buffer.itemsize
    blocks = np.zeros((len(received.peers), 4), np.int64)
    for row, rank in zip(blocks, received.peers, strict=True):
        flag, block = (segment.address(rank, offset) for offset in offsets[rank].tolist())
        target = received.buffer.ctypes.data + int(received.displacements[rank]) * size
        row[:] = flag, block, target, int(received.counts[rank]) * size
    return blocks


def _as_kernels_take(probe: Probe) -> np.ndarray:
    """The call that lets MPI work while a rank waits."""
    number = SIGNATURES.index(probe.function.signature)
    return np.array([probe.function.address, number, *probe.arguments], np.int64)


def _whole_lines(size: int) -> int:
    return -(-size // LINE) * LINE


def _free_bytes() -> int:
    """Shared memory that this machine still has; plenty where that is not known."""
    if not SHARED_MEMORY.exists():
        return np.iinfo(np.int64).max
    state = os.statvfs(SHARED_MEMORY)
    return state.f_bavail * state.f_frsize
