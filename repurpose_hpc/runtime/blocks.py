"""Products with one block of weights, dense or CSR, as lists of calls for a batch size.

A *call* is (phase, function, arguments): what a program does for one batch is a list of
calls on arrays that do not change, so that running it is one short loop.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from repurpose_hpc.kernels import (
    ACTIVATION_CODES,
    INDEX_DTYPE,
    blas_is_faster,
    csr_batch,
    csr_is_faster,
    csr_vector,
    dense_batch,
    dense_vector,
    finish,
)
from repurpose_hpc.model.activations import IDENTITY, Activation
from repurpose_hpc.plan.shard import Block
from repurpose_hpc.runtime.buffers import Buffer

PACK, EXCHANGE, WAIT, COMPUTE = PHASES = ("pack", "exchange", "wait", "compute")

Call = tuple[str, Callable[..., object], tuple]
Epilogue = tuple[int, float, float]


def epilogue_of(activation: Activation) -> Epilogue:
    """The activation as the kernels take it: code and parameters."""
    return ACTIVATION_CODES[activation.kind], float(activation.alpha), float(activation.beta)


NO_ACTIVATION = epilogue_of(IDENTITY)


class DenseProduct:
    """``out = act(start + W X)`` with W (m, n) as it is."""

    format = "dense"

    def __init__(self, weights: np.ndarray) -> None:
        self.weights = np.ascontiguousarray(weights)

    def calls(
        self, X: np.ndarray, start: np.ndarray, out: np.ndarray, scratch: Buffer, epilogue: Epilogue
    ) -> list[Call]:
        """The calls for one batch size.

        Args:
            X: (n, batch).
            start: (m, 1), a bias, or ``out`` itself.
            out: (m, batch).
            scratch: at least m rows, for what BLAS computes if ``start`` is ``out``.
            epilogue: activation applied last.
        """
        batch = out.shape[1]
        if batch == 1:
            vectors = X.reshape(-1), start.reshape(-1), out.reshape(-1)
            return [(COMPUTE, dense_vector, (self.weights, *vectors, *epilogue))]
        if not blas_is_faster(batch):
            return [(COMPUTE, dense_batch, (self.weights, X, start, out, *epilogue))]
        product = scratch.view(batch, slice(len(out))) if start is out else out
        return [
            (COMPUTE, np.matmul, (self.weights, X, product)),
            (COMPUTE, finish, (start, product, out, *epilogue)),
        ]


class CsrProduct:
    """``out = act(start + W X)`` with the non-zeros of W (m, n) in compressed sparse rows."""

    format = "csr"

    def __init__(self, weights: np.ndarray) -> None:
        rows, columns = np.nonzero(weights)
        ends = np.cumsum(np.bincount(rows, minlength=len(weights)))
        indptr = np.concatenate([[0], ends]).astype(INDEX_DTYPE)
        self.arrays = weights[rows, columns], columns.astype(INDEX_DTYPE), indptr

    def calls(
        self, X: np.ndarray, start: np.ndarray, out: np.ndarray, scratch: Buffer, epilogue: Epilogue
    ) -> list[Call]:
        """As ``DenseProduct.calls``."""
        if out.shape[1] == 1:
            vectors = X.reshape(-1), start.reshape(-1), out.reshape(-1)
            return [(COMPUTE, csr_vector, (*self.arrays, *vectors, *epilogue))]
        return [(COMPUTE, csr_batch, (*self.arrays, X, start, out, *epilogue))]


def weights_kept(block: Block) -> int:
    """Number of non-zero weights."""
    return sum(int(np.count_nonzero(part)) for part in _parts(block))


def choose_product(block: Block, columns: int) -> type[DenseProduct | CsrProduct]:
    """The faster format for all parts of ``block`` and so many columns of inputs (samples, positions)."""
    size = sum(part.size for part in _parts(block))
    return CsrProduct if size and csr_is_faster(weights_kept(block) / size, columns) else DenseProduct


def _parts(block: Block) -> tuple[np.ndarray, ...]:
    return block.own_weights, block.ghost_weights, block.sum_weights
