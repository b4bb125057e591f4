"""The transports that there are, one file each; the first is the default.

``--exchange``, the automatic choice and the benchmarks take their lists from the registry.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from repurpose_hpc.runtime.exchange.transport import TRANSPORTS

if TYPE_CHECKING:
    from mpi4py import MPI

# In the order in which they are offered and tried.
_FILES = ("ialltoallv", "alltoallv", "persistent", "neighbor", "p2p", "sparse", "shared")

for _file in _FILES:
    import_module(f"{__name__}.{_file}")

DEFAULT_TRANSPORT = next(iter(TRANSPORTS))


def available(comm: MPI.Comm) -> list[str]:
    """Names of the transports that these ranks have; collective, the same on all."""
    return [name for name, cls in TRANSPORTS.items() if cls.is_available(comm)]
