"""NumPy in one process: a matrix product per layer, bias and ReLU in place."""

from __future__ import annotations

import numpy as np

from repurpose_hpc.bench.candidate import Candidate
from repurpose_hpc.bench.turns import Conditions

Layers = list[tuple[np.ndarray, np.ndarray]]


def network(layers: Layers, X: np.ndarray, conditions: Conditions) -> Candidate:
    """A chain of dense layers with ReLU between them, on a batch.

    Args:
        layers: (W, b) of shapes (m, n) and (m,).
        X: (n, batch); for one sample its products are those of a matrix and a vector.
        conditions: as of ``Candidate``.
    """
    x = X[:, 0].copy() if X.shape[1] == 1 else X
    biases = [b if x.ndim == 1 else b[:, None] for _, b in layers]
    outs = [np.empty((len(W), *x.shape[1:]), W.dtype) for W, _ in layers]
    steps = [(W, b, out) for (W, _), b, out in zip(layers, biases, outs, strict=True)]
    last = len(steps) - 1

    def forward() -> np.ndarray:
        y = x
        for index, (W, b, out) in enumerate(steps):
            np.matmul(W, y, out=out)
            np.add(out, b, out=out)
            if index < last:
                np.maximum(out, 0, out=out)
            y = out
        return y

    return Candidate(forward, lambda y: y.reshape(len(y), -1), conditions)
