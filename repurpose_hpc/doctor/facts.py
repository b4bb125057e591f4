"""Facts about a rank and the machine that it runs on; Linux where it says so."""

from __future__ import annotations

import fcntl
import os
import platform
import re
import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numba
import numpy as np

from repurpose_hpc import __version__
from repurpose_hpc.kernels import dense
from repurpose_hpc.mpi.launch import installed_wheels, library_name
from repurpose_hpc.mpi.limits import shared_memory
from repurpose_hpc.process.openblas import core_name
from repurpose_hpc.process.threads import threads

_MOUNTS = Path("/proc/self/mounts")


@dataclass(frozen=True)
class Facts:
    """Facts that one rank found.

    Attributes:
        host: name of its machine.
        cpus: numbers of the cores that it may run on.
        host_cpus: how many cores the machine has.
        threads: of BLAS, in this rank.
        slurm_cpus: cores that SLURM's job asks for each task; 0: not known.
        memory: bytes that are left on the machine, or under the limit of the job; None: not known.
        blas: the library of NumPy, and the processor that it computes for; "": not known.
        avx512: whether the processor has AVX-512.
        versions: of what must be the same everywhere.
        import_seconds: of everything that ``infer`` imports.
        cache: where Numba keeps compiled kernels; None: nowhere.
        cache_filesystem: type of the file system there.
        shared_memory: size of /dev/shm, bytes, where MPICH takes of it; None: it does not, or there is none.
        mpi_wheels: MPI libraries that are installed in this environment as Python packages, with versions.
        locks: whether files in the current directory can be locked; None: it is not writable.
        shard_bytes: of the shards of the workers that it would host.
        missing: the first of these shards that it does not see; None: it sees all.
        damaged: what is wrong with the first of them that it sees and cannot use; None: nothing.
    """

    host: str
    cpus: tuple[int, ...]
    host_cpus: int
    threads: int
    slurm_cpus: int
    memory: int | None
    blas: str
    avx512: bool
    versions: str
    import_seconds: float
    cache: str | None
    cache_filesystem: str
    locks: bool | None
    shared_memory: int | None = None
    mpi_wheels: Mapping[str, str] = field(default_factory=dict)
    shard_bytes: int = 0
    missing: str | None = None
    damaged: str | None = None


def collect(
    import_seconds: float, library: str, shards: Sequence[Path] = (), damaged: str | None = None
) -> Facts:
    """The facts of this process.

    Args:
        import_seconds: seconds that the imports took.
        library: ``MPI.Get_library_version()``.
        shards: files of the workers that it would host.
        damaged: see ``Facts``.
    """
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    cache = getattr(getattr(dense, "_cache", None), "cache_path", None)
    return Facts(
        host=socket.gethostname(),
        cpus=cpus,
        host_cpus=os.cpu_count() or len(cpus),
        threads=blas_threads(threads(), len(cpus)),
        slurm_cpus=int(os.environ.get("SLURM_CPUS_PER_TASK", 0)),
        memory=available_memory(),
        blas=blas(),
        avx512="avx512f" in _read("/proc/cpuinfo"),
        versions=_versions(library),
        import_seconds=import_seconds,
        cache=cache,
        cache_filesystem=filesystem(Path(cache), _read(_MOUNTS)) if cache else "",
        locks=can_lock(Path.cwd()),
        shared_memory=None if (space := shared_memory()) is None else space.size,
        mpi_wheels=installed_wheels(),
        shard_bytes=sum(path.stat().st_size for path in shards if path.exists()),
        missing=next((str(path) for path in shards if not path.exists()), None),
        damaged=damaged,
    )


def blas_threads(text: str, cores: int) -> int:
    """The number that the environment gives, which may be a list for nested levels; else ``cores``."""
    number = re.match(r"\s*(\d+)", text)
    return int(number[1]) if number else cores


def blas() -> str:
    """Library that NumPy computes with, for instance ``OpenBLAS (SkylakeX)``; "" if it is not OpenBLAS."""
    core = core_name()
    return f"OpenBLAS ({core})" if core else ""


def available_memory() -> int | None:
    """Bytes that this process can still have: of the machine, and of the groups that limit it; Linux."""
    available = re.search(r"^MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"), re.M)
    amounts = [1024 * int(available[1])] if available else []
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            amounts += _left(Path("/sys/fs/cgroup"), group, "memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            names = "memory.limit_in_bytes", "memory.usage_in_bytes"
            amounts += _left(Path("/sys/fs/cgroup/memory"), group, *names)
    return max(min(amounts), 0) if amounts else None


def filesystem(path: Path, mounts: str) -> str:
    """Type of the file system of ``path``, which need not exist, by the text of ``/proc/self/mounts``."""
    path = path.absolute()
    fields = [line.split()[1:3] for line in mounts.splitlines()]
    inside = [(len(mount_point), kind) for mount_point, kind in fields if path.is_relative_to(mount_point)]
    return max(inside)[1] if inside else ""


def can_lock(directory: Path) -> bool | None:
    """Try to lock a file in ``directory``, as HDF5 does; None if none can be made there."""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            return True
    except OSError:
        return None


def _left(root: Path, group: str, limit: str, usage: str) -> list[int]:
    """Bytes of its limit that are left to a group, and to each of the groups that it is in."""
    directory = root / group.lstrip("/")
    remainders = []
    for level in (directory, *directory.parents):
        texts = _read(level / limit).strip(), _read(level / usage).strip()
        if all(text.isdecimal() for text in texts):
            remainders.append(int(texts[0]) - int(texts[1]))
    return remainders


def _versions(library: str) -> str:
    package = f"repurpose-hpc {__version__}, Python {platform.python_version()}"
    packages = f"NumPy {np.__version__}, Numba {numba.__version__}, h5py {h5py.__version__}"
    return f"{package}, {packages}, {library_name(library)}"


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
