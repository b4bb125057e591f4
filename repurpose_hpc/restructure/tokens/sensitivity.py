"""How much an error of what each half adds does to the outputs, measured on some texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from repurpose_hpc.model.forward import Compute, apply_head, compute, forward
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Operation
from repurpose_hpc.model.texts import UNPOOLED, Pooling, is_decoder
from repurpose_hpc.restructure.tokens.fits import Fit
from repurpose_hpc.restructure.tokens.halves import Half
from repurpose_hpc.restructure.tokens.quality import batches

MEAN = "mean"


class Sensitivity:
    """The outputs of texts, and how they differ if a half is replaced.

    Args:
        network: of tokens, the original.
        texts: ids of each, few.
        pooling: what is made of the outputs of an encoder; a mean counts, what is not of it does not.
    """

    def __init__(self, network: Network, texts: Sequence[np.ndarray], pooling: Pooling = UNPOOLED) -> None:
        self._network, self._pooling, self._is_decoder = network, pooling, is_decoder(network)
        self._batches = list(batches(network, texts))
        self._outputs = [self._run(ids, compute) for ids in self._batches]

    def difference(self, half: Half, fit: Fit) -> float:
        """What replacing a half does to the outputs, the mean over tokens.

        Of a decoder the divergence (KL) of the next token's distribution, else the squared error: of each
        token's outputs, or of each text's mean if that is what is made of them.
        """
        pairs = zip(self._batches, self._outputs, strict=True)
        sums = [self._difference(y, self._run(ids, _replacing(half, fit))) for ids, y in pairs]
        return sum(sums) / sum(len(y) for y in self._outputs)

    def _run(self, ids: np.ndarray, compute: Compute) -> np.ndarray:
        outputs = forward(self._network.at(ids.shape[1]), ids, np.float32, compute).astype(np.float64)
        if self._is_decoder or self._pooling.pool != MEAN:
            return outputs.reshape(ids.size, -1)
        means = outputs.reshape(*ids.shape, -1).mean(axis=1)
        if not self._pooling.is_normalised:
            return means
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def _difference(self, y: np.ndarray, y_hat: np.ndarray) -> float:
        if not self._is_decoder:
            return float(((y_hat - y) ** 2).sum())
        log_p, log_q = (apply_head("log_softmax", z) for z in (y, y_hat))
        return float((np.exp(log_p) * (log_p - log_q)).sum())


def _replacing(half: Half, fit: Fit) -> Compute:
    """Computes operations as they are, but for a half."""
    seen: dict[str, np.ndarray] = {}

    def replaced(op: Operation, *x: np.ndarray) -> np.ndarray:
        if half.read in op.sources:
            seen[half.read] = x[op.sources.index(half.read)]
        return fit.apply(half, seen[half.read], x[0]) if op.name == half.name else compute(op, *x)

    return replaced
