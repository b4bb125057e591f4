"""Forward and backward pass of a rank's part of a network.

Forward, what crosses is what crosses in an inference.  Backward, the derivatives of the same neurons cross,
in the opposite direction (``links``): so a step of training sends twice the values of an inference.

Every operation runs on the neurons of the hosted workers alone (``Operation.restricted``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.backward import dependents_of
from repurpose_hpc.model.operations import Mixing, Operation, Rows
from repurpose_hpc.model.operations.patches import as_map, from_map
from repurpose_hpc.plan.shard import Shard
from repurpose_hpc.runtime.buffers import Arena, Part, Scratch
from repurpose_hpc.runtime.hosting import Hosting
from repurpose_hpc.runtime.program import columns_of
from repurpose_hpc.runtime.resources import Formats, Resources
from repurpose_hpc.tuning.compiled import computed, vjp
from repurpose_hpc.tuning.links import GhostLink, SumLink, Transfers
from repurpose_hpc.tuning.mixings import TunedMixing
from repurpose_hpc.tuning.parameters import Parameter, Update

if TYPE_CHECKING:
    from mpi4py import MPI


class Passes:
    """A rank's part of a network, to be run and tuned.

    *Collective* are the constructor, ``forward``, ``backward`` and ``free``.

    Attributes:
        input_columns, output_columns: as of ``Program``.
        dtype: of weights, inputs and outputs.
        is_root: whether this rank is the one that gets all outputs.
        parameters: all that is tuned here.
        transfers: of what crosses.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        comm: MPI.Comm | None,
        max_batch: int,
        formats: Formats,
        transport: str,
    ) -> None:
        """Copies the weights, and agrees with the other ranks on what is exchanged.

        Args:
            shards: those of the hosted workers, ascending.
            comm: its ranks host all workers; None: this process does.
            max_batch: most samples of a batch.
            formats: of ghosts.
            transport: one of ``TRANSPORTS``.

        Raises:
            UserError: on all ranks: a network that cannot be tuned, or a transport that lacks something.
        """
        graph = shards[0].graph
        graph.check_samples()
        ranks, rank = (1, 0) if comm is None else (comm.size, comm.rank)
        self.is_root = rank == 0
        self._graph, self._hosting, self._comm = graph, Hosting(shards, ranks, rank), comm
        self.dtype = dtype = graph.mixings[0].bias.dtype
        resources = Resources(self._hosting, max_batch, Scratch(dtype), Arena(), formats, 1, False)
        self.input_columns = columns_of(graph, graph.input_tensors, self._hosting)
        self.output_columns = columns_of(graph, graph.output_tensors, self._hosting)
        self._ghosts: dict[str, GhostLink] = {}
        self._mixings = {mixing.name: self._mixing(mixing, shards, resources) for mixing in graph.mixings}
        transfers = [transfer for link in self._links for transfer in (link.there, link.back)]
        self.transfers = Transfers(transfers, comm, transport, dtype, formats)
        self._operations = [
            op if isinstance(op, Mixing) else op.restricted(*self._ends(op)) for op in graph.operations
        ]
        self._dependents = dependents_of(graph, {mixing.target for mixing in graph.mixings})
        self._tensors: dict[str, np.ndarray] = {}
        self._part = Part(0)

    @property
    def parameters(self) -> list[Parameter]:
        """All that is tuned on this rank, in the order of the network."""
        return [
            parameter
            for mixing in self._mixings.values()
            for block in mixing.blocks
            for parameter in block.parameters
        ]

    @property
    def _links(self) -> list[GhostLink | SumLink]:
        """All that crosses, the same on all ranks and in the same order."""
        return [*self._ghosts.values(), *(mixing.sums for mixing in self._mixings.values())]

    @property
    def values_sent(self) -> tuple[int, int]:
        """Values per sample that this rank sends to others, forward and backward."""
        wanted = [link for link in self._links if link.tensor in self._dependents]
        return (
            sum(link.there.exchange.values_sent for link in self._links),
            sum(link.back.exchange.values_sent for link in wanted),
        )

    def tuned(self, shards: Sequence[Shard]) -> Iterator[Shard]:
        """The shards of the hosted workers with the weights as they are now, one after the other."""
        for number, shard in enumerate(shards):
            blocks = {name: mixing.blocks[number].tuned() for name, mixing in self._mixings.items()}
            yield replace(shard, blocks=blocks)

    def forward(self, X: np.ndarray) -> np.ndarray:
        """Run one batch; collective, all ranks with the same batch size.

        Args:
            X: (len(input_columns), batch).

        Returns:
            (len(output_columns), batch), the heads not applied.
        """
        self._part = Part(X.shape[1])
        self._tensors, graph, first = {}, self._graph, 0
        for name in graph.input_tensors:
            rows, values = self._rows(name), graph.values(name)
            maps = X[first : first + rows * values].reshape(rows, values, X.shape[1]).transpose(0, 2, 1)
            first += rows * values
            self._made(name, from_map(np.ascontiguousarray(maps)))
        for op in self._operations:
            if isinstance(op, Mixing):
                made = self._mixings[op.name].forward(self._tensors[op.source], self._part, self.transfers)
            else:
                made = computed(op, *(self._tensors[source] for source in op.sources))
            self._made(op.target, made)
        return np.concatenate([self._values(name) for name in graph.output_tensors])

    def squares(self) -> dict[str, np.ndarray]:
        """Sum of the squares of each tensor that a mixing reads, and how many they are; collective.

        They are those of the last batch, on all ranks of ``comm``.
        """
        tensors = {name: self._tensors[name] for name in self._ghosts}
        sums = np.array([(np.square(x, dtype=np.float64).sum(), x.size) for x in tensors.values()])
        if self._comm is not None:
            self._comm.Allreduce(sums.copy(), sums)
        return dict(zip(tensors, sums, strict=True))

    def backward(self, G: np.ndarray, update: Update) -> None:
        """Tune all parameters by the last batch; collective.

        Args:
            G: derivatives by the outputs, as ``forward`` returned these.
            update: of a parameter, as soon as its gradient is known: no two gradients are in memory.
        """
        graph, first = self._graph, 0
        wanted = [link for name, link in self._ghosts.items() if name in self._dependents]
        for link in wanted:
            self.transfers.begin(link.back, self._part)
            for buffer in link.back.buffers:
                buffer.view(self._part)[...] = 0
        adjoints: dict[str, np.ndarray] = {}
        for name in graph.output_tensors:
            rows, values = self._rows(name), graph.values(name)
            maps = G[first : first + rows * values].reshape(rows, values, self._part.samples)
            first += rows * values
            _add(adjoints, name, np.ascontiguousarray(from_map(maps.transpose(0, 2, 1))))
        for op in reversed(self._operations):
            self._back_through(op, adjoints, update)
        self._tensors = {}

    def free(self) -> None:
        """Give back what MPI keeps; collective."""
        self.transfers.free()

    def _mixing(self, mixing: Mixing, shards: Sequence[Shard], resources: Resources) -> TunedMixing:
        """A mixing and what it exchanges; the ghosts that an earlier one reads are its own, too."""
        blocks = [shard.blocks[mixing.name] for shard in shards]
        if blocks[0].is_common or blocks[0].is_everywhere:
            raise UserError(
                f"{mixing.name}: expected neurons that have one owner each, found common ones; only networks "
                "of samples can be tuned"
            )
        is_first = mixing.source not in self._ghosts
        if is_first:
            ghosts = GhostLink(blocks, mixing.source, *self._end(mixing.source), resources)
            self._ghosts[mixing.source] = ghosts
        sums = SumLink(blocks, mixing.target, *self._end(mixing.target), resources)
        return TunedMixing(mixing, blocks, self._ghosts[mixing.source], sums, self._hosting, is_first)

    def _end(self, tensor: str) -> tuple[str, int]:
        """Space and values of a neuron."""
        return self._graph.space_of[tensor], self._graph.values(tensor)

    def _ends(self, op: Operation) -> list[Rows]:
        """What stands in the rows of the target of an operation, then of its sources."""
        return [self._hosting.rows_of(self._graph.space(tensor)) for tensor in (op.target, *op.sources)]

    def _rows(self, tensor: str) -> int:
        return self._hosting.neurons(self._graph.space_of[tensor]).size

    def _made(self, name: str, tensor: np.ndarray) -> None:
        """Keep a tensor, and send its ghosts."""
        self._tensors[name] = tensor
        link = self._ghosts.get(name)
        if link is not None:
            self.transfers.begin(link.there, self._part)
            link.values.maps(self._part)[...] = as_map(tensor)
            self.transfers.post(link.there, self._part)

    def _back_through(self, op: Operation, adjoints: dict[str, np.ndarray], update: Update) -> None:
        """Turn the derivatives by the target of an operation into those by its sources; collective."""
        g = self._adjoint(op.target, adjoints)
        if g is None:
            return
        if isinstance(op, Mixing):
            x, wants_source = self._tensors[op.source], op.source in self._dependents
            mixing = self._mixings[op.name]
            by_source = mixing.backward(g, x, self._part, wants_source, self.transfers, update)
            if by_source is not None:
                _add(adjoints, op.source, by_source)
            return
        products = vjp(op, g, self._tensors[op.target], *(self._tensors[source] for source in op.sources))
        for source, product in zip(op.sources, products, strict=True):
            if source in self._dependents:
                _add(adjoints, source, product)

    def _adjoint(self, name: str, adjoints: dict[str, np.ndarray]) -> np.ndarray | None:
        """The derivatives by a tensor, with what comes back from its ghosts; None: nothing depends on it."""
        g, link = adjoints.pop(name, None), self._ghosts.get(name)
        if link is None or name not in self._dependents:
            return g
        own = link.adjoints.maps(self._part)
        own[...] = 0 if g is None else as_map(g)
        self.transfers.post(link.back, self._part)
        self.transfers.complete(link.back, self._part)
        return from_map(own)

    def _values(self, name: str) -> np.ndarray:
        """An output as ``forward`` returns it, (columns, batch)."""
        tensor = as_map(self._tensors[name])
        return tensor.transpose(0, 2, 1).reshape(len(tensor) * tensor.shape[2], self._part.samples)


def _add(adjoints: dict[str, np.ndarray], name: str, g: np.ndarray) -> None:
    adjoints[name] = adjoints[name] + g if name in adjoints else g
