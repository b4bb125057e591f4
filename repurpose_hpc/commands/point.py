"""The command ``point``, which ``scaling`` starts: from shards to the findings of one launch.

All ranks load their shards and compile.  Then they measure every batch size on random samples.  All ranks
time the forward pass; the root alone times the same network in one process while the others sleep; both
outputs are compared.  Between hosts, further forwards show what leaves the network interfaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from mpi4py import MPI

from repurpose_hpc.commands.parser import make, parser_maker
from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import Access, Declared, batches, integer, number, option, path, precision
from repurpose_hpc.mpi.agreement import collectively
from repurpose_hpc.mpi.hosts import Hosts
from repurpose_hpc.plan.files.store import read_network
from repurpose_hpc.plan.relays import without_relays
from repurpose_hpc.report import text as report
from repurpose_hpc.runtime import result
from repurpose_hpc.runtime.loading import load_shards
from repurpose_hpc.runtime.program import Program, one_process
from repurpose_hpc.runtime.streams.outputs import OutputGather
from repurpose_hpc.runtime.timing import Timing, measure
from repurpose_hpc.runtime.verification import TOLERANCES

if TYPE_CHECKING:
    from repurpose_hpc.commands.start import RankContext


# Fewer say nothing about spread.
LEAST_REPEATS = 5


SEED = 0


def run(args: Arguments, context: RankContext) -> None:
    """Measure, and write the findings of every batch size as JSON; collective.

    Args:
        args: see ``parse``.
        context: of the start.

    Raises:
        SystemExit: on every rank, after one message.
    """
    comm, dtype = context.comm, np.dtype(args.dtype)
    stored, shards = load_shards(args.shards, dtype, comm)
    hosts = Hosts(comm)
    program = Program(shards, comm, max(args.batches))
    with collectively(comm):
        single = None
        if comm.rank == 0:
            network = without_relays(read_network(stored), stored.plan)
            single = one_process(network, dtype, max(args.batches))
    samples = np.random.default_rng(SEED).standard_normal((max(args.batches), shards[0].graph.inputs), dtype)
    measuring = Measuring(program, single, samples, hosts, args.repeat, args.seconds, comm)
    rows = [measuring.batch(batch) for batch in args.batches]
    ranks = result.gather_ranks(program, {}, comm)
    with collectively(comm):
        if ranks is not None:
            common = {
                "hosts": hosts.count,
                "oversubscribed": hosts.oversubscribed,
                "weights": result.weights(stored.plan, shards[0], ranks)["weights_kept"],
            }
            traffic = result.traffic(stored.plan, shards[0], ranks)
            rows = [{**common, **_sent(traffic, row["batch"]), **row} for row in rows]
            report.write(args.report, {"batches": rows})


class Measuring:
    """Times one network at several batch sizes.

    Args:
        program: this rank's.
        single: on the root, the same network in one process; None elsewhere.
        samples: the same on every rank, (batch, inputs), for the largest batch.
        hosts: of the ranks.
        repeat: most forwards to time.
        seconds: fewer, but ``LEAST_REPEATS``, where they take longer.
        comm: all ranks of the program.
    """

    def __init__(
        self,
        program: Program,
        single: Program | None,
        samples: np.ndarray,
        hosts: Hosts,
        repeat: int,
        seconds: float,
        comm: MPI.Intracomm,
    ) -> None:
        self.program, self.single, self.samples, self.hosts = program, single, samples, hosts
        self.repeat, self.seconds, self.comm = repeat, seconds, comm

    def batch(self, batch: int) -> dict:
        """Measure a batch size; collective.

        Returns:
            on the root columns of ``ScalingTable``; empty elsewhere.

        Raises:
            SystemExit: on every rank: all ranks compute something else than one process.
        """
        timing, repeats = self._time(self.program, self.comm, batch)
        sent = self._network_traffic(batch, repeats)
        outputs = self._outputs(batch)
        with collectively(self.comm):
            if self.single is None:
                return {}
            single_timing, _ = self._time(self.single, MPI.COMM_SELF, batch)
            expected = self._of_one_process(self.single, batch)
            difference = self._difference(_of_root(outputs), expected)
            row = _row(batch, _of_root(timing), _of_root(single_timing), sent)
            return row | {"relative_difference": difference}

    def _inputs(self, program: Program, batch: int) -> np.ndarray:
        return np.ascontiguousarray(self.samples[:batch, program.input_columns].T)

    def _time(self, program: Program, comm: MPI.Intracomm, batch: int) -> tuple[Timing | None, int]:
        """The timing, on the root, and the number of forwards timed."""
        x = self._inputs(program, batch)
        pilot = measure(program, x, 2, comm)
        fitting = None if pilot is None else int(self.seconds / pilot.latency.min())
        fitting = comm.bcast(fitting, root=0)
        repeats = max(min(LEAST_REPEATS, self.repeat), min(self.repeat, fitting))
        return measure(program, x, repeats, comm), repeats

    def _network_traffic(self, batch: int, repeats: int) -> np.ndarray | None:
        """Bytes and packets per forward that leave the interfaces, on the root; None on one host."""
        if self.hosts.count == 1:
            return None
        x = self._inputs(self.program, batch)
        before = self.hosts.sent()
        for _ in range(repeats):
            self.program.forward(x)
        self.program.reset()
        after = self.hosts.sent()
        return None if after is None else (after - before) / repeats

    def _outputs(self, batch: int) -> np.ndarray | None:
        """The outputs of all ranks, on the root, (batch, outputs)."""
        gather = OutputGather(self.comm, self.program.output_columns, self.program.dtype, batch)
        return gather(self.program.forward(self._inputs(self.program, batch)))

    def _of_one_process(self, single: Program, batch: int) -> np.ndarray:
        """The outputs of one process, (batch, outputs)."""
        expected = np.empty((batch, single.output_columns.size), single.dtype)
        expected[:, single.output_columns] = single.forward(self._inputs(single, batch)).T
        return expected

    def _difference(self, outputs: np.ndarray, expected: np.ndarray) -> float:
        """Largest difference from one process, relative to its largest output."""
        largest = np.abs(expected).max()
        difference = float(np.abs(outputs - expected).max() / (largest or 1))
        # Either may be off by that much.
        tolerance = 2 * TOLERANCES[np.dtype(self.program.dtype)]
        if not difference <= tolerance:
            raise UserError(
                f"expected outputs of all ranks within {tolerance:g} of those of one process, relative to "
                f"the largest, found {difference:.3g} for {len(outputs)} samples; the run is wrong or the "
                "network amplifies rounding errors: try --dtype float64"
            )
        return difference


T = TypeVar("T")


def _of_root(value: T | None) -> T:
    """A value that the root alone has, on the root."""
    if value is None:
        raise RuntimeError("expected to be on the root")
    return value


def _row(batch: int, timing: Timing, single_timing: Timing, sent: np.ndarray | None) -> dict:
    median, p10, p90 = (1e-6 * timing.latency_us()[name] for name in ("median", "p10", "p90"))
    phases = {f"{phase}_seconds": 1e-6 * value for phase, value in timing.phases_us().items()}
    return {
        "batch": batch,
        "repeats": timing.latency.size,
        "seconds_median": median,
        "seconds_p10": p10,
        "seconds_p90": p90,
        **phases,
        "single_seconds": 1e-6 * single_timing.latency_us()["median"],
        "wire_bytes": None if sent is None else float(sent[0]),
        "wire_packets": None if sent is None else float(sent[1]),
    }


def _sent(traffic: result.TrafficReport, batch: int) -> dict:
    """Columns on what was handed to MPI, from the report's."""
    return {
        "values": traffic["values_sent"],
        "dense_values": traffic["dense_values"],
        "messages": traffic["messages"],
        "bytes": traffic["bytes_sent"] * batch,
    }


