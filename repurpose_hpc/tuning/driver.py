"""Fine-tuning: epochs of steps on the ranks, judged on held-out samples.

In a step every rank runs its part of the network on a batch, and the root gets the outputs.  It compares them
with the targets, and sends back the derivatives of the loss (``outputs``).  The ranks go backward, and change
each of their weights as soon as its gradient is known.  All ranks go through the samples in the same order.

After every epoch the held-out samples are judged.  The shards of the best epoch are on disk, and the state to
go on from (``checkpoint``).  Samples that are held out are not tuned on, and tell when to end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.progress import Progress
from repurpose_hpc.io.spooled import Spooled
from repurpose_hpc.mpi.agreement import in_unison
from repurpose_hpc.plan.files.store import StoredPlan, is_complete, open_plan
from repurpose_hpc.plan.shard import Shard
from repurpose_hpc.runtime.calls import PHASES
from repurpose_hpc.runtime.setup import Clock
from repurpose_hpc.tuning.checkpoint import State, write_tuned
from repurpose_hpc.tuning.copies import Copies
from repurpose_hpc.tuning.options import TuneOptions
from repurpose_hpc.tuning.outputs import Outputs
from repurpose_hpc.tuning.parameters import Parameter
from repurpose_hpc.tuning.passes import Passes
from repurpose_hpc.tuning.schedule import rate, shuffled
from repurpose_hpc.tuning.targets import Targets

if TYPE_CHECKING:
    from mpi4py import MPI

# The split must not depend on, nor change, the order of the samples.
_SPLIT_STREAM = 2
_WEIGHTS = "weights"


@dataclass(frozen=True)
class Epoch:
    """What became of an epoch; the one of number 0 is what there was before.

    Attributes:
        epoch: its number.
        loss: mean over its steps; None of number 0.
        held_out_loss: on held-out samples, behind it.
        held_out_accuracy: likewise; None: there are no classes.
        seconds: that it took.
    """

    epoch: int
    loss: float | None
    held_out_loss: float
    held_out_accuracy: float | None
    seconds: float

    @property
    def line(self) -> str:
        """For people."""
        tuned = "before" if self.loss is None else f"epoch {self.epoch}: loss {self.loss:.5g}"
        right = "" if self.held_out_accuracy is None else f", {self.held_out_accuracy:.2%} right"
        return f"{tuned}; held out: loss {self.held_out_loss:.5g}{right}"


class Tuning:
    """A network that is being tuned on the ranks; its methods are collective.

    Attributes:
        optimiser: of this rank.
        clock: of this rank; what ranks wait for each other is part of "passes" and "loss".

    Args:
        passes: of this rank.
        samples: its columns of them.
        targets: on the root of the group, None elsewhere.
        parts: of the samples.
        options: the same on all ranks.
        copies: the groups of ranks; the root of each has targets.
    """

    def __init__(
        self,
        passes: Passes,
        samples: Spooled,
        targets: Targets | None,
        parts: Parts,
        options: TuneOptions,
        copies: Copies,
    ) -> None:
        self.passes, self.optimiser, self.parts = passes, options.make_optimiser(), parts
        self._samples, self._targets, self._options, self.copies = samples, targets, options, copies
        self._outputs = Outputs(copies.comm, passes.output_columns, options.dtype)
        self.clock = Clock("input", "passes", "loss")
        self._sizes = self._measured_sizes()

    def _measured_sizes(self) -> dict[str, float]:
        """Root mean square of each tensor that a mixing reads, on a batch; 1 where all of it is zero."""
        self._forward(self.copies.share(self.parts.rest[: self._options.batch_size]))
        squares = self.copies.total(self.passes.squares())
        means = {name: total / max(count, 1) for name, (total, count) in squares.items()}
        return {name: float(np.sqrt(mean)) if mean > 0 else 1.0 for name, mean in means.items()}

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of this rank so far: by part of its work, and of that by phase of what crosses."""
        crossing = self.passes.carrier.seconds[1:].tolist()
        return self.clock.seconds | dict(zip(PHASES[1:], crossing, strict=True))

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return len(self._full_batches(self.parts.rest))

    def measured(self, number: int) -> Epoch:
        """An epoch, and what became of it; of number 0 what there is.

        Raises:
            UserError: on all ranks: a loss is not finite.
        """
        began = perf_counter()
        with np.errstate(over="ignore", invalid="ignore"):  # the loss tells, in one message
            loss = self.epoch(number) if number else None
            held_out_loss, accuracy = self.judged()
        if not np.isfinite(held_out_loss):
            raise UserError(
                f"expected a finite loss on held-out samples behind epoch {number}, found {held_out_loss}; "
                "the shards, if there are any yet, are those of the best epoch before; try a lower "
                "--learning-rate, or other shards"
            )
        return Epoch(number, loss, held_out_loss, accuracy, perf_counter() - began)

    def epoch(self, number: int) -> float:
        """Go through all samples once.

        Args:
            number: of the epoch, from 1.

        Returns:
            the mean loss.

        Raises:
            UserError: on all ranks: a loss is not finite; weights may be no good then.
        """
        order = self.parts.rest[shuffled(self.parts.rest.size, self._options.seed, number)]
        losses, options = [], self._options
        for step, batch in enumerate(self._full_batches(order), (number - 1) * self.steps):
            warm_up = int(options.warm_up * options.epochs * self.steps)
            self.optimiser.begin_step(rate(step, options.epochs * self.steps, warm_up, options.rate))
            loss = self._step(batch)
            if not np.isfinite(loss):
                raise UserError(
                    f"expected a finite loss, found {loss} in step {step % self.steps + 1} of {self.steps} "
                    f"of epoch {number}; the shards are those of the best epoch before; try a lower "
                    "--learning-rate"
                )
            losses.append(loss)
        return float(np.mean(losses))

    def judged(self) -> tuple[float, float | None]:
        """Mean loss on held-out samples, and the share of them that are right; None: there are no classes."""
        loss, right = 0.0, 0
        for batch in map(self.copies.share, self._batches(self.parts.held_out)):
            outputs = self._forward(batch) if batch.size else None
            if outputs is not None and self._targets is not None:
                loss += self._targets.loss_of(outputs, batch).value * batch.size
                right += self._targets.right(outputs, batch)
        has_classes = self._targets is not None and self._targets.classes is not None
        mine = {"loss": loss, "right": float(right), "has classes": float(has_classes)}
        total = self.copies.total({name: self._outputs.tell(number) for name, number in mine.items()})
        judged = self.parts.held_out.size
        return total["loss"] / judged, total["right"] / judged if total["has classes"] else None

    def _step(self, batch: np.ndarray) -> float:
        """Tune on some samples, unless the loss is not finite; the loss."""
        share = self.copies.share(batch)
        outputs = self._forward(share)
        with self.clock("loss"):
            value, gradient, part = 0.0, None, share.size / batch.size
            if outputs is not None and self._targets is not None:
                value, gradient = self._targets.loss_of(outputs, share)
                value, gradient = value * part, gradient * gradient.dtype.type(part)
            value = self.copies.total({"loss": self._outputs.tell(value)})["loss"]
            rows = self._outputs.scatter(gradient, share.size)
        if np.isfinite(value):
            with self.clock("passes"):
                sums = self.copies.sums(self._update)
                self.passes.backward(rows, sums.add)
                sums.finish()
        return value

    def _forward(self, batch: np.ndarray) -> np.ndarray | None:
        """The outputs of some samples on the root, (batch, outputs)."""
        with self.clock("input"):
            X = np.ascontiguousarray(self._samples.take(batch).T)
        with self.clock("passes"):
            rows = self.passes.forward(X)
        with self.clock("loss"):
            return self._outputs.gather(rows)

    def _update(self, parameter: Parameter, gradient: np.ndarray) -> None:
        reads = parameter.reads
        size = 1.0 if reads is None else self._sizes[reads]
        self.optimiser.update(parameter.name, parameter.values, gradient, reads is not None, size)

    def _batches(self, order: np.ndarray) -> list[np.ndarray]:
        size = self._options.batch_size
        return [order[first : first + size] for first in range(0, order.size, size)]

    def _full_batches(self, order: np.ndarray) -> list[np.ndarray]:
        """Samples in batches; a last one with fewer samples than there are groups is left out."""
        return [batch for batch in self._batches(order) if batch.size >= self.copies.groups]


