"""Inputs of a transformer's graph: ids, others of their shape, and keys and values of earlier tokens.

The runtime keeps keys and values itself.  So a graph that takes those of earlier tokens is imported as it is
for the first tokens of a text, of which there are no earlier ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.importers.onnx.refusal import operator_of

if TYPE_CHECKING:
    import onnx

IDS = "input_ids"
FILLED: Mapping[str, int | None] = {"attention_mask": 1, "token_type_ids": 0, "position_ids": None}
"""Inputs of the shape of the ids, and what they hold where nothing is padded: a number, or positions."""
INTEGERS = (6, 7)
"""ONNX's numbers of int32 and int64."""
CACHE_BRANCH = "use_cache_branch"
"""An input of decoders that are merged: whether there are earlier tokens."""
_FLOATS = (1, 10, 11, 16)  # those of float32, float16, float64 and bfloat16
# Axes of keys and values: sequences, heads, tokens and features, and perhaps one of both.
_RANKS = (4, 5)
# Which inputs of operators are keys and values of earlier tokens; others may be those of another text.
_PLACES: Mapping[str, tuple[int, ...]] = {
    "Concat": (0,),
    "Attention": (4, 5),
    "com.microsoft.Attention": (4,),
    "com.microsoft.MultiHeadAttention": (6, 7),
    "com.microsoft.GroupQueryAttention": (3, 4),
}
ATTENTION = frozenset(_PLACES) - {"Concat"}
"""Operators whose further outputs are keys and values for later tokens, or weights."""
# What may bring them there.
_LAYOUTS = frozenset(("Cast", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose"))


class Past(NamedTuple):
    """An input of keys or values of earlier tokens.

    Attributes:
        sizes: of its axes, without any token.
        sequences: the axis of these; None: the file fixes how many there are.
        dtype: of its numbers.
    """

    sizes: tuple[int, ...]
    sequences: int | None
    dtype: np.dtype

    def empty(self, sequences: int) -> np.ndarray:
        """What it is for the first tokens of so many texts."""
        sizes = list(self.sizes)
        if self.sequences is not None:
            sizes[self.sequences] = sequences
        return np.zeros(sizes, self.dtype)


@dataclass(frozen=True)
class Inputs:
    """The inputs of a graph, by name.

    Attributes:
        ids: the name of that of the ids.
        filled: what others of its shape hold, see ``FILLED``.
        pasts: those of keys and values of earlier tokens.
        has_cache_branch: whether one asks for earlier tokens, see ``CACHE_BRANCH``.
    """

    ids: str
    filled: Mapping[str, int | None]
    pasts: Mapping[str, Past]
    has_cache_branch: bool

    @classmethod
    def of(cls, path: Path, graph: onnx.GraphProto, inputs: Sequence[onnx.ValueInfoProto]) -> Inputs:
        """The inputs of a graph.

        Args:
            path: of the file, for messages.
            graph: of which they are the inputs.
            inputs: one or more.

        Raises:
            UserError: there are no ids, others are not known, or one has another shape, or a length.
        """
        pasts = _pasts(path, graph, inputs)
        others = [item for item in inputs if item.name not in (*pasts, CACHE_BRANCH)]
        ids = _ids(path, others)
        filled = {item.name: FILLED[item.name] for item in others if item.name != ids}
        return cls(ids, filled, pasts, any(item.name == CACHE_BRANCH for item in inputs))

    def feeds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """All of them for ids (sequences, tokens)."""
        positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        others = {
            name: positions if number is None else np.full_like(ids, number)
            for name, number in self.filled.items()
        }
        pasts = {name: past.empty(len(ids)) for name, past in self.pasts.items()}
        branch = {CACHE_BRANCH: np.array([False])} if self.has_cache_branch else {}
        return {self.ids: ids, **others, **pasts, **branch}

    def notes(self) -> list[str]:
        """What is assumed of each, in words."""
        words = {None: "positions from 0", 0: "zeros", 1: "ones"}
        texts = [
            f"input {name} is {words[number]}, as nothing is padded" for name, number in self.filled.items()
        ]
        if self.pasts:
            texts.append(
                f"{_listed(list(self.pasts))} without entries, as keys and values of earlier tokens are kept "
                "here"
            )
        return texts


def _listed(names: Sequence[str]) -> str:
    if not names[1:]:
        return f"input {names[0]} is"
    return f"inputs {names[0]} and {len(names) - 1} more are"


def _pasts(path: Path, graph: onnx.GraphProto, inputs: Sequence[onnx.ValueInfoProto]) -> dict[str, Past]:
    """The inputs of keys and values of earlier tokens.

    Raises:
        UserError: one of them is for a certain number of tokens, or has other axes that are free.
    """
    from onnx.helper import tensor_dtype_to_np_dtype

    texts = next((item for item in inputs if item.name == IDS), inputs[0])
    pasts = {}
    for item in inputs:
        kind = item.type.tensor_type
        if kind.elem_type not in _FLOATS or len(kind.shape.dim) not in _RANKS:
            continue
        if _is_past(item.name, graph.node):
            dtype = np.dtype(tensor_dtype_to_np_dtype(kind.elem_type))
            sizes = tuple(axis.dim_value for axis in kind.shape.dim)
            pasts[item.name] = Past(sizes, _axis_of_sequences(path, item, texts), dtype)
    return pasts


def _axis_of_sequences(path: Path, item: onnx.ValueInfoProto, texts: onnx.ValueInfoProto) -> int | None:
    """The free axis of an input of keys or values that is of the sequences; one more has to be free.

    Args:
        path: of the file, for messages.
        item: the input.
        texts: that of the ids.

    Raises:
        UserError: fewer axes are free, or more.
    """
    axes, first = item.type.tensor_type.shape.dim, texts.type.tensor_type.shape.dim[:1]
    free = [place for place, axis in enumerate(axes) if not axis.dim_value]
    has_free_sequences = bool(first) and not first[0].dim_value
    if len(free) != 1 + has_free_sequences:
        shape = ", ".join(axis.dim_param or str(axis.dim_value or "?") for axis in axes)
        raise UserError(
            f"{path}: input {item.name!r}: expected keys or values of any number of earlier tokens, heads "
            f"and features of known sizes, found shape ({shape}); export the model so, or without a cache"
        )
    if not has_free_sequences:
        return None
    named = [place for place in free if axes[place].dim_param and axes[place].dim_param == first[0].dim_param]
    return (named or free)[0]


def _is_past(name: str, nodes: Iterable[onnx.NodeProto]) -> bool:
    """Whether a tensor is read where earlier tokens are, through layouts as well, also in branches."""
    tensors = {name}
    for node in nodes:
        read = [place for place, tensor in enumerate(node.input) if tensor in tensors]
        if not {*read}.isdisjoint(_PLACES.get(operator_of(node), ())):
            return True
        if node.op_type in _LAYOUTS and 0 in read:
            tensors.update(node.output)
        if any(_is_past(name, attribute.g.node) for attribute in node.attribute):
            return True
    return False


def _ids(path: Path, inputs: Sequence[onnx.ValueInfoProto]) -> str:
    """The name of the input of the ids, of those of their shape.

    Raises:
        UserError: there is none, others are not known, or one has another shape, or a length.
    """
    names = [item.name for item in inputs]
    others = [name for name in names if name not in (IDS, *FILLED)] if names[1:] else []
    if not names or names[1:] and IDS not in names:
        others = others or names
    if others or not names:
        more = f" and {len(others) - 1} more" if others[1:] else ""
        raise UserError(
            f"{path}: expected the inputs {IDS} and perhaps {', '.join(FILLED)}, keys and values of earlier "
            f"tokens, found {repr(others[0]) + more if others else 'no ids'}; export the model without it"
        )
    ids = next((item for item in inputs if item.name == IDS), inputs[0])
    if ids.type.tensor_type.elem_type not in INTEGERS:
        raise UserError(
            f"{path}: expected integers as input {ids.name!r}, ids of tokens, found other numbers"
        )
    for item in inputs:
        sizes = item.type.tensor_type.shape.dim
        if len(sizes) != 2:
            raise UserError(
                f"{path}: input {item.name!r}: expected two axes, sequences and tokens, found {len(sizes)}; "
                "export the model so"
            )
        if sizes[1].dim_value:
            raise UserError(
                f"{path}: input {item.name!r}: expected an axis of tokens that is free, found one of "
                f"{sizes[1].dim_value}; export the model with a dynamic axis, or use it with samples of that "
                "length (restructure with --calibration)"
            )
    return ids.name
