"""Calibration texts on their way through a network of tokens that is restructured half by half."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from repurpose_hpc.model.forward import split_inputs
from repurpose_hpc.model.network import Network
from repurpose_hpc.restructure.tokens.fits import Fit, Moments
from repurpose_hpc.restructure.tokens.halves import Half
from repurpose_hpc.restructure.tokens.quality import batches


def embedded(network: Network, ids: np.ndarray) -> np.ndarray:
    """Texts of one length, (texts, tokens), as inputs of the network on whole sequences: (inputs, texts)."""
    return network.ends.embeddings[ids].astype(np.float32).reshape(len(ids), -1).T


class Propagation:
    """Texts, and the tensors of the stream that are needed next.

    Args:
        network: of tokens.
        texts: ids (tokens,) of each.
    """

    def __init__(self, network: Network, texts: Sequence[np.ndarray]) -> None:
        self._network, self._done = network, 0
        self._last_use = {source: i for i, op in enumerate(network.operations) for source in op.sources}
        self._batches: list[tuple[Network, dict[str, np.ndarray]]] = []
        for ids in batches(network, texts):
            at = network.at(ids.shape[1])
            self._batches.append((at, split_inputs(at, embedded(network, ids))))

    def reach(self, half: Half) -> None:
        """Compute all that comes before what a half adds."""
        end = next(i for i, op in enumerate(self._network.operations) if op.name == half.name)
        needed = {half.read, half.out.source}
        for network, tensors in self._batches:
            for i in range(self._done, end):
                op = network.operations[i]
                tensors[op.target] = op.compute(*(tensors[source] for source in op.sources))
                for source in {*op.sources} - needed:
                    if self._last_use[source] <= i:
                        del tensors[source]
        self._done = end

    def pairs(self, half: Half) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """x (D, tokens) and a (n, tokens) of a half that was reached, batch by batch."""
        for _, tensors in self._batches:
            x, a = tensors[half.read], tensors[half.out.source]
            yield x.reshape(len(x), -1), a.reshape(len(a), -1)

    def replace(self, half: Half, fit: Fit | None) -> None:
        """Go on behind a half that was reached, with what stands for it; None: it is as it was."""
        for _, tensors in self._batches:
            x, a = tensors[half.read], tensors.pop(half.out.source)
            tensors[half.out.target] = half.out_of(a) if fit is None else fit.apply(half, x, a)
            if self._last_use[half.read] <= self._done:
                tensors.pop(half.read, None)
        self._done += 1


def joint_moments(propagation: Propagation, half: Half) -> Moments:
    """Moments of [x, a] of a half that was reached."""
    return Moments(lambda: (np.concatenate(pair) for pair in propagation.pairs(half)))


def fitting_moments(propagation: Propagation, half: Half, shared: np.ndarray) -> Moments:
    """Moments of [x, a_s, W_r a_r] of a half that was reached; ``shared`` are the neurons of a_s."""
    rest = np.setdiff1d(np.arange(half.neurons), shared)
    W = half.out.W[:, rest].astype(np.float32)
    return Moments(lambda: (np.concatenate([x, a[shared], W @ a[rest]]) for x, a in propagation.pairs(half)))
