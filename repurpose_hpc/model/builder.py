"""Builds a network operation by operation and finds its spaces.

Every input and every target of a mixing brings neurons of its own; all other operations say which
neurons a tensor consists of.  A ``Combine`` ties neurons: they must have one owner.  What is tied,
directly or through other neurons of one mixing, becomes one space; a tensor that is not exactly
such a space is of a derived one.  Neurons of an input, which may be nobody's own, are copied
before they are tied to others or become an output.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.folding import fold_affines
from repurpose_hpc.model.network import Network, Space
from repurpose_hpc.model.operations import (
    Affine,
    Attention,
    Combine,
    Depthwise,
    Elementwise,
    Membrane,
    Mixing,
    Operation,
    Pool,
    PositionTable,
    Rearrange,
    Retention,
    Rotary,
    Select,
    Window,
    needed,
    pointwise,
)
from repurpose_hpc.model.spec import check
from repurpose_hpc.model.weights import Weights, compact


class Builder:
    """Adds operations in an order in which they can be executed; tensors are known by name."""

    def __init__(self) -> None:
        self._operations: list[Operation] = []
        self._neurons: dict[str, np.ndarray] = {}  # tensor -> neurons, numbers counted over all spaces
        self._positions: dict[str, tuple[int, ...]] = {}
        self._inputs: list[str] = []
        self._groups: list[tuple[str, np.ndarray]] = []  # names and neurons of what brought them
        self._ties: list[tuple[np.ndarray, np.ndarray]] = []
        self._count = 0
        self._copies: dict[str, str] = {}  # of tensors with neurons of inputs

    @property
    def operations(self) -> tuple[Operation, ...]:
        """All that has been added, in order."""
        return tuple(self._operations)

    def neurons(self, tensor: str) -> int:
        """Number of neurons of ``tensor``."""
        return len(self._neurons[tensor])

    def positions(self, tensor: str) -> tuple[int, ...]:
        """Shape of the maps of ``tensor``, () for a vector."""
        return self._positions[tensor]

    def input(self, name: str, neurons: int, positions: tuple[int, ...] = ()) -> str:
        """A further input, of a space called ``name``; returns its tensor."""
        tensor = f"x{len(self._inputs)}" if name == "input" else name
        self._inputs.append(tensor)
        return self._declare(tensor, self._bring(name, neurons), positions)

    def mixing(
        self,
        name: str,
        source: str,
        weights: Weights,
        bias: np.ndarray,
        window: Window | None = None,
        fixed: bool = False,
    ) -> str:
        """A mixing to neurons of its own; see ``Mixing``."""
        op = Mixing(name, source, f"{name}.y", weights, bias, window, fixed)
        return self.add(op, window.out if window else ())

    def add(self, op: Operation, positions: tuple[int, ...]) -> str:
        """Any operation as it is, whose target has maps of these positions; a mixing brings its neurons."""
        brought = self._bring(op.name, len(op.weights)) if isinstance(op, Mixing) else None
        return self._add(op, positions, brought)

    def elementwise(self, name: str, source: str, activation: Activation, target: str | None = None) -> str:
        """An activation."""
        op = Elementwise(name, source, target or f"{name}.y", activation)
        return self._add(op, self._positions[source])

    def affine(self, name: str, source: str, scale: np.ndarray, shift: np.ndarray) -> str:
        """A scale and a shift for each neuron, (n, 1) or (n, positions)."""
        return self._add(Affine(name, source, f"{name}.y", scale, shift), self._positions[source])

    def pool(
        self,
        name: str,
        source: str,
        kind: str,
        window: Window,
        count_padding: bool = False,
        extent: tuple[int, ...] = (),
    ) -> str:
        """A pooling; see ``Pool``."""
        op = Pool(name, source, f"{name}.y", kind, window, count_padding, extent)
        return self._add(op, window.out)

    def depthwise(self, name: str, source: str, weights: np.ndarray, bias: np.ndarray, window: Window) -> str:
        """A convolution of every neuron by itself."""
        return self._add(Depthwise(name, source, f"{name}.y", weights, bias, window), window.out)

    def rearrange(
        self, name: str, source: str, index: np.ndarray, positions: tuple[int, ...], fill: float = 0.0
    ) -> str:
        """Other positions; ``positions`` is the shape of the new maps."""
        return self._add(Rearrange(name, source, f"{name}.y", index, fill), positions)

    def combine(self, name: str, left: str, right: str, kind: str) -> str:
        """Two tensors of as many neurons, value by value; ties their neurons."""
        if self.neurons(left) != self.neurons(right):
            raise ValueError(f"{name}: {self.neurons(left)} neurons and {self.neurons(right)}")
        if not np.array_equal(self._neurons[left], self._neurons[right]):
            left, right = self._own_neurons(left), self._own_neurons(right)
        positions = max(self._positions[left], self._positions[right], key=math.prod)
        return self._add(Combine(name, (left, right), f"{name}.y", kind), positions)

    def attention(self, op: Attention | Retention) -> str:
        """An attention or a retention; ties the neurons of a head."""
        op = replace(op, sources=tuple(map(self._own_neurons, op.sources)))
        return self._add(op, self._positions[op.sources[0]])

    def membrane(self, op: Membrane) -> str:
        """Neurons that integrate and fire, step by step; the steps are the first axis of its maps."""
        return self._add(op, self._positions[op.source])

    def position_table(self, name: str, source: str, table: np.ndarray) -> str:
        """A term for each neuron and position; see ``PositionTable``."""
        return self._add(PositionTable(name, source, f"{name}.y", table), self._positions[source])

    def rotary(
        self,
        name: str,
        source: str,
        heads: int,
        frequencies: np.ndarray,
        interleaved: bool = False,
        factor: float = 1.0,
    ) -> str:
        """Rotations by position; see ``Rotary``."""
        op = Rotary(name, source, f"{name}.y", heads, frequencies, interleaved, factor)
        return self._add(op, self._positions[source])

    def select(self, name: str, sources: tuple[str, ...], index: np.ndarray) -> str:
        """Some neurons of ``sources``, counted one source after the other."""
        return self._add(Select(name, sources, f"{name}.y", index), self._positions[sources[0]])

    def build(
        self,
        outputs: tuple[str, ...],
        heads: tuple[str, ...],
        inputs: tuple[str, ...] | None = None,
        axes: Mapping[str, int] | None = None,
        longest: int = 0,
    ) -> Network:
        """The network of what has been added; see ``Network``.

        Args:
            outputs, heads: the tensors wanted, and what is applied to each at the end.
            inputs: all inputs in the order in which a sample has them; None: as they were added.
            axes: of the neurons of inputs and outputs in a sample, by tensor; 0 where not given.
            longest: of a network of tokens, see ``Network``.

        Raises:
            IllegalNetwork: it breaks a rule of ``spec``.
        """
        given, outputs = outputs, tuple(map(self._own_neurons, outputs))
        operations = fold_affines(needed(self._operations, outputs), outputs)
        if not longest:
            operations = tuple(map(_compact, operations))
        inputs = inputs or tuple(self._inputs)
        used = {*inputs, *outputs}.union(*({*op.sources, op.target} for op in operations))
        neurons = {tensor: numbers for tensor, numbers in self._neurons.items() if tensor in used}
        spaces, space_of = _find_spaces(self._count, self._groups, self._ties, neurons)
        positions_of = {tensor: self._positions[tensor] for tensor in neurons}
        input_place = {space_of[name]: place for place, name in enumerate(inputs)}
        spaces = tuple(sorted(spaces, key=lambda space: input_place.get(space.name, len(input_place))))
        axis_of = {tensor: axis for tensor, axis in (axes or {}).items() if axis}
        ends = zip((*inputs, *outputs), (*inputs, *given), strict=True)
        neuron_axes = {tensor: axis_of[name] for tensor, name in ends if name in axis_of}
        network = Network(spaces, operations, space_of, positions_of, inputs, outputs, heads)
        return check(replace(network, neuron_axes=neuron_axes, longest=longest))

    def _own_neurons(self, tensor: str) -> str:
        """``tensor``, or a copy of it if it has neurons of an input: those may be nobody's own."""
        neurons = self._neurons[tensor]
        if not np.isin(neurons, np.concatenate([self._neurons[name] for name in self._inputs])).any():
            return tensor
        if tensor not in self._copies:
            window, n, name = pointwise(self._positions[tensor]), len(neurons), f"{tensor}.copy"
            while f"{name}.y" in self._neurons:
                name += "_"
            eye, zeros = np.eye(n, dtype=np.float32), np.zeros(n, np.float32)
            op = Mixing(name, tensor, f"{name}.y", eye, zeros, window, True)
            self._copies[tensor] = self.add(op, self._positions[tensor])
        return self._copies[tensor]

    def _bring(self, name: str, neurons: int) -> np.ndarray:
        numbers = np.arange(self._count, self._count + neurons)
        self._count += neurons
        self._groups.append((name, numbers))
        return numbers

    def _declare(self, tensor: str, neurons: np.ndarray, positions: tuple[int, ...]) -> str:
        if tensor in self._neurons:
            raise ValueError(f"two tensors are called {tensor}")
        self._neurons[tensor] = neurons
        self._positions[tensor] = positions if math.prod(positions) > 1 else ()
        return tensor

    def _add(
        self, op: Operation, positions: tuple[int, ...], target_neurons: np.ndarray | None = None
    ) -> str:
        """An operation whose target has maps of these positions, and ``target_neurons``, or its sources'."""
        sources = [self._neurons[source] for source in op.sources]
        neurons = op.neurons(*sources) if target_neurons is None else target_neurons
        if neurons is None:
            raise ValueError(f"{op.name}: an operation with neurons of its own brings them")
        self._declare(op.target, neurons, positions)
        self._operations.append(op)
        self._ties += [(left, right) for left, right in op.ties(*sources) if not np.array_equal(left, right)]
        return op.target


