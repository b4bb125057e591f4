"""The base class of all operations, and the registry of those that there are."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import Field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from repurpose_hpc.model.weights import SparseWeights

# By the name of the class, which is also that of the operation in shard files.
OPERATIONS: dict[str, type[Operation]] = {}


class Shape(NamedTuple):
    """The shape of a tensor for one sample.

    Attributes:
        neurons: how many.
        positions: of the map that each neuron is; () for a vector.
    """

    neurons: int
    positions: tuple[int, ...]

    @property
    def values(self) -> int:
        """Values per neuron."""
        return math.prod(self.positions)


class Rows(NamedTuple):
    """What stands in the rows of a part of a tensor, such as the one that a rank holds.

    Attributes:
        neurons: the number of each row's neuron in the tensor, (rows,) int64.
        workers: the worker that has it, (rows,) int64; workers may have copies of one neuron.
        size: neurons of the whole tensor.
    """

    neurons: np.ndarray
    workers: np.ndarray
    size: int

    def parts(self, count: int) -> np.ndarray:
        """Which of ``count`` equal parts of the tensor, such as heads, are there, each as a whole."""
        size = self.size // count
        return self.neurons[::size] // size


class Cost(NamedTuple):
    """Work for one neuron of a target, as forecasts count it.

    Attributes:
        values: per sample, that are computed; those of a local operation with windows count once for each
            entry of the window, by rows of the map.
        windows: whether they come from windows of a map, not from one position or from whole maps.
    """

    values: int
    windows: bool


class Operation(ABC):
    """One step of a network: makes ``target`` from ``sources``.

    Subclasses are dataclasses, data that is never changed, registered with ``operation``.  A tensor is an
    array (neurons, batch), or (neurons, batch, positions) where its neurons are maps.

    Attributes:
        looks_around: whether, in a network of tokens, it depends on more of a sequence than one token: on its
            position, or on other tokens.
    """

    looks_around: ClassVar[bool] = False

    if TYPE_CHECKING:  # fields of some subclasses and properties of others
        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

        @property
        def name(self) -> str:
            """Unique within the network."""

        @property
        def target(self) -> str:
            """The tensor that is made."""

        @property
        def sources(self) -> tuple[str, ...]:
            """The tensors that are read."""

    @abstractmethod
    def compute(self, *sources: np.ndarray) -> np.ndarray:
        """The target, in the dtype of the sources."""

    @abstractmethod
    def vjp(self, g: np.ndarray, target: np.ndarray, *sources: np.ndarray) -> list[np.ndarray]:
        """The vector-Jacobian products: the gradient by every source.

        Args:
            g: the gradient by the target, of its shape.
            target: as ``compute`` returned it.
            sources: as ``compute`` took them.
        """

    def restricted(self, target: Rows, *sources: Rows) -> Operation:
        """The operation on some of its neurons; with data for each neuron, on theirs.

        Args:
            target: the rows that it makes.
            sources: the rows of each source that it is given, among them all that a worker needs for its
                rows of the target, in the same order.

        Returns:
            its ``compute`` and ``vjp`` take and give these rows, of which there may be none.
        """
        return self

    def between(self, name: str, sources: tuple[str, ...], target: str) -> Operation:
        """The operation under another name, from and to other tensors."""
        ends = {"source": sources[0]} if isinstance(self, OneSource) else {"sources": sources}
        return replace(self, name=name, target=target, **ends)

    @abstractmethod
    def gain(self, sources: Sequence[Shape], target: Shape) -> list[float]:
        """Gain from every source: length of a difference of the target over that of the source, at most.

        Lengths are Euclidean, over all neurons and positions of a sample.
        """

    @abstractmethod
    def cost(self, target: Shape) -> Cost | None:
        """Work for a target of this shape; None: nothing of its own, it is part of what comes before."""

    @abstractmethod
    def neurons(self, *sources: np.ndarray) -> np.ndarray | None:
        """The neurons of the target as a choice of those of its sources; None: neurons of its own.

        Args:
            sources: the neurons of each source as numbers, (n,); equal numbers have one owner.
        """

    def is_binary(self, *sources: bool) -> bool:
        """Whether all values of the target are 0 or 1, for any input of the network.

        Args:
            sources: whether those of each source are.
        """
        return False

    def ties(self, *sources: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Pairs of neurons, (n,) and (n,), that must have one owner; arguments as for ``neurons``."""
        return []

    @abstractmethod
    def faults(self, sources: Sequence[Shape], target: Shape) -> Iterator[str]:
        """Faults of the operation between tensors of these shapes, in words; nothing if it is legal."""


class OneSource(Operation):
    """An operation that reads one tensor, by default of the neurons of its target."""

    if TYPE_CHECKING:

        @property
        def source(self) -> str:
            """The tensor that is read."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The tensors that are read."""
        return (self.source,)

    def neurons(self, *sources: np.ndarray) -> np.ndarray | None:
        """See ``Operation``."""
        return sources[0]


Registered = TypeVar("Registered", bound=type[Operation])


def operation(kind: Registered) -> Registered:
    """Enter a class into ``OPERATIONS``."""
    OPERATIONS[kind.__name__] = kind
    return kind


def needed(operations: Iterable[Operation], tensors: Iterable[str]) -> tuple[Operation, ...]:
    """The operations on which ``tensors`` depend, in order."""
    awaited, backward = set(tensors), []
    for op in reversed([*operations]):
        if op.target in awaited:
            awaited.update(op.sources)
            backward.append(op)
    return tuple(reversed(backward))


def same_positions(source: Shape, target: Shape) -> Iterator[str]:
    """A fault unless maps of the target are as large as those of the source, in whatever shape."""
    if source.values != target.values:
        yield f"makes maps of {target.positions} from maps of {source.positions}"


def dtype_faults(**arrays: np.ndarray | SparseWeights) -> Iterator[str]:
    """A fault unless all arrays are of one dtype, float32 or float64."""
    dtypes = {name: array.dtype for name, array in arrays.items()}
    if {*dtypes.values()} not in ({np.dtype(np.float32)}, {np.dtype(np.float64)}):
        types = ", ".join(f"{name} of {dtype}" for name, dtype in dtypes.items())
        yield f"expected numbers that are all float32 or all float64, found {types}"


def index_faults(index: np.ndarray, entries: int, first: int, end: int) -> Iterator[str]:
    """A fault unless ``index`` is (entries,) int64, all from ``first`` to ``end`` - 1."""
    if index.shape != (entries,) or index.dtype != np.int64:
        yield f"expected an index of {entries} int64, found {index.dtype} of shape {index.shape}"
    elif index.size and not first <= index.min() <= index.max() < end:
        yield f"expected an index from {first} to {end - 1}, found {index.min()} to {index.max()}"
