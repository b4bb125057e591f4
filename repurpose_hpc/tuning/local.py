"""Local losses: mixings are tuned to the original's activations, without derivatives from what follows.

*Cuts* are tensors that mixings read.  There the loss is the squared error against what the original network
has, over its mean square, and the way back ends (``Passes``): every mixing is tuned by itself, with the
relays and sums that belong to it, on what the mixings before make of the samples.  All are tuned at the same
time.  The last mixings of all, ``LAST`` in a row, are tuned to the outputs, as they are without cuts.

Where nothing was lost up to a cut, nothing is tuned: steps begin with the original's activations.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.io.samples import Samples
from repurpose_hpc.io.spooled import TemporaryRows
from repurpose_hpc.model.backward import dependents_of
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Depthwise, Mixing
from repurpose_hpc.mpi.agreement import agreed
from repurpose_hpc.mpi.groups import Groups
from repurpose_hpc.plan.plan import single_worker_plan
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.runtime.exchange.transports import DEFAULT_TRANSPORT
from repurpose_hpc.runtime.resources import EXACT_FORMATS
from repurpose_hpc.runtime.streams.outputs import in_order
from repurpose_hpc.tuning.passes import Passes

if TYPE_CHECKING:
    from mpi4py import MPI

# Mixings in a row that the loss of the outputs tunes: alone, the last one wins back much less.
LAST = 2
# Errors that rounding explains, over the root mean square of the tensor.  They count as none: steps that
# AdamW makes do not depend on the size of gradients, and would spoil what is right.
_ROUNDING = 3e-5


def cuts_of(graph: Network, original: Network) -> tuple[str, ...]:
    """The tensors with a loss of their own, in the order of the network.

    Args:
        graph: of the restructured network.
        original: that it was made from; relays, which it does not have, belong to the mixing that reads them.
    """
    mixings = [mixing for mixing in original.mixings if not mixing.fixed]
    filters = [op for op in original.operations if isinstance(op, Depthwise)]
    made = dependents_of(original, {op.target for op in (*mixings, *filters)})
    behind, read = _mixings_behind(original), {mixing.source for mixing in mixings}
    chosen = {name for name in read & made if behind.get(name, 0) >= LAST}
    return tuple(op.target for op in graph.operations if op.target in chosen)


def _mixings_behind(network: Network) -> dict[str, int]:
    """Of each tensor that outputs depend on, how many mixings are on the longest way to any of these."""
    behind = dict.fromkeys(network.output_tensors, 0)
    for op in reversed(network.operations):
        if op.target in behind:
            steps = behind[op.target] + (isinstance(op, Mixing) and not op.fixed)
            for source in op.sources:
                behind[source] = max(steps, behind.get(source, 0))
    return behind


class LocalLosses:
    """The losses at cuts on one rank, and what they need.

    The original's activations of the hosted workers' neurons lie in temporary files, for all samples.  A
    context manager, which closes them.

    Attributes:
        names: of the tensors that have a loss.
        starts: the tensors that a step begins with; None: the inputs.
        outputs: of the original, (samples, outputs), on the root; None elsewhere.
    """

    def __init__(
        self, original: Network, samples: Samples, passes: Passes, groups: Groups, batch_size: int
    ) -> None:
        """Computes the activations, each rank of a group those of some samples; collective.

        Of R ranks rank r takes the batches r, r + R, …, and sends every rank the activations of its neurons,
        and the root the outputs (``MPI_Alltoallv``).  All groups agree on failures.

        Args:
            original: the trained network.
            samples: as it takes them.
            passes: of the rank, with the cuts.
            groups: of ranks that have such passes.
            batch_size: samples at a time.

        Raises:
            UserError: on all ranks of all groups: samples cannot be read, or there is no room for the
                activations.
        """
        self._passes, self.names = passes, passes.cuts
        self.outputs: np.ndarray | None = None
        self.starts: tuple[str, ...] | None = None
        self._rows: dict[str, TemporaryRows] = {}
        try:
            with agreed(groups.everybody):
                for name in self.names:
                    shape = samples.samples, len(passes.layout.columns([name]))
                    self._rows[name] = TemporaryRows(f"{samples.name}: {name}", shape, passes.dtype)
            self._fill(_Source(original, passes, groups.inside, batch_size), samples, groups.everybody)
        except BaseException:
            self.close()
            raise

    def values(self, name: str, samples: np.ndarray) -> np.ndarray:
        """The original's values of a cut for some samples, (samples, values of this rank)."""
        return self._rows[name].take(samples)

    def errors(self, samples: np.ndarray, sizes: dict[str, float]) -> dict[str, np.ndarray]:
        """What the last pass forward made less what is right, of each tensor with a loss.

        Args:
            samples: of the pass.
            sizes: root mean square of the tensors.
        """
        found = {}
        for name in self.names:
            ((_, target),) = self._passes.layout.split([name], self.values(name, samples).T)
            found[name] = error = self._passes.tensors[name] - target
            error[np.abs(error) <= _ROUNDING * sizes[name]] = 0
        return found

    def derivatives(
        self, samples: np.ndarray, sizes: dict[str, float], share: float
    ) -> dict[str, np.ndarray]:
        """Derivatives of the losses by the tensors of the last pass forward.

        Args:
            samples, sizes: see ``errors``.
            share: that each sample has of the loss.
        """
        found = self.errors(samples, sizes)
        for name, error in found.items():
            error *= error.dtype.type(2 * share / (self._passes.size(name) * sizes[name] ** 2))
        return found

    def leave_out_exact(self, errors: dict[str, float]) -> None:
        """Begin steps where nothing has been lost before.

        Args:
            errors: mean square of the errors of each tensor, on all ranks.
        """
        exact = [name for name in self.names if not errors[name]]
        if exact:
            self.starts = self._passes.courses.starts_of(exact)
            needed = self._passes.courses.from_tensors(self.starts).needed
            self.names = tuple(name for name in self.names if name in needed and name not in exact)

    def close(self) -> None:
        """Remove the files."""
        for rows in self._rows.values():
            rows.close()

    def __enter__(self) -> LocalLosses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _fill(self, source: _Source, samples: Samples, comm: MPI.Comm | None) -> None:
        """Write the activations, a batch of each rank at a time; ``comm``: of all that may fail."""
        if source.is_root:
            self.outputs = np.empty((samples.samples, source.outputs), self._passes.dtype)
        done, batches = 0, samples.batches(source.batch_size, dtype=self._passes.dtype.type)
        while done < samples.samples:
            with agreed(comm):
                counts, parts = source.round_of(batches)
            came = source.spread(counts, parts)
            with agreed(comm):
                self._write(came, done)
            done += sum(counts)
        with agreed(comm):
            samples.check_unchanged()

    def _write(self, came: np.ndarray, first: int) -> None:
        """Put samples that follow each other into their places, (samples, activations and outputs)."""
        ends = np.cumsum([rows.shape[1] for rows in self._rows.values()], dtype=int).tolist()
        *parts, outputs = np.split(came, ends, axis=1)
        for rows, part in zip(self._rows.values(), parts, strict=True):
            rows.write(np.ascontiguousarray(part), first)
        if self.outputs is not None:
            self.outputs[first : first + len(came)] = outputs


