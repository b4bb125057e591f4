"""Who computes how much: heads are owned as a whole, and neurons of perceptrons make up for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.plan import REPLICATED, block_owners, near_owners
from repurpose_hpc.restructure.tokens.budget import trained_weights
from repurpose_hpc.restructure.tokens.forms import Form
from repurpose_hpc.restructure.tokens.halves import Half


class Balance:
    """The work of the workers for any forms of the halves of a network.

    Args:
        network: of tokens, the original.
        halves: its halves.
        part_weights: relative capacities of the workers, (P,).

    Attributes:
        owners: of the neurons of every space, by name, were nothing everybody's.
    """

    def __init__(self, network: Network, halves: Sequence[Half], part_weights: np.ndarray) -> None:
        self._halves, self._shares = halves, part_weights / part_weights.sum()
        self.owners = near_owners(network, block_owners(network, REPLICATED, part_weights))
        self._heads = [
            np.bincount(self.owners[network.space_of[half.out.source]], minlength=part_weights.size)
            / half.neurons
            for half in halves
        ]
        of_halves = sum(half.inner_multiply_adds() + half.out.W.size for half in halves)
        # What is not of a half, such as the output layer.
        self.others = trained_weights(network) - of_halves

    def perceptrons(self, forms: Sequence[Form]) -> np.ndarray:
        """The part of the perceptrons that each worker gets, (P,): what makes up for its heads."""
        parts = np.maximum(self._shares * self._owned(forms) - self._of_heads(forms), 0)
        return parts / parts.sum() if parts.any() else self._shares

    def busiest(self, forms: Sequence[Form]) -> float:
        """Multiply-adds of a token of the worker that has most for its share, over its share."""
        of_perceptrons = self._owned(forms) - self._of_heads(forms).sum()
        repeated = sum(
            form.repeated(half, self._shares.size) for half, form in zip(self._halves, forms, strict=True)
        )
        loads = self._of_heads(forms) + of_perceptrons * self.perceptrons(forms) + repeated
        return float((loads / self._shares).max()) + self.others

    def _owned(self, forms: Sequence[Form]) -> int:
        return sum(form.owned(half) for half, form in zip(self._halves, forms, strict=True))

    def _of_heads(self, forms: Sequence[Form]) -> np.ndarray:
        found = np.zeros(self._shares.size)
        for half, form, heads in zip(self._halves, forms, self._heads, strict=True):
            if not half.is_divisible:
                found += form.owned(half) * heads
        return found
