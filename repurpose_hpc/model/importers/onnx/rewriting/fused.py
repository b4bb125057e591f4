"""Operators that ONNX Runtime's transformer optimiser writes, but attention, as ONNX's own operators.

Most are of the domain com.microsoft, some of ONNX's own, of which they are no operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.rewriting.nodes import Nodes
from repurpose_hpc.model.importers.onnx.signal import Moved, Signal, Unsupported
from repurpose_hpc.model.importers.onnx.varying import Varying

if TYPE_CHECKING:
    import onnx

# Of the runtime's operators that normalise a sum; ONNX's own have 1e-5.
_EPSILON_OF_SUMS = 1e-12
_SLOPE_OF_QUICK_GELU = 1.702


def shape_of(node: Node, position: int) -> tuple[int, ...]:
    """The shape of an input, for the first size of the batch where it depends on that.

    Raises:
        Unsupported: the input is left out.
    """
    value = node.input(position)
    if value is None:
        raise Unsupported(f"{node.called(position)} is needed")
    return value.values[0].shape if isinstance(value, Varying) else value.shape


def one_row(node: Node, position: int) -> np.ndarray:
    """A constant input that all samples share, (1, ...).

    Raises:
        Unsupported: it is no constant, or differs from sample to sample.
    """
    rows = node.constant(position)
    if not rows.ndim or (rows != rows[:1]).any():
        raise Unsupported(f"{node.called(position)} of shape {rows.shape} differs from sample to sample")
    return rows[:1]


def is_on(node: Node, *attributes: str) -> bool:
    """Whether one of some attributes is 1, as onnxruntime reads them: it takes other numbers for 0."""
    return any(node.attributes.get(name, 0) == 1 for name in attributes)


def add_all(nodes: Nodes, first: str, others: Sequence[str]) -> str:
    """Add nodes that add values to the first one; returns the sum's name."""
    for other in others:
        first = nodes.add("Add", first, other)
    return first


def without_outputs(proto: onnx.NodeProto, places: Sequence[int], what: str) -> None:
    """Refuse a node that has some outputs."""
    if any(proto.output[place] for place in places if place < len(proto.output)):
        raise Unsupported(f"it gives {what} as well, expected one output; export the model for inference")


def normalise(proto: onnx.NodeProto, node: Node) -> Nodes:
    """SimplifiedLayerNormalization: by the root mean square."""
    without_outputs(proto, [1], "its divisor")
    nodes = Nodes(node.name, node.opset)
    nodes.add("RMSNormalization", *proto.input, output=proto.output[0], **node.attributes)
    return nodes


def normalise_sum(operator: str, weights: int, proto: onnx.NodeProto, node: Node) -> Nodes:
    """SkipLayerNormalization: of the sum of two values and perhaps a bias; the sum is the fourth output.

    Args:
        operator: that normalises.
        weights: how many inputs it has beside the first; the bias is behind them.
        proto: the node.
        node: with its inputs.
    """
    without_outputs(proto, [1, 2], "mean or divisor")
    nodes = Nodes(node.name, node.opset)
    names = [*node.input_names, "", ""]
    total = add_all(nodes, names[0], [names[1], *filter(None, names[2 + weights : 3 + weights])])
    if len(proto.output) > 3 and proto.output[3]:
        nodes.add("Identity", total, output=proto.output[3])
    read = [total, *filter(None, names[2 : 2 + weights])]
    epsilon = node.attributes.get("epsilon", _EPSILON_OF_SUMS)
    nodes.add(operator, *read, output=proto.output[0], epsilon=epsilon)
    return nodes


def gelu(approximation: str, proto: onnx.NodeProto, node: Node) -> Nodes:
    """Gelu of a value, or of its sum with a bias."""
    nodes = Nodes(node.name, node.opset)
    total = add_all(nodes, proto.input[0], [*filter(None, proto.input[1:])])
    nodes.add("Gelu", total, output=proto.output[0], approximate=approximation)
    return nodes


def quick_gelu(proto: onnx.NodeProto, node: Node) -> Nodes:
    """QuickGelu: x sigmoid(slope x)."""
    nodes = Nodes(node.name, node.opset)
    slope = node.attributes.get("alpha", _SLOPE_OF_QUICK_GELU)
    nodes.add("Swish", proto.input[0], output=proto.output[0], alpha=slope)
    return nodes


def add_bias(proto: onnx.NodeProto, node: Node) -> Nodes:
    """BiasAdd: the sum of a value, a bias and another value."""
    nodes = Nodes(node.name, node.opset)
    nodes.add("Identity", add_all(nodes, proto.input[0], proto.input[1:]), output=proto.output[0])
    return nodes


def multiply(proto: onnx.NodeProto, node: Node) -> Nodes:
    """FusedMatMul: the product of values that are transposed, times a number."""
    for side in "AB":
        node.require(f"transBatch{side}", 0)
    nodes = Nodes(node.name, node.opset)
    factors = [
        _transposed(nodes, node, place) if node.attributes.get(f"trans{side}", 0) else name
        for place, (side, name) in enumerate(zip("AB", proto.input, strict=True))
    ]
    product = nodes.add("MatMul", *factors)
    alpha = nodes.constant(np.float32(node.attributes.get("alpha", 1.0)))
    nodes.add("Mul", product, alpha, output=proto.output[0])
    return nodes


def _transposed(nodes: Nodes, node: Node, position: int) -> str:
    """An input with its last two axes exchanged; of a vector nothing is."""
    rank = len(shape_of(node, position))
    order = [*range(rank - 2), rank - 1, rank - 2] if rank > 1 else [0]
    return nodes.add("Transpose", node.input_names[position], perm=order)


