"""Folding of scales and shifts into the weights before them: such a normalisation then costs nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeGuard

import numpy as np

from repurpose_hpc.model.operations import Affine, Depthwise, Mixing, Operation
from repurpose_hpc.model.weights import scaled, values_of

# A shift as large as this leaves whole numbers in single precision, which may be what it is for.
_ROUNDING_SHIFT = 2.0**22


def fold_affines(operations: Iterable[Operation], outputs: tuple[str, ...]) -> tuple[Operation, ...]:
    """The same operations without every ``Affine`` that another operation can take over.

    Args:
        operations: topologically ordered.
        outputs: tensors that are wanted as they are.
    """
    operations = tuple(operations)
    readers = Counter(source for op in operations for source in op.sources) + Counter(outputs)
    op_of: dict[str, Operation] = {}
    for op in operations:
        source_op = op_of.get(op.sources[0])
        if isinstance(op, Affine) and readers[op.source] == 1 and _takes(source_op, op):
            folded = _folded(source_op, op)
            if _is_in_range(folded, source_op):
                del op_of[op.source]
                op = folded
        op_of[op.target] = op
    return tuple(op_of.values())


def _takes(source_op: Operation | None, op: Affine) -> TypeGuard[Affine | Mixing | Depthwise]:
    """Tell whether ``source_op`` can take over the scale and the shift of ``op``."""
    if np.abs(op.shift).max() >= _ROUNDING_SHIFT:
        return False
    if isinstance(source_op, Affine):
        return True
    trained = isinstance(source_op, Depthwise) or (isinstance(source_op, Mixing) and not source_op.fixed)
    return trained and op.scale.shape[1] == op.shift.shape[1] == 1


def _is_in_range(op: Operation, source_op: Affine | Mixing | Depthwise) -> bool:
    """False if numbers become infinite, a scale or all weights 0, in single precision; two steps may not."""
    if isinstance(op, Mixing | Depthwise):
        assert isinstance(source_op, Mixing | Depthwise)
        weights, before = values_of(op.weights), values_of(source_op.weights)
        return bool(np.isfinite(weights).all() and weights.any() == before.any())
    assert isinstance(op, Affine)
    with np.errstate(over="ignore", under="ignore"):
        scale, shift = op.scale.astype(np.float32), op.shift.astype(np.float32)
    is_kept = (scale != 0) == (op.scale != 0)
    return bool(is_kept.all() and np.isfinite(scale).all() and np.isfinite(shift).all())


def _folded(source_op: Affine | Mixing | Depthwise, op: Affine) -> Operation:
    """One operation for both, in the dtype of the first."""
    if isinstance(source_op, Affine):
        shift = op.scale * source_op.shift + op.shift
        return replace(source_op, target=op.target, scale=op.scale * source_op.scale, shift=shift)
    weights: Any = source_op.weights
    dtype = weights.dtype
    if (op.scale != 1).any():
        with np.errstate(over="ignore"):  # then it is not used
            weights = scaled(weights, op.scale[:, 0]).astype(dtype, copy=False)
    if isinstance(weights, np.ndarray):
        weights = np.ascontiguousarray(weights)
    bias = (source_op.bias * op.scale[:, 0] + op.shift[:, 0]).astype(dtype, copy=False)
    return replace(source_op, target=op.target, weights=weights, bias=bias)
