"""Losses of a batch of outputs, and their gradients.

Outputs are those of a network before its heads: logits, not probabilities.  A loss of a sample sums over its
outputs; that of a batch, of 1 sample or more, is the mean over its samples.  All is computed in float64, in a
few temporaries of the shape of the outputs.  Outputs with NaN have the loss NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from repurpose_hpc.errors import UserError


class Loss(NamedTuple):
    """The loss of a batch.

    Attributes:
        value: mean over the samples.
        gradient: of ``value`` by the outputs, of their shape and dtype.
    """

    value: float
    gradient: np.ndarray


# Of outputs (batch, outputs), float32 or float64, and of what is wanted.
LossFunction = Callable[[np.ndarray, np.ndarray], Loss]


def cross_entropy(outputs: np.ndarray, wanted: np.ndarray) -> Loss:
    """-log softmax(outputs) at the class that is wanted.

    Args:
        outputs: (batch, outputs) logits.
        wanted: (batch,) classes, integers from 0.

    Raises:
        UserError: another number of classes than of samples, or a class for which there is no output.
    """
    _check_shape(wanted, outputs.shape[:1])
    _check_classes(wanted, outputs.shape[1])
    log_shares, samples = _log_softmax(outputs), np.arange(len(outputs))
    by_sample = -log_shares[samples, wanted]
    slope = np.exp(log_shares, out=log_shares)
    slope[samples, wanted] -= 1
    return _mean(by_sample, slope, outputs)


def distillation(outputs: np.ndarray, wanted: np.ndarray) -> Loss:
    """Kullback-Leibler divergence of softmax(outputs) from softmax(wanted): Σ w · (log w - log o).

    Args:
        outputs: (batch, outputs) logits.
        wanted: those of the original network, (batch, outputs).

    Raises:
        UserError: ``wanted`` is of another shape.
    """
    _check_shape(wanted, outputs.shape)
    found, original = _log_softmax(outputs), _log_softmax(wanted)
    shares = np.exp(original)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        terms = shares * (original - found)
    terms[(shares == 0) & ~np.isnan(found)] = 0
    return _mean(terms.sum(axis=1), np.exp(found) - shares, outputs)


def binary_cross_entropy(outputs: np.ndarray, wanted: np.ndarray) -> Loss:
    """-log of the probability of what is wanted, 1 with probability sigmoid(output), summed over the outputs.

    Args:
        outputs: (batch, outputs) logits.
        wanted: (batch, outputs), 0 or 1, of any type; or probabilities of 1.

    Raises:
        UserError: ``wanted`` is of another shape.
    """
    _check_shape(wanted, outputs.shape)
    logits, wanted = outputs.astype(np.float64), wanted.astype(np.float64)
    small = np.exp(-np.abs(logits))  # never too large
    with np.errstate(invalid="ignore"):  # infinity times 0
        terms = np.maximum(logits, 0) - logits * wanted + np.log1p(small)
    probabilities = np.where(logits < 0, small, 1) / (1 + small)
    return _mean(terms.sum(axis=1), probabilities - wanted, outputs)


def squared_error(outputs: np.ndarray, wanted: np.ndarray) -> Loss:
    """Σ (output - wanted)² over the outputs, not halved.

    Args:
        outputs: (batch, outputs).
        wanted: (batch, outputs), of any type.

    Raises:
        UserError: ``wanted`` is of another shape.
    """
    _check_shape(wanted, outputs.shape)
    errors = outputs.astype(np.float64) - wanted
    return _mean((errors**2).sum(axis=1), 2 * errors, outputs)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """Float64, (batch, outputs); NaN for samples with NaN or +infinity."""
    with np.errstate(invalid="ignore"):  # infinity less infinity
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _mean(by_sample: np.ndarray, slope: np.ndarray, outputs: np.ndarray) -> Loss:
    """The loss of a batch of those of its samples and their gradients."""
    return Loss(float(by_sample.mean()), (slope / len(outputs)).astype(outputs.dtype))


def _check_shape(wanted: np.ndarray, shape: tuple[int, ...]) -> None:
    if wanted.shape != shape:
        raise UserError(
            f"loss: expected what is wanted in shape {shape} as the outputs of this batch are, found "
            f"{wanted.shape}; check the labels, or choose another loss"
        )


def _check_classes(wanted: np.ndarray, outputs: int) -> None:
    if wanted.dtype.kind not in "iu":
        raise UserError(
            f"loss: expected classes that are integers, found type {wanted.dtype}; check the labels, or "
            "choose another loss"
        )
    wrong = wanted[(wanted < 0) | (wanted >= outputs)]
    if wrong.size:
        raise UserError(
            f"loss: expected classes from 0 to {outputs - 1} as the network has {outputs} outputs, found "
            f"{wrong[0]}; check the labels"
        )
