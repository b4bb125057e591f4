"""Scores of queries and keys that a graph makes before they weigh values.

A graph writes attention in pieces: a product of two values, a scale, masks, a Softmax, another product.
``Scores`` is what is known after any of these pieces.  Nothing is made of them until the last product, which
makes one ``Attention``; where a graph uses them for something else, they are made as they are written.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np

from repurpose_hpc.model.importers.onnx.signal import Signal, Unsupported, Value
from repurpose_hpc.model.operations import UNLIMITED

# A score that is so much lower than another has a weight of 0.
UNSEEN = -1e9
_LOWEST = np.finfo(np.float32).min


@dataclass(frozen=True, eq=False)
class Deferred:
    """The only output of a node that is computed when it is needed first.

    Attributes:
        compute: the outputs.
        origin: the node, for messages.
    """

    compute: Callable[[], tuple[Value | Scores | None, ...]]
    origin: str

    @cached_property
    def value(self) -> Value | None:
        """The output.

        Raises:
            Unsupported: it is not supported.
        """
        try:
            value = plain(*self.compute())
        except Unsupported as error:
            raise Unsupported(f"it reads {self.origin}: {error}") from None
        return value


@dataclass(frozen=True, eq=False)
class Scores:
    """scale Qᵀ K, and what was done to it.

    Attributes:
        queries, keys: (samples, heads, S, d) and (samples, heads, T, d).
        shape: in ONNX: (..., S, T), samples and heads before these.
        scale: of the products.
        softcap: see ``Attention``; 0: none.
        masks: what is added: constants (heads or 1, S, T), and signals (samples, heads or 1, S or 1, T).
        stage: "scores"; "weights", behind a Softmax over the keys; "undefined", where these are NaN.
        may_be_empty: whether a position that sees nothing, all its scores -inf, gets zeros and not NaN.
        plain: the value as the graph computes it, for any other use.
    """

    queries: Signal
    keys: Signal
    shape: tuple[int, ...]
    scale: float = 1.0
    softcap: float = 0.0
    masks: tuple[np.ndarray | Signal, ...] = ()
    stage: str = "scores"
    may_be_empty: bool = False
    plain: Deferred | None = None

    @property
    def heads(self) -> int:
        """How many."""
        return self.queries.shape[1]

    def is_like(self, other: Scores) -> bool:
        """Whether another is made of the same values in the same way."""
        pairs = ((getattr(self, each.name), getattr(other, each.name)) for each in fields(self))
        return all(a is b or isinstance(a, (float, str, bool)) and a == b for a, b in pairs)

    def with_constant(self, mask: np.ndarray) -> Scores:
        """Scores to which a constant is added, of a shape that is broadcast to that in ONNX.

        Raises:
            Unsupported: it differs from sample to sample, or has more axes than the scores.
        """
        if mask.ndim > len(self.shape):
            raise Unsupported(f"a mask of shape {mask.shape} is added to scores of shape {self.shape}")
        mask = mask.astype(np.float64)
        mask = mask.reshape((1,) * (len(self.shape) - mask.ndim) + mask.shape)
        lead, (rows, columns) = self.shape[:-2], self.shape[-2:]
        if math.prod(mask.shape[:-2]) == 1:
            full = np.broadcast_to(mask.reshape(1, *mask.shape[-2:]), (1, rows, columns))
        elif self._keeps_samples and len(mask) == 1:
            full = np.broadcast_to(mask, (1, *lead[1:], rows, columns)).reshape(-1, rows, columns)
        else:
            raise Unsupported(f"a mask of shape {mask.shape} differs from sample to sample")
        return replace(self, masks=(*self.masks, full))

    def with_signal(self, mask: Signal) -> Scores:
        """Scores to which a value of the graph is added, broadcast likewise.

        Raises:
            Unsupported: its axes are not those of the scores.
        """
        further = len(self.shape) - len(mask.shape)
        if not self._keeps_samples or further:  # of fewer axes, the samples meet others than samples
            raise Unsupported(f"a mask of shape {mask.shape} is added to scores of shape {self.shape}")
        samples, *sizes = mask.shape
        heads = math.prod(sizes[:-2])
        if (
            heads not in (1, self.heads)
            or sizes[-1] != self.shape[-1]
            or sizes[-2] not in (1, self.shape[-2])
        ):
            raise Unsupported(f"a mask of shape {mask.shape} is added to scores of shape {self.shape}")
        return replace(self, masks=(*self.masks, mask.reshaped((samples, heads, *sizes[-2:]))))

    @property
    def _keeps_samples(self) -> bool:
        """Whether the samples have the first axis in ONNX for themselves."""
        return self.shape[0] == self.queries.shape[0]


def plain(value: Value | Scores | None) -> Value | None:
    """A value for any use.

    Raises:
        Unsupported: what was put off is not supported.
    """
    if not isinstance(value, Scores):
        return value
    assert value.plain is not None
    return value.plain.value


@dataclass(frozen=True, eq=False)
class Mask:
    """Constant masks of scores, as ``Attention`` takes them: ``bias``, ``seen``, ``before``, ``after``."""

    bias: np.ndarray
    seen: np.ndarray
    before: int = UNLIMITED
    after: int = UNLIMITED

    @classmethod
    def of(cls, scores: Scores) -> Mask:
        """The sum of the constant masks of scores.

        Numbers that leave no weight become truth, unless values of the graph are added to them.

        Raises:
            Unsupported: a position sees nothing, or a number is NaN or infinite.
        """
        result = cls(np.zeros((0, 1, 1), np.float32), np.zeros((0, 1, 1), bool))
        masks = [mask for mask in scores.masks if isinstance(mask, np.ndarray)]
        if not masks:
            return result
        total = sum(masks[1:], masks[0])
        heads_agree = len(total) > 1 and bool((total == total[:1]).all())
        total = total[:1] if heads_agree else total
        largest = total.max(axis=2, keepdims=True)
        if not (largest < np.inf).all():
            raise Unsupported("a mask has numbers that are NaN or infinite")
        is_alone = len(masks) == len(scores.masks)
        seen = total > (largest + UNSEEN if is_alone else -np.inf)
        if not scores.may_be_empty and (largest == -np.inf).any():
            raise Unsupported("a mask leaves a position that sees nothing")
        bias = np.where(seen, total, 0)
        if bias.any():
            result = replace(result, bias=np.maximum(bias, _LOWEST).astype(np.float32))
        return result if seen.all() else result.with_seen(seen)

    def with_seen(self, seen: np.ndarray) -> Mask:
        """The same, of which only some positions are seen: a band, if they are one."""
        distance = np.arange(seen.shape[2]) - np.arange(seen.shape[1])[:, None]
        if len(seen) > 1 or not seen.any():
            return replace(self, seen=seen)
        near = distance[seen[0]]
        first, last = int(near.min()), int(near.max())
        before = UNLIMITED if first == distance.min() else -first
        after = UNLIMITED if last == distance.max() else last
        is_band = np.array_equal(seen[0], (distance >= first) & (distance <= last))
        # A band that does not reach the position itself has no such numbers.
        reaches = (first == distance.min() or first <= 0) and (last == distance.max() or last >= 0)
        if is_band and reaches:
            return replace(self, before=before, after=after)
        return replace(self, seen=seen)