def rotate(proto: onnx.NodeProto, node: Node) -> Nodes:
    """RotaryEmbedding, of (samples, positions, heads · features) or (samples, heads, positions, features)."""
    node.require("is_packed_batching", 0)
    node.require("scale", 1.0)
    if node.attributes.get("rotary_embedding_dim", 0):
        node.require("rotary_embedding_dim", 2 * shape_of(node, 2)[-1])
    nodes, shape, heads = Nodes(node.name, node.opset), shape_of(node, 0), node.attributes.get("num_heads", 0)
    if len(shape) == 3 and not heads:
        heads = shape[2] // (2 * shape_of(node, 2)[-1])
    positions = None if node.input(1) is None else _positions(node, 1, shape[-2])
    rotated = turned(nodes, node, proto.input[0], heads, (2, 3), positions)
    nodes.add("Identity", rotated, output=proto.output[0])
    return nodes


def _positions(node: Node, position: int, count: int) -> np.ndarray:
    """The positions of a sequence, (count,), of an input that has all of them, or the first."""
    if isinstance(node.input(position), (Signal, Moved)):
        raise Unsupported(
            f"{node.called(position)} is computed from the input, expected an input, or positions that are "
            "known beforehand; export a model that counts them itself"
        )
    given = one_row(node, position).ravel()
    if given.size == 1:
        return given.item() + np.arange(count)
    if given.size != count:
        raise Unsupported(f"{node.called(position)} has {given.size} positions, expected {count}")
    return given


def turned(
    nodes: Nodes,
    node: Node,
    name: str,
    heads: int,
    tables: tuple[int, int],
    positions: np.ndarray | None,
    features: int = 0,
) -> str:
    """Add nodes that turn the pairs of every head; returns the name of the result.

    Args:
        nodes: to which they are added.
        node: has the attribute ``interleaved``, or ``rotary_interleaved``; the first input says the axes.
        name: of what is turned, with three axes or four.
        heads: of three axes.
        tables: the inputs of ``node`` that are cosines and sines, (positions, pairs).
        positions: numbers of rows of these; None: the tables have the rows of each sample.
        features: of a head; 0: those of the first input.
    """
    shape, turning = shape_of(node, 0), 2 * shape_of(node, tables[0])[-1]
    features = features or (shape[3] if len(shape) == 4 else shape[2] // heads)
    if turning > features:
        raise Unsupported(
            f"{node.called(tables[0])} has {turning // 2} pairs of a head of {features} features"
        )
    if len(shape) == 3:
        name = nodes.add("Reshape", name, nodes.constant(np.array([0, 0, heads, features])))
    parts = [name]
    if turning < features:
        parts = [f"{name}.turned", f"{name}.rest"]
        sizes = nodes.constant(np.array([turning, features - turning]))
        nodes.add_many("Split", [name, sizes], parts, axis=-1)
    numbers, pairs = np.arange(turning), turning // 2
    is_interleaved = is_on(node, "interleaved", "rotary_interleaved")
    partners = numbers ^ 1 if is_interleaved else (numbers + pairs) % turning
    swapped = nodes.add("Gather", parts[0], nodes.constant(partners), axis=-1)
    pair = np.minimum(numbers, partners) // 2 if is_interleaved else numbers % pairs
    cosines, sines = (_for_heads(nodes, node, table, positions, pair) for table in tables)
    signs = nodes.constant(np.where(partners < numbers, 1, -1).astype(np.float32))
    products = [
        nodes.add("Mul", parts[0], cosines),
        nodes.add("Mul", swapped, nodes.add("Mul", sines, signs)),
    ]
    parts[0] = nodes.add("Add", *products)
    result = nodes.add("Concat", *parts, axis=-1) if turning < features else parts[0]
    return nodes.add("Reshape", result, nodes.constant(np.array([0, 0, -1]))) if len(shape) == 3 else result


def _for_heads(nodes: Nodes, node: Node, table: int, positions: np.ndarray | None, pair: np.ndarray) -> str:
    """What a table has for every position and feature that is turned, for all heads alike; see ``turned``."""
    has_heads_first, features = len(shape_of(node, 0)) == 4, len(pair)
    if positions is None:
        values = nodes.add("Gather", node.input_names[table], nodes.constant(pair), axis=-1)
        length = shape_of(node, 0)[-2]
        if shape_of(node, table)[1] != length:
            raise Unsupported(f"it has {shape_of(node, table)[1]} positions, expected {length}")
        sizes = [0, 1, length, features] if has_heads_first else [0, length, 1, features]
        return nodes.add("Reshape", values, nodes.constant(np.array(sizes)))
    rows = node.constant(table)
    if positions.min() < 0 or positions.max() >= len(rows):
        raise Unsupported(
            f"it has positions {positions.min()} to {positions.max()}, its table {len(rows)} rows"
        )
    values = rows[positions][:, pair]
    return nodes.constant(values if has_heads_first else values[:, None])


REWRITERS: dict[str, Callable[[onnx.NodeProto, Node], Nodes]] = {
    **dict.fromkeys(
        ("SimplifiedLayerNormalization", "com.microsoft.SimplifiedLayerNormalization"), normalise
    ),
    "com.microsoft.SkipLayerNormalization": partial(normalise_sum, "LayerNormalization", 2),
    "com.microsoft.SkipSimplifiedLayerNormalization": partial(normalise_sum, "RMSNormalization", 1),
    **dict.fromkeys(("com.microsoft.Gelu", "com.microsoft.BiasGelu"), partial(gelu, "none")),
    "com.microsoft.FastGelu": partial(gelu, "tanh"),
    "com.microsoft.QuickGelu": quick_gelu,
    "com.microsoft.BiasAdd": add_bias,
    "com.microsoft.FusedMatMul": multiply,
    "com.microsoft.RotaryEmbedding": rotate,
}
