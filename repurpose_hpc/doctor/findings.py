"""Findings on a job, each with what to do about it, from the facts of all ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from repurpose_hpc.doctor.facts import Facts
from repurpose_hpc.fields import count
from repurpose_hpc.mpi.launch import too_many_wheels
from repurpose_hpc.mpi.limits import LARGER, mib, most_ranks

NETWORK_FILESYSTEMS = {
    *("nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "smb3", "ceph", "fuse.ceph", "fuse.sshfs"),
    *("glusterfs", "fuse.glusterfs", "wekafs", "panfs", "afs", "orangefs", "pvfs2"),
}
AVX512_CORES = ("SkylakeX", "Cooperlake", "SapphireRapids")
HEAVY_YIELD = "MPIR_CVAR_ENABLE_HEAVY_YIELD"
"""Of MPICH: whether a rank that waits sleeps for a moment, or asks again and again."""
SLOW_IMPORT_SECONDS = 20.0
SLOW_EXCHANGE_US = 1000.0


def by_host(facts: Sequence[Facts]) -> dict[str, list[tuple[int, Facts]]]:
    """The ranks of each machine, with their facts, in the order of the ranks."""
    hosts = defaultdict(list)
    for rank, own_facts in enumerate(facts):
        hosts[own_facts.host].append((rank, own_facts))
    return hosts


def errors(facts: Sequence[Facts], workers: int | None) -> list[str]:
    """Errors that would make ``infer`` fail.

    Args:
        facts: of every rank.
        workers: of the shards; None: no shards were given.
    """
    messages = []
    if workers is not None and len(facts) > workers:
        messages.append(
            f"{len(facts)} ranks, but the shards are of {count(workers, 'worker')}: start at most "
            f"{count(workers, 'rank')}, or "
            f"restructure for {len(facts)}"
        )
    for rank, own_facts in enumerate(facts):
        if own_facts.missing is not None:
            messages.append(
                f"rank {rank} on {own_facts.host} does not see {own_facts.missing}: put the shards where "
                "every node sees them, or stage them to each (slurm/infer.sbatch: STAGE)"
            )
            break
    for rank, own_facts in enumerate(facts):
        if own_facts.damaged is not None:
            messages.append(f"rank {rank} on {own_facts.host}: {own_facts.damaged}")
            break
    for host, ranks in by_host(facts).items():
        need, memory = 2 * sum(own_facts.shard_bytes for _, own_facts in ranks), ranks[0][1].memory
        if memory is not None and need > memory:
            messages.append(
                f"{host}: loading the shards of {count(len(ranks), 'rank')} takes up to {mib(need)}, "
                f"of which {mib(memory)} are left: use more nodes with fewer ranks each, or ask for more "
                "memory"
            )
    return messages


def warnings(
    facts: Sequence[Facts], exchange_us: float, workers: int | None, environment: Mapping[str, str]
) -> list[str]:
    """Warnings about what costs time, or may go wrong.

    Args:
        facts: of every rank.
        exchange_us: microseconds of an exchange in which nobody sends anything.
        workers: of the shards; None: no shards were given.
        environment: of the root.
    """
    messages = [text for host in by_host(facts).items() for text in _of_host(*host)]
    messages += _of_waiting(facts, environment)
    messages += _of_root(facts, workers)
    messages += _of_all(facts, exchange_us)
    if facts[0].locks is False and environment.get("HDF5_USE_FILE_LOCKING", "").upper() not in ("FALSE", "0"):
        messages.append(
            "files in the current directory cannot be locked, which HDF5 may insist on: set "
            "HDF5_USE_FILE_LOCKING=FALSE"
        )
    return messages


def _of_host(host: str, ranks: Sequence[tuple[int, Facts]]) -> list[str]:
    messages, facts = [], [own_facts for _, own_facts in ranks]
    cpus = set().union(*(own_facts.cpus for own_facts in facts))
    total_threads = sum(own_facts.threads for own_facts in facts)
    crowded = [rank for rank, own_facts in ranks if own_facts.threads > len(own_facts.cpus)]
    starved = [(rank, own_facts) for rank, own_facts in ranks if own_facts.slurm_cpus > len(own_facts.cpus)]
    if starved:
        rank, own_facts = starved[0]
        messages.append(
            f"{host}: rank {rank} may use {count(len(own_facts.cpus), 'core')}, but the job asks for "
            f"{own_facts.slurm_cpus} for each task: srun does not always take that over, give it "
            "--cpus-per-task as well"
        )
    messages += _of_shared_memory(host, facts[0])
    if total_threads > len(cpus):
        messages.append(
            f"{host}: {count(len(ranks), 'rank')} with {count(total_threads, 'thread')} in all on "
            f"{count(len(cpus), 'core')}: they wait "
            "for each other, and times mean nothing; start fewer ranks, or lower OMP_NUM_THREADS"
        )
    elif crowded:
        messages.append(
            f"{host}: rank {crowded[0]} has more BLAS threads than cores: lower OMP_NUM_THREADS or raise "
            "--cpus-per-task"
        )
    elif len(ranks) > 1 and all(set(own_facts.cpus) == cpus for own_facts in facts):
        messages.append(
            f"{host}: no rank is bound to cores of its own: srun --cpu-bind=cores, mpirun --bind-to core "
            "(Open MPI) or mpirun -bind-to core (MPICH)"
        )
    return messages


def _of_shared_memory(host: str, facts: Facts) -> list[str]:
    """Whether a job that fills the machine could start."""
    if facts.shared_memory is None:
        return []
    most = most_ranks(facts.shared_memory)
    if most >= facts.host_cpus:
        return []
    return [
        f"{host}: /dev/shm has {mib(facts.shared_memory)}, enough for {count(most, 'rank')} of MPICH on the "
        f"{count(facts.host_cpus, 'core')}: {LARGER}"
    ]


def _of_waiting(facts: Sequence[Facts], environment: Mapping[str, str]) -> list[str]:
    """How ranks of MPICH wait: where cores are short, and where there are enough."""
    if "MPICH" not in facts[0].versions:
        return []
    crowded = [
        (host, len(ranks), cpus)
        for host, ranks in by_host(facts).items()
        if len(ranks) > (cpus := len(set().union(*(own_facts.cpus for _, own_facts in ranks))))
    ]
    if crowded and HEAVY_YIELD not in environment:
        host, ranks_here, cpus = crowded[0]
        return [
            f"{host}: {ranks_here} ranks on {count(cpus, 'core')}, and ranks of MPICH that wait keep their "
            f"cores busy: where other programs want these cores too, {HEAVY_YIELD}=1 lets them sleep, which "
            "is several times as fast; alone it may be several times as slow, and 0 says that this is known"
        ]
    value = environment.get(HEAVY_YIELD, "")
    if not crowded and len(facts) > 1 and value.lower() in ("1", "yes", "true", "on"):
        return [
            f"{HEAVY_YIELD}={value}, although every rank has a core: ranks that wait sleep, and an exchange "
            "of a few bytes takes many times as long; unset it"
        ]
    return []


def _of_root(facts: Sequence[Facts], workers: int | None) -> list[str]:
    root, total = facts[0], sum(own_facts.shard_bytes for own_facts in facts)
    if workers is None or root.memory is None or 2 * (root.shard_bytes + total) <= root.memory:
        return []
    return [
        f"rank 0 takes up to {mib(2 * total)} more to time a single process and to verify, of the "
        f"{mib(root.memory)} left on its machine: run infer with --repeat 0 and without --verify"
    ]


def _of_all(facts: Sequence[Facts], exchange_us: float) -> list[str]:
    messages, hosts = [], by_host(facts)
    several = next((own_facts for own_facts in facts if len(own_facts.mpi_wheels) > 1), None)
    if several is not None:
        messages.append(f"{several.host}: {too_many_wheels(several.mpi_wheels)}")
    versions = {own_facts.versions: own_facts.host for own_facts in facts}
    if len(versions) > 1:
        texts = "; ".join(f"{host}: {text}" for text, host in versions.items())
        messages.append(f"the ranks run different versions ({texts}): use one environment on all nodes")
    uncached = next((own_facts for own_facts in facts if own_facts.cache is None), None)
    shared = next(
        (own_facts for own_facts in facts if own_facts.cache_filesystem in NETWORK_FILESYSTEMS), None
    )
    if uncached is not None:
        messages.append(
            f"{uncached.host}: no directory to keep compiled kernels in, so every process compiles: "
            "set NUMBA_CACHE_DIR to one that can be written"
        )
    elif shared is not None:
        messages.append(
            f"compiled kernels are kept in {shared.cache}, on {shared.cache_filesystem}: slow to load, and "
            "perhaps without locks; set NUMBA_CACHE_DIR to a directory on local storage"
        )
    slow = max(own_facts.import_seconds for own_facts in facts)
    if slow > SLOW_IMPORT_SECONDS:
        messages.append(
            f"importing took {slow:.0f} s on the slowest rank: {len(facts)} ranks read the same small files "
            "at once; put the environment on local storage or into a container image"
        )
    misjudged = next(
        (own_facts for own_facts in facts if own_facts.avx512 and _is_misjudged(own_facts.blas)), None
    )
    if misjudged is not None:
        messages.append(
            f"{misjudged.host}: {misjudged.blas}, but the processor has AVX-512: try "
            "OPENBLAS_CORETYPE=SkylakeX"
        )
    if exchange_us > SLOW_EXCHANGE_US:
        messages.append(
            f"an exchange of {len(facts)} ranks on {len(hosts)} machines takes {exchange_us:,.0f} µs even "
            "when nothing is sent: expect no gain from small layers or batches; fewer ranks may be faster"
        )
    return messages


def _is_misjudged(blas: str) -> bool:
    return blas.startswith("OpenBLAS") and not any(core in blas for core in AVX512_CORES)
