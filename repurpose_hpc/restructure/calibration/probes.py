"""Step 1.2: random directions of the outputs, whose covariance says what an error of them matters.

Of a classifier it is the Fisher information of its classes or labels, so that only what can change them
counts; of any other network the identity.  Weights of outputs multiply squared errors, hence the covariance.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from repurpose_hpc.fields import FieldError
from repurpose_hpc.model.network import Network

# Of the values of an output, (values, batch): random g, (values, batch).
Probe = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def value_weights(network: Network, output_weights: tuple[float, ...] | None) -> np.ndarray | None:
    """The weight of the squared error of each value of the outputs, (outputs,); the mean is 1.

    Args:
        network: any.
        output_weights: one for each output, or one for each value; None: all count the same.

    Raises:
        FieldError: another number of them.
    """
    if output_weights is None:
        return None
    sizes = [network.size(tensor) for tensor in network.output_tensors]
    if len(output_weights) not in (len(sizes), network.outputs):
        raise FieldError(
            "output_weights",
            f"expected one number for each output ({len(sizes)}) or for each column of them all "
            f"({network.outputs}), got {len(output_weights)}; give as many",
        )
    weights = np.array(output_weights)
    weights = weights if len(weights) == network.outputs else np.repeat(weights, sizes)
    return weights / weights.mean()


def plain_probe(z: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Covariance I."""
    return rng.choice([-1.0, 1.0], size=z.shape)


def fisher_probe(z: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Covariance diag(p) − p pᵀ, for p = softmax(z)."""
    exponentials = np.exp(z - z.max(axis=0))
    p = exponentials / exponentials.sum(axis=0)
    noise = np.sqrt(p) * rng.standard_normal(z.shape)
    return noise - p * noise.sum(axis=0)


def logit_probe(z: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Covariance diag(p (1 − p)), for p = sigmoid(z)."""
    # Without overflow: p (1 − p) is the same for z and −z.
    small = np.exp(-np.abs(z))
    return plain_probe(z, rng) * np.sqrt(small) / (1 + small)


def probability_probe(p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Covariance diag(1 / (p (1 − p))), for probabilities p; 0 where they are certain."""
    variance = np.clip(p, 0, 1) * (1 - np.clip(p, 0, 1))
    certain = variance == 0
    return plain_probe(p, rng) * np.where(certain, 0, 1 / np.sqrt(np.where(certain, 1, variance)))
