"""Bounds on the distance of a restructured network's output from that of the original, sample by sample.

With W_l, b_l the mixings of the original and Ŵ_l, b̂_l those of the restructured network,

    |Δ output(x)|  <=  Σ_l g_l |ε_l(x)|,   ε_l(x) = (W_l − Ŵ_l) x_l + b_l − b̂_l

with x_l the source of mixing l *in the original network* and g_l the *gain* from its target to the output:
the sum over all paths of the product of the gains of the operations on it.  The gain of an operation is the
largest factor by which it can lengthen a difference: of a mixing |Ŵ|₂, of an activation its Lipschitz
constant.  Proof.  With x, y a source and a target in the
original and x̂, ŷ in the restructured network: of a mixing y − ŷ = W x + b − (Ŵ x + b̂) + Ŵ (x − x̂), so that
|y − ŷ| <= |ε| + |Ŵ|₂ |x − x̂|; of every other operation f, |f(x) − f(x̂)| <= Σ L |x − x̂| over its sources.  The
inputs are the same in both; from there on the inequalities unroll to the sum.

Norms are Euclidean, over all neurons and positions of a sample.  A window that is applied everywhere makes
patches of a map in which every value occurs at most q times, so a convolution is no larger than √q |Ŵ|₂.
"""

from __future__ import annotations

import numpy as np

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations.mixing import Mixing, spectral_norm
from repurpose_hpc.model.operations.patches import as_map

__all__ = ["OutputBound", "spectral_norm"]


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
            tensors: all of the original network for a batch, float64 (see ``forward.trace``).

        Returns:
            (samples,) float64, Euclidean norms.
        """
        bounds = np.zeros(next(iter(tensors.values())).shape[1])
        for mixing, sensitivity in self.sensitivities:
            error = tensors[mixing.target] - mixing.compute(tensors[mixing.source])
            sizes = np.linalg.norm(as_map(error), axis=(0, 2))
            bounds += np.multiply(sensitivity, sizes, out=np.zeros_like(sizes), where=sizes > 0)
        return bounds


def _sensitivities(network: Network, norms: dict[str, float]) -> list[tuple[Mixing, float]]:
    """Sensitivity of the output to every mixing: error of the output over error of the target, at most."""
    gains = dict.fromkeys(network.space_of, 0.0)
    for name in network.output_tensors:
        gains[name] += 1.0
    mixings = {mixing.name: mixing for mixing in network.mixings}
    sensitivities = []
    for op in reversed(network.operations):
        gain = gains[op.target]
        if op.name in mixings:
            sensitivities.append((mixings[op.name], gain))
            sizes = [norms[op.name]]
        else:
            sizes = op.gain([network.shape(source) for source in op.sources], network.shape(op.target))
        for source, size in zip(op.sources, sizes, strict=True):
            # What is multiplied with zero is gone, however large.
            gains[source] += gain * size if gain and size else 0.0
    return sensitivities
