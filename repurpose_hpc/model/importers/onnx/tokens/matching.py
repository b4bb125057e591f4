"""One network of tokens from those of a graph at several lengths.

Operations at one length have to be those at another, but for what depends on the position: terms of each
position are a table whose first rows are those of shorter sequences, rotations are recognised, and of a mask
that is a band its width is kept.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.builder import Builder
from repurpose_hpc.model.importers.onnx.tokens.rotations import rotations_of
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import (
    Affine,
    Attention,
    Combine,
    Elementwise,
    Mixing,
    Operation,
    Rotary,
    Select,
    needed,
)

# Between the numbers of two lengths: one program computes them, in vectors of other sizes.
_TOLERANCE = 1e-6
# What is not compared as it is.
_OF_LENGTHS: dict[type[Operation], tuple[str, ...]] = {
    Mixing: ("window",),
    Attention: ("before", "after", "bias", "seen"),
}
_KINDS = (Affine, Attention, Combine, Elementwise, Mixing, Select)


class Matched:
    """A network on sequences of the longest length, and what others of the same graph say of it.

    Args:
        path: of the file, for messages.
        longest: on one sequence.

    Raises:
        UserError: something in it is not done token by token.
    """

    def __init__(self, path: Path, longest: Network) -> None:
        self._path, self._longest = path, longest
        self.length = self._check_tokens(longest)

    def check(self, other: Network) -> None:
        """Compare with the network on shorter sequences.

        Raises:
            UserError: names the first operation that is another one.
        """
        length = self._check_tokens(other)
        pairs = zip(self._longest.operations, other.operations, strict=False)
        for op, short in pairs:
            if not _is_alike(op, short, length):
                self._refuse(op, f"depends on the length of the sequence ({length} and {self.length} tokens)")
        if len(self._longest.operations) != len(other.operations):
            raise UserError(
                f"{self._path}: expected the same operations for sequences of {length} and of {self.length} "
                f"tokens, found {len(other.operations)} and {len(self._longest.operations)}; {_REMEDY}"
            )

    def network(self) -> Network:
        """The network of tokens, without ends.

        Raises:
            UserError: something in it depends on the position in a way that is not supported.
        """
        network, rotations = self._longest, rotations_of(self._longest)
        operations = [each for op in network.operations for each in rotations.get(op.target, (op,))]
        source = network.input_tensors[place_of_input(self._path, network)]
        builder = Builder()
        tensors = {source: builder.input("input", network.space(source).neurons)}
        for op in needed(operations, network.output_tensors):
            sources = tuple(tensors[name] for name in op.sources)
            tensors[op.target] = self._added(builder, op, sources)
        outputs = tuple(tensors[name] for name in network.output_tensors)
        return builder.build(outputs, ("identity",), longest=self.length)

    def _added(self, builder: Builder, op: Operation, sources: tuple[str, ...]) -> str:
        """The tensor of an operation on tokens."""
        if isinstance(op, Affine):
            return self._affine(builder, op, sources[0])
        if isinstance(op, Mixing):
            return builder.mixing(op.name, sources[0], op.weights, op.bias, None, op.fixed)
        if isinstance(op, Elementwise):
            return builder.elementwise(op.name, sources[0], op.activation)
        if isinstance(op, Combine):
            return builder.combine(op.name, sources[0], sources[1], op.kind)
        if isinstance(op, Select):
            return _selected(builder, op, sources)
        if isinstance(op, Rotary):
            return builder.rotary(op.name, sources[0], op.heads, op.frequencies, op.interleaved, op.factor)
        assert isinstance(op, Attention)
        if op.has_constants:
            self._refuse(op, "adds numbers to its scores that are no mask of near positions")
        if len(op.sources) > 3:
            self._refuse(op, "has a mask that depends on the tokens")
        return builder.attention(replace(op, sources=sources))

    def _affine(self, builder: Builder, op: Affine, source: str) -> str:
        if op.scale.shape[1] > 1:
            self._refuse(op, "multiplies by a number of each position, which is supported in rotations alone")
        if op.shift.shape[1] == 1:
            return builder.affine(op.name, source, op.scale, op.shift)
        if (op.scale != 1).any():
            source = builder.affine(f"{op.name}.scale", source, op.scale, np.zeros_like(op.scale))
        return builder.position_table(op.name, source, np.ascontiguousarray(op.shift))

    def _check_tokens(self, network: Network) -> int:
        """The length of the sequences of a network that works token by token."""
        if network.ends.back is not None:
            names = ", ".join(network.ends.back.operators)
            raise UserError(
                f"{self._path}: expected outputs of the last layer, found {names} behind it; {_REMEDY}"
            )
        (output,) = network.output_tensors
        length = network.values(network.input_tensors[place_of_input(self._path, network)])
        for op in network.operations:
            if network.values(op.target) != length:
                self._refuse(op, f"makes {network.values(op.target)} values of {length} tokens of a neuron")
            if not isinstance(op, _KINDS) or not _is_by_token(op):
                self._refuse(op, "takes values of other positions, which is supported in attention alone")
        if network.neuron_axes.get(output) != 1 or network.heads != ("identity",):
            self._refuse(network.operations[-1], "makes an output that has no row for each token")
        return length

    def _refuse(self, op: Operation, reason: str) -> NoReturn:
        raise UserError(f"{self._path}: {op.name!r} ({type(op).__name__}) {reason}; {_REMEDY}")


def place_of_input(path: Path, network: Network) -> int:
    """Which input the operations read, the embedded tokens; of others the shapes alone counted.

    Args:
        path: of the file, for messages.
        network: on sequences.

    Raises:
        UserError: they read several.
    """
    read = {source for op in network.operations for source in op.sources}
    places = [place for place, name in enumerate(network.input_tensors) if name in read]
    if len(places) != 1:
        raise UserError(
            f"{path}: expected one tensor between the ids and the first weights, found {len(places)}; "
            f"{_REMEDY}"
        )
    return places[0]


_REMEDY = (
    "sequences of any lengths are not supported then, of one length they may be: give the sizes with "
    "--input-shape"
)


def _selected(builder: Builder, op: Select, sources: tuple[str, ...]) -> str:
    """Some neurons of tensors; the only tensor itself where it is all of it."""
    if len(sources) == 1 and np.array_equal(op.index, np.arange(builder.neurons(sources[0]))):
        return sources[0]
    return builder.select(op.name, sources, op.index)


def _is_by_token(op: Operation) -> bool:
    return not isinstance(op, Mixing) or op.window is None or op.window.is_pointwise


def _is_alike(op: Operation, short: Operation, length: int) -> bool:
    """Whether an operation on shorter sequences is what the one on the longest is for them."""
    if type(op) is not type(short):
        return False
    if isinstance(op, Affine):
        op = replace(op, scale=op.scale[:, :length], shift=op.shift[:, :length])
    skipped = _OF_LENGTHS.get(type(op), ())
    names = [each.name for each in fields(op) if each.name not in skipped]
    return all(_is_same(getattr(op, name), getattr(short, name)) for name in names) and (
        not isinstance(op, Attention) or not isinstance(short, Attention) or _sees_alike(op, short, length)
    )


def _sees_alike(op: Attention, short: Attention, length: int) -> bool:
    shape = length, length
    return op.has_constants == short.has_constants and np.array_equal(op.band(*shape), short.band(*shape))


def _is_same(value: Any, short: Any) -> bool:
    """Whether numbers, or anything else, are the same but for rounding."""
    if not isinstance(value, np.ndarray):
        return bool(value == short)
    if np.array_equal(value, short):
        return True
    if value.dtype.kind != "f" or value.ndim != short.ndim:
        return False
    try:
        return np.allclose(value, short, rtol=0, atol=_TOLERANCE * float(np.abs(value).max(initial=0)))
    except ValueError:  # of shapes that do not go together
        return False
