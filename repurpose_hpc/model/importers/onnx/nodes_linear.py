"""ONNX operators that are linear in the signal: transforms, cumulated sums, sampling at fixed places.

They are executed on one value at a time, which gives the weights of a mixing that is part of a definition.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.nodes_resize import LARGEST_TABLE
from repurpose_hpc.model.importers.onnx.nodes_selection import executed
from repurpose_hpc.model.importers.onnx.signal import Signal, Unsupported

# Largest difference from linearity that is rounding.
_TOLERANCE = 1e-5


def linear_map(node: Node) -> Signal:
    """All values of the result from all values of the signal."""
    signal = node.signal()
    if signal.features**2 > LARGEST_TABLE:
        raise Unsupported(f"it has {signal.features} values a sample, which are too many")
    basis = np.eye(signal.features).reshape(signal.features, *signal.shape[1:])
    (shift,) = executed(node, basis[:1] * 0)
    if signal.features * shift.size > LARGEST_TABLE:
        raise Unsupported(f"it makes {shift.size} values from {signal.features}, which are too many")
    weights = executed(node, basis).reshape(signal.features, -1) - shift.ravel()
    x = np.random.default_rng(0).standard_normal((3, *signal.shape[1:]))
    y, expected = executed(node, x).reshape(3, -1), x.reshape(3, -1) @ weights + shift.ravel()
    if not np.abs(y - expected).max(initial=0) <= _TOLERANCE * max(1.0, np.abs(y).max(initial=0)):
        raise Unsupported("it is not linear in its input, sample by sample")
    W, bias = (array.astype(np.float32) for array in (weights.T, shift.ravel()))
    target = node.tensors.sums_of_values(node.name, signal, W, bias)
    return node.tensors.signal(target, (signal.shape[0], *shift.shape), str(node))


OPERATORS: dict[str, Callable[[Node], Signal]] = dict.fromkeys(
    ("CumSum", "DFT", "STFT", "Col2Im", "GridSample"), linear_map
)
