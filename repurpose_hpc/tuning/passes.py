"""Forward and backward pass of a rank's part of a network.

Forward, what crosses is what crosses in an inference.  Backward, the derivatives of the same neurons cross,
in the opposite direction (``links``): so a step of training sends twice the values of an inference.

At *cuts* the way back ends: no derivatives go from what reads such a tensor to what has made it, and so none
of its ghosts cross.  They are tuned by derivatives of their own (``local``).

Every operation runs on the neurons of the hosted workers alone (``Operation.restricted``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.backward import dependents_of
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Depthwise, Mixing, Operation
from repurpose_hpc.model.operations.patches import as_map, from_map
from repurpose_hpc.plan.shard import Shard
from repurpose_hpc.runtime.buffers import Arena, Part, Scratch
from repurpose_hpc.runtime.hosting import Hosting
from repurpose_hpc.runtime.resources import Formats, Resources
from repurpose_hpc.tuning.compiled import computed, vjp
from repurpose_hpc.tuning.course import Courses
from repurpose_hpc.tuning.filters import TunedFilters
from repurpose_hpc.tuning.layout import Layout
from repurpose_hpc.tuning.links import GhostLink, SumLink, Transfers
from repurpose_hpc.tuning.mixings import TunedMixing
from repurpose_hpc.tuning.parameters import LocalBlock, Parameter, Update

if TYPE_CHECKING:
    from mpi4py import MPI


# By tensors, of their shapes.
Derivatives: TypeAlias = Mapping[str, np.ndarray]
NO_DERIVATIVES: Derivatives = MappingProxyType({})


class Passes:
    """A rank's part of a network, to be run and tuned.

    *Collective* are the constructor, ``forward``, ``backward``, ``tuned_graph`` and ``free``.

    Attributes:
        input_columns, output_columns: as of ``Program``.
        dtype: of weights, inputs and outputs.
        is_root: whether this rank is the one that gets all outputs.
        parameters: all that is tuned here.
        cuts: tensors at which the way back ends.
        courses: what a pass may go through.
        layout: of values.
        transfers: of what crosses.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        comm: MPI.Comm | None,
        max_batch: int,
        formats: Formats,
        transport: str,
        cuts: tuple[str, ...] = (),
    ) -> None:
        """Copies the weights, and agrees with the other ranks on what is exchanged.

        Args:
            shards: those of the hosted workers, ascending.
            comm: its ranks host all workers; None: this process does.
            max_batch: most samples of a batch.
            formats: of ghosts.
            transport: one of ``TRANSPORTS``.
            cuts: see the class.

        Raises:
            UserError: on all ranks: a network that cannot be tuned, or a transport that lacks something.
        """
        graph = shards[0].graph
        graph.check_samples()
        ranks, rank = (1, 0) if comm is None else (comm.size, comm.rank)
        self.is_root = rank == 0
        self._graph, self._hosting, self._comm = graph, Hosting(shards, ranks, rank), comm
        self._others = comm, max_batch, formats, transport
        self.dtype = dtype = graph.mixings[0].bias.dtype
        resources = Resources(self._hosting, max_batch, Scratch(dtype), Arena(), formats, 1, False)
        self.layout = Layout(graph, self._hosting)
        self.input_columns = self.layout.columns(graph.input_tensors)
        self.output_columns = self.layout.columns(graph.output_tensors)
        self._ghosts: dict[str, GhostLink] = {}
        self._mixings = {mixing.name: self._mixing(mixing, shards, resources) for mixing in graph.mixings}
        transfers = [transfer for link in self._links for transfer in (link.there, link.back)]
        self.transfers = Transfers(transfers, comm, transport, dtype, formats)
        self._filters = {
            op.name: TunedFilters(op, graph.space_of[op.target], self._hosting, comm)
            for op in graph.operations
            if isinstance(op, Depthwise)
        }
        self.courses = Courses(graph, [self._part_of(op) for op in graph.operations])
        tuned = {mixing.target for mixing in graph.mixings}
        tuned |= {filters.part.target for filters in self._filters.values() if filters.is_tuned}
        # Those by which what reads them sends derivatives back.
        self._followed = dependents_of(graph, tuned) - {*cuts}
        self.cuts = cuts
        self._tensors: dict[str, np.ndarray] = {}
        self._course, self._part = self.courses.from_tensors(None), Part(0)
        self._waited_for: set[str] = set()

    @property
    def parameters(self) -> list[Parameter]:
        """All that is tuned on this rank: weights of mixings in the order of the network, then filters."""
        return [*(parameter for block in self.blocks for parameter in block.parameters), *self.filters]

    @property
    def blocks(self) -> list[LocalBlock]:
        """Those of each mixing, one for each hosted worker."""
        return [block for mixing in self._mixings.values() for block in mixing.blocks]

    @property
    def filters(self) -> list[Parameter]:
        """Those of depthwise convolutions."""
        return [parameter for filters in self._filters.values() for parameter in filters.parameters]

    @property
    def _links(self) -> list[GhostLink | SumLink]:
        """All that crosses, the same on all ranks and in the same order."""
        return [*self._ghosts.values(), *(mixing.sums for mixing in self._mixings.values())]

    def values_sent(self, starts: Sequence[str] | None = None) -> tuple[int, int]:
        """Values per sample that this rank sends to others, forward and backward; see ``forward``."""
        course = self.courses.from_tensors(starts)
        ghosts = [link for name, link in self._ghosts.items() if name in course.read]
        sums = [self._mixings[op.name].sums for op in course.operations if isinstance(op, Mixing)]
        followed = [link for link in ghosts if link.tensor in self._followed]
        return (
            sum(link.there.exchange.values_sent for link in [*ghosts, *sums]),
            sum(link.back.exchange.values_sent for link in [*followed, *sums]),
        )

    def of(self, shards: Sequence[Shard]) -> Passes:
        """Passes of other shards, between the same ranks; their seconds are counted here.  Collective."""
        passes = Passes(shards, *self._others)
        passes.transfers.seconds = self.transfers.seconds
        return passes

    def tuned(self, shards: Sequence[Shard], graph: Network) -> Iterator[Shard]:
        """The shards of the hosted workers with the weights as they are now, one after the other.

        Args:
            shards: as they were given.
            graph: ``tuned_graph``.
        """
        for number, shard in enumerate(shards):
            blocks = {name: mixing.blocks[number].tuned() for name, mixing in self._mixings.items()}
            yield replace(shard, blocks=blocks, graph=graph)

    def tuned_graph(self) -> Network:
        """The network without the weights of mixings, with filters as they are now; collective."""
        filters = {name: filters.tuned() for name, filters in self._filters.items()}
        operations = tuple(filters.get(op.name, op) for op in self._graph.operations)
        return replace(self._graph, operations=operations)

    def forward(self, X: np.ndarray, starts: Sequence[str] | None = None) -> np.ndarray:
        """Run one batch; collective, all ranks with the same batch size and starts.

        Args:
            X: (len(input_columns), batch), or of other starts likewise.
            starts: tensors to begin with; what they depend on is not computed, nor does it cross.  None: the
                inputs.

        Returns:
            (len(output_columns), batch), the heads not applied.
        """
        self._part, self._course = Part(X.shape[1]), self.courses.from_tensors(starts)
        self._tensors, self._waited_for = {}, set(self._ghosts)
        for name, tensor in self.layout.split(starts or self._graph.input_tensors, X):
            self._made(name, tensor)
        for op in self._course.operations:
            if isinstance(op, Mixing):
                made = self._mix(op)
            else:
                made = computed(op, *(self._tensors[source] for source in op.sources))
            self._made(op.target, made)
        return self.layout.joined(self._graph.output_tensors, self._tensors)

    @property
    def tensors(self) -> Mapping[str, np.ndarray]:
        """Those of the last pass forward, (neurons, batch) or (neurons, batch, positions), until one back."""
        return self._tensors

    def squares(self) -> dict[str, np.ndarray]:
        """``summed_squares`` of each tensor that weights were multiplied by; collective."""
        weighted = (op.sources for op in self._course.operations if isinstance(op, Mixing | Depthwise))
        return self.summed_squares({name: self._tensors[name] for (name,) in weighted})

    def size(self, name: str) -> int:
        """Values of a tensor per sample, on all ranks together."""
        return self._graph.size(name)

    def summed_squares(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Of each tensor the sum of its squares, and how many they are, on all ranks; collective."""
        sums = np.array([(np.square(x, dtype=np.float64).sum(), x.size) for x in tensors.values()])
        if self._comm is not None:
            self._comm.Allreduce(sums.copy(), sums)
        return dict(zip(tensors, sums, strict=True))

    def backward(self, G: np.ndarray, update: Update, others: Derivatives = NO_DERIVATIVES) -> None:
        """Tune all parameters that the last batch went through; collective.

        Args:
            G: derivatives by the outputs, as ``forward`` returned these.
            update: of a parameter, as soon as its gradient is known: no two gradients are in memory.
            others: derivatives by other tensors, of their shapes, the same tensors on all ranks.
        """
        wanted = [link for name, link in self._ghosts.items() if name in self._course.read & self._followed]
        for link in wanted:
            self.transfers.begin(link.back, self._part)
            for buffer in link.back.buffers:
                buffer.view(self._part)[...] = 0
        adjoints = dict(others)
        for name, g in self.layout.split(self._graph.output_tensors, G):
            _add(adjoints, name, g)
        for op in reversed(self._course.operations):
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
        if mixing.source not in self._ghosts:
            comm_dtype = self._graph.comm_dtype(mixing.source, resources.formats.comm_dtype)
            end = self._end(mixing.source)
            ghosts = GhostLink(blocks, mixing.source, *end, comm_dtype, resources)
            self._ghosts[mixing.source] = ghosts
        sums = SumLink(blocks, mixing.target, *self._end(mixing.target), resources)
        return TunedMixing(mixing, blocks, self._ghosts[mixing.source], sums, self._hosting)

    def _end(self, tensor: str) -> tuple[str, int]:
        """Space and values of a neuron."""
        return self._graph.space_of[tensor], self._graph.values(tensor)

    def _part_of(self, op: Operation) -> Operation:
        """What is computed of an operation, with what is tuned of it; blocks are beside mixings."""
        if isinstance(op, Mixing):
            return op
        if op.name in self._filters:
            return self._filters[op.name].part
        ends = [self._hosting.rows_of(self._graph.space(tensor)) for tensor in (op.target, *op.sources)]
        return op.restricted(*ends)

    def _made(self, name: str, tensor: np.ndarray) -> None:
        """Keep a tensor, and send its ghosts."""
        if name not in self._course.needed:
            return
        self._tensors[name] = tensor
        if name in self._course.read:
            link = self._ghosts[name]
            self.transfers.begin(link.there, self._part)
            link.values.maps(self._part)[...] = as_map(tensor)
            self.transfers.post(link.there, self._part)

    def _mix(self, op: Mixing) -> np.ndarray:
        """The target of a mixing; the first one that reads a tensor waits for its ghosts."""
        waits = op.source in self._waited_for
        self._waited_for.discard(op.source)
        return self._mixings[op.name].forward(self._tensors[op.source], self._part, self.transfers, waits)

    def _back_through(self, op: Operation, adjoints: dict[str, np.ndarray], update: Update) -> None:
        """Turn the derivatives by the target of an operation into those by its sources; collective."""
        g = self._adjoint(op.target, adjoints)
        if g is None:
            return
        if isinstance(op, Mixing):
            x, wants_source = self._tensors[op.source], op.source in self._followed
            mixing = self._mixings[op.name]
            by_source = mixing.backward(g, x, self._part, wants_source, self.transfers, update)
            if by_source is not None:
                _add(adjoints, op.source, by_source)
            return
        sources = [self._tensors[source] for source in op.sources]
        if op.name in self._filters:
            self._filters[op.name].backward(g, sources[0], update)
        products = vjp(op, g, self._tensors[op.target], *sources)
        for source, product in zip(op.sources, products, strict=True):
            if source in self._followed:
                _add(adjoints, source, product)

    def _adjoint(self, name: str, adjoints: dict[str, np.ndarray]) -> np.ndarray | None:
        """The derivatives by a tensor, with what comes back from its ghosts; None: nothing depends on it."""
        g = adjoints.pop(name, None)
        if name not in self._course.read & self._followed:
            return g
        link = self._ghosts[name]
        own = link.adjoints.maps(self._part)
        own[...] = 0 if g is None else as_map(g)
        self.transfers.post(link.back, self._part)
        self.transfers.complete(link.back, self._part)
        return from_map(own)


def _add(adjoints: dict[str, np.ndarray], name: str, g: np.ndarray) -> None:
    adjoints[name] = adjoints[name] + g if name in adjoints else g
