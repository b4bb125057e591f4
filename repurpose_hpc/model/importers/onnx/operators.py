"""All ONNX operators that the importer understands."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from repurpose_hpc.model.importers.onnx import (
    nodes_elementwise,
    nodes_layout,
    nodes_logic,
    nodes_mixing,
    nodes_normalisation,
    nodes_pooling,
)
from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.signal import Signal, Unsupported, Value


def _identity(node: Node) -> Signal:
    return replace(node.signal(after_head=True), origin=str(node))


def _dropout(node: Node) -> Signal:
    node.require("is_test", 1)
    if node.input(2) is not None and node.constant(2).any():
        raise Unsupported("input training_mode is true; export the model after model.eval()")
    return _identity(node)


OPERATORS: dict[str, Callable[[Node], Value | Iterable[Value]]] = {
    **nodes_mixing.OPERATORS,
    **nodes_elementwise.OPERATORS,
    **nodes_logic.OPERATORS,
    **nodes_pooling.OPERATORS,
    **nodes_layout.OPERATORS,
    **nodes_normalisation.OPERATORS,
    "Identity": _identity,
    "Dropout": _dropout,
}

SUPPORTED = ", ".join(OPERATORS)
NOT_SUPPORTED = "operator {} is not supported"


def apply(node: Node) -> tuple[Value, ...]:
    """The outputs of a node of which some input depends on the network's input.

    Raises:
        Unsupported: the operator, or the way in which it is used, is not supported.
    """
    if node.operator not in OPERATORS:
        raise Unsupported(NOT_SUPPORTED.format(node.operator))
    result = OPERATORS[node.operator](node)
    return (result,) if isinstance(result, (Signal, np.ndarray)) else tuple(result)
