"""A rank's part of a restructured network, ready to run.

Without a communicator a program is one process that hosts all workers, and MPI is never started.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.plan import single_worker_plan
from repurpose_hpc.plan.shard import Shard, make_shard
from repurpose_hpc.runtime.buffers import Arena, Part, Scratch, parts_of
from repurpose_hpc.runtime.calls import PHASES
from repurpose_hpc.runtime.exchange.transport import TRANSPORTS, Transport
from repurpose_hpc.runtime.exchange.transports import DEFAULT_TRANSPORT
from repurpose_hpc.runtime.hosting import Hosting
from repurpose_hpc.runtime.lowering.local import LocalStep
from repurpose_hpc.runtime.lowering.lower import Lowering
from repurpose_hpc.runtime.resources import EXACT_FORMATS, Formats, Resources
from repurpose_hpc.runtime.schedule.rounds import Round
from repurpose_hpc.runtime.schedule.schedule import MakeRequest, Schedule, no_request
from repurpose_hpc.runtime.schedule.scopes import scopes_of
from repurpose_hpc.runtime.sequences import Sequences

if TYPE_CHECKING:
    from mpi4py import MPI

    from repurpose_hpc.runtime.recorder import Recorder

# Batch sizes, each with a number of wanted samples, whose schedules are kept.  A run has two, its batch size
# and the rest at the end, a prompt one more, and somebody who tries out sizes a few; each keeps MPI requests,
# and memory for patches and transposed maps.
MOST_SCHEDULES = 8


class Program:
    """A rank's part of a restructured network: the hosted workers' steps over local arrays.

    Memory is allocated at construction, for ``max_batch`` samples.  For each batch size that
    occurs, and each number of wanted samples in it, the steps become one list of calls on views of that
    memory, kept while it is among the ``MOST_SCHEDULES`` used last.

    *Collective* are the constructor, ``prepare``, ``forward``, ``use_transport`` and ``free``: all ranks make
    them in the same order, with the same arguments but for shards and inputs.

    Attributes:
        input_columns: values of a sample (columns of the input file) that this rank must supply, in
            this order; two workers' common columns of a replicated input occur twice; int64.
        output_columns: values of the outputs that this rank computes, in this order; int64.
        max_batch: most samples of a forward.
        dtype: of weights, inputs and outputs.
        blocks: one entry for each mixing and hosted worker.
        multiply_adds: of this rank for a sample.
        rank, workers: this rank, and the workers that it hosts.
        recorder: of the forwards; None: they are not recorded.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        comm: MPI.Comm | None = None,
        max_batch: int = 1,
        formats: Formats = EXACT_FORMATS,
        transport: str = DEFAULT_TRANSPORT,
        threads: int = 1,
        micro_batches: int = 1,
        deterministic: bool = False,
        sequences: Sequences | None = None,
    ) -> None:
        """Packs the weights, and agrees with the other ranks on what is exchanged; collective.

        Args:
            shards: those of the workers that this rank hosts (``hosted_workers``), ascending.  They are not
                changed; a block is packed as soon as it is read, so that one that is cut, or cast, when it is
                asked for (``MadeBlocks``, ``CastBlocks``) is not held twice.
            comm: its ranks host all workers; None: this process does.
            max_batch: most samples that one ``forward`` takes.
            formats: of weights and ghosts.
            transport: how exchanges are carried, one of ``TRANSPORTS``.
            threads: that share the rows of a kernel; see ``schedule.threads``.
            micro_batches: parts, at most, in which a batch goes through the network (see ``schedule``).
            deterministic: let the bits of outputs depend on shards, formats and the sample alone: not on the
                ranks, the batch and its parts, the place in it, transport or threads.  Products that add up
                in one order alone are used, ghosts are in the order of workers, and so are sums added,
                each by itself.
            sequences: of which the samples of a network of tokens are parts; what it says before a
                ``forward`` counts.  All of a batch go through the network together.

        Raises:
            UserError: there are more ranks than workers.
            ValueError: ``shards`` are those of other workers, or they are of tokens and there are no
                ``sequences``, or the reverse.
        """
        graph = shards[0].graph
        if bool(graph.longest) is (sequences is None) or (sequences is not None and micro_batches > 1):
            raise ValueError("expected sequences, in one part, for a network of tokens, and none for others")
        ranks, rank = (1, 0) if comm is None else (comm.size, comm.rank)
        self._comm, self._micro_batches, self._transport_name = comm, micro_batches, transport
        self._transport: Transport | None = None
        self._schedules: OrderedDict[tuple[int, int], Schedule] = OrderedDict()
        self._promised: tuple[int, int] | None = None
        self.max_batch, self.dtype = max_batch, graph.mixings[0].bias.dtype
        hosting = Hosting(shards, ranks, rank)
        self.rank, self.workers = rank, hosting.workers
        self.recorder: Recorder | None = None
        scratch = Scratch(self.dtype)
        self._resources = Resources(
            hosting, max_batch, scratch, Arena(), formats, threads, deterministic, sequences
        )
        self.input_columns = columns_of(graph, graph.input_tensors, hosting)
        self.output_columns = columns_of(graph, graph.output_tensors, hosting)
        lowering = Lowering(shards, self._resources, comm)
        self._outputs = [lowering.tensors[tensor] for tensor in graph.output_tensors]
        self._scopes = scopes_of(lowering, graph, max_batch, comm)
        self._wanted = np.zeros(max_batch, np.int64)
        self._exchanges = [exchange for one in self._rounds for exchange in one.exchanges]
        steps = [step for *_, step in lowering.operations if not isinstance(step, LocalStep)]
        self.blocks = [report for step in steps for report in step.reports]
        values = {mixing.name: graph.values(mixing.target) for mixing in graph.mixings}
        self.multiply_adds = sum(block["weights"] * values[block["layer"]] for block in self.blocks)
        self.reset()

    @property
    def _rounds(self) -> list[Round]:
        """Those of all scopes."""
        return [one for scope in self._scopes for one in scope.rounds]

    @property
    def values_sent(self) -> int:
        """Values per sample, if it is wanted, that this rank sends to others in one forward.

        Zeros count as well, even if the transport leaves them out.
        """
        return sum(exchange.values_sent for exchange in self._exchanges)

    @property
    def bytes_sent(self) -> int:
        """Bytes of ``values_sent``."""
        return sum(exchange.bytes_sent for exchange in self._exchanges)

    @property
    def messages(self) -> int:
        """Messages that this rank sends in one forward of ``max_batch`` samples.

        These are the other ranks with a non-zero count, summed over the exchanges of all parts.
        """
        parts = len(parts_of(self.max_batch, self._micro_batches))
        return parts * sum(exchange.messages for exchange in self._exchanges)

    @property
    def rounds(self) -> int:
        """Rounds of exchanges in one forward, the same on all ranks; those of parts overlap."""
        return sum(bool(one.exchanges) for one in self._rounds)

    def forward(self, X: np.ndarray, wanted: np.ndarray | None = None, goes_on: bool = False) -> np.ndarray:
        """Run one batch; collective, all ranks with the same batch size and the same samples wanted.

        The first forward of a batch size, with so many wanted, makes its schedule, and forgets the one used
        longest ago if there are too many; every rank does so in the same forward.

        Args:
            X: (len(input_columns), batch), ``dtype``, batch <= max_batch.
            wanted: in a network of tokens, the samples whose outputs are wanted, (count,) integers,
                ascending; of the others no more is computed than what later tokens need.  None: all.
            goes_on: promises that the next forward has a batch of this size, with as many wanted: large
                messages may travel on while this rank is between the two.

        Returns:
            (len(output_columns), count), valid until the next forward; the heads are not applied.

        Raises:
            ValueError: another shape; other samples; not what the forward before has promised.
            UserError: on all ranks: the transport lacks something.
        """
        batch = X.shape[1]
        count = batch if wanted is None else self._note(wanted, batch)
        if self._promised not in (None, (batch, count)):
            raise ValueError(
                f"expected a batch and wanted samples as promised, {self._promised}, got {(batch, count)}"
            )
        schedule = self._schedules.get((batch, count))
        if schedule is None:
            schedule = self._make_schedule(batch, count)
        self._schedules.move_to_end((batch, count))
        if X.shape != (self.input_columns.size, batch):
            raise ValueError(f"expected inputs of shape {(self.input_columns.size, batch)}, found {X.shape}")
        self._samples += batch
        self._promised = (batch, count) if goes_on else None
        if self._transport is not None:
            self._transport.turn(goes_on)
        if self.recorder is not None:
            return self.recorder.run(schedule, X, self._seconds)
        return schedule.run(X, self._seconds)

    def _note(self, wanted: np.ndarray, batch: int) -> int:
        """Put the wanted samples of a batch where its schedule looks for them; how many they are."""
        ascending = np.all(np.diff(wanted, prepend=-1) > 0) and (not len(wanted) or wanted[-1] < batch)
        if len(self._scopes) == 1 or not ascending:
            raise ValueError(
                f"expected samples from 0 to {batch - 1} of a network of tokens, ascending, got {wanted}"
            )
        self._wanted[: len(wanted)] = wanted
        return len(wanted)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds since ``reset`` by phase.

        "compute", "pack" (moving rows), "exchange" (posting) and "wait" (for other ranks).
        """
        return dict(zip(PHASES, self._seconds.tolist(), strict=True))

    @property
    def sent_bytes_per_sample(self) -> float | None:
        """Bytes that this rank has sent to others since ``reset``, the mean over the samples.

        None if the transport always sends ``bytes_sent``, or nothing was sent yet.
        """
        tally = self._transport.tally if self._transport is not None else None
        if tally is None or not self._exchanges or not self._samples:
            return None
        return tally.bytes / self._samples

    @property
    def samples(self) -> int:
        """Samples of all forwards since ``reset``."""
        return self._samples

    @property
    def transport(self) -> str:
        """The name of the transport that carries exchanges."""
        return self._transport_name

    def use_transport(self, name: str) -> None:
        """Carry exchanges by another transport from now on; collective, between forwards.

        Args:
            name: one of ``TRANSPORTS``, the same on all ranks.

        Raises:
            UserError: on all ranks: the transport lacks something; the one before stays.
        """
        self.free()
        if self._comm is not None:
            self._transport = TRANSPORTS[name](self._exchanges, self._comm, self._micro_batches)
        self._transport_name = name

    def free(self) -> None:
        """Give back what MPI keeps for the transport and the batch sizes so far; collective.

        A later forward makes it anew.  A promise of one that was to follow is void.
        """
        promised, self._promised = self._promised, None
        if promised is not None and self._transport is not None:
            self._transport.turn(False)
            self._schedules[promised].break_off()
        self._schedules.clear()
        if promised is not None and self._comm is not None:
            self._comm.Barrier()  # nobody may send before all have given up what they were to receive
        self._samples = 0
        if self._transport is not None:
            self._transport.free()
            self._transport = None

    def reset(self) -> None:
        """Forget the time spent and the bytes counted so far."""
        self._seconds, self._samples = np.zeros(len(PHASES)), 0
        if self._transport is not None and self._transport.tally is not None:
            self._transport.tally.bytes = 0

    def prepare(self, batch: int) -> None:
        """Make the schedule of a batch size before its first forward, and compile what it calls; collective.

        Raises:
            ValueError: there may be no batch of this size.
        """
        if (batch, batch) not in self._schedules:
            self._make_schedule(batch, batch)

    def _make_schedule(self, batch: int, wanted: int) -> Schedule:
        """The schedule of a batch size with so many wanted; collective.

        It replaces the one used longest ago.
        """
        if not 0 < batch <= self.max_batch:
            raise ValueError(f"expected 1 to {self.max_batch} samples, found {batch}")
        if len(self._schedules) == MOST_SCHEDULES:
            self._schedules.popitem(last=False)
        parts = [parts_of(batch, self._micro_batches), *([Part(wanted)] for _ in self._scopes[1:])]
        schedule = Schedule(
            self._scopes, self._outputs, parts, self._wanted, self._make_request(), self._resources
        )
        self._schedules[batch, wanted] = schedule
        return schedule

    def _make_request(self) -> MakeRequest:
        """The function that makes requests, of the transport; collective."""
        if self._comm is None:
            return no_request
        if self._transport is None:
            transport = TRANSPORTS[self._transport_name]
            self._transport = transport(self._exchanges, self._comm, self._micro_batches)
        return self._transport.request


def columns_of(graph: Network, tensors: Sequence[str], hosting: Hosting) -> np.ndarray:
    """The places, among the values of all ``tensors``, of those that a rank holds; int64."""
    columns, first = [np.empty(0, np.int64)], 0
    for tensor in tensors:
        neurons = hosting.neurons(graph.space_of[tensor])
        columns.append(first + graph.places(tensor)[neurons].ravel())
        first += graph.size(tensor)
    return np.concatenate(columns)


def one_process(
    network: Network, dtype: np.dtype, max_batch: int, formats: Formats = EXACT_FORMATS, threads: int = 1
) -> Program:
    """The program of one process that has all of a network, without MPI, to compare ranks with."""
    shard = make_shard(network, single_worker_plan(network), 0, dtype.type)
    return Program([shard], None, max_batch, formats, threads=threads)
