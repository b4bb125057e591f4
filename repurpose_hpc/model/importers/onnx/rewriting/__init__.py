"""Graphs written otherwise: whole models before they are evaluated, single nodes while they are.

``opset`` makes old models new, ``lookups`` takes nodes apart that also read tables.  The other files have
functions that replace a node by others, which are evaluated in its place: shapes and constants are known by
then.  ``REWRITERS`` has them by operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.rewriting import (
    branches,
    fused,
    fused_attention,
    packed,
    quantised,
    recurrent,
)
from repurpose_hpc.model.importers.onnx.signal import Unsupported

if TYPE_CHECKING:
    import onnx

# Of the runtime's transformer optimiser.
_FUSED = {**fused.REWRITERS, **fused_attention.REWRITERS}

REWRITERS: dict[str, Callable[[onnx.NodeProto, Node], Iterable[onnx.NodeProto]]] = {
    **branches.REWRITERS,
    **recurrent.REWRITERS,
    **quantised.REWRITERS,
    **packed.REWRITERS,
    **_FUSED,
}

ALWAYS = frozenset((*branches.REWRITERS, *quantised.REWRITERS, *packed.REWRITERS, *_FUSED))
"""Operators that are replaced even if all inputs are constants.

Graphs of their own may read what is not among the inputs; the evaluator of the onnx package does not know
operators of all opsets and domains.
"""


def rewritten(proto: onnx.NodeProto, node: Node) -> Iterable[onnx.NodeProto]:
    """The nodes that replace one.

    Raises:
        Unsupported: the way in which it is used; inputs or attributes are missing or do not fit.
    """
    if node.operator in _FUSED:
        for name, value in node.attributes.items():
            if not isinstance(value, (int, float, list)):
                raise Unsupported(f"attribute {name} is {value!r}, expected numbers")
    try:
        return REWRITERS[node.operator](proto, node)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        # Nobody has checked operators of other domains.
        raise Unsupported(f"its inputs and attributes do not fit: {error}") from error
