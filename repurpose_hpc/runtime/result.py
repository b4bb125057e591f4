"""The numbers of a run, gathered on the root under the names of the report.

Every rank sends the root its numbers (``gather_ranks``); of memory and of the first result all learn the
largest (``demands``).  The rest is computed on the root.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.masks import EVERYBODY
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.plan.relays import mixings_of_original
from repurpose_hpc.plan.shard import Shard
from repurpose_hpc.process.system import peak_memory_mib
from repurpose_hpc.runtime.balance import BalanceReport, balance
from repurpose_hpc.runtime.calls import COMPUTE
from repurpose_hpc.runtime.lowering.mixings import BlockReport
from repurpose_hpc.runtime.program import Program
from repurpose_hpc.runtime.timing import Timing

if TYPE_CHECKING:
    from mpi4py import MPI


class RankReport(TypedDict):
    """Numbers of one rank, see ``Program``; ``seconds`` are those of all phases of the run."""

    values_sent: int
    bytes_sent: int
    sent_bytes_per_sample: float | None
    samples: int
    messages: int
    rounds: int
    multiply_adds: int
    blocks: list[BlockReport]
    seconds: dict[str, float]


class TrafficReport(TypedDict):
    """Communication of a forward between ranks, per sample but for ``messages`` and ``rounds``."""

    values_sent: int
    dense_values: int
    comm_fraction: float
    bytes_sent: int
    messages: int
    rounds: int


class WeightsReport(TypedDict):
    """Weights of the network; those kept, of each rank; by mixing how many blocks have which format."""

    weights: int
    weights_kept: int
    load: list[int]
    load_share: list[float]
    formats: dict[str, dict[str, int]]


class LatencyReport(TypedDict, total=False):
    """Microseconds of the timed batch; empty if nothing was timed."""

    latency_us: dict[str, float]
    phases_us: dict[str, float]
    single_process_latency_us: dict[str, float]
    speedup: float


def gather_ranks(program: Program, seconds: dict[str, float], comm: MPI.Comm) -> list[RankReport] | None:
    """The numbers of all ranks, on the root; collective."""
    report: RankReport = {
        "values_sent": program.values_sent,
        "bytes_sent": program.bytes_sent,
        "sent_bytes_per_sample": program.sent_bytes_per_sample,
        "samples": program.samples,
        "messages": program.messages,
        "rounds": program.rounds,
        "multiply_adds": program.multiply_adds,
        "blocks": program.blocks,
        "seconds": {**seconds, **program.seconds},
    }
    return comm.gather(report, root=0)


def traffic(plan: Plan, shard: Shard, ranks: list[RankReport], groups: int = 1) -> TrafficReport:
    """Communication between ranks, as it was handed to MPI, beside that of the dense network.

    Args:
        plan, shard: of any worker.
        ranks: from ``gather_ranks``.
        groups: of ranks in a row; a sample, or a batch, goes through one of them.
    """
    sent = sum(rank["values_sent"] for rank in ranks) // groups
    dense = _dense_values(plan, shard, len(ranks) // groups)
    return {
        "values_sent": sent,
        "dense_values": dense,
        "comm_fraction": sent / dense if dense else 0.0,
        "bytes_sent": sum(rank["bytes_sent"] for rank in ranks) // groups,
        "messages": sum(rank["messages"] for rank in ranks) // groups,
        "rounds": ranks[0]["rounds"],
    }


def without_zeros(ranks: list[RankReport], groups: int = 1) -> dict[str, float]:
    """Bytes sent where zeros are left out, for a sample; empty otherwise."""
    counted = [(rank["sent_bytes_per_sample"], rank["samples"]) for rank in ranks]
    sent = [bytes_sent * samples for bytes_sent, samples in counted if bytes_sent is not None]
    samples = sum(samples for _, samples in counted) / (len(ranks) // groups)
    return {"sent_bytes_per_sample": sum(sent) / samples} if sent else {}


def weights(plan: Plan, shard: Shard, ranks: list[RankReport]) -> WeightsReport:
    """Weights of the original and kept, load of each rank, how many blocks of a layer have which format.

    Args:
        plan, shard: of any worker.
        ranks: those of one group.
    """
    load = [sum(block["weights"] for block in rank["blocks"]) for rank in ranks]
    formats: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for rank in ranks:
        for block in rank["blocks"]:
            formats[block["layer"]][block["format"]] += 1
    return {
        "weights": sum(_weights(shard.graph, mixing) for mixing in mixings_of_original(shard.graph, plan)),
        "weights_kept": sum(load),
        "load": load,
        "load_share": [count / sum(load) if sum(load) else 0.0 for count in load],
        "formats": {layer: dict(counts) for layer, counts in formats.items()},
    }


def latency(parallel: Timing | None, single: Timing | None) -> LatencyReport:
    """The timed batch, over all ranks and in one process; empty if nothing was timed."""
    if parallel is None or single is None:
        return {}
    latency_us, single_us = parallel.latency_us(), single.latency_us()
    return {
        "latency_us": latency_us,
        "phases_us": parallel.phases_us(),
        "single_process_latency_us": single_us,
        "speedup": single_us["median"] / latency_us["median"],
    }


class ForecastReport(TypedDict, total=False):
    """A forecast, and how far it was off; empty if there is none of such a run."""

    forecast_us: float
    forecast_error: float


def forecast(
    provenance: Mapping[str, Any], ranks: int, batch_size: int, parallel: Timing | None
) -> ForecastReport:
    """The forecast by which the number of workers was chosen, beside the timed batch.

    Args:
        provenance: of the plan.
        ranks: of a group, which run it.
        batch_size: of the run.
        parallel: timing of all ranks; None: nothing was timed.
    """
    choice = provenance.get("choice")
    if choice is None or (choice["workers"], choice["batch_size"]) != (ranks, batch_size):
        return {}
    report: ForecastReport = {"forecast_us": choice["forecast_us"]}
    if parallel is not None:
        report["forecast_error"] = parallel.latency_us()["median"] / choice["forecast_us"] - 1
    return report


def balance_of(ranks: list[RankReport], workers: int, groups: int = 1) -> BalanceReport:
    """How evenly the ranks computed, and part weights with which they would have; see ``balance``."""
    seconds = [rank["seconds"][COMPUTE] for rank in ranks]
    return balance(seconds, [rank["multiply_adds"] for rank in ranks], workers, groups)


def slowest_seconds(ranks: list[RankReport]) -> dict[str, float]:
    """Seconds in each phase, the maximum over the ranks."""
    return {phase: max(rank["seconds"][phase] for rank in ranks) for phase in ranks[0]["seconds"]}


def demands(first_result: float | None, comm: MPI.Comm) -> dict[str, float]:
    """Memory and time of the rank that needed most, the same on all ranks; collective.

    Args:
        first_result: age of the process at its first result in seconds; None: there was none.
        comm: of the job.
    """
    from mpi4py import MPI

    numbers = {"peak_memory_mib": peak_memory_mib(), "first_result_seconds": first_result or 0.0}
    most = {name: comm.allreduce(value, MPI.MAX) for name, value in numbers.items()}
    return {name: value for name, value in most.items() if value}


def _dense_values(plan: Plan, shard: Shard, ranks: int) -> int:
    """Values per sample if every exchanged neuron of the original went to every other rank."""
    graph = shard.graph
    mixings = [mixing for mixing in mixings_of_original(graph, plan) if mixing.name not in graph.tile_parts]
    owned = {
        mixing.source: np.count_nonzero(plan.owner(graph, mixing.source) != EVERYBODY) for mixing in mixings
    }
    dense = sum(graph.values(source) * int(count) for source, count in owned.items())
    return (ranks - 1) * (dense + sum(part.dense_size for part in graph.tile_parts.values()))


def _weights(graph: Network, mixing: Mixing) -> int:
    return graph.space(mixing.source).neurons * graph.space(mixing.target).neurons * mixing.taps
