"""Weights of a few bits, packed in blocks with a scale each, as ONNX Runtime's quantisers write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.rewriting.fused import add_all
from repurpose_hpc.model.importers.onnx.rewriting.nodes import Nodes
from repurpose_hpc.model.importers.onnx.signal import Unsupported

if TYPE_CHECKING:
    import onnx

_BITS = (2, 4, 8)


def multiply(proto: onnx.NodeProto, node: Node) -> Nodes:
    """MatMulNBits: the product with weights (N, K) that are what their integers stand for; perhaps a bias."""
    if node.input(4) is not None:
        raise Unsupported(f"{node.called(4)} gives columns of weights other blocks, expected none")
    nodes = Nodes(node.name, node.opset)
    W = np.ascontiguousarray(_weights(node).T)
    product = nodes.add("MatMul", proto.input[0], nodes.constant(W))
    nodes.add("Identity", add_all(nodes, product, [*filter(None, proto.input[5:6])]), output=proto.output[0])
    return nodes


def _weights(node: Node) -> np.ndarray:
    """The weights, (N, K); the last block of a row may have more integers than count."""
    rows, columns, size = (node.attributes[name] for name in ("N", "K", "block_size"))
    bits, blocks = node.attributes.get("bits", 4), -(-columns // size)
    if bits not in _BITS:
        raise Unsupported(f"attribute bits is {bits}, expected one of {', '.join(map(str, _BITS))}")
    integers = unpacked(_bytes(node, 1), bits).reshape(rows, blocks, size)
    zeros = np.full((rows, blocks), 1 << (bits - 1))
    if node.input(3) is not None:
        zeros = node.constant(3)
        zeros = unpacked(zeros.reshape(rows, -1), bits) if zeros.dtype == np.uint8 else node.weights(3)
        zeros = zeros.reshape(rows, -1)[:, :blocks]
    scales = node.weights(2).reshape(rows, blocks, 1)
    weights = (integers - zeros[..., None].astype(scales.dtype)) * scales
    return weights.reshape(rows, -1)[:, :columns]


def _bytes(node: Node, position: int) -> np.ndarray:
    value = node.constant(position)
    if value.dtype != np.uint8:
        raise Unsupported(f"{node.called(position)} has {value.dtype}, expected packed integers, uint8")
    return value


def unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    """Integers of so many bits, the lowest bits of a byte first; packed: uint8 (..., bytes)."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((packed[..., None] >> shifts) & (2**bits - 1)).reshape(*packed.shape[:-1], -1)


REWRITERS: dict[str, Callable[[onnx.NodeProto, Node], Nodes]] = {"com.microsoft.MatMulNBits": multiply}
