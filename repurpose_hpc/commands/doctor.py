"""The command ``doctor``: the circumstances of a job, and what is wrong with them.

It is started by the launcher that will run ``infer``.  Every rank collects what it sees, all time an exchange
in which nothing is sent, and the root reports.  The command ends with status 1 if ``infer`` would fail.

The keys of the report are those of ``report.schema.DoctorReport``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import repurpose_hpc.commands.infer  # noqa: F401  what infer imports, to see how long that takes here
from repurpose_hpc.commands.parser import parser_maker, plain_parse
from repurpose_hpc.doctor.facts import Facts, collect
from repurpose_hpc.doctor.findings import by_host, errors, warnings
from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import Declared, count, option, path, report_file
from repurpose_hpc.io.atomic import check_writable
from repurpose_hpc.mpi.agreement import collectively
from repurpose_hpc.mpi.launch import launched
from repurpose_hpc.mpi.limits import mib
from repurpose_hpc.plan.files.store import PLAN_FILE, StoredPlan, open_plan, read_shard, shard_path
from repurpose_hpc.report import text as report
from repurpose_hpc.runtime.hosting import hosted_workers
from repurpose_hpc.runtime.timing import empty_exchange_us

if TYPE_CHECKING:
    from mpi4py import MPI

    from repurpose_hpc.commands.start import RankContext


def run(args: Arguments, context: RankContext) -> None:
    """Run the command; collective.

    Args:
        args: see ``parse``.
        context: of the start.

    Raises:
        SystemExit: on every rank, after one message: status 1 if something would fail.
    """
    comm = context.comm
    stored = _stored(args, comm)
    workers = None if stored is None else stored.plan.workers
    with collectively(comm):
        hosted = _hosted(stored, comm)
        files, damaged = _shards(stored, hosted), _damage(stored, hosted)
        own_facts = collect(context.import_seconds, context.library, files, damaged)
    facts, exchange_us = comm.gather(own_facts, root=0), empty_exchange_us(comm)
    with collectively(comm):
        if facts is not None:
            _finish(args, summarise(facts, exchange_us, workers, context.launch_error))


def _stored(args: Arguments, comm: MPI.Comm) -> StoredPlan | None:
    """The plan of the shards, on every rank; None: no shards were given; collective."""
    stored = None
    with collectively(comm):
        if comm.rank == 0:
            if args.report is not None:
                check_writable(args.report)
            stored = open_plan(args.shards) if args.shards is not None else None
    return comm.bcast(stored, root=0)


def _finish(args: Arguments, result: dict[str, Any]) -> None:
    report.deliver(result, render(result), args.report)
    if result["errors"]:
        raise UserError(f"{len(result['errors'])} of the above would make infer fail")


def summarise(
    facts: Sequence[Facts], exchange_us: float, workers: int | None, launch_error: str = ""
) -> dict[str, Any]:
    """The report, see the keys above.

    Args:
        facts: of every rank.
        exchange_us: duration of an exchange in which nothing is sent.
        workers: of the shards; None: no shards were given.
        launch_error: what is wrong with the launch; "": nothing.
    """
    root = facts[0]
    result: dict[str, Any] = {
        "versions": root.versions,
        "ranks": len(facts),
        "launched": launched(os.environ)[0],
        "hosts": [_host(host, [rank for _, rank in ranks]) for host, ranks in by_host(facts).items()],
        "blas": root.blas,
        "numba_cache": root.cache,
        "numba_cache_filesystem": root.cache_filesystem,
        "import_seconds": max(rank.import_seconds for rank in facts),
        "exchange_us": exchange_us,
        "hdf5_locks": root.locks,
    }
    if workers is not None:
        result["workers"] = workers
    result["errors"] = [launch_error] * bool(launch_error) + errors(facts, workers)
    result["warnings"] = warnings(facts, exchange_us, workers, os.environ)
    return result


def render(result: dict) -> str:
    """The report for people, several lines."""
    locks = {True: "work here", False: "do not work here", None: "not known"}[result["hdf5_locks"]]
    lines = [
        ("versions", result["versions"]),
        ("ranks", f"{result['ranks']}, of {result['launched']} that the launcher says it started"),
        *((f"  {host['host']}", _host_text(host)) for host in result["hosts"]),
        ("BLAS", result["blas"] or "not OpenBLAS"),
        ("Numba cache", f"{result['numba_cache'] or 'none'} {result['numba_cache_filesystem']}"),
        ("imports", f"{result['import_seconds']:.1f} s on the slowest rank"),
        ("exchange", f"{result['exchange_us']:,.0f} µs when nothing is sent"),
        ("HDF5 locks", locks),
    ]
    if "workers" in result:
        total = sum(host["shard_bytes"] for host in result["hosts"])
        lines.append(("shards", f"{count(result['workers'], 'worker')}, {mib(total)}"))
    width = max(len(name) for name, _ in lines)
    text = [f"{name:<{width}}  {value}".rstrip() for name, value in lines]
    text += [f"ERROR: {error}" for error in result["errors"]]
    text += [f"WARNING: {warning}" for warning in result["warnings"]]
    if not result["errors"] and not result["warnings"]:
        text.append("nothing to complain of")
    return "\n".join(text)


def _host(host: str, facts: list[Facts]) -> dict:
    cpus = set().union(*(rank.cpus for rank in facts))
    return {
        "host": host,
        "ranks": len(facts),
        "cpus": len(cpus),
        "host_cpus": facts[0].host_cpus,
        "threads": facts[0].threads,
        "bound": any(set(rank.cpus) != cpus for rank in facts) or len(cpus) < facts[0].host_cpus,
        "memory": facts[0].memory,
        "shard_bytes": sum(rank.shard_bytes for rank in facts),
    }


def _host_text(host: dict) -> str:
    memory = "unknown" if host["memory"] is None else f"{mib(host['memory'])} left"
    binding = "bound" if host["bound"] else "not bound"
    return (
        f"{count(host['ranks'], 'rank')} of {count(host['threads'], 'thread')}, {binding}, on "
        f"{host['cpus']} of {count(host['host_cpus'], 'core')}; memory: {memory}"
    )


def _hosted(stored: StoredPlan | None, comm: MPI.Comm) -> Sequence[int]:
    """The workers that this rank would host; none if there are fewer than ranks."""
    if stored is None or comm.size > stored.plan.workers:
        return ()
    return hosted_workers(stored.plan.workers, comm.size, comm.rank)


def _shards(stored: StoredPlan | None, hosted: Sequence[int]) -> list[Path]:
    """The files that this rank would read."""
    if stored is None or not hosted:
        return []
    return [stored.directory / PLAN_FILE, *(shard_path(stored.directory, worker) for worker in hosted)]


def _damage(stored: StoredPlan | None, hosted: Sequence[int]) -> str | None:
    """What is wrong with the first shard that is there and cannot be used; None: nothing."""
    for worker in hosted:
        if stored is not None and shard_path(stored.directory, worker).exists():
            try:
                read_shard(stored, worker)
            except UserError as error:
                return str(error)
    return None


@dataclass(frozen=True, kw_only=True)
class Arguments(Declared):
    """The shards that a job would run."""

    shards: Path | None = option(None, kind=path("shards"), metavar="DIR", help="see whether these fit")
    report: Path | None = report_file()


make_parser = parser_maker("doctor", Arguments)
parse = plain_parse(make_parser, Arguments)
