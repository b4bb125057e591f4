"""Programs that a user would take instead: the packages of the extra ``bench`` may be missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from repurpose_hpc.io.speech import says_text

if TYPE_CHECKING:
    from mpi4py import MPI

    from repurpose_hpc.bench.placement import Placement

TORCH, ONNXRUNTIME = "torch", "onnxruntime"
# The modules that a peer needs.
_MODULES = {TORCH: ("torch",), ONNXRUNTIME: ("onnx", "onnxruntime")}


class Peers:
    """The peers that every rank can import; made collectively.

    Attributes:
        left_out: a line on each peer that is not measured.
    """

    def __init__(self, comm: MPI.Comm) -> None:
        self._speaks = comm.rank == 0
        self.left_out: list[str] = []
        failures = comm.allgather({name: why for name in _MODULES if (why := _failure(name))})
        self._missing = {name: why for rank in reversed(failures) for name, why in rank.items()}
        for name, why in self._missing.items():
            self.leave_out(name, f"{why}; pip install '.[bench]'")

    def __contains__(self, name: str) -> bool:
        return name not in self._missing

    def leave_out(self, name: str, why: str) -> None:
        """Say, on the root, that something is not measured."""
        self.left_out.append(f"{name}: {why}")
        if self._speaks and says_text():
            print(f"left out: {self.left_out[-1]}", flush=True)


@contextmanager
def gloo_group(peers: Peers, placement: Placement, comm: MPI.Comm) -> Iterator[ModuleType | None]:
    """A block with a process group: the module ``peers.gloo``; None where torch is missing; collective."""
    if TORCH not in peers:
        yield None
        return
    from repurpose_hpc.bench.peers import gloo

    with gloo.group(placement.all_cores, comm):
        yield gloo


def _failure(name: str) -> str:
    """Reason why a peer cannot be imported; "": it can."""
    try:
        for module in _MODULES[name]:
            import_module(module)
    except ImportError as error:
        return " ".join(str(error).split())
    return ""
