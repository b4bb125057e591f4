"""All ONNX operators that the importer understands."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from repurpose_hpc.model.importers.onnx import (
    nodes_attention,
    nodes_contraction,
    nodes_elementwise,
    nodes_joining,
    nodes_layout,
    nodes_linear,
    nodes_logic,
    nodes_mixing,
    nodes_normalisation,
    nodes_pooling,
    nodes_reduction,
    nodes_resize,
    nodes_selection,
)
from repurpose_hpc.model.importers.onnx.moved import apply_moved, moves_samples, values_of
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
    **nodes_contraction.OPERATORS,
    **nodes_attention.OPERATORS,
    **nodes_elementwise.OPERATORS,
    **nodes_logic.OPERATORS,
    **nodes_pooling.OPERATORS,
    **nodes_reduction.OPERATORS,
    **nodes_layout.OPERATORS,
    **nodes_joining.OPERATORS,
    **nodes_resize.OPERATORS,
    **nodes_linear.OPERATORS,
    **nodes_selection.OPERATORS,
    **nodes_normalisation.OPERATORS,
    "Identity": _identity,
    "Dropout": _dropout,
}

# Change nothing of a Softmax over all features that they follow.
AFTER_HEAD = frozenset(
    ("Identity", "Dropout", "Cast", "Shape", "Size", "Flatten", "Reshape", "Squeeze", "Unsqueeze")
)

SUPPORTED = ", ".join(OPERATORS)
NOT_SUPPORTED = "operator {} is not supported"


def apply(node: Node) -> tuple[Value, ...]:
    """The outputs of a node of which some input depends on the network's input.

    Raises:
        Unsupported: the operator, or the way in which it is used, is not supported.
    """
    if node.operator not in OPERATORS:
        raise Unsupported(NOT_SUPPORTED.format(node.operator))
    try:
        if moves_samples(node):
            return apply_moved(node, OPERATORS)
        return values_of(OPERATORS[node.operator](node))
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        # What is checked nowhere else: NumPy and Python refuse shapes and numbers that do not fit.
        raise Unsupported(f"its inputs and attributes do not fit: {error}") from error
