"""Findings on a job, each with what to do about it, from the facts of all ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from repurpose_hpc.doctor.facts import Facts

NETWORK_FILESYSTEMS = {
    *("nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "smb3", "ceph", "fuse.ceph", "fuse.sshfs"),
    *("glusterfs", "fuse.glusterfs", "wekafs", "panfs", "afs", "orangefs", "pvfs2"),
}
AVX512_CORES = ("SkylakeX", "Cooperlake", "SapphireRapids")
SLOW_IMPORT_SECONDS = 20.0
SLOW_EXCHANGE_US = 1000.0


def by_host(facts: Sequence[Facts]) -> dict[str, list[tuple[int, Facts]]]:
    """The ranks of each machine, with their facts, in the order of the ranks."""
    hosts = defaultdict(list)
    for rank, each in enumerate(facts):
        hosts[each.host].append((rank, each))
    return hosts


def errors(facts: Sequence[Facts], workers: int | None) -> list[str]:
    """Errors that would make ``infer`` fail.

    Args:
        facts: of every rank.
        workers: of the shards; None: no shards were given.
    """
    found = []
    if workers is not None and len(facts) > workers:
        found.append(
            f"{len(facts)} ranks, but the shards are of {workers} workers: start at most {workers} ranks, or "
            f"restructure for {len(facts)}"
        )
    for rank, each in enumerate(facts):
        if each.missing is not None:
            found.append(
                f"rank {rank} on {each.host} does not see {each.missing}: put the shards where every node "
                "sees them, or stage them to each (slurm/infer.sbatch: STAGE)"
            )
            break
    for host, ranks in by_host(facts).items():
        need, memory = 2 * sum(each.shard_bytes for _, each in ranks), ranks[0][1].memory
        if memory is not None and need > memory:
            found.append(
                f"{host}: loading the shards of {len(ranks)} ranks takes up to {mib(need)}, of which "
                f"{mib(memory)} are left: use more nodes with fewer ranks each, or ask for more memory"
            )
    return found


def warnings(
    facts: Sequence[Facts], exchange_us: float, workers: int | None, environment: Mapping[str, str]
) -> list[str]:
    """Warnings of what costs time, or may go wrong.

    Args:
        facts: of every rank.
        exchange_us: microseconds of an exchange in which nobody sends anything.
        workers: of the shards; None: no shards were given.
        environment: of the root.
    """
    found = [text for host in by_host(facts).items() for text in _of_host(*host)]
    found += _of_root(facts, workers)
    found += _of_all(facts, exchange_us)
    if facts[0].locks is False and environment.get("HDF5_USE_FILE_LOCKING", "").upper() not in ("FALSE", "0"):
        found.append(
            "files in the current directory cannot be locked, which HDF5 may insist on: set "
            "HDF5_USE_FILE_LOCKING=FALSE"
        )
    return found


def mib(size: float) -> str:
    """Bytes, for people."""
    return f"{size / 2**20:,.1f} MiB"


def _of_host(host: str, ranks: Sequence[tuple[int, Facts]]) -> list[str]:
    found, facts = [], [each for _, each in ranks]
    cpus = set().union(*(each.cpus for each in facts))
    wanted = sum(each.threads for each in facts)
    crowded = [rank for rank, each in ranks if each.threads > len(each.cpus)]
    starved = [(rank, each) for rank, each in ranks if each.slurm_cpus > len(each.cpus)]
    if starved:
        rank, each = starved[0]
        found.append(
            f"{host}: rank {rank} may use {len(each.cpus)} cores, but the job asks for {each.slurm_cpus} for "
            "each task: srun does not always take that over, give it --cpus-per-task as well"
        )
    if wanted > len(cpus):
        found.append(
            f"{host}: {len(ranks)} ranks with {wanted} threads in all on {len(cpus)} cores: they wait for "
            "each other, and times mean nothing; start fewer ranks, or lower OMP_NUM_THREADS"
        )
    elif crowded:
        found.append(
            f"{host}: rank {crowded[0]} has more BLAS threads than cores: lower OMP_NUM_THREADS or raise "
            "--cpus-per-task"
        )
    elif len(ranks) > 1 and all(set(each.cpus) == cpus for each in facts):
        found.append(
            f"{host}: no rank is bound to cores of its own: srun --cpu-bind=cores, mpirun --bind-to core "
            "(Open MPI) or mpirun -bind-to core (MPICH)"
        )
    return found


def _of_root(facts: Sequence[Facts], workers: int | None) -> list[str]:
    root, total = facts[0], sum(each.shard_bytes for each in facts)
    if workers is None or root.memory is None or 2 * (root.shard_bytes + total) <= root.memory:
        return []
    return [
        f"rank 0 takes up to {mib(2 * total)} more to time a single process and to verify, of the "
        f"{mib(root.memory)} left on its machine: run infer with --repeat 0 and without --verify"
    ]


def _of_all(facts: Sequence[Facts], exchange_us: float) -> list[str]:
    found, hosts = [], by_host(facts)
    versions = {each.versions: each.host for each in facts}
    if len(versions) > 1:
        texts = "; ".join(f"{host}: {text}" for text, host in versions.items())
        found.append(f"the ranks run different versions ({texts}): use one environment on all nodes")
    uncached = next((each for each in facts if each.cache is None), None)
    shared = next((each for each in facts if each.cache_filesystem in NETWORK_FILESYSTEMS), None)
    if uncached is not None:
        found.append(
            f"{uncached.host}: Numba finds no directory to keep compiled kernels in and compiles in every "
            "process: set NUMBA_CACHE_DIR to one that can be written"
        )
    elif shared is not None:
        found.append(
            f"Numba keeps compiled kernels in {shared.cache}, on {shared.cache_filesystem}: nodes may see "
            "old versions of each other's; set NUMBA_CACHE_DIR to a directory on local storage"
        )
    slow = max(each.import_seconds for each in facts)
    if slow > SLOW_IMPORT_SECONDS:
        found.append(
            f"importing took {slow:.0f} s on the slowest rank: {len(facts)} ranks read the same small files "
            "at once; put the environment on local storage or into a container image"
        )
    misjudged = next((each for each in facts if each.avx512 and _is_misjudged(each.blas)), None)
    if misjudged is not None:
        found.append(
            f"{misjudged.host}: {misjudged.blas}, but the processor has AVX-512: try "
            "OPENBLAS_CORETYPE=SkylakeX"
        )
    if exchange_us > SLOW_EXCHANGE_US:
        found.append(
            f"an exchange of {len(facts)} ranks on {len(hosts)} machines takes {exchange_us:,.0f} us even "
            "when nothing is sent: expect no gain from small layers or batches; fewer ranks may be faster"
        )
    return found


def _is_misjudged(blas: str) -> bool:
    return blas.startswith("OpenBLAS") and not any(core in blas for core in AVX512_CORES)
