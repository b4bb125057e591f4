"""Folds a scale and a shift into the weights that come right before: a normalisation then costs nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeGuard

import numpy as np

from repurpose_hpc.model.operations import Affine, Depthwise, Mixing, Operation


def fold_affines(operations: Iterable[Operation], outputs: tuple[str, ...]) -> tuple[Operation, ...]:
    """The same operations without every ``Affine`` that another operation can take over.

    Args:
        operations: topologically ordered.
        outputs: tensors that are wanted as they are.
    """
    operations = tuple(operations)
    readers = Counter(source for op in operations for source in op.sources) + Counter(outputs)
    made: dict[str, Operation] = {}
    for op in operations:
        before = made.get(op.sources[0])
        if isinstance(op, Affine) and readers[op.source] == 1 and _takes(before, op):
            del made[op.source]
            op = _folded(before, op)
        made[op.target] = op
    return tuple(made.values())


def _takes(before: Operation | None, op: Affine) -> TypeGuard[Affine | Mixing | Depthwise]:
    """Tell whether ``before`` can do what ``op`` does, too."""
    if isinstance(before, Affine):
        return True
    trained = isinstance(before, Depthwise) or (isinstance(before, Mixing) and not before.fixed)
    return trained and op.scale.shape[1] == op.shift.shape[1] == 1


def _folded(before: Affine | Mixing | Depthwise, op: Affine) -> Operation:
    """One operation for two, in the dtype of the first."""
    if isinstance(before, Affine):
        shift = op.scale * before.shift + op.shift
        return replace(before, target=op.target, scale=op.scale * before.scale, shift=shift)
    weights, dtype = before.weights, before.weights.dtype
    if (op.scale != 1).any():
        weights = (weights * op.scale).astype(dtype, copy=False)
    bias = (before.bias * op.scale[:, 0] + op.shift[:, 0]).astype(dtype, copy=False)
    return replace(before, target=op.target, weights=np.ascontiguousarray(weights), bias=bias)
