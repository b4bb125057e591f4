"""Description of the machine that a benchmark ran on, for its report."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from repurpose_hpc import __version__
from repurpose_hpc.process.openblas import core_name
from repurpose_hpc.process.packages import installed

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_KINDS = {"Data": "d", "Instruction": "i"}
_PACKAGES = ("numpy", "scipy", "numba", "mpi4py", "torch", "onnxruntime")


def describe(library: str = "") -> dict:
    """The processor, its caches, the memory, and the versions that matter.

    Args:
        library: name and version of the MPI library; "": none is used.
    """
    return {
        "processor": _processor(),
        "logical_cores": os.cpu_count(),
        "caches": _caches(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_before": os.getloadavg()[0],
        "mpi": library,
        "openblas_core": core_name(),
        "versions": {
            "repurpose-hpc": __version__,
            "python": platform.python_version(),
            **installed(_PACKAGES),
        },
    }


def render(machine: dict) -> str:
    """The same for people."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    caches = ", ".join(f"{name} {size}" for name, size in machine["caches"].items())
    return (
        f"{machine['processor']}, {machine['logical_cores']} logical cores, {caches or 'caches not known'}, "
        f"{machine['memory_gib']} GiB; load before: {machine['load_before']:.2f}\n"
        f"{versions}; {machine['mpi'] or 'without MPI'}; "
        f"OpenBLAS takes it for {machine['openblas_core'] or 'nothing known'}"
    )


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", path.read_text() if path.exists() else "", re.M)
    return model[1] if model else platform.processor() or platform.machine()


def _caches() -> dict[str, str]:
    """Sizes by names such as ``L1d`` and ``L3``, of the first core; empty where the kernel does not say."""
    sizes = {}
    for index in sorted(_CACHES.glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        sizes[f"L{level}{_KINDS.get(kind, '')}"] = size
    return sizes
