"""How far, at most, the output of a restructured network is from that of the original, sample by sample.

With W_l, b_l the mixings of the original, Ŵ_l, b̂_l those of the restructured network and f_l the
activations between them, of Lipschitz constants L_l:

    |Δ output(x)|  <=  Σ_l (Π_{k>l} |Ŵ_k|₂ L_{k−1}) |ε_l(x)|,   ε_l(x) = (W_l − Ŵ_l) x_{l−1} + b_l − b̂_l

with x_{l−1} the input of mixing l *in the original network*, and L_{k−1} the constant of what stands in
front of mixing k.  Proof.  y_l − ŷ_l = (W_l x + b_l) − (Ŵ_l x + b̂_l) + Ŵ_l (x − x̂) = ε_l + Ŵ_l (x − x̂) at
x = x_{l−1}, and |x_{l−1} − x̂_{l−1}| <= L_{l−1} |y_{l−1} − ŷ_{l−1}|; so d_l = |y_l − ŷ_l| has d_0 = 0 and
d_l <= |ε_l| + |Ŵ_l|₂ L_{l−1} d_{l−1}, which unrolls to the sum.
"""

from __future__ import annotations

import numpy as np

from repurpose_hpc.model.activations import lipschitz
from repurpose_hpc.model.network import Mixing, Network
from repurpose_hpc.model.reference import mix


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
        """Upper bounds of |Δ output|, the head not applied.

        Args:
            tensors: all of the original network for a batch, (neurons, samples) float64 each (see
                ``reference.trace``).

        Returns:
            (samples,) float64, Euclidean norms.
        """
        bounds = np.zeros(next(iter(tensors.values())).shape[1])
        for mixing, sensitivity in self.sensitivities:
            error = tensors[mixing.target] - mix(mixing, tensors[mixing.source])
            bounds += sensitivity * np.linalg.norm(error, axis=0)
        return bounds


def _sensitivities(network: Network, norms: dict[str, float]) -> list[tuple[Mixing, float]]:
    """Of every mixing, how much longer than an error of its target the error of the output can be."""
    gains = {network.output: 1.0}
    sensitivities = []
    for op in reversed(network.operations):
        gain = gains.get(op.target, 0.0)
        if isinstance(op, Mixing):
            sensitivities.append((op, gain))
            if op.source == network.input:
                continue
            gain *= norms[op.name]
        else:
            gain *= lipschitz(op.activation)
        gains[op.source] = gains.get(op.source, 0.0) + gain
    return sensitivities


def spectral_norm(mixing: Mixing) -> float:
    """|W|₂, from the smaller of W Wᵀ and Wᵀ W: a third of the time of singular values."""
    W = mixing.weights.astype(np.float64)
    gram = W @ W.T if W.shape[0] <= W.shape[1] else W.T @ W
    return float(np.sqrt(max(np.linalg.eigvalsh(gram)[-1], 0.0)))
