"""What restructuring does to texts: errors of outputs, and of a decoder how well it tells the next token.

All by the plain NumPy reference, text by text: those of one length go through together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.forward import Compute, compute, forward, values_per_sample
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.texts import is_decoder
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.held_out import hold_out

# Values of all tensors together, of the texts that go through together.
_CHUNK = 1 << 24


@dataclass(frozen=True)
class TokenQuality:
    """A restructured network beside the original, on texts.

    Attributes:
        texts: how many.
        tokens: of all of them.
        predicted: tokens that have one before them, which tells the next; 0: it is no decoder.
        output_error: root mean square of the differences of all outputs of all tokens, over that of the
            original's outputs; before the head.
        reference_perplexity, perplexity: of the next token, of the original and of the restructured
            network: exp of the mean cross-entropy; None: nothing is predicted.
        reference_accuracy, accuracy: share of the next tokens that were the most probable; None likewise.
    """

    texts: int
    tokens: int
    predicted: int
    output_error: float
    reference_perplexity: float | None = None
    perplexity: float | None = None
    reference_accuracy: float | None = None
    accuracy: float | None = None

    @property
    def perplexity_increase(self) -> float:
        """Of a decoder: what was added to the perplexity, in percent of the original's."""
        if self.perplexity is None or self.reference_perplexity is None:
            raise ValueError("nothing was predicted")
        return 100 * (self.perplexity / self.reference_perplexity - 1)

    @property
    def accuracy_drop(self) -> float:
        """Of a decoder: what was lost of the accuracy, in percentage points."""
        if self.accuracy is None or self.reference_accuracy is None:
            raise ValueError("nothing was predicted")
        return 100 * (self.reference_accuracy - self.accuracy)


class TextSplit(NamedTuple):
    """Texts in two parts.

    Attributes:
        mask: of those that are held out, bool (texts,).
        rest: to restructure with.
        held_out: to measure with.
    """

    mask: np.ndarray
    rest: list[np.ndarray]
    held_out: list[np.ndarray]


def held_out(texts: Sequence[np.ndarray], seed: int) -> TextSplit:
    """Hold out one text in five, rounded down; which, the seed decides."""
    mask = hold_out(len(texts), seed)
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for text, is_held_out in zip(texts, mask, strict=True):
        parts[int(is_held_out)].append(text)
    return TextSplit(mask, *parts)


def first_texts(texts: Sequence[np.ndarray], tokens: int) -> list[np.ndarray]:
    """The first texts, with so many tokens together, or one more text."""
    ends = np.cumsum([text.size for text in texts])
    return list(texts[: int(np.searchsorted(ends, tokens)) + 1])


def measure(
    network: Network, cut: Cut, texts: Sequence[np.ndarray], dtype: type = np.float32
) -> TokenQuality:
    """Compare a restructured network with the original.

    Args:
        network: of tokens, the original.
        cut: the restructured network; its ghosts arrive as rounded as the plan says.
        texts: ids of each, (tokens,) integers.
        dtype: to compute in, float32 or float64.

    Raises:
        UserError: outputs that are no finite numbers, or ids that are none of the vocabulary.
    """
    rounded = cut.compute()
    squares, predicts = np.zeros(2), is_decoder(network)
    original, restructured = _Predictions(), _Predictions()
    for ids in batches(network, texts):
        z = _outputs(network, ids, dtype, compute, "the original network")
        z_hat = _outputs(cut.network, ids, dtype, rounded, "the restructured network")
        squares += _squares(z_hat - z), _squares(z)
        if predicts:
            original.add(z, ids)
            restructured.add(z_hat, ids)
    return TokenQuality(
        texts=len(texts),
        tokens=sum(text.size for text in texts),
        predicted=original.count,
        output_error=_relative(*squares),
        reference_perplexity=original.perplexity,
        perplexity=restructured.perplexity,
        reference_accuracy=original.accuracy,
        accuracy=restructured.accuracy,
    )


def batches(network: Network, texts: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Ids of some texts of one length, (texts, tokens), until all are given; short ones first."""
    by_length: dict[int, list[np.ndarray]] = {}
    for text in texts:
        by_length.setdefault(text.size, []).append(text)
    for length in sorted(by_length):
        ids = np.stack(by_length[length])
        step = max(1, _CHUNK // (length * values_per_sample(network)))
        yield from (ids[first : first + step] for first in range(0, len(ids), step))


def _outputs(network: Network, ids: np.ndarray, dtype: type, compute: Compute, subject: str) -> np.ndarray:
    """Outputs of texts (texts, tokens) before the head: (texts, tokens, outputs)."""
    network = replace(network, heads=("identity",) * len(network.heads)).at(ids.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        outputs = forward(network, ids, dtype, compute).reshape(*ids.shape, -1)
    if not np.isfinite(outputs).all():
        raise UserError(
            f"{subject}: expected outputs that are finite numbers, found others on texts of {ids.shape[1]} "
            f"tokens, computed in {np.dtype(dtype).name}; check the weights of the model"
        )
    return outputs


def _squares(values: np.ndarray) -> float:
    return float(np.sum(values.astype(np.float64) ** 2))


def _relative(difference: float, original: float) -> float:
    """Root of a sum of squares over another; of outputs that are all zero, 0 or infinity."""
    if original == 0:
        return math.inf if difference else 0.0
    return math.sqrt(difference / original)


class _Predictions:
    """The next tokens, as the outputs of those before them tell them.

    Attributes:
        count: tokens that were predicted.
    """

    def __init__(self) -> None:
        self.count = self._right = 0
        self._entropy = 0.0

    def add(self, logits: np.ndarray, ids: np.ndarray) -> None:
        """Add texts: logits (texts, tokens, vocabulary), ids (texts, tokens)."""
        logits, following = logits[:, :-1].astype(np.float64), ids[:, 1:]
        # Relative to the largest, the sum of exponentials neither overflows nor vanishes.
        below = logits - logits.max(axis=2, keepdims=True, initial=-np.inf)
        chosen = np.take_along_axis(below, following[:, :, None], axis=2)[:, :, 0]
        self._entropy += float(np.sum(np.log(np.exp(below).sum(axis=2)) - chosen))
        self._right += int(np.count_nonzero(logits.argmax(axis=2) == following))
        self.count += following.size

    @property
    def perplexity(self) -> float | None:
        """Exp of the mean cross-entropy; None: nothing was predicted."""
        with np.errstate(over="ignore"):
            return float(np.exp(self._entropy / self.count)) if self.count else None

    @property
    def accuracy(self) -> float | None:
        """Share of the tokens that were the most probable; None likewise."""
        return self._right / self.count if self.count else None
