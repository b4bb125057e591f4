"""Exchanges between ranks of one node through memory that all of them see.

All ranks allocate one window together for all exchanges of a program.  The part of a rank has, for each
exchange, its send buffer and a flag for every message: for every rank that it sends to, and every part of
a batch.  Only the rank itself writes to its buffers: it packs there, and then sets the flags.  A receiver
waits for the flag, copies its block from the sender's buffer to its own receive buffer, and takes the flag
back.  At the beginning of the next forward the sender waits until all flags are taken back: then everything
has been read and it may pack again.  So a block is copied once (one of
merged exchanges once more on each side), and MPI is not called.

Ranks that wait long call MPI_Iprobe, which lets MPI finish what it still does for others: they may have to
complete an earlier call before they can come here.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from mpi4py import MPI

from repurpose_hpc.fields import FieldError
from repurpose_hpc.kernels import await_read, collect, publish
from repurpose_hpc.runtime.exchange.messages import Carrier, Message, Ranks
from repurpose_hpc.runtime.lowering.blocks import EXCHANGE, WAIT, Call
from repurpose_hpc.runtime.schedule.mpi_functions import function, handle

# A cache line: what ranks write to at the same time is not in the same one.
LINE = 64
# Where Linux has shared memory, often little of it in containers; a process that writes to more is killed.
SHARED_MEMORY = Path("/dev/shm")


class Window:
    """Memory of which every rank of a node has a part, and all see all parts.

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
        wanted, free = comm.allreduce(size + LINE), comm.allreduce(_free_bytes(), MPI.MIN)
        needed = f"expected {wanted} bytes of shared memory for shared, "
        if wanted > free:
            raise FieldError(
                "transport",
                f"{needed}{SHARED_MEMORY} has {free}; make it larger, take smaller batches, or another "
                "transport",
            )
        self._window = MPI.WIN_NULL
        with suppress(MPI.Exception):
            self._window = MPI.Win.Allocate_shared(size + LINE, comm=comm)
        if comm.allreduce(self._window == MPI.WIN_NULL, MPI.LOR):
            raise FieldError("transport", f"{needed}MPI does not give them; take another transport")
        part = np.frombuffer(self._window.Shared_query(comm.rank)[0], np.uint8)
        start = -part.ctypes.data % LINE
        self.memory = part[start : start + size]
        self.memory.fill(0)
        self._base = part.ctypes.data
        comm.Barrier()  # nobody may look at flags before they are cleared

    def offset(self, address: int) -> int:
        """Of an address in this rank's part, as ``address`` takes it on other ranks."""
        return address - self._base

    def address(self, rank: int, offset: int) -> int:
        """Where this rank sees what is in the part of ``rank``."""
        return self._window.Shared_query(rank)[0].address + offset

    def free(self) -> None:
        """Give it back; collective."""
        self._window.Free()


class Outbox:
    """A rank's place in a window for one exchange.

    Attributes:
        window: that one.
        buffer: to send from, uint8.
        flags: their addresses, for each part of a batch and each rank that gets something,
            (parts, receivers) int64.
    """

    def __init__(self, window: Window, memory: np.ndarray, size: int, receivers: int, parts: int) -> None:
        """Take ``outbox_bytes`` of ``memory`` for a buffer of ``size`` bytes."""
        self.window, self.buffer = window, memory[:size]
        places = np.arange(parts * receivers, dtype=np.int64).reshape(parts, receivers)
        self.flags = memory.ctypes.data + _whole_lines(size) + LINE * places


def outbox_bytes(size: int, receivers: int, parts: int) -> int:
    """What an ``Outbox`` takes."""
    return _whole_lines(size) + LINE * receivers * parts


def on_one_node(comm: MPI.Comm) -> bool:
    """Whether all ranks can share memory; collective, and the same on all."""
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    together = node.size == comm.size
    node.Free()
    return together


def shared(ranks: Ranks, sent: Message, received: Message, tag: int) -> Carrier:
    """Through the outboxes of the ranks; see above."""
    # The last forward may have had its parts elsewhere in the buffer: all of them must have been read.
    all_flags, flags = sent.outbox.flags.reshape(-1), sent.outbox.flags[sent.part]
    blocks, idle = _blocks(ranks.comm, sent, received), _Idle(ranks.comm)
    begin: list[Call] = [(WAIT, await_read, (all_flags, idle.call))] if sent.peers else []
    post: list[Call] = [(EXCHANGE, publish, (flags,))] if sent.peers else []
    wait: list[Call] = [(WAIT, collect, (blocks, idle.call))] if received.peers else []
    return Carrier(begin, post, wait, (sent, received, idle))


def _blocks(comm: MPI.Comm, sent: Message, received: Message) -> np.ndarray:
    """What this rank collects, as the kernel takes it; collective."""
    window, size = sent.outbox.window, sent.buffer.itemsize
    mine, theirs = np.zeros((comm.size, 2), np.int64), np.empty((comm.size, 2), np.int64)
    for rank, flag in zip(sent.peers, sent.outbox.flags[sent.part].tolist(), strict=True):
        block = sent.buffer.ctypes.data + int(sent.displacements[rank]) * size
        mine[rank] = [window.offset(address) for address in (flag, block)]
    comm.Alltoall(mine, theirs)
    blocks = np.zeros((len(received.peers), 4), np.int64)
    for row, rank in zip(blocks, received.peers, strict=True):
        flag, block = (window.address(rank, offset) for offset in theirs[rank].tolist())
        target = received.buffer.ctypes.data + int(received.displacements[rank]) * size
        row[:] = flag, block, target, int(received.counts[rank]) * size
    return blocks


class _Idle:
    """The call that lets MPI work while a rank waits.

    Attributes:
        call: as the kernels take it.
    """

    def __init__(self, comm: MPI.Comm) -> None:
        self._found, self._status = np.zeros(1, np.intc), np.zeros(MPI._sizeof(MPI.Status), np.uint8)
        arguments = MPI.ANY_SOURCE, MPI.ANY_TAG, handle(comm), self._found.ctypes.data
        arguments = *arguments, self._status.ctypes.data
        self.call = np.array([function("MPI_Iprobe").address, len(arguments), *arguments], np.int64)


def _whole_lines(size: int) -> int:
    return -(-size // LINE) * LINE


def _free_bytes() -> int:
    """Shared memory that this machine still has; plenty where that is not known."""
    if not SHARED_MEMORY.exists():
        return np.iinfo(np.int64).max
    state = os.statvfs(SHARED_MEMORY)
    return state.f_bavail * state.f_frsize
