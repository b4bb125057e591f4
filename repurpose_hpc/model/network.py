"""Networks: spaces of neurons joined by mixings.

A *space* is a set of neurons that share one owner map; tensors belong to spaces.  A *mixing* carries
weights from one space to another.  All other operations (``operations``) work neuron by neuron, so that
they never move a neuron from one worker to another.

A neuron is one number (of a vector) or a map of numbers at *positions* (a channel).  A tensor is stored
neuron-major: (neurons, batch) or (neurons, batch, positions), the positions flattened in C order.  A map of a
single position is a vector.

A network is the *middle* of a model: all that can be cut.  What stands before it and behind it, if anything,
are its ``ends``; inputs and outputs are those of the middle unless the model's are spoken of.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.comm_dtype import BIT
from repurpose_hpc.model.ends import Ends, packed_dtype
from repurpose_hpc.model.operations import Mixing, Operation, Shape, pointwise
from repurpose_hpc.model.precision import precision
from repurpose_hpc.model.weights import SparseWeights, as_sparse, dense, nonzeros

HEADS = ("identity", "softmax", "log_softmax")
# Positions of sequences of any length.
FREE = -1


@dataclass(frozen=True)
class Space:
    """A set of neurons.

    Neurons of a *derived* space are those of other spaces, in another order or selection: what comes
    of Concat, Split and channel shuffles.  Its owners follow.

    Attributes:
        name: unique within the network.
        neurons: how many.
        parts: the spaces that a derived space is made of, none of them derived; else empty.
        index: of each neuron of a derived space, its place among those of ``parts``, one part after
            the other.
    """

    name: str
    neurons: int
    parts: tuple[str, ...] = ()
    index: tuple[int, ...] = ()


class TilePart(NamedTuple):
    """What a mixing is of a network whose maps are shared out by position.

    Attributes:
        layer: the operation of the network before that it belongs to, or brings maps to.
        dense_size: values per sample that it counts in a dense exchange with one other worker: all of a layer
            count as much as that did before.
    """

    layer: str
    dense_size: int


@dataclass(frozen=True, eq=False)
class Network:
    """A graph of operations over named tensors, in an order in which it can be executed.

    Attributes:
        spaces: the spaces, the inputs' first, derived ones last.
        operations: topologically ordered.
        space_of: tensor name -> space name.
        positions_of: tensor name -> shape of its maps, () for vectors.
        input_tensors: the inputs; a sample has the values of one after those of the other, each
            neuron-major unless ``neuron_axes`` says otherwise.
        output_tensors: the outputs, likewise.
        heads: what is applied to every output vector at the end: of ``HEADS``, "identity" for maps.
        ends: what stands before and behind it in its model.
        neuron_axes: of an input or an output whose values lie otherwise in a sample than neuron-major: the
            axis of the neurons among those of the positions, such as 1 for a sequence (positions, features).
        longest: positions that a sequence may have, at most; 0: samples are no parts of a sequence.  Else a
            sample is a *token*, all tensors are vectors, and ``Attention`` and what depends on the position
            look at the tokens of one sequence; ``at`` is the same network on whole sequences.
        tile_owners: of a network whose maps are shared out by position (``tiles``): free space -> the worker
            that has all its neurons.
        tile_parts: of such a network: mixing -> what it is part of, unless it was in the network before.
        has_binary_inputs: whether what stands before makes inputs of 0 and 1 of any sample.
    """

    spaces: tuple[Space, ...]
    operations: tuple[Operation, ...]
    space_of: dict[str, str]
    positions_of: dict[str, tuple[int, ...]]
    input_tensors: tuple[str, ...]
    output_tensors: tuple[str, ...]
    heads: tuple[str, ...]
    ends: Ends = Ends()
    neuron_axes: dict[str, int] = field(default_factory=dict)
    longest: int = 0
    tile_owners: dict[str, int] = field(default_factory=dict)
    tile_parts: dict[str, TilePart] = field(default_factory=dict)
    has_binary_inputs: bool = False
    _spaces_by_name: dict[str, Space] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_spaces_by_name", {space.name: space for space in self.spaces})

    def space(self, tensor: str) -> Space:
        """The space that ``tensor`` belongs to."""
        return self._spaces_by_name[self.space_of[tensor]]

    def parts(self, tensor: str) -> tuple[str, ...]:
        """The free spaces of which ``tensor`` has neurons."""
        space = self.space(tensor)
        return space.parts or (space.name,)

    def values(self, tensor: str) -> int:
        """Values per neuron and sample: what sending a neuron costs (s_j)."""
        return math.prod(self.positions_of[tensor])

    def shape(self, tensor: str) -> Shape:
        """Neurons and positions."""
        return Shape(self.space(tensor).neurons, self.positions_of[tensor])

    def size(self, tensor: str) -> int:
        """Values per sample."""
        return self.space(tensor).neurons * self.values(tensor)

    def layout(self, tensor: str) -> tuple[int, ...]:
        """Shape of an input or an output in a sample: positions, the neurons on one axis among them."""
        axis, positions = self.neuron_axes.get(tensor, 0), self.positions_of[tensor]
        return (*positions[:axis], self.space(tensor).neurons, *positions[axis:])

    def places(self, tensor: str) -> np.ndarray:
        """Where the values of every neuron of an input or an output lie in a sample, (neurons, values)."""
        places = np.arange(self.size(tensor)).reshape(self.layout(tensor))
        neurons_first = np.moveaxis(places, self.neuron_axes.get(tensor, 0), 0)
        return neurons_first.reshape(len(neurons_first), self.values(tensor))

    @property
    def mixings(self) -> tuple[Mixing, ...]:
        """The mixings, in the order of execution."""
        return tuple(op for op in self.operations if isinstance(op, Mixing))

    @property
    def free_spaces(self) -> tuple[Space, ...]:
        """The spaces that are not derived."""
        return tuple(space for space in self.spaces if not space.parts)

    @property
    def input_spaces(self) -> frozenset[str]:
        """Names of the spaces of the inputs, none of them derived."""
        return frozenset(self.space_of[tensor] for tensor in self.input_tensors)

    @property
    def inputs(self) -> int:
        """Values of a sample."""
        return sum(self.size(tensor) for tensor in self.input_tensors)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of a sample: that of the only input; of several (inputs,)."""
        return (self.inputs,) if len(self.input_tensors) > 1 else self.layout(self.input_tensors[0])

    @property
    def outputs(self) -> int:
        """Values of all outputs for a sample."""
        return sum(self.size(tensor) for tensor in self.output_tensors)

    @property
    def given(self) -> int:
        """Values that the model gives for a sample, behind its back."""
        back = self.ends.back
        return self.outputs if back is None else sum(port.size for port in back.outputs)

    def packed(self, dtype: np.dtype) -> tuple[int, np.dtype]:
        """``given``, and the dtype of these values where the network computes in ``dtype``."""
        back = self.ends.back
        return self.given, dtype if back is None else packed_dtype(back.outputs)

    @cached_property
    def binary_tensors(self) -> frozenset[str]:
        """Tensors whose values are 0 or 1 for any input, such as spikes."""
        known = {*self.input_tensors} if self.has_binary_inputs else set()
        for op in self.operations:
            if op.is_binary(*(source in known for source in op.sources)):
                known.add(op.target)
        return frozenset(known)

    @cached_property
    def event_tensors(self) -> frozenset[str]:
        """Tensors of which many values may be 0 and all others 1: spikes, and inputs of networks of them."""
        return self.binary_tensors | ({*self.input_tensors} if self.binary_tensors else set())

    def comm_dtype(self, tensor: str, comm_dtype: str) -> str:
        """The format in which neurons of ``tensor`` travel where others do in ``comm_dtype``."""
        return BIT if tensor in self.binary_tensors else comm_dtype

    @property
    def has_classes(self) -> bool:
        """True if the only output is a vector, so that labels may be compared with its largest value."""
        return len(self.output_tensors) == 1 and not self.positions_of[self.output_tensors[0]]

    def layer_of(self, mixing: str) -> str:
        """The layer that a mixing is part of, by name: itself, unless maps are shared out by position."""
        part = self.tile_parts.get(mixing)
        return mixing if part is None else part.layer

    @property
    def weight_count(self) -> int:
        """Number of nonzero weights of the mixings, biases not counted; parts of a layer share theirs."""
        counts: dict[str, int] = {}
        for mixing in self.mixings:
            # What moves halos, or adds up means, has no weights of the model.
            if mixing.name not in self.tile_parts or not mixing.is_sparse:
                counts.setdefault(self.layer_of(mixing.name), nonzeros(mixing.weights))
        return sum(counts.values())

    def derive(self, free: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Values for the neurons of every space, from those for the free ones.

        Args:
            free: name of a free space -> (neurons, ...), such as its owners; derived spaces of which a
                part is missing are left out.

        Returns:
            space name -> (neurons, ...), in the order of ``spaces``.
        """
        return {
            space.name: _gather(space, free)
            for space in self.spaces
            if all(part in free for part in space.parts or (space.name,))
        }

    def gather(self, free: dict[str, np.ndarray], tensor: str) -> np.ndarray:
        """``derive`` for the neurons of one tensor."""
        return _gather(self.space(tensor), free)

    def neurons_in(self, tensor: str, name: str) -> np.ndarray:
        """The neuron of the free space ``name`` for each neuron of ``tensor``, -1 for those of others."""
        numbers = {space.name: np.full(space.neurons, -1) for space in self.free_spaces}
        numbers[name] = np.arange(numbers[name].size)
        return self.gather(numbers, tensor)

    def with_mixings(self, mixings: dict[str, Mixing]) -> Network:
        """The same graph with the mixings named in ``mixings`` replaced."""
        operations = tuple(mixings.get(op.name, op) for op in self.operations)
        return replace(self, operations=operations)

    def dense(self) -> Network:
        """The same network with arrays of all weights, also where nearly all are zero."""
        return self.with_mixings(
            {m.name: replace(m, weights=dense(m.weights)) for m in self.mixings if m.is_sparse}
        )

    def stored_like(self, other: Network) -> Network:
        """The same network, its weights stored sparse where those of ``other``, by name, are."""
        sparse_ones = {mixing.name for mixing in other.mixings if mixing.is_sparse}
        return self.with_mixings(
            {m.name: replace(m, weights=as_sparse(m.weights)) for m in self.mixings if m.name in sparse_ones}
        )

    def check_samples(self) -> None:
        """Refuse a network of tokens, where samples do not belong to sequences.

        Raises:
            UserError: it is one.
        """
        if self.longest:
            raise UserError(
                "network: expected one of samples, found one of tokens, of sequences that may have 1 to "
                f"{self.longest}; Network.at(length) is it on sequences of one length, TokenSession on any"
            )

    def at(self, positions: int) -> Network:
        """The network of tokens on whole sequences of one length: a sample is one, (positions, ...).

        Raises:
            ValueError: this is not a network of tokens, or has not so many positions.
        """
        if not 1 <= positions <= self.longest:
            raise ValueError(f"expected 1 to {self.longest} positions, got {positions}")
        return self._on(positions, (positions,) if positions > 1 else ())

    def at_any_length(self) -> Network:
        """The network of tokens on sequences of ``FREE`` positions, to be written, not to be computed."""
        return self._on(FREE, (FREE,))

    def _on(self, positions: int, maps: tuple[int, ...]) -> Network:
        operations = tuple(
            replace(op, window=pointwise(maps)) if isinstance(op, Mixing) else op for op in self.operations
        )
        ends = (*self.input_tensors, *self.output_tensors) if maps else ()
        return replace(
            self,
            operations=operations,
            positions_of=dict.fromkeys(self.positions_of, maps),
            neuron_axes=dict.fromkeys(ends, 1),
            ends=self.ends.at(positions),
            longest=0,
        )

    def astype(self, dtype: type) -> Network:
        """The same network with all real numbers in it rounded to ``dtype``.

        Raises:
            FieldError: not float32 or float64.
        """
        dtype, known = precision(dtype).type, dict[int, np.ndarray | SparseWeights]()
        return replace(self, operations=tuple(_rounded(op, dtype, known) for op in self.operations))

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the structure, of every weight and bias, and of the ends."""
        digest = hashlib.sha256()
        for space in self.spaces:
            digest.update(repr(space).encode())
        for op in self.operations:
            digest.update(type(op).__name__.encode())
            for attribute in fields(op):
                value = getattr(op, attribute.name)
                if isinstance(value, np.ndarray):
                    digest.update(f"{value.dtype.str} {value.shape}".encode())
                    digest.update(np.ascontiguousarray(value).data)
                elif isinstance(value, SparseWeights):
                    digest.update(f"sparse {value.dtype.str} {value.shape}".encode())
                    for array in (value.starts, value.columns, value.values):
                        digest.update(array.data)
                else:
                    digest.update(repr(value).encode())
        digest.update(repr((self.positions_of, self.input_tensors, self.output_tensors, self.heads)).encode())
        if self.neuron_axes:  # networks without any keep the fingerprint that older shards have of them
            digest.update(repr(self.neuron_axes).encode())
        if self.longest:
            digest.update(f"longest {self.longest}".encode())
        if self.tile_owners:
            digest.update(repr((self.tile_owners, self.tile_parts)).encode())
        for fingerprint in self.ends.fingerprints():
            digest.update(fingerprint.encode())
        return digest.hexdigest()


def _gather(space: Space, free: dict[str, np.ndarray]) -> np.ndarray:
    if not space.parts:
        return free[space.name]
    return np.concatenate([free[part] for part in space.parts])[np.array(space.index, np.int64)]


def _rounded(op: Operation, dtype: type, known: dict[int, np.ndarray | SparseWeights]) -> Operation:
    """The operation with real numbers of ``dtype``; ``known``: arrays by identity, which stay shared."""
    changed = {}
    for attribute in fields(op):
        array = getattr(op, attribute.name)
        if isinstance(array, np.ndarray | SparseWeights) and array.dtype.kind == "f":
            if id(array) not in known:
                known[id(array)] = array.astype(dtype)
            changed[attribute.name] = known[id(array)]
    return replace(op, **changed)
