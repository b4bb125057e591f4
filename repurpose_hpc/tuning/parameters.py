"""What is tuned: weights and biases of the blocks of hosted workers, in place.

A block is two local mixings (``model.operations.Mixing``).  One reads the worker's own neurons, and makes its
own rows and the sums that leave; the other reads ghosts.  Weights that were eliminated stay zero: their
derivatives are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.model.operations.patches import as_columns, as_map
from repurpose_hpc.model.weights import SparseWeights, as_sparse, dense
from repurpose_hpc.plan.shard import Block
from repurpose_hpc.runtime.lowering.blocks import weights_of
from repurpose_hpc.tuning.compiled import product, product_by_source, product_by_weights


@dataclass(frozen=True, eq=False)
class Parameter:
    """An array that is tuned.

    Attributes:
        name: unique on all ranks; the same in every run.
        worker: that has it.
        values: the array, changed in place.
        mask: where it may be other than zero, of the same shape; None: everywhere.
        reads: the tensor that it multiplies; None: it is a bias, for which there is no weight decay.
    """

    name: str
    worker: int
    values: np.ndarray
    mask: np.ndarray | None
    reads: str | None

    def masked(self, gradient: np.ndarray) -> np.ndarray:
        """A gradient that leaves what was eliminated as it is; changes ``gradient``."""
        if self.mask is not None:
            gradient *= self.mask
        return gradient


# Changes a parameter by its gradient.
Update = Callable[[Parameter, np.ndarray], None]


class LocalMixing:
    """A mixing with some rows and columns of the weights; it shares their memory with parameters.

    Where all weights were eliminated, nothing is multiplied: what relays bring, a worker has itself.

    Attributes:
        mixing: what is computed.
        parameters: weights, and the bias of the first rows, if there are any; none where the weights are part
            of a definition.
    """

    def __init__(self, part: str, worker: int, mixing: Mixing, weights: np.ndarray, bias: np.ndarray) -> None:
        """Makes room for a bias of every row, those behind ``bias`` zero."""
        all_biases = np.zeros(len(weights), weights.dtype)
        all_biases[: bias.size] = bias
        self.mixing = replace(mixing, weights=weights, bias=all_biases)
        kept = weights != 0
        mask, name = None if kept.all() else kept, f"{mixing.name} {worker} {part}"
        self._is_zero = not kept.any()
        of_weights = Parameter(f"{name} weights", worker, weights, mask, mixing.source)
        of_bias = Parameter(f"{name} bias", worker, all_biases[: bias.size], None, None)
        parameters = [of_bias] if self._is_zero else [of_weights, of_bias]
        self.parameters = [each for each in parameters if each.values.size and not mixing.fixed]

    def forward(self, x: np.ndarray) -> np.ndarray:
        """What it makes of ``x``, (rows, batch, positions)."""
        if not self._is_zero:
            return as_map(product(self.mixing, x))
        window, bias = self.mixing.window, self.mixing.bias.reshape(-1, 1, 1)
        positions = 1 if window is None else math.prod(window.out)
        return np.broadcast_to(bias, (bias.size, x.shape[1], positions))

    def by_source(self, g: np.ndarray, x: np.ndarray) -> np.ndarray | None:
        """The derivatives by ``x`` of those by what was made of it; None: they are zero."""
        return None if self._is_zero else product_by_source(self.mixing, g, x)

    def backward(self, g: np.ndarray, x: np.ndarray, update: Update) -> None:
        """Tune it by the derivatives ``g`` by what it made of ``x``."""
        if self._is_zero:
            gradients = {1: as_columns(g).sum(axis=1)}
        elif self.parameters:
            weights, bias = product_by_weights(self.mixing, g, x)
            gradients = {2: weights, 1: bias}
        for parameter in self.parameters:
            gradient = gradients[parameter.values.ndim][: len(parameter.values)]
            update(parameter, parameter.masked(gradient))


class LocalBlock:
    """A worker's block of a mixing.

    Attributes:
        rows: own neurons of the target; sums follow them in what ``own`` makes.
        own, ghost: the two local mixings.
    """

    def __init__(
        self, mixing: Mixing, block: Block, worker: int, ghosts: np.ndarray, sums: np.ndarray
    ) -> None:
        """Copies the weights.

        Args:
            mixing: bare.
            block: of the worker.
            worker: its number.
            ghosts: for each of its ghosts, in the order in which they lie in memory, the place in
                ``block.ghost_neurons``.
            sums: likewise of its sums.
        """
        self._ghosts, self._sums, self._taps, self.rows = ghosts, sums, mixing.taps, len(block.bias)
        # Without the arrays that it was made of, which would stay in memory.
        nothing = np.empty((0, 0), block.bias.dtype)
        self._lists = replace(block, own_weights=nothing, ghost_weights=nothing, sum_weights=nothing)
        self._stored = as_sparse if isinstance(block.own_weights, SparseWeights) else dense
        own_weights, ghost_weights, sum_weights = map(dense, weights_of(block))
        own = np.concatenate([own_weights, sum_weights[sums]])
        ghost = _columns(ghost_weights, ghosts, mixing.taps)
        self.own = LocalMixing("own", worker, mixing, own, block.bias)
        self.ghost = LocalMixing("ghost", worker, mixing, ghost, block.bias[:0])

    @property
    def parameters(self) -> list[Parameter]:
        """All that is tuned."""
        return [*self.own.parameters, *self.ghost.parameters]

    def tuned(self) -> Block:
        """The block with the weights as they are now; shares no memory with them."""
        own, bias = self.own.mixing.W, self.own.mixing.bias
        sum_weights = np.empty_like(own[self.rows :])
        sum_weights[self._sums] = own[self.rows :]
        back = np.argsort(self._ghosts)
        return replace(
            self._lists,
            own_weights=self._stored(own[: self.rows].copy()),
            sum_weights=self._stored(sum_weights),
            ghost_weights=self._stored(_columns(self.ghost.mixing.W, back, self._taps)),
            bias=bias[: self.rows].copy(),
        )


def _columns(weights: np.ndarray, order: np.ndarray, taps: int) -> np.ndarray:
    """Groups of columns of ``weights`` (m, g taps) in another order, C-contiguous."""
    groups = weights.reshape(len(weights), weights.shape[1] // taps, taps)[:, order]
    return np.ascontiguousarray(groups).reshape(len(weights), order.size * taps)
