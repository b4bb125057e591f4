"""Graphs written otherwise: whole models before they are evaluated, single nodes while they are.

``opset`` makes old models new.  The other files have functions that replace a node by others, which are
evaluated in its place: shapes and constants are known by then.  ``REWRITERS`` has them by operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.rewriting import branches, recurrent

if TYPE_CHECKING:
    import onnx

REWRITERS: dict[str, Callable[[onnx.NodeProto, Node], Iterable[onnx.NodeProto]]] = {
    **branches.REWRITERS,
    **recurrent.REWRITERS,
}

BODIES = frozenset(branches.REWRITERS)
"""Operators with graphs of their own, which may read what is not among their inputs."""
