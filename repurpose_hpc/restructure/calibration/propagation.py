"""Step 5: the calibration data on their way through the original and the restructured network.

A batch waits in front of the first mixing that is not finished, with the tensors that are still to be
read; there it goes on when that mixing is.  So every layer is computed about once, however deep the
network is, where memory allows; beyond that, batches start anew from the input.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.comm_dtype import SCALED
from repurpose_hpc.model.forward import Compute, compute, split_inputs
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Combine, Mixing, Operation
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.plan.relays import Relays
from repurpose_hpc.plan.rounding import rounded_compute
from repurpose_hpc.restructure.calibration.divergence import Divergence
from repurpose_hpc.restructure.calibration.moments import (
    CalibrationBatches,
    Moments,
    MomentSums,
    Result,
    map_batches,
)
from repurpose_hpc.restructure.team import Team

# Tensors that wait in the memory of one process.
WAITING_BYTES = 1 << 30
# Samples by which networks are compared: their difference is that of the same samples, so that few do.
JUDGED = 2000


class Part(NamedTuple):
    """A mixing of the restructured network that adds to a copy of a tensor of the original.

    Attributes:
        mixing: it reads a copy of what the original mixing reads, or relays of that.
        columns: of its weights that are looked at, in order; None: all.
    """

    mixing: Mixing
    columns: np.ndarray | None = None

    def of(self, columns: np.ndarray) -> np.ndarray:
        """Those that are looked at, of all columns along the first axis."""
        return columns if self.columns is None else columns[self.columns]


class Copy(NamedTuple):
    """What a mixing of the original is in the restructured network.

    Attributes:
        target: tensor that they make.
        parts: of its weights.
    """

    target: str
    parts: tuple[Part, ...]

    def wide(self, mixing: Mixing) -> Mixing:
        """The original mixing with the weights of all parts side by side, (m, columns)."""
        return replace(mixing, weights=np.hstack([part.of(part.mixing.W.T).T for part in self.parts]))


@dataclass(frozen=True, eq=False)
class CurrentNetwork:
    """The restructured network, as far as it is known.

    Attributes:
        network: the graph of the original or what copies its tensors, with the weights found so far.
        plan: of ``finished`` and of fixed mixings; how their ghosts travel.
        finished: names of the mixings that will not change any more.
        relays: mixing -> those that it has; the weights of finished ones are in its own as well.
    """

    network: Network
    plan: Plan
    finished: Collection[str]
    relays: Mapping[str, Relays] = field(default_factory=dict)

    def is_final(self, op: Operation) -> bool:
        """True if ``op`` can be computed, once its sources are there."""
        if not isinstance(op, Mixing):
            return True
        # Before the scales of what it reads are known, what arrives is not.
        arrives = self.plan.comm_dtype not in SCALED or op.source in self.plan.scales
        return arrives and (op.fixed or op.name in self.finished)

    def compute(self) -> Compute:
        """A function that computes operations as the workers do."""
        return rounded_compute(self.network, self.plan, self.plan.comm_dtype, self.relays)


class Propagation:
    """The calibration data on their way through both networks.

    Args:
        original: the trained network.
        mixings: those of it that will be measured.
        samples: calibration data.
        team: shares the work; batches wait where they were computed.
        restructured: the graph of the restructured network; None: that of the original.
    """

    def __init__(
        self,
        original: Network,
        mixings: Sequence[Mixing],
        samples: Samples,
        team: Team,
        restructured: Network | None = None,
    ) -> None:
        self.original, self.team = original, team
        self.restructured = original if restructured is None else restructured
        self.batches = CalibrationBatches(original, mixings, samples)
        self._waiting: dict[int, tuple[_Pass, _Pass]] = {}
        self._bytes = 0

    def moments(self, mixing: Mixing, current: CurrentNetwork, copy: Copy | None = None) -> Moments:
        """Moments of a mixing: y of the original, x̂ of the restructured network; collective.

        Where y is only added to another tensor (a residual connection), it is the sum that should stay what
        it was: y also makes up for what the other tensor lacks, if that is finished.

        Args:
            mixing: one of ``original``.
            current: all that x̂ depends on is final, and no less than in earlier calls.
            copy: of it, whose columns x̂ has side by side; None: it has its name and its weights.
        """
        wide = mixing if copy is None else copy.wide(mixing)
        copy = Copy(mixing.target, (Part(mixing),)) if copy is None else copy
        addend = _added_to(self.original, mixing.target)
        new_addend = _added_to(self.restructured, copy.target)

        def ends(number: int, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            x, x_hat = self._take(number, batch)
            x_hat.go_on(current)
            shortcut = addend if new_addend in x_hat.tensors else None
            x.go_until({mixing.target} | ({shortcut} if shortcut else set()))
            y = x.tensors[mixing.target]
            if shortcut and new_addend:
                y = y + (x.tensors[shortcut] - x_hat.tensors[new_addend])
            found = [self._columns(mixing, part, number, x_hat, y) for part in copy.parts]
            self._leave(number, x, x_hat)
            (columns, y), *others = found
            return np.vstack([columns, *(more for more, _ in others)]) if others else columns, y

        sums = MomentSums(wide, self.team)
        for x, y in map_batches(ends, self.batches, self.team):
            sums.add(x, y)
        return sums.moments()

    def _columns(
        self, mixing: Mixing, part: Part, number: int, x_hat: _Pass, y: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The columns of a batch that a part reads, and those of y; see ``CalibrationBatches.columns``."""
        source = x_hat.tensors[part.mixing.source]
        self._check(mixing, source)
        shaped = replace(mixing, window=part.mixing.window)
        x, y = self.batches.columns(shaped, number, source, y)
        return part.of(x), y

    def map(
        self, function: Callable[..., Result], tensors: Sequence[str], current: CurrentNetwork
    ) -> Iterator[Result]:
        """``function`` of x̂ of ``tensors`` in every batch, in order; collective.

        Args:
            function: of arrays (neurons, batch) or (neurons, batch, positions).
            tensors: of the restructured network.
            current: as for ``moments``.
        """

        def work(number: int, batch: np.ndarray) -> Result:
            x, x_hat = self._take(number, batch)
            x_hat.go_on(current)
            source_pass = x_hat
            if not x_hat.tensors.keys() >= {*tensors}:
                # Some were read and forgotten: once more from the input.
                source_pass = _Pass(self.restructured, batch)
                source_pass.go_on(current)
            result = function(*(source_pass.tensors[tensor] for tensor in tensors))
            self._leave(number, x, x_hat)
            return result

        return map_batches(work, self.batches, self.team)

    def divergences(
        self, networks: Sequence[Network], current: CurrentNetwork, divergence: Divergence
    ) -> list[float]:
        """Mean divergence of the answers of several networks on about ``JUDGED`` samples; collective.

        From here on nothing is rounded on its way.

        Args:
            networks: of the graph of the original; they differ only in what is not final yet.
            current: as for ``moments``.
            divergence: from the original.
        """
        every = max(self.batches.samples.samples // JUDGED, 1)

        def work(number: int, batch: np.ndarray) -> np.ndarray:
            x, x_hat = self._take(number, batch)
            x_hat.go_on(current)
            y = x.original_answers(every)
            found = np.array([divergence(y, x_hat.finished(network, every)) for network in networks])
            self._leave(number, x, x_hat)
            return found

        judged = [*map_batches(work, self.batches, self.team)]
        # Answers that are none are the worst.
        return np.nan_to_num(np.hstack(judged).mean(axis=1), nan=np.inf).tolist()

    def _check(self, mixing: Mixing, x_hat: np.ndarray) -> None:
        """Refuse what is not finite, though it is in the original network."""
        if not np.isfinite(x_hat).all():
            raise UserError(
                f"{self.batches.samples.name}: the restructured network: expected finite values that "
                f"{mixing.name!r} reads, found NaN or infinity: its approximation leaves the range of an "
                "activation before it; give a larger budget, or keep arguments away from the ends of that "
                "range"
            )

    def _take(self, number: int, batch: np.ndarray) -> tuple[_Pass, _Pass]:
        waiting = self._waiting.pop(number, None)
        if waiting is None:
            return _Pass(self.original, batch), _Pass(self.restructured, batch)
        self._bytes -= sum(passing.bytes for passing in waiting)
        return waiting

    def _leave(self, number: int, x: _Pass, x_hat: _Pass) -> None:
        x.forget()
        x_hat.forget()
        size = x.bytes + x_hat.bytes
        if self._bytes + size <= WAITING_BYTES:
            self._waiting[number] = x, x_hat
            self._bytes += size


class _Pass:
    """A forward pass of one batch that can stop and go on.

    Attributes:
        tensors: those that were computed and may still be read.
    """

    def __init__(self, network: Network, batch: np.ndarray) -> None:
        self.pending = list(network.operations)
        self.tensors = split_inputs(network, batch)
        self._network, self._answers = network, dict[str, np.ndarray]()

    @property
    def bytes(self) -> int:
        """Memory of the tensors."""
        return sum(tensor.nbytes for kept in (self.tensors, self._answers) for tensor in kept.values())

    def go_on(self, current: CurrentNetwork) -> None:
        """Compute every operation that is final and whose sources are there, as the workers do."""
        operations, compute = {op.name: op for op in current.network.operations}, current.compute()
        pending = []
        for op in self.pending:
            if current.is_final(op) and all(source in self.tensors for source in op.sources):
                self._compute(operations[op.name], compute)
            else:
                pending.append(op)
        self.pending = pending

    def go_until(self, tensors: set[str]) -> None:
        """Compute what ``tensors`` depend on: what others do would be forgotten before it is asked for."""
        awaited, needed = tensors - self.tensors.keys(), []
        for op in reversed(self.pending):
            if op.target in awaited:
                needed.append(op)
                awaited |= {*op.sources} - self.tensors.keys()
        for op in reversed(needed):
            self._compute(op)
        self.pending = [op for op in self.pending if op.target not in self.tensors]

    def finished(self, network: Network, every: int) -> dict[str, np.ndarray]:
        """The output tensors of each so manieth sample, what is pending computed by ``network``."""
        operations = {op.name: op for op in network.operations}
        tensors = {name: tensor[:, ::every] for name, tensor in self.tensors.items()}
        for op in self.pending:
            tensors[op.target] = compute(operations[op.name], *(tensors[source] for source in op.sources))
        return {name: tensors[name] for name in self._network.output_tensors}

    def original_answers(self, every: int) -> dict[str, np.ndarray]:
        """The same of the network that the pass began with, in which each mixing is judged: kept."""
        self._answers = self._answers or self.finished(self._network, every)
        return self._answers

    def forget(self) -> None:
        """Drop the tensors that no operation will read, and that are no outputs."""
        read = {source for op in self.pending for source in op.sources}
        kept = read.union(self._network.output_tensors)
        self.tensors = {name: tensor for name, tensor in self.tensors.items() if name in kept}

    def _compute(self, op: Operation, compute: Compute = compute) -> None:
        self.tensors[op.target] = compute(op, *(self.tensors[source] for source in op.sources))


def _added_to(network: Network, tensor: str) -> str | None:
    """The tensor that ``tensor`` is added to, if it is of the same shape and nothing else is done with it."""
    readers = [op for op in network.operations if tensor in op.sources]
    if len(readers) != 1 or tensor in network.output_tensors:
        return None
    op = readers[0]
    if not isinstance(op, Combine) or op.kind != "add":
        return None
    (addend,) = {*op.sources} - {tensor} or {tensor}
    same_shape = addend != tensor and network.positions_of[addend] == network.positions_of[tensor]
    return addend if same_shape else None
