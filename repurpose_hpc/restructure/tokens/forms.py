"""The forms in which what a half adds may reach every worker, and what each costs.

- *direct*: each worker sends what its neurons add to all others.
- *gathered*: it sends its neurons of a, and all multiply all of them.
- *narrow*: R combinations of what is added cross (``fits``).  Each has an owner, who adds up what the others
  send and sends the sum to all; or, in one round, all send all to all.
- *shared*: every worker computes all of it, and nothing crosses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np

from repurpose_hpc.model.comm_dtype import EXACT
from repurpose_hpc.restructure.tokens.fits import Moments, Shape, unexplained
from repurpose_hpc.restructure.tokens.halves import Half
from repurpose_hpc.restructure.tokens.method import FULL, TokenMethod

# Widths of narrow forms that are looked at: so many between none and all.
WIDTHS = 32
# Parts of a perceptron that every worker may compute.
PARTS = (0, 1 / 16, 1 / 8, 1 / 4, 1 / 2)


class Kind(Enum):
    """See the module."""

    DIRECT = "direct"
    GATHERED = "gathered"
    NARROW = "narrow"
    SHARED = "shared"


@dataclass(frozen=True)
class Form:
    """A form of a half.

    Attributes:
        kind: see the module.
        shape: of a narrow form.
        rounds: of exchanges.
    """

    kind: Kind
    shape: Shape | None
    rounds: int

    def values(self, half: Half, workers: int) -> int:
        """Values of a token that cross."""
        if self.kind == Kind.GATHERED:
            return half.neurons * (workers - 1)
        width = half.width if self.shape is None else self.shape.width
        return width * (workers - 1) * {0: 0, 1: workers, 2: 2}[self.rounds]

    def multiply_adds(self, half: Half, workers: int) -> float:
        """Multiply-adds of a token, of one worker of equal ones."""
        return self.owned(half) / workers + self.repeated(half, workers)

    def owned(self, half: Half) -> int:
        """Multiply-adds of a token that the workers share."""
        inner, out = half.inner_multiply_adds(), half.out.W.size
        if self.shape is None:
            return {Kind.DIRECT: inner + out, Kind.GATHERED: inner, Kind.SHARED: 0}[self.kind]
        rest = half.neurons - self.shape.shared
        return rest * inner // half.neurons * (self.shape.width > 0) + self.shape.width * rest

    def repeated(self, half: Half, workers: int) -> int:
        """Multiply-adds of a token that every worker does."""
        inner, out = half.inner_multiply_adds(), half.out.W.size
        if self.shape is None:
            return {Kind.DIRECT: 0, Kind.GATHERED: out, Kind.SHARED: inner + out}[self.kind]
        width, shared = self.shape.width, self.shape.shared
        # All of y is as it came: a number for each row.
        taken = width if width < half.width else 1
        summed = width * (1 if self.rounds == 2 else workers)
        read = half.width * (half.width * self.shape.predicts + shared + taken)
        return shared * inner // half.neurons + summed + read


DIRECT = Form(Kind.DIRECT, None, 1)
GATHERED = Form(Kind.GATHERED, None, 1)
SHARED = Form(Kind.SHARED, None, 0)


class Choices(NamedTuple):
    """The forms of a half that there are, each with its cost.

    Attributes:
        forms: all.
        error: what is left of y in the metric, (count,).
        values, rounds, multiply_adds: of each, (count,).
    """

    forms: list[Form]
    error: np.ndarray
    values: np.ndarray
    rounds: np.ndarray
    multiply_adds: np.ndarray


def choices_of(
    half: Half,
    moments: Moments,
    order: np.ndarray,
    workers: int,
    comm_dtype: str = EXACT,
    method: TokenMethod = FULL,
) -> Choices:
    """The forms of a half.

    Args:
        half: any.
        moments: of [x, a].
        order: of the neurons of a (``most_active``).
        workers: P.
        comm_dtype: of ghosts; the direct form has none, so that it is left out where they are rounded.
        method: which forms there are.
    """
    forms: list[Form] = []
    error: list[float] = []
    for form, left in _forms(half, moments, order, method):
        if form.kind == Kind.DIRECT and comm_dtype != EXACT:
            continue
        forms.append(form)
        error.append(left)
    return Choices(
        forms,
        np.array(error),
        np.array([form.values(half, workers) for form in forms]),
        np.array([form.rounds for form in forms]),
        np.array([form.multiply_adds(half, workers) for form in forms]),
    )


def _forms(
    half: Half, moments: Moments, order: np.ndarray, method: TokenMethod
) -> Iterator[tuple[Form, float]]:
    """Every form, and what it leaves unexplained of tokens that it was not fitted to."""
    covariance = moments.covariance
    yield DIRECT, 0.0
    yield GATHERED, 0.0
    if method.shares:
        yield SHARED, 0.0
    widths = np.unique(np.linspace(0, half.width, WIDTHS + 1).astype(int)).tolist()
    parts = PARTS if half.is_divisible and method.shares else (0,)
    for predicts in (False, True) if method.predicts else (False,):
        for shared in sorted({int(part * half.neurons) for part in parts}):
            left = unexplained(half, covariance, Shape(0, shared, predicts), order)
            known = 1 + shared + (len(covariance) - half.neurons) * predicts
            left = left * optimism(known + np.arange(left.size), moments.tokens)
            for width in widths:
                shape = Shape(width, shared, predicts)
                # All of y crosses as it is.
                if width == half.width and (shared or predicts):
                    continue
                for rounds in (1, 2) if width else (0,):
                    error = float(left[width]) if width < half.width else 0.0
                    yield Form(Kind.NARROW, shape, rounds), error


def optimism(regressors: np.ndarray, tokens: int) -> np.ndarray:
    """Error on other tokens over that on the tokens of a regression, as expected of least squares.

    Infinite where there are no more tokens than regressors: then nothing has been learnt.

    Args:
        regressors: how many, any shape.
        tokens: of the regression.
    """
    spare = np.maximum(tokens - regressors, 0)
    return np.divide(tokens + regressors, spare, out=np.full(spare.shape, np.inf), where=spare > 0)
