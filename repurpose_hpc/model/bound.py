"""How far, at most, the output of a restructured network is from that of the original, sample by sample.

With W_l, b_l the mixings of the original and Ŵ_l, b̂_l those of the restructured network,

    |Δ output(x)|  <=  Σ_l g_l |ε_l(x)|,   ε_l(x) = (W_l − Ŵ_l) x_l + b_l − b̂_l

with x_l the source of mixing l *in the original network* and g_l the *gain* from its target to the output:
the sum over all paths of the product of how much longer each operation can make a difference.  Of a
mixing that is |Ŵ|₂, of an activation its Lipschitz constant.  Proof.  With x, y a source and a target in the
original and x̂, ŷ in the restructured network: of a mixing y − ŷ = W x + b − (Ŵ x + b̂) + Ŵ (x − x̂), so that
|y − ŷ| <= |ε| + |Ŵ|₂ |x − x̂|; of every other operation f, |f(x) − f(x̂)| <= Σ L |x − x̂| over its sources.  The
inputs are the same in both; from there on the inequalities unroll to the sum.

Norms are Euclidean, over all neurons and positions of a sample.  A window that is applied everywhere makes
patches of a map in which every value occurs at most q times, so a convolution is no larger than √q |Ŵ|₂.
"""

from __future__ import annotations

import math

import numpy as np

from repurpose_hpc.model.activations import lipschitz
from repurpose_hpc.model.forward import as_map, mix, window_counts
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import (
    Affine,
    Combine,
    Depthwise,
    Elementwise,
    Mixing,
    Operation,
    Pool,
    Rearrange,
    Select,
    Window,
)


class OutputBound:
    """The layer-wise bound for one restructured network; costs the singular values of its mixings.

    Args:
        restructured: the graph of the original with other weights and biases.
        norms: |Ŵ_k|₂ of every mixing by name, where they are known; None: computed here.

    It holds in exact arithmetic; computed in float64 it may be off by the rounding of a forward pass.
    """

    def __init__(self, restructured: Network, norms: dict[str, float] | None = None) -> None:
        if norms is None:
            norms = {mixing.name: spectral_norm(mixing) for mixing in restructured.mixings}
        self.sensitivities = _sensitivities(restructured, norms)

    def __call__(self, tensors: dict[str, np.ndarray]) -> np.ndarray:
        """Upper bounds of |Δ output|, the heads not applied; infinite where products have no bound.

        Args:
            tensors: all of the original network for a batch, float64 (see ``reference.trace``).

        Returns:
            (samples,) float64, Euclidean norms.
        """
        bounds = np.zeros(next(iter(tensors.values())).shape[1])
        for mixing, sensitivity in self.sensitivities:
            error = tensors[mixing.target] - mix(mixing, tensors[mixing.source])
            sizes = np.linalg.norm(as_map(error), axis=(0, 2))
            bounds += np.multiply(sensitivity, sizes, out=np.zeros_like(sizes), where=sizes > 0)
        return bounds


def _sensitivities(network: Network, norms: dict[str, float]) -> list[tuple[Mixing, float]]:
    """Of every mixing, how much longer than an error of its target the error of the output can be."""
    gains = dict.fromkeys(network.space_of, 0.0)
    for name in network.output_tensors:
        gains[name] += 1.0
    sensitivities = []
    for op in reversed(network.operations):
        gain = gains[op.target]
        if isinstance(op, Mixing):
            sensitivities.append((op, gain))
        for source in op.sources:
            size = norms[op.name] if isinstance(op, Mixing) else _size(network, op, source)
            # What is multiplied with zero is gone, however large.
            gains[source] += gain * size if gain and size else 0.0
    return sensitivities


def spectral_norm(mixing: Mixing) -> float:
    """|W|₂, of a convolution an upper bound of it as a map from whole tensors to whole tensors.

    From the smaller of W Wᵀ and Wᵀ W: a third of the time of singular values.
    """
    W = mixing.weights.astype(np.float64)
    gram = W @ W.T if W.shape[0] <= W.shape[1] else W.T @ W
    norm = float(np.sqrt(max(np.linalg.eigvalsh(gram)[-1], 0.0)))
    return norm if mixing.window is None else norm * math.sqrt(_overlap(mixing.window))


def _size(network: Network, op: Operation, source: str) -> float:
    """How much longer than a difference of ``source`` the difference that it makes to the target can be."""
    if isinstance(op, Elementwise):
        return lipschitz(op.activation)
    if isinstance(op, Affine):
        return float(np.abs(op.scale).max())
    if isinstance(op, Pool):
        return math.sqrt(_overlap(op.window)) if op.kind == "max" else _average_norm(op)
    if isinstance(op, Depthwise):
        return math.sqrt(_overlap(op.window)) * float(np.linalg.norm(op.weights, axis=1).max())
    if isinstance(op, (Rearrange, Select)):
        return math.sqrt(np.bincount(op.index[op.index >= 0], minlength=1).max())
    assert isinstance(op, Combine)
    if op.kind in ("multiply", "divide"):
        return math.inf
    # A vector counts for every position of a map.
    return math.sqrt(network.values(op.target) / network.values(source))


def _overlap(window: Window) -> int:
    """q: the largest number of windows that a value is in."""
    indices = window.indices()
    return int(np.bincount(indices[indices >= 0]).max())


def _average_norm(op: Pool) -> float:
    """Upper bound of the norm of an average: √ of the largest sum of a row times that of a column."""
    indices = op.window.indices()
    shares = (indices >= 0) / window_counts(op)[:, None]
    columns = np.bincount(indices[indices >= 0], shares[indices >= 0])
    return math.sqrt(shares.sum(axis=1).max() * columns.max())
