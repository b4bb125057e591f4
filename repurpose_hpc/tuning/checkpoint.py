"""What tuning leaves on disk after every epoch: the best shards so far, and the state to go on from.

Every rank writes the files of its own workers; the root makes the directories, and gives them their names
when all are complete.

Until a run is over, ``.NAME.tuning/KEY/`` beside ``NAME`` has the shards of the best epoch, ``best``, and the
state after the last one, ``epoch-000007``.  The key says what the run depends on: the same command goes on
there, bit for bit; another one begins anew.  In the end ``best`` gets the name ``NAME``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repurpose_hpc.io.atomic import registered, writing
from repurpose_hpc.io.sealed import read_arrays, write_arrays
from repurpose_hpc.model.network import Network
from repurpose_hpc.mpi.agreement import collectively
from repurpose_hpc.plan.files.store import (
    StoredPlan,
    place_plan,
    write_plan_file,
    write_shard,
    writing_plan,
)
from repurpose_hpc.plan.shard import Shard

if TYPE_CHECKING:
    from mpi4py import MPI

# Another layout of the files makes another directory: what it does not know is begun anew.
LAYOUT = 1
_KIND = "repurpose-hpc-tuning"


def write_tuned(
    directory: Path,
    stored: StoredPlan,
    graph: Network,
    shards: Iterable[Shard],
    provenance: dict[str, Any],
    comm: MPI.Comm,
) -> None:
    """Write shards with other weights; collective.

    Args:
        directory: the final place; an earlier plan there is replaced.
        stored: the plan.
        graph: of the network, with the ends of its model.
        shards: of the hosted workers, each made when it is written; where there are several groups of ranks,
            those of one.
        provenance: what JSON can hold.
        comm: of the ranks.

    Raises:
        SystemExit: on every rank, after a message: something cannot be written; ``directory`` stays.
    """
    with ExitStack() as stack:
        place = None
        with collectively(comm):
            if comm.rank == 0:
                place = stack.enter_context(writing_plan(directory))
        temporary: Path = comm.bcast(place, root=0)
        if comm.rank != 0:
            stack.enter_context(registered(temporary.parent))
        digests: dict[int, str] = {}
        with collectively(comm), writing(directory):
            digests |= {shard.worker: write_shard(temporary, shard, {}) for shard in shards}
        of_ranks = comm.gather(digests, root=0)
        with collectively(comm):
            if of_ranks is not None:
                joined = {worker: digest for part in of_ranks for worker, digest in part.items()}
                in_order = [joined[worker] for worker in sorted(joined)]
                write_plan_file(temporary, graph, stored.plan, in_order, provenance)
                stack.close()


class State:
    """The state of a run after its last finished epoch.

    Its methods are collective.

    Args:
        shards: that the run writes.
        parts: what it depends on, JSON values.
        comm: of the ranks.
    """

    def __init__(self, shards: Path, parts: Mapping[str, object], comm: MPI.Comm) -> None:
        text = json.dumps({**parts, "layout": LAYOUT}, sort_keys=True)
        self._shards, self._comm = shards, comm
        self._all = shards.with_name(f".{shards.name}.tuning")
        self._directory = self._all / hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def best(self) -> Path:
        """Directory of the shards of the best epoch."""
        return self._directory / "best"

    def save(
        self, epoch: int, arrays: Mapping[int, Mapping[str, np.ndarray]], record: dict[str, Any]
    ) -> None:
        """Replace the state.

        Args:
            epoch: that was finished.
            arrays: hosted worker -> its arrays.
            record: of the root, JSON values.

        Raises:
            SystemExit: on every rank, after a message: it cannot be written.
        """
        final = self._directory / f"epoch-{epoch:06d}"
        temporary = final.with_suffix(".tmp")
        with collectively(self._comm):
            if self._comm.rank == 0:
                with writing(final):
                    shutil.rmtree(temporary, ignore_errors=True)
                    temporary.mkdir(parents=True)
        with collectively(self._comm):
            for worker, named in arrays.items():
                write_arrays(temporary / f"worker-{worker:04d}.npz", named, _KIND, LAYOUT)
            if self._comm.rank == 0:
                write_arrays(temporary / "record.npz", {"record": json.dumps(record)}, _KIND, LAYOUT)
        with collectively(self._comm):
            if self._comm.rank == 0:
                with writing(final):
                    earlier = [*self._directory.glob("epoch-*")]
                    shutil.rmtree(final, ignore_errors=True)  # a damaged one
                    temporary.rename(final)
                    for directory in {*earlier} - {temporary, final}:
                        shutil.rmtree(directory, ignore_errors=True)

    def load(self, workers: Sequence[int]) -> tuple[dict[int, dict[str, np.ndarray]], dict[str, Any]] | None:
        """The arrays of the hosted workers and the record of the root, the same on all ranks.

        None if nothing was saved, or if any of it is damaged.
        """
        complete = sorted(self._directory.glob("epoch-??????"))
        found: Path | None = self._comm.bcast(complete[-1] if complete else None, root=0)
        if found is None:
            return None
        try:
            arrays = {
                worker: read_arrays(found / f"worker-{worker:04d}.npz", _KIND, LAYOUT) for worker in workers
            }
            record = json.loads(str(read_arrays(found / "record.npz", _KIND, LAYOUT)["record"]))
        except Exception:  # damage makes parsers raise anything
            arrays, record = {}, {}
        if not all(self._comm.allgather(bool(record))):
            return None
        return arrays, self._comm.bcast(record, root=0)

    def finish(self) -> None:
        """Give the shards of the best epoch their name, and remove the state of all runs for these shards.

        Raises:
            SystemExit: on every rank, after a message: they cannot be renamed.
        """
        with collectively(self._comm):
            if self._comm.rank == 0:
                place_plan(self.best, self._shards)
                shutil.rmtree(self._all, ignore_errors=True)