class Parts(NamedTuple):
    """The numbers of the samples that are held out, and of all others, both ascending."""

    held_out: np.ndarray
    rest: np.ndarray


def parted(samples: int, options: TuneOptions) -> Parts:
    """Samples in two parts, by the seed.

    Raises:
        UserError: none would be left of one of them.
    """
    count = round(samples * options.held_out)
    if count < 1 or samples - count < options.groups:
        raise UserError(
            f"expected a sample to hold out and {options.groups} or more to tune on, found {samples} samples "
            f"with --held-out {options.held_out:g}; give more, or another share"
        )
    order = np.random.default_rng([options.seed, _SPLIT_STREAM]).permutation(samples)
    return Parts(np.sort(order[:count]), np.sort(order[count:]))


@dataclass(frozen=True, eq=False)
class Run:
    """A run of fine-tuning.

    Attributes:
        out: directory that the shards are written to.
        stored, shards: the plan, and the shards of the hosted workers.
        depends_on: what the result depends on besides, JSON values.
        log: takes lines of progress.
    """

    out: Path
    stored: StoredPlan
    shards: Sequence[Shard]
    depends_on: dict[str, Any]
    log: Progress

    def tune(self, tuning: Tuning, options: TuneOptions, comm: MPI.Comm) -> list[Epoch]:
        """All epochs, those of an earlier run included; collective.

        Raises:
            SystemExit: on every rank, after a message: a loss is not finite, or something cannot be written.
        """
        # The order of ghosts in memory, and so of their weights, depends on the ranks.
        state = State(self.out, {**self.depends_on, **_plain(options), "ranks": comm.size}, comm)
        epochs = self._resumed(state, tuning, options, comm)
        with in_unison(comm):
            for epoch in epochs_behind(epochs, tuning, options, self.log):
                if best_of(epochs) is epoch:
                    self._write(tuning, options, epochs, comm)
                if epoch.epoch:
                    record = {"epochs": [asdict(each) for each in epochs]}
                    state.save(epoch.epoch, self._arrays(tuning), record)
        state.forget()
        return epochs

    def _write(self, tuning: Tuning, options: TuneOptions, epochs: list[Epoch], comm: MPI.Comm) -> None:
        """Write the shards with the weights as they are now."""
        losses = {name: [getattr(each, name) for each in epochs] for name in ("loss", "held_out_loss")}
        tuned = {**self.depends_on, **_plain(options), "epochs_done": epochs[-1].epoch, **losses}
        provenance = {**self.stored.provenance, "tuned": tuned}
        shards = tuning.passes.tuned(self.shards) if tuning.copies.group == 0 else []
        write_tuned(self.out, self.stored, shards, provenance, comm)

    def _arrays(self, tuning: Tuning) -> dict[int, dict[str, np.ndarray]]:
        """All that changes, by hosted worker; in one of the groups, as it is the same in all."""
        if tuning.copies.group:
            return {}
        state = tuning.optimiser.state()
        steps = {name: state.pop(name) for name in [*state] if "/" not in name}
        arrays: dict[int, dict[str, np.ndarray]] = {shard.worker: dict(steps) for shard in self.shards}
        for parameter in tuning.passes.parameters:
            arrays[parameter.worker][f"{_WEIGHTS}/{parameter.name}"] = parameter.values
            for kind in tuning.optimiser.keeps:
                name = f"{kind}/{parameter.name}"
                arrays[parameter.worker][name] = state[name]
        return arrays

    def _is_written(self, record: dict[str, Any], options: TuneOptions, comm: MPI.Comm) -> bool:
        """Whether the shards of the best epoch of an earlier run, or of a later one, are still there."""
        run = {**self.depends_on, **_plain(options)}
        best = best_of([Epoch(**each) for each in record["epochs"]])
        there = False
        if comm.rank == 0:
            with suppress(UserError):
                stored = open_plan(self.out)
                tuned = stored.provenance.get("tuned", {})
                is_same = run.items() <= tuned.items()
                there = is_complete(stored) and is_same and tuned["epochs_done"] >= best.epoch
        return comm.bcast(there, root=0)

    def _resumed(self, state: State, tuning: Tuning, options: TuneOptions, comm: MPI.Comm) -> list[Epoch]:
        """The epochs of an earlier run, once its weights are in place; none if there was none."""
        found = state.load([shard.worker for shard in self.shards])
        if found is None or not self._is_written(found[1], options, comm):
            return []
        arrays, record = found
        kept = {name: array for of_worker in arrays.values() for name, array in of_worker.items()}
        for parameter in tuning.passes.parameters:
            parameter.values[...] = kept.pop(f"{_WEIGHTS}/{parameter.name}")
        tuning.optimiser.load(kept)
        epochs = [Epoch(**each) for each in record["epochs"]]
        self.log(f"going on after {epochs[-1].line}")
        return epochs