class _Source:
    """The original network on this rank, for the samples of its share.

    Attributes:
        batch_size: samples at a time.
        outputs: values of the network's outputs.
        is_root: whether this rank wants them.
    """

    def __init__(self, original: Network, passes: Passes, comm: MPI.Comm | None, batch_size: int) -> None:
        """Every rank tells all others which values it wants; collective."""
        shard = make_shard(original, single_worker_plan(original), 0, passes.dtype.type)
        self._passes = Passes([shard], None, batch_size, EXACT_FORMATS, DEFAULT_TRANSPORT)
        self.batch_size, self._comm, self.is_root = batch_size, comm, passes.is_root
        self._tensors = (*passes.cuts, *original.output_tensors)
        self._places = self._passes.layout.columns(self._tensors)
        self.outputs = len(self._passes.output_columns)
        first = self._places.size - self.outputs
        outputs = np.arange(first, self._places.size if self.is_root else first)
        mine = np.concatenate([passes.layout.columns(passes.cuts), outputs])
        self._wanted = [mine] if comm is None else comm.allgather(mine)
        self._rank = 0 if comm is None else comm.rank

    def round_of(self, batches: Iterator[np.ndarray]) -> tuple[list[int], list[np.ndarray]]:
        """Take a batch for each rank.

        Returns:
            the samples of each, and for every rank its values of this rank's samples, (samples, values).
        """
        counts, made = [], np.empty((0, self._places.size), self._passes.dtype)
        for number, batch in enumerate(islice(batches, len(self._wanted))):
            counts.append(len(batch))
            if number == self._rank:
                made = self._values(batch)
        return counts, [np.ascontiguousarray(made[:, wanted]) for wanted in self._wanted]

    def spread(self, counts: list[int], parts: list[np.ndarray]) -> np.ndarray:
        """Every rank sends all others what they want of its samples: this rank's, (samples, values)."""
        if self._comm is None:
            return parts[0]
        width = self._wanted[self._rank].size
        came = np.empty((sum(counts), width), self._passes.dtype)
        sizes = [count * width for count in counts] + [0] * (self._comm.size - len(counts))
        self._comm.Alltoallv(
            (np.concatenate([part.ravel() for part in parts]), [part.size for part in parts]), (came, sizes)
        )
        return came

    def _values(self, batch: np.ndarray) -> np.ndarray:
        """Activations and outputs of some samples, (samples, values)."""
        self._passes.forward(np.ascontiguousarray(batch.T[self._passes.input_columns]))
        return in_order(self._passes.layout.joined(self._tensors, self._passes.tensors), self._places)
