"""Normalisations, found in what they are written as: sums, products and powers, up to ten operations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Affine, Combine, Elementwise, Mixing, Operation


class Normalisation(NamedTuple):
    """target = scale (source - mean) / sqrt(mean of (source - mean)² + epsilon) + shift, within groups.

    Attributes:
        operations: names of those that it stands for.
        source: the tensor that is read, of the space of the target.
        sums: the mixing that adds up the squares of each group, and the one that gives what becomes of a sum
            to all neurons of the group; before them, where a mean is subtracted, those of the mean.
        last: the operation that scales and shifts.
        epsilon: see above.
    """

    operations: frozenset[str]
    source: str
    sums: tuple[str, ...]
    last: Affine
    epsilon: float

    @property
    def is_centred(self) -> bool:
        """Say if a mean is subtracted."""
        return len(self.sums) > 2


def normalisations_of(graph: Network) -> list[Normalisation]:
    """Every normalisation of a network, in order; its mixings may be bare."""
    return list(_Finder(graph).all())


class _Finder:
    """Looks for what is written as a normalisation, from its last operation to its first."""

    def __init__(self, graph: Network) -> None:
        self._graph = graph
        self._made_by = {op.target: op for op in graph.operations}
        self._readers = Counter(source for op in graph.operations for source in op.sources)
        self._readers.update(graph.output_tensors)

    def all(self) -> Iterator[Normalisation]:
        """Every normalisation of the graph, in order."""
        for op in self._graph.operations:
            if isinstance(op, Affine) and op.scale.shape[1] == op.shift.shape[1] == 1:
                product = self._made(op.source, readers=1)
                if isinstance(product, Combine) and product.kind == "multiply":
                    found = self._found(op, product, *product.sources)
                    found = found or self._found(op, product, *product.sources[::-1])
                    if found is not None:
                        yield found

    def _found(self, last: Affine, product: Combine, x: str, factor: str) -> Normalisation | None:
        """The one that multiplies ``x`` with ``factor``."""
        path = self._path(factor, x)
        mixings = [op for op in path if isinstance(op, Mixing)]
        others = [op for op in path if not isinstance(op, Mixing)]
        if len(mixings) != 2 or len(others) != 3 or path[-2] is not mixings[1]:
            return None
        power, raised, square = others
        if not (_is(power, "power", -0.5) and _is(square, "square") and isinstance(raised, Affine)):
            return None
        epsilon = raised.shift.flat[0]
        if (raised.scale != 1).any() or (raised.shift != epsilon).any():
            return None
        operations, sums, source = [*path, product, last], [op.name for op in mixings[::-1]], x
        centring = self._centring(x)
        if centring:
            operations += centring
            sums = [op.name for op in centring[:2]] + sums
            (source, _) = centring[-1].sources
        tensors = {op.target for op in operations}
        if len({self._graph.values(tensor) for tensor in (source, *tensors)}) > 1:
            return None
        names = frozenset(op.name for op in operations)
        return Normalisation(names, source, tuple(sums), last, float(epsilon))

    def _centring(self, x: str) -> list[Operation]:
        """The operations that make ``x`` by subtracting a mean, which adds up, gives, subtracts; or none."""
        subtract = self._made(x, readers=2)
        if not isinstance(subtract, Combine) or subtract.kind != "subtract":
            return []
        source, mean = subtract.sources
        path = self._path(mean, source)
        if len(path) != 2 or not all(isinstance(op, Mixing) for op in path):
            return []
        return [*path[::-1], subtract]

    def _path(self, tensor: str, source: str) -> list[Operation]:
        """The operations of one source that make ``tensor`` from ``source``, the last first; or none."""
        path: list[Operation] = []
        while tensor != source:
            op = self._made(tensor, readers=1)
            if op is None or not isinstance(op, Mixing | Affine | Elementwise):
                return []
            path.append(op)
            tensor = op.source
        return path

    def _made(self, tensor: str, readers: int) -> Operation | None:
        """What makes a tensor that so many read; None: it is given, or others read it too."""
        return self._made_by.get(tensor) if self._readers[tensor] == readers else None


def _is(op: Operation, kind: str, exponent: float | None = None) -> bool:
    """Say if an operation is such an activation."""
    if not isinstance(op, Elementwise) or op.activation.kind != kind:
        return False
    return exponent is None or op.activation.alpha == exponent
