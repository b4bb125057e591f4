"""How far the answers of two networks diverge.

Of a classifier it is the Kullback-Leibler divergence of its classes or labels, so that only what can change
them counts; of any other network half the squared error.  For small errors it is half their squares in the
covariance of the ``probes``.  Weights of outputs multiply squared errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from scipy.special import expit, log_expit, log_softmax, logit, softmax

from repurpose_hpc.io.meaning import CLASSES
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import joined_values, split_values
from repurpose_hpc.model.labels import is_classified, thresholds, understood
from repurpose_hpc.model.network import Network
from repurpose_hpc.restructure.calibration.probes import (
    Probe,
    fisher_probe,
    logit_probe,
    plain_probe,
    probability_probe,
)

# Probabilities nearer to 0 or 1 are taken for so near: float32 knows no nearer ones to 1.
CERTAIN = 2.0**-24


class OutputKind(NamedTuple):
    """What an error of an output matters.

    Attributes:
        probe: for small errors.
        divergence: of the values of an output z and others ẑ, (values, batch): of each sample, (batch,).
    """

    probe: Probe
    divergence: Callable[[np.ndarray, np.ndarray], np.ndarray]


class Divergence:
    """The divergence of a network's answers from those of the original.

    Args:
        network: the original.
        samples: that tell what the outputs mean.
        weights: as ``probes.value_weights`` gives them.
    """

    def __init__(self, network: Network, samples: Samples, weights: np.ndarray | None) -> None:
        self._network = network
        self._kinds = output_kinds(network, understood(network, samples))
        scales = np.ones(network.outputs) if weights is None else np.sqrt(weights)
        ends = np.cumsum([network.size(name) for name in network.output_tensors])
        self._scales = dict(zip(network.output_tensors, np.split(scales[:, None], ends[:-1]), strict=True))

    def __call__(self, y: Mapping[str, np.ndarray], y_hat: Mapping[str, np.ndarray]) -> np.ndarray:
        """Of each sample, (batch,), from the output tensors of the original and of the other network."""
        total = np.zeros(1)
        for (name, scale), kind in zip(self._scales.items(), self._kinds, strict=True):
            z, z_hat = (joined_values(self._network, name, tensors[name]) for tensors in (y, y_hat))
            total = total + kind.divergence(z, z + scale * (z_hat - z))
        return total


def output_kinds(network: Network, samples: Samples) -> list[OutputKind]:
    """What an error of every output matters.

    Args:
        network: any.
        samples: ``understood``; with classes or labels the network is a classifier.
    """
    has_classes = samples.meaning is not None and samples.meaning.kind == CLASSES
    exclusive = has_classes and network.has_classes and network.outputs > 1
    # What a back makes of several values with thresholds of their own is not known.
    by_value = (
        is_classified(samples) and not exclusive and (network.ends.back is None or network.outputs == 1)
    )
    levels = thresholds(network) if by_value else None
    if levels is not None:
        limits = split_values(network, network.output_tensors, levels[:, None])
        return [PROBABILITIES if limit.flat[0] else LOGITS for limit in limits]
    return [EXCLUSIVE if exclusive or head != "identity" else NUMBERS for head in network.heads]


def half_squares(z: np.ndarray, z_hat: np.ndarray) -> np.ndarray:
    """Half the squared error."""
    return 0.5 * np.sum((z - z_hat) ** 2, axis=0)


def class_divergence(z: np.ndarray, z_hat: np.ndarray) -> np.ndarray:
    """KL divergence of softmax(ẑ) from softmax(z)."""
    return np.sum(softmax(z, axis=0) * (log_softmax(z, axis=0) - log_softmax(z_hat, axis=0)), axis=0)


def logit_divergence(z: np.ndarray, z_hat: np.ndarray) -> np.ndarray:
    """KL divergence of labels with probabilities sigmoid(ẑ) from those with sigmoid(z)."""
    # The logarithm of 1 − p is that of p less z.
    return np.sum(log_expit(z) - log_expit(z_hat) - expit(-z) * (z - z_hat), axis=0)


def probability_divergence(p: np.ndarray, p_hat: np.ndarray) -> np.ndarray:
    """KL divergence of labels with probabilities p̂ from those with p; p̂ may be no probability."""
    return logit_divergence(*(logit(np.clip(each, CERTAIN, 1 - CERTAIN)) for each in (p, p_hat)))


NUMBERS = OutputKind(plain_probe, half_squares)
EXCLUSIVE = OutputKind(fisher_probe, class_divergence)
LOGITS = OutputKind(logit_probe, logit_divergence)
PROBABILITIES = OutputKind(probability_probe, probability_divergence)
