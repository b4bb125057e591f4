"""Owners where nothing is pruned: all values that weights need are sent, so that their number is the aim.

The hypergraph of the whole network (``nets``) is partitioned with its inputs as they are placed.  Owners
decide whether ghosts or sums of a tensor are fewer, and the forms decide what the nets are: after the first
owners every tensor takes the form of which less is sent, and the owners are refined once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.plan import capacities, input_owners
from repurpose_hpc.restructure.owners.mt_kahypar import mt_kahypar_start
from repurpose_hpc.restructure.owners.nets import Nets, NetworkNets, joined, pattern
from repurpose_hpc.restructure.owners.partition import Layer, LayerStart, Loads, Partitioner, best_owners

# A worker may have more than its share of the edges of a mixing by this fraction, and by the largest row.
TOLERANCE = 0.03
# Times that owners are refined for other forms.
REPEATS = 2


class ExactOwners(NamedTuple):
    """Owners for a network of which nothing is pruned.

    Attributes:
        owners: of every space, by name, (n,) int32.
        summed: tensors whose readers send sums instead of ghosts.
    """

    owners: dict[str, np.ndarray]
    summed: frozenset[str]


def exact_owners(
    network: Network,
    input_placement: str,
    part_weights: np.ndarray,
    seed: int,
    imbalance: float = 0.0,
    activity: Mapping[str, np.ndarray] | None = None,
    starts: Sequence[LayerStart | None] | None = None,
) -> ExactOwners:
    """Owners that send few values, under capacities of every space and, nearly, of the edges of every mixing.

    Args:
        network: any but one of tokens.
        input_placement: one of ``PLACEMENTS``.
        part_weights: relative capacities of the workers, (P,), >= 0, not all 0.
        seed: of random orders.
        imbalance: fraction by which shares may be exceeded.
        activity: tensor -> values of each of its neurons that are sent, on average, (n,); None: all.
        starts: of partitions, all refined; None: our own and, where it is installed, Mt-KaHyPar's.
    """
    problem = ExactProblem(network, input_placement, part_weights, imbalance, activity)
    summed, workers = problem.narrow(), len(part_weights)
    if starts is None:
        package = mt_kahypar_start(seed)
        starts = [None] if package is None else [None, package]
    if activity is not None:
        # Where activities differ little, owners for all values are the better beginning.
        plain = exact_owners(network, input_placement, part_weights, seed, imbalance, starts=starts)
        starts = [*starts, problem.start_at(plain)]
    owner = best_owners(starts, lambda: problem.partitioner(summed, seed))
    for _ in range(REPEATS):
        fewer = problem.fewer_as_sums(owner, workers)
        if fewer == summed:
            break
        summed = fewer
        partitioner = problem.partitioner(summed, seed)
        partitioner.take(owner)
        partitioner.refine()
        owner = partitioner.owner
    return ExactOwners(problem.of_spaces(owner), summed)


class ExactProblem:
    """The hypergraphs of a network, for all forms; for the arguments see ``exact_owners``."""

    def __init__(
        self,
        network: Network,
        input_placement: str,
        part_weights: np.ndarray,
        imbalance: float = 0.0,
        activity: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.network, self.part_weights, self.imbalance = network, part_weights, imbalance
        inputs = {
            space.name: input_owners(space.neurons, input_placement, part_weights)
            for space in network.free_spaces
            if space.name in network.input_spaces
        }
        self.nets = NetworkNets(network, inputs, activity)
        self.layers = [
            Layer(self.nets.of_space(space.name), capacities(space.neurons, part_weights, imbalance))
            for space in network.free_spaces
            if space.name not in inputs
        ]
        self.tensors = list(dict.fromkeys(mixing.source for mixing in network.mixings))

    def narrow(self) -> frozenset[str]:
        """The tensors of which sums are fewer if everything is sent."""
        sizes = {
            tensor: sum(self.network.size(mixing.target) for mixing in self.nets.readers(tensor))
            for tensor in self.tensors
        }
        return frozenset(
            tensor
            for tensor, size in sizes.items()
            if size < self.network.size(tensor) and self.nets.may_sum(tensor)
        )

    def fewer_as_sums(self, owner: np.ndarray, workers: int) -> frozenset[str]:
        """The tensors of which less is sent as sums, these being the owners."""
        return frozenset(
            tensor
            for tensor in self.tensors
            if self.nets.may_sum(tensor)
            and self.nets.sums(tensor).volume(owner, workers)
            < self.nets.ghosts(tensor).volume(owner, workers)
        )

    def of(self, summed: frozenset[str]) -> Nets:
        """The nets of all tensors."""
        parts = (
            self.nets.sums(tensor) if tensor in summed else self.nets.ghosts(tensor)
            for tensor in self.tensors
        )
        return joined(parts, self.nets.vertices)

    def partitioner(self, summed: frozenset[str], seed: int) -> Partitioner:
        """A partition to be made; nothing but inputs has owners."""
        loads = list(self._loads(summed))
        workers = len(self.part_weights)
        return Partitioner(self.of(summed), self.nets.fixed, self.layers, loads, workers, seed)

    def _loads(self, summed: frozenset[str]) -> Iterator[Loads]:
        """Edges of every mixing, which are with its rows or, where sums are sent, with its columns."""
        for mixing in self.network.mixings:
            vertices, edges = self._edges(mixing, mixing.source in summed)
            if edges.size:
                share = edges.sum() * self.part_weights / self.part_weights.sum()
                allowed = (1 + TOLERANCE) * (1 + self.imbalance) * share + edges.max()
                yield Loads(vertices, edges, allowed)

    def _edges(self, mixing: Mixing, by_column: bool) -> tuple[np.ndarray, np.ndarray]:
        """Vertices of layers, and the edges that go where they go."""
        links = pattern(mixing)
        edges = np.asarray(links.sum(axis=0 if by_column else 1)).ravel()
        vertices = self.nets.of_tensor(mixing.source if by_column else mixing.target)
        vertices, place = np.unique(vertices, return_inverse=True)
        total = np.bincount(place, weights=edges)
        kept = self.nets.is_open[vertices] & (total > 0)
        return vertices[kept], total[kept]

    def start_at(self, found: ExactOwners) -> LayerStart:
        """The start at given owners."""
        owner = np.concatenate([found.owners[space.name] for space in self.network.free_spaces])
        return lambda nets, by_vertex, given, layer: owner[layer.members]

    def of_spaces(self, owner: np.ndarray) -> dict[str, np.ndarray]:
        """Owners of every space from those of vertices; of inputs that everybody has ``EVERYBODY``."""
        owner = np.where(self.nets.is_open, owner, self.nets.fixed).astype(np.int32)
        free = {space.name: owner[self.nets.of_space(space.name)] for space in self.network.free_spaces}
        return self.network.derive(free)