def _check_ranks(found: int, expected: int) -> None:
    if found != expected:
        raise UserError(
            f"expected {expected} ranks, found {found}: the launcher starts another number than asked for; "
            "check what --launcher makes of '-n P', or write {ranks} where the number belongs"
        )


@dataclass(frozen=True, kw_only=True)
class Arguments(Declared):
    """Files and sizes of a launch of ``scaling``."""

    shards: Path = option(kind=path("shards"), metavar="DIR", help="what to run")
    ranks: int = option(kind=integer(1), metavar="P", help="how many ranks there should be")
    batches: tuple[int, ...] = batches(MISSING)
    repeat: int = option(kind=integer(1), metavar="N", help="most forwards to time")
    seconds: float = option(
        kind=number(least=0), metavar="S", unit="seconds", help="fewer where they take longer"
    )
    dtype: str = precision(MISSING)
    report: Path = option(
        kind=path("report.json", Access.WRITES), metavar="FILE.json", help="gets the findings"
    )


make_parser = parser_maker("point", Arguments)


def parse(argv: Sequence[str], ranks: int = 1, speaks: bool = True) -> Arguments:
    """The command line; for the arguments see ``commands.start``.

    Raises:
        UsageError: it is wrong.
        UserError: the launcher has started another number of ranks.
    """
    args = make(Arguments, make_parser(speaks).read(argv))
    _check_ranks(ranks, args.ranks)
    return args
