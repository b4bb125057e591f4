"""A run of fine-tuning that may be interrupted: what is on disk while it lasts, and in the end."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from repurpose_hpc import __version__
from repurpose_hpc.errors import UserError
from repurpose_hpc.io.progress import Progress
from repurpose_hpc.mpi.agreement import in_unison
from repurpose_hpc.plan.files.store import StoredPlan, is_complete, open_plan
from repurpose_hpc.plan.shard import Shard
from repurpose_hpc.tuning.checkpoint import State, write_tuned
from repurpose_hpc.tuning.driver import Diverged, Epoch, Tuning, best_of, epochs_behind
from repurpose_hpc.tuning.options import TuneOptions

if TYPE_CHECKING:
    from pathlib import Path

    from mpi4py import MPI

_WEIGHTS = "weights"


@dataclass(frozen=True, eq=False)
class Run:
    """A run of fine-tuning; its methods are collective.

    Attributes:
        out: directory that the shards are written to.
        stored, shards: the plan, and the shards of the hosted workers.
        depends_on: what the result depends on besides, JSON values.
        log: takes lines of progress.
        comm: of the ranks.
    """

    out: Path
    stored: StoredPlan
    shards: Sequence[Shard]
    depends_on: dict[str, Any]
    log: Progress
    comm: MPI.Comm

    def tune(self, tuning: Tuning, options: TuneOptions) -> list[Epoch]:
        """All epochs, those of an earlier run included; then ``out`` has the shards of the best.

        Raises:
            SystemExit: on every rank, after a message: a loss is not finite, or something cannot be written.
        """
        depends_on = {**self.depends_on, **_decisive(options)}
        # The order of ghosts in memory, and so of their weights, depends on the ranks.
        state = State(self.out, {**depends_on, "ranks": self.comm.size, "version": __version__}, self.comm)
        epochs = self._resumed(state, tuning)
        with in_unison(self.comm):
            try:
                for epoch in epochs_behind(epochs, tuning, options, self.log):
                    if best_of(epochs) is epoch:
                        self._write(state.best, tuning, {**depends_on, **_progress(epochs)})
                    state.save(epoch.epoch, self._arrays(tuning), {"epochs": list(map(asdict, epochs))})
            except Diverged as error:
                raise UserError(f"{error}{_remains(epochs, state.best)}") from None
        state.finish()
        return epochs

    def _write(self, directory: Path, tuning: Tuning, tuned: dict[str, Any]) -> None:
        """Write the shards with the weights as they are now."""
        earlier = self.stored.provenance.get("tuned", [])
        provenance = {**self.stored.provenance, "tuned": [*earlier, tuned]}
        graph = tuning.passes.tuned_graph()
        shards = tuning.passes.tuned(self.shards, graph) if tuning.copies.group == 0 else ()
        write_tuned(directory, self.stored, graph, shards, provenance, self.comm)

    def _arrays(self, tuning: Tuning) -> dict[int, dict[str, np.ndarray]]:
        """All that changes, by hosted worker; in one of the groups, as it is the same in all."""
        if tuning.copies.group:
            return {}
        state = tuning.optimiser.state()
        steps = {name: array for name, array in state.items() if "/" not in name}
        arrays: dict[int, dict[str, np.ndarray]] = {shard.worker: dict(steps) for shard in self.shards}
        for parameter in tuning.passes.parameters:
            of_worker = arrays[parameter.worker]
            of_worker[f"{_WEIGHTS}/{parameter.name}"] = parameter.values
            names = [f"{kind}/{parameter.name}" for kind in tuning.optimiser.keeps]
            # Before the first step nothing is kept.
            of_worker |= {name: state[name] for name in names if name in state}
        return arrays

    def _resumed(self, state: State, tuning: Tuning) -> list[Epoch]:
        """The epochs of an earlier run, once its weights are in place; none if there was none."""
        found = state.load([shard.worker for shard in self.shards])
        if found is None or not self._has_best(state.best, found[1]):
            return []
        arrays, record = found
        kept = {name: array for of_worker in arrays.values() for name, array in of_worker.items()}
        for parameter in tuning.passes.parameters:
            parameter.values[...] = kept.pop(f"{_WEIGHTS}/{parameter.name}")
        tuning.optimiser.load(kept)
        epochs = [Epoch(**each) for each in record["epochs"]]
        self.log(f"going on after epoch {epochs[-1].epoch}")
        return epochs

    def _has_best(self, directory: Path, record: dict[str, Any]) -> bool:
        """Whether the shards of the best epoch of an earlier run, or of a later one, are there."""
        best = best_of([Epoch(**each) for each in record["epochs"]])
        there = False
        if self.comm.rank == 0:
            with suppress(UserError):
                stored = open_plan(directory)
                *_, tuned = stored.provenance["tuned"]
                there = is_complete(stored) and tuned["epochs_done"] >= best.epoch
        return self.comm.bcast(there, root=0)


def _decisive(options: TuneOptions) -> dict[str, Any]:
    """Options as JSON has them, but for those that do not change the result."""
    decisive = {**asdict(options), "learning_rate": options.rate}
    del decisive["transport"]
    return decisive


def _progress(epochs: Sequence[Epoch]) -> dict[str, Any]:
    """What the provenance has of epochs: nothing that depends on the time."""
    losses = {name: [getattr(each, name) for each in epochs] for name in ("loss", "held_out_loss")}
    return {"epochs_done": epochs[-1].epoch, **losses}


def _remains(epochs: Sequence[Epoch], directory: Path) -> str:
    """Where the shards of the best epoch are, for a message."""
    if not epochs or not best_of(epochs).epoch:
        return ""
    return f"; the shards of epoch {best_of(epochs).epoch} are in {directory}"
