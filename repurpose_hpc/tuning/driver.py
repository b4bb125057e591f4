"""Fine-tuning: epochs of steps on the ranks, judged on held-out samples.

In a step every rank runs its part of the network on a batch, and the root gets the outputs.  It compares them
with the targets, and sends back the derivatives of the loss (``outputs``).  The ranks go backward, and change
each of their weights as soon as its gradient is known.  All ranks go through the samples in the same order.
With local losses (``local``) each adds derivatives by its neurons at cuts, where the way back ends.
With rotations (``rotation``) most steps run subnets in the place of the plan.

After every epoch the held-out samples are judged.  They are not tuned on, and tell when to end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import FieldError
from repurpose_hpc.io.progress import TimeLeft
from repurpose_hpc.io.spooled import Spooled
from repurpose_hpc.runtime.calls import PHASES
from repurpose_hpc.runtime.setup import Clock
from repurpose_hpc.tuning.copies import Copies, Share
from repurpose_hpc.tuning.local import LocalLosses
from repurpose_hpc.tuning.options import TuneOptions
from repurpose_hpc.tuning.outputs import Outputs
from repurpose_hpc.tuning.parameters import Parameter
from repurpose_hpc.tuning.passes import Passes
from repurpose_hpc.tuning.rotation import Rotations, Subnets
from repurpose_hpc.tuning.schedule import rate, shuffled
from repurpose_hpc.tuning.targets import Targets

# The split must not depend on, nor change, the order of the samples in any epoch.
_SPLIT_STREAM = (0, 2)


class Diverged(UserError):
    """A loss is not finite: weights may be no good any more."""


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
        right = (
            "" if self.held_out_accuracy is None else f", {self.held_out_accuracy:.2%} of classes as wanted"
        )
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
        local: losses at the cuts of ``passes``; None: there are none.
        rotations: of ``passes``; None: all steps run these.
    """

    def __init__(
        self,
        passes: Passes,
        samples: Spooled,
        targets: Targets | None,
        parts: Parts,
        options: TuneOptions,
        copies: Copies,
        local: LocalLosses | None = None,
        rotations: Rotations | None = None,
    ) -> None:
        self.passes, self.optimiser, self.parts = passes, options.make_optimiser(), parts
        self._samples, self._targets, self._options, self.copies = samples, targets, options, copies
        self.local, self.rotations = local, rotations
        self._subnets: Subnets | None = None
        self._outputs = Outputs(copies.comm, passes.output_columns, passes.dtype, options.share)
        self.clock = Clock("input", "subnets", "passes", "loss")
        self._steps = len(self._batches(parts.rest))
        with _silent():
            self._sizes = self._measured_sizes()

    def _measured_sizes(self) -> dict[str, float]:
        """Root mean square of each tensor that a mixing reads, on a batch; 1 where all of it is zero."""
        share = self.copies.share(self.parts.rest[: self._options.batch_size])
        self._forward(share.samples)
        means = self._means(self.passes.squares(), share)
        sizes = {name: float(np.sqrt(mean)) if mean > 0 else 1.0 for name, mean in means.items()}
        if self.local is not None:
            errors = self.passes.summed_squares(self.local.errors(share.samples, sizes))
            self.local.leave_out_exact(self._means(errors, share))
        return sizes

    def _means(self, squares: dict[str, np.ndarray], share: Share) -> dict[str, float]:
        """Means of sums and numbers of squares, over all groups."""
        totals = self.copies.total({name: counted * share.counts for name, counted in squares.items()})
        return {name: total / max(count, 1) for name, (total, count) in totals.items()}

    def free(self) -> None:
        """Give back what MPI keeps."""
        if self.rotations is not None:
            self.rotations.free()
        self.passes.free()

    @property
    def values_sent(self) -> tuple[int, int]:
        """Values per sample that a step sends from this rank, forward and backward."""
        return self.passes.values_sent(self._starts)

    @property
    def _starts(self) -> tuple[str, ...] | None:
        """What a step begins with; see ``Passes.forward``."""
        return None if self.local is None else self.local.starts

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of this rank so far: by part of its work, and of that by phase of what crosses."""
        crossing = self.passes.transfers.seconds[1:].tolist()
        return self.clock.seconds | dict(zip(PHASES[1:], crossing, strict=True))

    def measured(self, number: int) -> Epoch:
        """An epoch, and what became of it; of number 0 what there is.

        Raises:
            Diverged: on all ranks: a loss is not finite.
        """
        began = perf_counter()
        with _silent():
            loss = self.epoch(number) if number else None
            held_out_loss, accuracy = self.judged()
        if not np.isfinite(held_out_loss):
            raise Diverged(
                f"expected a finite loss on held-out samples behind epoch {number}, found {held_out_loss}; "
                "try a lower learning rate"
            )
        return Epoch(number, loss, held_out_loss, accuracy, perf_counter() - began)

    def epoch(self, number: int) -> float:
        """Go through all samples once.

        Args:
            number: of the epoch, from 1.

        Returns:
            the mean loss.

        Raises:
            Diverged: on all ranks: a loss is not finite.
        """
        order, options = shuffled(self.parts.rest.size, self._options.seed, number), self._options
        steps, before = options.epochs * self._steps, (number - 1) * self._steps
        warm_up, losses = int(options.warm_up * steps), []
        for step, batch in enumerate(self._batches(self.parts.rest[order])):
            self.optimiser.begin_step(rate(before + step, steps, warm_up, options.rate))
            if self.rotations is not None:
                with self.clock("subnets"):
                    self._subnets = self.rotations.at(number, step, (before + step) / steps)
            losses.append(self._step(batch))
            if not np.isfinite(losses[-1]):
                raise Diverged(
                    f"expected a finite loss, found {losses[-1]} in step {step + 1} of {self._steps} of "
                    f"epoch {number}; try a lower learning rate"
                )
        return float(np.mean(losses))

    def judged(self) -> tuple[float, float | None]:
        """Mean loss on held-out samples, and the share of them that are right; None: there are no classes."""
        loss, right = 0.0, 0
        for share in map(self.copies.share, self._batches(self.parts.held_out)):
            outputs = self._forward(share.samples)
            if outputs is not None and self._targets is not None:
                loss += (
                    self._targets.loss_of(outputs, share.samples).value * share.samples.size * share.counts
                )
                right += self._targets.right(outputs, share.samples) * share.counts
        has_classes = self._targets is not None and self._targets.classes is not None
        mine = {"loss": loss, "right": float(right), "has classes": float(has_classes)}
        total = self.copies.total({name: self._outputs.tell(number) for name, number in mine.items()})
        judged = self.parts.held_out.size
        return total["loss"] / judged, total["right"] / judged if total["has classes"] else None

    def _step(self, batch: np.ndarray) -> float:
        """Tune on some samples, unless the loss is not finite; the loss."""
        share = self.copies.share(batch)
        passes = self._subnets or self.passes
        outputs = self._forward(share.samples, self._starts, passes)
        with self.clock("loss"):
            value, gradient, weight = 0.0, None, share.samples.size * share.counts / batch.size
            if outputs is not None and self._targets is not None:
                value, gradient = self._targets.loss_of(outputs, share.samples)
                value, gradient = value * weight, gradient * gradient.dtype.type(weight)
            value = self.copies.total({"loss": self._outputs.tell(value)})["loss"]
            rows = self._outputs.scatter(gradient, share.samples.size)
        if np.isfinite(value):
            with self.clock("loss"):
                others = self._local_derivatives(share, batch.size)
            with self.clock("passes"):
                sums = self.copies.sums(self._update)
                passes.backward(rows, sums.add, others)
                sums.finish()
        return value

    def _local_derivatives(self, share: Share, batch: int) -> dict[str, np.ndarray]:
        """Derivatives of the losses at cuts for this group's samples of a batch."""
        if self.local is None:
            return {}
        return self.local.derivatives(share.samples, self._sizes, share.counts / batch)

    def _forward(
        self, batch: np.ndarray, starts: tuple[str, ...] | None = None, passes: Passes | Subnets | None = None
    ) -> np.ndarray | None:
        """The outputs of some samples on the root, (batch, outputs); None: of the plan."""
        with self.clock("input"):
            X = np.ascontiguousarray(self._inputs(batch, starts).T)
        with self.clock("passes"):
            rows = (passes or self.passes).forward(X, starts)
        with self.clock("loss"):
            return self._outputs.gather(rows)

    def _inputs(self, batch: np.ndarray, starts: tuple[str, ...] | None) -> np.ndarray:
        """What a pass begins with, (batch, values)."""
        if self.local is None or starts is None:
            return self._samples.take(batch)
        known = [self.local.values(name, batch) for name in starts if name in self.passes.cuts]
        inputs = [self._samples.take(batch)] if len(known) < len(starts) else []
        return np.concatenate([*inputs, *known], axis=1)

    def _update(self, parameter: Parameter, gradient: np.ndarray) -> None:
        reads = parameter.reads
        size = 1.0 if reads is None else self._sizes[reads]
        self.optimiser.update(parameter.name, parameter.values, gradient, reads is not None, size)
        if self._subnets is not None:
            self._subnets.renew(parameter)

    def _batches(self, order: np.ndarray) -> list[np.ndarray]:
        size = self._options.batch_size
        return [order[first : first + size] for first in range(0, order.size, size)]


