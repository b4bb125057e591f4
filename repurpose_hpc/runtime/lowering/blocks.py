"""Products with one block of weights, dense or CSR, as lists of calls for a batch size."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np

from repurpose_hpc.kernels import (
    ACTIVATION_CODES,
    ALIKE_ROWS,
    INDEX_DTYPE,
    Epilogue,
    csr_batch,
    csr_is_faster,
    csr_same_bits,
    csr_vector,
    dense,
    dense_events,
    dense_scratch,
    events_scratch,
    panel_rows,
)
from repurpose_hpc.model.activations import IDENTITY, Activation
from repurpose_hpc.model.comm_dtype import EXACT
from repurpose_hpc.model.weights import (
    SparseWeights,
    Weights,
    alike_share,
    alike_together,
    as_sparse,
    picked,
    runs_of_alike,
)
from repurpose_hpc.model.weights import dense as dense_array
from repurpose_hpc.plan.shard import Block
from repurpose_hpc.runtime.buffers import Arena, Scratch
from repurpose_hpc.runtime.calls import COMPUTE, Call
from repurpose_hpc.runtime.lowering.weights import count_nonzero, packed
from repurpose_hpc.runtime.resources import Resources


def epilogue_of(activation: Activation) -> Epilogue:
    """The activation as the kernels take it: code and parameters."""
    return Epilogue(ACTIVATION_CODES[activation.kind], float(activation.alpha), float(activation.beta))


NO_ACTIVATION = epilogue_of(IDENTITY)


class Product(Protocol):
    """A block of weights, ready to be multiplied.

    Attributes:
        format: "dense", "csr", ...
    """

    format: str

    def scratch(self, columns: int) -> int:
        """Numbers of scratch memory that a result of so many columns (samples, positions) takes."""

    def calls(
        self, X: np.ndarray, start: np.ndarray, out: np.ndarray, scratch: Scratch, epilogue: Epilogue
    ) -> list[Call]:
        """The calls for one batch size.

        Args:
            X: (n, batch); of a mixing (n, batch, values).
            start: (m, 1), a bias, or ``out`` itself.
            out: (m, columns).
            scratch: as much of it as ``scratch`` says is reserved.
            epilogue: activation applied last.
        """


class DenseProduct:
    """``out = act(start + W X)`` with W (m, n) packed, in a format of ``weights.packed``."""

    format = "dense"

    def __init__(
        self,
        weights: Weights,
        weights_dtype: str = EXACT,
        same_bits: bool = False,
        arena: Arena | None = None,
        has_events: bool = False,
    ) -> None:
        """Packs the weights.

        Args:
            weights: (m, n).
            weights_dtype: in which they are multiplied.
            same_bits: let a sample have the same bits in every batch.
            arena: from which their memory is taken; None: one of their own.
            has_events: many values of X may be 0, and all others 1.
        """
        rows = panel_rows(weights.dtype)
        self.panels, self.scales = packed(dense_array(weights), weights_dtype, rows, arena or Arena())
        self.dtype, self.in_order, self.has_events = weights.dtype, int(same_bits), has_events

    def scratch(self, columns: int) -> int:
        """See ``Product``."""
        return sum(self._scratch(columns))

    def _scratch(self, columns: int) -> tuple[int, int]:
        """Numbers of scratch memory for sums, and for lists of events."""
        _, n, R = self.panels.shape
        numbers = dense_scratch(n, columns, self.dtype)
        if not self.has_events:
            return numbers, 0
        tiles, indices = events_scratch(n, columns, R)
        return max(numbers, tiles), -(-indices * np.dtype(INDEX_DTYPE).itemsize // self.dtype.itemsize)

    def calls(
        self, X: np.ndarray, start: np.ndarray, out: np.ndarray, scratch: Scratch, epilogue: Epilogue
    ) -> list[Call]:
        """See ``Product``."""
        numbers, lists = self._scratch(out.shape[1])
        memory = scratch.take(numbers + lists)
        arguments = self.panels, self.scales, X, start, out, memory[:numbers]
        if not self.has_events:
            return [(COMPUTE, dense, (*arguments, self.in_order, epilogue))]
        events = memory[numbers:].view(INDEX_DTYPE)
        return [(COMPUTE, dense_events, (*arguments, events, self.in_order, epilogue))]


class CsrProduct:
    """``out = act(start + W X)`` with the non-zeros of W (m, n) in compressed sparse rows."""

    format = "csr"

    def __init__(self, weights: Weights) -> None:
        entries = as_sparse(weights)
        order = alike_together(entries)
        rows = picked(entries, order, np.arange(entries.shape[1]))
        found = rows.columns, rows.starts, order, runs_of_alike(rows)
        indices = (array.astype(INDEX_DTYPE) for array in found)
        self.arrays = (rows.values, *indices)

    def scratch(self, columns: int) -> int:
        """See ``Product``."""
        return 0

    def calls(
        self, X: np.ndarray, start: np.ndarray, out: np.ndarray, scratch: Scratch, epilogue: Epilogue
    ) -> list[Call]:
        """See ``Product``."""
        if out.shape[1] == 1:
            vectors = X.reshape(-1), start.reshape(-1), out.reshape(-1)
            return [(COMPUTE, csr_vector, (*self.arrays, *vectors, epilogue))]
        return [(COMPUTE, csr_batch, (*self.arrays, X, start, out, epilogue))]


class SameBitsCsrProduct(CsrProduct):
    """``CsrProduct`` whose results for a sample do not depend on the batch."""

    def calls(
        self, X: np.ndarray, start: np.ndarray, out: np.ndarray, scratch: Scratch, epilogue: Epilogue
    ) -> list[Call]:
        """See ``Product``."""
        return [(COMPUTE, csr_same_bits, (*self.arrays, X, start, out, epilogue))]


def weights_kept(block: Block) -> int:
    """Number of non-zero weights."""
    return sum(count_nonzero(part) for part in weights_of(block))


SPARSE_PRODUCTS = (CsrProduct, SameBitsCsrProduct)


def choose_product(
    block: Block, kept: int, columns: int | None, resources: Resources, has_events: bool = False
) -> Callable[[Weights], DenseProduct | CsrProduct]:
    """The faster format for all parts of a block.

    Args:
        block: of a worker.
        kept: ``weights_kept``.
        columns: of inputs (samples, positions); None: any, and a sample has the same bits in all batches.
        resources: of the program; its format of weights is of dense ones: those in CSR, and those that
            shards have sparse, stay as they are.
        has_events: many values of the inputs may be 0, and all others 1.
    """
    size = sum(math.prod(part.shape) for part in weights_of(block))
    weights_dtype = resources.formats.weights_dtype
    # A program multiplies dense weights of one format only.
    stays_sparse = isinstance(block.own_weights, SparseWeights) and weights_dtype != EXACT
    if stays_sparse or (size and csr_is_faster(kept / size, columns, _are_alike(block))):
        return SameBitsCsrProduct if columns is None else CsrProduct
    return partial(
        DenseProduct,
        weights_dtype=weights_dtype,
        same_bits=columns is None,
        arena=resources.arena,
        # Their rows are not shared by threads.
        has_events=has_events and resources.threads == 1,
    )


def _are_alike(block: Block) -> bool:
    """Whether most entries of a block that is stored sparse are in rows that are multiplied together."""
    parts = [part for part in weights_of(block) if isinstance(part, SparseWeights)]
    entries = sum(part.size for part in parts)
    return entries > 0 and sum(alike_share(part, ALIKE_ROWS) * part.size for part in parts) > entries / 2


def weights_of(block: Block) -> tuple[Weights, ...]:
    """The parts of a block's weights: for own neurons, for ghosts, for sums."""
    return block.own_weights, block.ghost_weights, block.sum_weights
