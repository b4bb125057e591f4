"""Graphs written otherwise: whole models before they are evaluated, single nodes while they are.

``opset`` makes old models new.  The other files have functions that replace a node by others, which are
evaluated in its place: shapes and constants are known by then.  ``REWRITERS`` has them by operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.rewriting import branches, quantised, recurrent

if TYPE_CHECKING:
    import onnx

REWRITERS: dict[str, Callable[[onnx.NodeProto, Node], Iterable[onnx.NodeProto]]] = {
    **branches.REWRITERS,
    **recurrent.REWRITERS,
    **quantised.REWRITERS,
}

ALWAYS = frozenset((*branches.REWRITERS, *quantised.REWRITERS))
"""Operators that are replaced even if all inputs are constants.

Graphs of their own may read what is not among the inputs; the evaluator of the onnx package does not know
quantised operators of all opsets and domains.
"""