def _compact(op: Operation) -> Operation:
    """The operation with weights that are stored sparse where hardly any are not zero."""
    if not isinstance(op, Mixing) or op.fixed or op.window is not None:
        return op
    return replace(op, weights=compact(op.weights))


def _find_spaces(
    count: int,
    groups: list[tuple[str, np.ndarray]],
    ties: list[tuple[np.ndarray, np.ndarray]],
    tensors: dict[str, np.ndarray],
) -> tuple[tuple[Space, ...], dict[str, str]]:
    """Free spaces, called like the first that brought their neurons, then derived ones.

    Args:
        count: neurons brought in all.
        groups: name and neurons of every input and mixing.
        ties: pairs of neurons that have one owner, (n,) and (n,).
        tensors: name -> its neurons.
    """
    representative = _roots(count, ties)
    firsts = np.array([neurons[0] for _, neurons in groups])
    group_of = np.repeat(np.arange(len(groups)), [len(neurons) for _, neurons in groups])
    group_root = _roots(len(groups), [(group_of[left], group_of[right]) for left, right in ties])
    component = firsts[group_root][group_of]
    used = {root for neurons in tensors.values() for root in np.unique(component[neurons]).tolist()}
    names: dict[int, str] = {}
    found: dict[int, list[np.ndarray]] = {}
    for (name, neurons), root in zip(groups, firsts[group_root].tolist(), strict=True):
        names.setdefault(root, name)
        found.setdefault(root, []).append(representative[neurons])
    members = {root: np.unique(np.concatenate(found[root])) for root in sorted(used)}
    spaces = [Space(names[root], len(neurons)) for root, neurons in members.items()]
    name_of = {(root, neurons.tobytes()): names[root] for root, neurons in members.items()}
    space_of = {}
    for tensor, neurons in tensors.items():
        neurons = representative[neurons]
        parts = tuple(np.unique(component[neurons]))
        key = (*parts, neurons.tobytes())
        if key not in name_of:
            name_of[key] = _new_name(f"{tensor}.neurons", spaces)
            index = _positions_in(np.concatenate([members[root] for root in parts]), neurons)
            part_names = tuple(names[root] for root in parts)
            spaces.append(Space(name_of[key], len(neurons), part_names, tuple(index.tolist())))
        space_of[tensor] = name_of[key]
    return tuple(spaces), space_of


def _new_name(name: str, spaces: list[Space]) -> str:
    """``name``, longer where a space is called like this."""
    while any(space.name == name for space in spaces):
        name += "_"
    return name


def _roots(count: int, ties: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The smallest number of the set of each of ``count`` ones, tied ones being in one set."""
    if not ties:
        return np.arange(count)
    from scipy.sparse import coo_array  # takes long, and most networks have no ties
    from scipy.sparse.csgraph import connected_components

    left, right = (np.concatenate(side) for side in zip(*ties, strict=True))
    _, labels = connected_components(coo_array((np.ones(len(left), bool), (left, right)), (count, count)))
    _, first, label = np.unique(labels, return_index=True, return_inverse=True)
    return first[label]


def _positions_in(members: np.ndarray, neurons: np.ndarray) -> np.ndarray:
    """The position of each of ``neurons`` in ``members``, which has all of them."""
    order = np.argsort(members, kind="stable")
    return order[np.searchsorted(members[order], neurons)]