class Parts(NamedTuple):
    """The numbers of the samples that are held out, and of all others, both ascending."""

    held_out: np.ndarray
    rest: np.ndarray


def parted(samples: int, options: TuneOptions) -> Parts:
    """Samples in two parts, by the seed.

    Raises:
        FieldError: none would be left of one of them.
    """
    count = round(samples * options.held_out)
    if not 0 < count < samples:
        raise FieldError(
            "held_out",
            f"expected a share of {samples} samples that leaves some of both, got {options.held_out:g}; give "
            "more samples, or another share",
        )
    order = np.random.default_rng([options.seed, *_SPLIT_STREAM]).permutation(samples)
    return Parts(np.sort(order[:count]), np.sort(order[count:]))


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
        Diverged: on all ranks: a loss is not finite.
    """
    left: TimeLeft | None = None
    while not epochs or (epochs[-1].epoch < options.epochs and not _has_ended(epochs, options.patience)):
        epochs.append(tuning.measured(epochs[-1].epoch + 1 if epochs else 0))
        last = epochs[-1]
        left = left or TimeLeft(options.epochs, last.epoch)
        log(f"{last.line}{left(last.epoch)}")
        yield epochs[-1]


def _silent() -> np.errstate:
    """A block in which numbers may overflow: the loss tells, in one message."""
    return np.errstate(over="ignore", invalid="ignore")


def best_of(epochs: Sequence[Epoch]) -> Epoch:
    """The one with the lowest loss on held-out samples, the first of several."""
    return min(epochs, key=lambda each: each.held_out_loss)


def _has_ended(epochs: Sequence[Epoch], patience: int) -> bool:
    """Whether so many epochs have not been better than one before.

    What there was before is not among these: with a large step size epochs may be worse at first.
    """
    return len(epochs) > 1 and epochs[-1].epoch - best_of(epochs[1:]).epoch >= patience
