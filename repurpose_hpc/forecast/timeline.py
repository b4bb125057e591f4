"""The model of time: LogGP for messages, rates for products, a clock for every rank.

A rank does in every round what ``runtime.schedule`` does, in the same order: pack ghosts, compute sums, and
do whatever else needs no other rank; post both; multiply own neurons; wait; multiply ghosts and add sums.

*Products* of r rows, d inputs and c columns take a call, ``value_ns`` for each of the r c results, and the
longer of reading the weights and 2 r d c operations.

*Attention* takes a call, ``value_ns`` for each score, and the longer of reading the keys and values that are
kept from earlier forwards and 2 operations for each neuron of a query, and of its mean, with each key.

*Posting* takes ``exchange_us``, ``rank_us`` for each rank and o for each message; receiving takes o for
each message.  Whatever a node sends to, or receives from, other nodes goes through its one link, which a
message occupies for g, and each byte for G, but for the first ones of a round (``burst_bytes``); a rank's
messages inside its node go through a link of its own.  A rank has everything when L and the longer of two
times have passed: that of the busiest link out, and that of its own link in; counted from when the last rank
has begun to send.  The part ``overlap`` of a transfer begins when it is posted, the rest when the rank waits.
So a rank waits for the slowest even if that one sends it nothing: the forecast errs on the long side where
messages are few.

*Cores.*  Where all ranks share a machine with fewer cores (``shared_cores``), they take turns, and whatever a
processor does takes as many times longer.  Finding a turn costs nothing here, so more ranks than cores are
forecast on the short side.

Left out: contention inside the network, making and reading the codes of ghosts, the copies of merged
exchanges, and bringing outputs to one place (which ``infer`` does not time).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from repurpose_hpc.forecast.demand import (
    CONVOLUTION,
    LOCAL,
    NETWORK,
    AttentionDemand,
    Demand,
    LocalDemand,
    MixingDemand,
    Traffic,
)
from repurpose_hpc.forecast.machine import Link, MachineModel
from repurpose_hpc.kernels import csr_is_faster

VALUE_BYTES = 4
# A weight and its column.
SPARSE_BYTES = 8


@dataclass(frozen=True)
class Times:
    """Seconds of a forward of one batch; the parts add up to ``total``.

    Attributes:
        total: until the last rank has finished.
        compute: the time with links that cost nothing, waiting for slower ranks included.
        overhead: the time that o, g and the calls of the collectives add.
        latency: the time that L adds.
        bytes: the time that G adds.
    """

    total: float
    compute: float
    overhead: float
    latency: float
    bytes: float


def forecast(demand: Demand, machine: MachineModel, batch: int, slowness: np.ndarray | float = 1.0) -> Times:
    """The time of a forward.

    Only what is not hidden behind computation counts for a part.  For ``slowness`` see ``Clocks``.
    """
    models = [machine]
    for change in ({"gb_per_s": math.inf}, {"latency_us": 0.0}, {"overhead_us": 0.0, "gap_us": 0.0}):
        models.append(_with_links(models[-1], change))
    models[-1] = replace(models[-1], exchange_us=0.0, rank_us=0.0)
    full, no_bytes, no_latency, free = (Clocks(demand, model, batch, slowness).run() for model in models)
    return Times(full, free, no_latency - free, no_bytes - no_latency, full - no_bytes)


def _with_links(machine: MachineModel, change: dict[str, float]) -> MachineModel:
    local, network = (link and replace(link, **change) for link in (machine.local, machine.network))
    return replace(machine, local=local, network=network)


class Clocks:
    """A forward of one batch, with a clock for every rank.

    Args:
        demand: of the network.
        machine: that it runs on.
        batch: samples.
        slowness: how many times as long each rank's processor takes as the machine's numbers say, (P,).

    Attributes:
        clock: seconds on each rank's, (P,).
        meets: whether a transfer needs its receiver, and holds its sender up: see ``period``.
    """

    meets = False

    def __init__(
        self, demand: Demand, machine: MachineModel, batch: int, slowness: np.ndarray | float = 1.0
    ) -> None:
        self.demand, self.machine, self.batch = demand, machine, batch
        self.clock = np.zeros(demand.ranks)
        self.node = np.arange(demand.ranks) // machine.ranks_per_node
        sharing = min(demand.ranks, machine.ranks_per_node)
        read = VALUE_BYTES * (demand.weights + batch * demand.kept)
        self.per_byte = machine.memory.seconds_per_byte(read, sharing)
        turns = max(1.0, demand.ranks / machine.shared_cores) if machine.shared_cores else 1.0
        self.slowness = turns * slowness

    def run(self) -> float:
        """Seconds until the last rank has finished."""
        opened = self.clock
        for number, exchange in enumerate(self.demand.exchanges):
            waiting = self._begin(number)
            posted = self._post(exchange)
            for step in waiting:
                self._multiply(step, step.rows, step.own_depth)
            self._wait(exchange, posted, opened)
            for step in waiting:
                self._end(step)
        self._begin(len(self.demand.exchanges))
        return float(self.clock.max())

    def period(self) -> float:
        """Seconds from one forward to the next where they follow each other and ranks never meet.

        A rank begins the next batch as soon as it has nothing left to do for this one, so that stages
        compute several batches at a time.  A transfer does not begin before its receiver has begun the batch,
        but for the part ``overlap`` not before it waits; its sender goes on when it is over.
        """
        self.meets = True
        # By then all stages are at work, and the slowest rank sets the pace.
        filled, settled = (1 + rounds * len(self.demand.exchanges) for rounds in (1, 2))
        ends = [self.run() for _ in range(settled + 1)]
        return (ends[settled] - ends[filled - 1]) / (settled + 1 - filled)

    def _begin(self, number: int) -> list[MixingDemand]:
        """Carry out the steps that need just so many rounds; return the mixings that wait for another one.

        Products with own neurons of mixings that wait come later.
        """
        machine, waiting = self.machine, []
        for step, (begun, ended) in zip(self.demand.steps, self.demand.spans, strict=True):
            if begun != number:
                continue
            if isinstance(step, LocalDemand):
                self._pass(step.values, machine.window_ns if step.windows else machine.value_ns)
                continue
            if isinstance(step, AttentionDemand):
                self._attend(step)
                continue
            self._pass(step.ghosts.values_out.sum(axis=0), machine.value_ns)
            self._multiply(step, step.sum_rows, step.own_depth)
            if ended > begun:
                waiting.append(step)
            else:
                self._multiply(step, step.rows, step.own_depth)
        return waiting

    def _end(self, step: MixingDemand) -> None:
        self._multiply(step, step.rows, step.ghost_depth)
        self._pass(step.sums.values_in.sum(axis=0), self.machine.value_ns)

    def _multiply(self, step: MixingDemand, rows: np.ndarray, depth: np.ndarray) -> None:
        """A product on every rank that has weights for it."""
        machine, columns = self.machine, self.batch * step.positions
        weights, size = rows * depth, VALUE_BYTES
        rate = machine.dense.seconds_per_flop(rows, columns)
        if step.kind == CONVOLUTION:
            rate = machine.convolution.seconds_per_flop(rows, step.positions)
        elif csr_is_faster(step.density, columns):
            weights, size = step.density * weights, SPARSE_BYTES
            rate = machine.sparse.seconds_per_flop(rows, columns)
        reading = size * weights * self.per_byte
        multiplying = 2 * weights * columns * rate
        busy = np.maximum(reading, multiplying) + 1e-9 * machine.value_ns * rows * columns
        self._work(np.where(weights > 0, 1e-6 * machine.call_us + busy, 0))

    def _attend(self, step: AttentionDemand) -> None:
        """Attention on every rank that has heads."""
        machine = self.machine
        reading = VALUE_BYTES * step.kept * self.per_byte
        rate = machine.dense.seconds_per_flop(np.full(self.demand.ranks, step.rows), step.columns)
        busy = np.maximum(reading, 2 * step.multiply_adds * rate) + 1e-9 * machine.value_ns * step.scores
        self._work(np.where(step.scores > 0, 1e-6 * machine.call_us + self.batch * busy, 0))

    def _pass(self, values: np.ndarray, value_ns: float) -> None:
        """A pass over so many values per sample on each rank."""
        busy = 1e-6 * self.machine.call_us + 1e-9 * value_ns * values * self.batch
        self._work(np.where(values > 0, busy, 0))

    def _work(self, seconds: np.ndarray) -> None:
        """Let each rank's processor be busy for so long, as the machine's numbers have it."""
        self.clock = self.clock + self.slowness * seconds

    def _post(self, traffic: Traffic) -> np.ndarray:
        """Post a collective; return the time at which each rank had done so."""
        machine = self.machine
        calling = machine.exchange_us + machine.rank_us * self.demand.ranks
        self._work(1e-6 * calling + self._overhead(traffic.messages_out))
        return self.clock

    def _wait(self, traffic: Traffic, posted: np.ndarray, opened: np.ndarray) -> None:
        """Wait until everything has come that a rank is to receive.

        Args:
            traffic: of the round.
            posted: when each rank had posted what it sends, (P,).
            opened: when each rank began the batch, (P,).
        """
        arrived = self.clock
        for scope, link in self._links():
            receives = traffic.messages_in[scope] > 0
            if not receives.any():
                continue
            begun = posted + (1 - link.overlap) * (self.clock - posted)
            sends = traffic.messages_out[scope] > 0
            start = begun[sends].max()
            if self.meets:
                start = np.maximum(start, opened + (1 - link.overlap) * (self.clock - opened))
            arrival = start + 1e-6 * link.latency_us + self._transfer(traffic, scope, link)
            arrived = np.where(receives, np.maximum(arrived, arrival), arrived)
            if self.meets:
                over = np.broadcast_to(arrival, receives.shape)[receives].max()
                arrived = np.where(sends, np.maximum(arrived, over), arrived)
        self.clock = arrived
        self._work(self._overhead(traffic.messages_in))

    def _transfer(self, traffic: Traffic, scope: int, link: Link) -> np.ndarray:
        """Seconds of the links that each rank depends on, (P,)."""
        out = self._occupied(traffic.messages_out[scope], traffic.bytes_out[scope], scope, link)
        into = self._occupied(traffic.messages_in[scope], traffic.bytes_in[scope], scope, link)
        return np.maximum(out.max(), into)

    def _occupied(self, messages: np.ndarray, size: np.ndarray, scope: int, link: Link) -> np.ndarray:
        """Seconds for which each rank's link is occupied by what goes through it in one direction, (P,)."""
        size = self.batch * size
        if scope != LOCAL:
            messages, size = (np.bincount(self.node, weights=each)[self.node] for each in (messages, size))
        return 1e-6 * link.gap_us * messages + 1e-9 / link.gb_per_s * np.maximum(size - link.burst_bytes, 0)

    def _overhead(self, messages: np.ndarray) -> np.ndarray:
        """The processor's time for messages, (2, P) of them, (P,)."""
        return sum(1e-6 * link.overhead_us * messages[scope] for scope, link in self._links())

    def _links(self) -> list[tuple[int, Link]]:
        links = (LOCAL, self.machine.local), (NETWORK, self.machine.network)
        return [(scope, link) for scope, link in links if link is not None]
