"""Refusals of nodes of an ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Refusal:
    """A node that is not supported.

    Attributes:
        tensor: the first that it makes.
        name: of the node, or of that tensor; "" where it is the graph that is refused.
        operator: its type, with the domain where that is not ONNX's own.
        reason: in words.
        fits: False where a shape asks for another number of values than there are.
        lacks_memory: whether there was not enough memory for it.
    """

    tensor: str
    name: str
    operator: str
    reason: str
    fits: bool = True
    lacks_memory: bool = False

    def __str__(self) -> str:
        return f"node {self.name!r} ({self.operator}): {self.reason}" if self.name else self.reason

    @property
    def line(self) -> str:
        """The same for a list, the operator last."""
        return f"node {self.name!r}: {self.reason}: {self.operator}" if self.name else self.reason


def operator_of(proto: onnx.NodeProto) -> str:
    """The operator of a node, with the domain where that is not ONNX's own."""
    return proto.op_type if proto.domain in ("", "ai.onnx") else f"{proto.domain}.{proto.op_type}"
