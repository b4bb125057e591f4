"""Costs of links, measured with the collective that programs use, and rates of the ranks of a node.

*Links.*  Two ranks exchange with each other by MPI_Ialltoallv, again and again, while the others wait.  An
exchange without values takes the time of the calls.  A message adds o twice, and L; many bytes add G each, in
both directions at once.  After a pause some bytes pass at once: those that a longer message is faster by than
at G.  The time that a message adds to posting is o.  Persistent small messages, started together, give g.  An
exchange with a computation of the same length in between gives the overlap.

*Kernels.*  The first rank measures products alone.  Then all ranks read weights at the same time, for the
rate of a node, and again in longer turns, for that of each rank.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from time import perf_counter

import numpy as np
from mpi4py import MPI

from repurpose_hpc.mpi.agreement import collectively
from repurpose_hpc.probe import rates as kernel_rates
from repurpose_hpc.runtime.buffers import Part
from repurpose_hpc.runtime.exchange.exchange import Exchange
from repurpose_hpc.runtime.exchange.transport import TRANSPORTS
from repurpose_hpc.runtime.exchange.transports import DEFAULT_TRANSPORT

# Values of the messages that give G, smallest and largest; and the longest that one of them may take.
FEW_VALUES, MANY_VALUES, MOST_SECONDS = 1 << 10, 1 << 18, 0.05
# Those of a message that is longer than what passes before the rate counts, and a pause that brings it back.
SHORT_VALUES, PAUSE_SECONDS = 1 << 12, 2e-3
# Other work on the machine comes and goes: everything is measured in several rounds, and the fastest counts.
ROUNDS, ROUND_SECONDS, FEWEST, MOST = 8, 0.03, 3, 200
IN_A_ROW, BURST = 16, 64
# Lists that mpi4py converts: two in a datatype, four in an exchange.
LISTED, PAIRS_OF_LISTS = 1024, 2


def first_node(comm: MPI.Comm) -> list[int]:
    """The ranks that share a node with rank 0, on every rank; collective."""
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    leaders = comm.allgather(node.bcast(comm.rank, root=0))
    node.Free()
    return [rank for rank, leader in enumerate(leaders) if leader == leaders[0]]


def measure_ranks(comm: MPI.Comm, mates: Collection[int]) -> dict:
    """Rates and times of kernels, under the names of the machine file, on every rank; collective.

    Args:
        comm: of the job.
        mates: ranks of the first node.
    """
    values = {}
    with collectively(comm):
        if comm.rank == 0:
            values = _measure_alone()
    values = comm.bcast(values, root=0)
    rates = kernel_rates.reading_rates(1e-6 * values["call_us"], comm.Barrier)
    node_rates = np.array(rates) * (comm.rank in mates)
    comm.Allreduce(MPI.IN_PLACE, node_rates)
    values["memory"]["node_gb_per_s"] = [1e-9 * rate for rate in node_rates.tolist()]
    return values


def measure_all(comm: MPI.Comm) -> list[float]:
    """GB/s at which each rank reads weights while all do, on every rank the same; collective."""
    rate = 1e-9 * kernel_rates.sustained_rate(comm.Barrier)
    return comm.allgather(rate)


def measure_link(comm: MPI.Comm, partner: int) -> dict[str, float]:
    """The link between the ranks 0 and ``partner``, under the names of the machine file; collective.

    Returns:
        on every rank the same, with "exchange_us" beside what belongs to the link.
    """
    takes_part = comm.rank in (0, partner)
    pair = comm.Split(0 if takes_part else MPI.UNDEFINED, comm.rank)
    link = None
    if takes_part:
        link = _measure_pair(pair)
        pair.Free()
    with collectively(comm):  # the others sleep here
        pass
    return comm.bcast(link, root=0)


def faster(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    """The better values of two measurements of a link."""
    high = ("gb_per_s", "overlap")
    return {key: (max if key in high else min)(first[key], second[key]) for key in first}


def rank_seconds() -> float:
    """Seconds that each rank in its lists of counts and displacements adds to an exchange."""

    def convert(length: int) -> Callable[[], None]:
        lists = [1] * length, list(range(length))
        return lambda: MPI.FLOAT.Create_indexed(*lists).Free()

    short, long = (kernel_rates.fastest(convert(length)) for length in (1, LISTED))
    return PAIRS_OF_LISTS * max(long - short, 0.0) / LISTED


def _measure_alone() -> dict:
    rates, rest = kernel_rates.dense_table()
    call, value = kernel_rates.call_and_value(rest)
    reading = kernel_rates.reading_rates(call, lambda: None)
    return {
        "call_us": 1e6 * call,
        "value_ns": 1e9 * value,
        "window_ns": 1e9 * kernel_rates.window_seconds(),
        "rank_us": 1e6 * rank_seconds(),
        "memory": {
            "bytes": list(kernel_rates.WORKING_SETS),
            "rank_gb_per_s": [1e-9 * rate for rate in reading],
        },
        "dense": _rates(kernel_rates.ROWS, kernel_rates.COLUMNS, rates),
        "sparse": _rates(kernel_rates.SPARSE_ROWS, kernel_rates.SPARSE_COLUMNS, kernel_rates.sparse_table()),
        "convolution": _rates(
            kernel_rates.MAP_ROWS,
            [side**2 for side in kernel_rates.MAP_SIDES],
            kernel_rates.convolution_table(),
        ),
    }


def _rates(rows: Sequence[int], columns: Sequence[int], gflops: list[list[float]]) -> dict:
    return {"rows": list(rows), "columns": list(columns), "gflops": gflops}


def _measure_pair(pair: MPI.Comm) -> dict[str, float]:
    """Values of ``measure_link``; collective over the two ranks."""
    empty, single, few, short = (_Exchanging(pair, values) for values in (0, 1, FEW_VALUES, SHORT_VALUES))
    long, burst = _largest(pair), _Burst(pair)
    measures = [exchanging.seconds for exchanging in (empty, single, few, long)]
    measures += [empty.posting_seconds, single.posting_seconds, burst.seconds]
    measures += [single.seconds_after_pause, short.seconds_after_pause]
    rounds = [[_agreed(pair, measure) for measure in measures] for _ in range(ROUNDS)]
    calls, small, base, large, bare, posting, message, first, later = np.min(rounds, axis=0).tolist()
    overhead = max(posting - bare, 0.0)
    per_byte = max(large - base, 1e-9) / (long.bytes - few.bytes)
    at_once = short.bytes - (later - first) / per_byte
    overlapped = min(_agreed(pair, partial(long.seconds_beside, large)) for _ in range(ROUNDS))
    burst.free()
    return {
        "exchange_us": 1e6 * calls,
        "latency_us": 1e6 * max(small - calls - 2 * overhead, 0.0),
        "overhead_us": 1e6 * overhead,
        "gap_us": 1e6 * max(message - overhead, 0.0),
        "gb_per_s": 1e-9 / per_byte,
        "overlap": float(np.clip((2 * large - overlapped) / large, 0, 1)),
        "burst_bytes": float(np.clip(at_once, 0, short.bytes)),
    }


class _Exchanging:
    """Two ranks that send each other ``values`` float32 numbers; the methods return seconds."""

    def __init__(self, pair: MPI.Comm, values: int) -> None:
        counts = np.zeros(2, np.int64)
        counts[1 - pair.rank] = values
        self.bytes, self._pair = 4 * values, pair
        self.exchange = Exchange(counts, counts, 1, np.dtype(np.float32))
        self._request = TRANSPORTS[DEFAULT_TRANSPORT]([self.exchange], pair).request(self.exchange, Part(1))
        post, wait = self._request.post, self._request.wait
        self._post, self._wait = kernel_rates.replayed(post), kernel_rates.replayed(wait)
        self._in_a_row = kernel_rates.replayed([*post, *wait] * IN_A_ROW)

    def seconds(self) -> float:
        """Seconds of one of several exchanges in a row, which keep the ranks in step."""
        began = perf_counter()
        self._in_a_row()
        return (perf_counter() - began) / IN_A_ROW

    def seconds_after_pause(self) -> float:
        """Seconds of one exchange when nothing was sent for a while."""
        ends = perf_counter() + PAUSE_SECONDS
        while perf_counter() < ends:
            pass
        self._pair.Barrier()
        began = perf_counter()
        self._post()
        self._wait()
        return perf_counter() - began

    def posting_seconds(self) -> float:
        """Seconds of posting alone."""
        began = perf_counter()
        self._post()
        took = perf_counter() - began
        self._wait()
        return took

    def seconds_beside(self, length: float) -> float:
        """Seconds of an exchange with a computation of ``length`` seconds in between."""
        began = perf_counter()
        self._post()
        computed = perf_counter() + length
        while perf_counter() < computed:
            pass
        self._wait()
        return perf_counter() - began


class _Burst:
    """BURST small messages that the first rank sends at once."""

    def __init__(self, pair: MPI.Comm) -> None:
        self.pair, self.buffer = pair, np.zeros(1, np.float32)
        make = pair.Send_init if pair.rank == 0 else pair.Recv_init
        self.requests = [make(self.buffer, 1 - pair.rank) for _ in range(BURST)]

    def seconds(self) -> float:
        """Seconds of one message, an answer at the end counting as one more."""
        self.pair.Barrier()
        began = perf_counter()
        MPI.Prequest.Startall(self.requests)
        MPI.Request.Waitall(self.requests)
        if self.pair.rank == 0:
            self.pair.Recv(self.buffer, 1)
        else:
            self.pair.Send(self.buffer, 0)
        return (perf_counter() - began) / (BURST + 1)

    def free(self) -> None:
        """Give the requests back."""
        for request in self.requests:
            request.Free()


def _largest(pair: MPI.Comm) -> _Exchanging:
    """Exchange of as many values as the link carries in MOST_SECONDS, up to MANY_VALUES."""
    values, slow = FEW_VALUES, False
    while values < MANY_VALUES and not slow:
        values *= 4
        exchanging = _Exchanging(pair, values)
        seconds = min(pair.allreduce(exchanging.seconds(), MPI.MAX) for _ in range(FEWEST))
        slow = 4 * seconds > MOST_SECONDS
    return exchanging


def _agreed(pair: MPI.Comm, measure: Callable[[], float]) -> float:
    """The least of several measurements of the slower of both ranks; collective."""
    began = perf_counter()
    measure()
    took = pair.allreduce(perf_counter() - began, MPI.MAX)
    repeats = int(np.clip(ROUND_SECONDS / took, FEWEST, MOST))
    seconds = np.array([measure() for _ in range(repeats)])
    pair.Allreduce(MPI.IN_PLACE, seconds, MPI.MAX)
    return float(seconds.min())