def epochs_behind(
    epochs: list[Epoch], tuning: Tuning, options: TuneOptions, log: Callable[[str], None]
) -> Iterator[Epoch]:
    """The epochs that follow others, to which each is added; collective.

    Args:
        epochs: there were before; where there are none, the first is number 0.
        tuning: of the rank.
        options: say when they end.
        log: is given a line for each.

    Raises:
        UserError: on all ranks: a loss is not finite.
    """
    while not epochs or (epochs[-1].epoch < options.epochs and not _has_ended(epochs, options.patience)):
        epochs.append(tuning.measured(epochs[-1].epoch + 1 if epochs else 0))
        log(epochs[-1].line)
        yield epochs[-1]


def best_of(epochs: Sequence[Epoch]) -> Epoch:
    """The one with the lowest loss on held-out samples, the first of several."""
    return min(epochs, key=lambda each: each.held_out_loss)


def _has_ended(epochs: Sequence[Epoch], patience: int) -> bool:
    """Whether so many epochs have not been better than one before.

    What there was before is not among these: with a large step size epochs may be worse at first.
    """
    return len(epochs) > 1 and epochs[-1].epoch - best_of(epochs[1:]).epoch >= patience


def _plain(options: TuneOptions) -> dict[str, Any]:
    """Options as JSON has them, but for those that do not change the result."""
    return {**asdict(options), "dtype": options.dtype.name}
