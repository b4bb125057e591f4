"""The command ``probe``: measure kernels, memory and links with all ranks, and write a machine file."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc import __version__
from repurpose_hpc.commands.parser import parser_maker, plain_parse
from repurpose_hpc.fields import Access, Declared, count, integer, option, path
from repurpose_hpc.forecast.machine import THIS_FILE, MachineModel, parse_machine, write_machine
from repurpose_hpc.io.atomic import check_writable
from repurpose_hpc.io.speech import tell
from repurpose_hpc.mpi.agreement import collectively
from repurpose_hpc.mpi.hosts import shared_cores
from repurpose_hpc.probe import links as probing
from repurpose_hpc.restructure.cache import cache_directory, ready_cache
from repurpose_hpc.runtime.loading import compile_kernels

if TYPE_CHECKING:
    from mpi4py import MPI

    from repurpose_hpc.commands.start import RankContext


def run(args: Arguments, context: RankContext) -> None:
    """Run the command; collective.

    Args:
        args: see ``parse``.
        context: of the start.

    Raises:
        SystemExit: on every rank, after one message.
    """
    comm, out = context.comm, args.out or cache_directory() / THIS_FILE
    with collectively(comm):
        if comm.rank == 0:
            if args.out is None:
                ready_cache()
            check_writable(out)
    machine = measure(comm, args.ranks_per_node)
    with collectively(comm):
        if comm.rank == 0:
            write_machine(out, machine)
            tell(asdict(machine), f"{render(machine)}\nwritten to {out}")


def measure(comm: MPI.Comm, per_node: int | None) -> MachineModel:
    """The machine that the ranks run on; collective.

    Args:
        comm: of the whole job.
        per_node: consecutive ranks that count as a node; None: as MPI says.
    """
    compile_kernels(np.dtype(np.float32), comm)
    mates = list(range(min(per_node, comm.size))) if per_node else probing.first_node(comm)
    remote = [rank for rank in range(comm.size) if rank not in mates]
    partners = {"local": mates[1:2], "network": remote[:1]}
    first_links = _links(comm, partners)
    ranks = probing.measure_ranks(comm, mates)
    # Once more, seconds later: ranks that share a core for a while give links that are far too slow.
    links = {name: probing.faster(link, first_links[name]) for name, link in _links(comm, partners).items()}
    posting = [link.pop("exchange_us") for link in links.values()]
    return parse_machine(
        {
            "name": platform.node(),
            "source": f"repurpose-hpc probe {__version__}, {comm.size} ranks",
            "ranks_per_node": len(mates),
            "exchange_us": min(posting, default=0.0),
            **ranks,
            **dict.fromkeys(partners),
            **links,
            "all_ranks_gb_per_s": probing.measure_all(comm),
            "shared_cores": shared_cores(comm),
        }
    )


def _links(comm: MPI.Comm, partners: dict[str, list[int]]) -> dict[str, dict[str, float]]:
    """The links between the first rank and those of its partners that there are; collective."""
    return {name: probing.measure_link(comm, ranks[0]) for name, ranks in partners.items() if ranks}


def render(machine: MachineModel) -> str:
    """Text of the measurements for people, several lines."""
    memory, dense = machine.memory, machine.dense
    lines = [
        f"{machine.name}: {count(machine.ranks_per_node, 'rank')} per node{_cores(machine)}",
        f"a call {machine.call_us:.2f} µs, a value {machine.value_ns:.2f} ns, a row for an entry of a "
        f"window {machine.window_ns:.0f} ns, an exchange {machine.exchange_us:.1f} µs and "
        f"{machine.rank_us:.3f} µs per rank",
        f"memory {memory.rank_gb_per_s[-1]:.1f} GB/s for one rank, {memory.node_gb_per_s[-1]:.1f} for all "
        f"of the node; weights of {memory.bytes[0] / 1e3:.0f} kB {memory.rank_gb_per_s[0]:.1f} and "
        f"{memory.node_gb_per_s[0]:.1f}",
        f"products {max(map(max, dense.gflops)):.0f} GFLOP/s at most, {dense.gflops[0][0]:.0f} for one row "
        "and one column",
    ]
    for name in ("local", "network"):
        link = getattr(machine, name)
        if link is None:
            lines.append(f"{name}: nothing measured")
        else:
            lines.append(
                f"{name}: L {link.latency_us:.1f} µs, o {link.overhead_us:.2f} µs, g {link.gap_us:.2f} µs, "
                f"{link.gb_per_s:.3g} GB/s, {link.overlap:.0%} hidden behind computation"
            )
    if machine.all_ranks_gb_per_s is not None:
        rates = " ".join(f"{rate:.3g}" for rate in machine.all_ranks_gb_per_s)
        lines.append(f"each rank while all read weights: {rates} GB/s")
    return "\n".join(lines)


def _cores(machine: MachineModel) -> str:
    cores = machine.shared_cores
    return "" if cores is None else f", all on one machine with {count(cores, 'core')}"


@dataclass(frozen=True, kw_only=True)
class Arguments(Declared):
    """The file of the result, and the ranks that count as a node."""

    out: Path | None = option(
        None,
        kind=path("machine.json", Access.WRITES),
        metavar="FILE.json",
        default_text="where forecast finds the machine 'this'",
        help="gets the machine file",
    )
    ranks_per_node: int | None = option(
        None,
        kind=integer(1),
        metavar="K",
        default_text="those that share memory",
        help="consecutive ranks that count as a node",
    )


make_parser = parser_maker("probe", Arguments)
parse = plain_parse(make_parser, Arguments)
