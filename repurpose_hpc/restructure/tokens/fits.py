"""What stands for y = W a + b of a half when less than y crosses, fitted to calibration data.

    ŷ = U z + A x + V a_s + b',    z = C W_r a_r

with x what the half reads, which every worker has; a_s the neurons that every worker computes, and a_r the
rest, which have owners.  Only z crosses, R numbers.  C has the leading principal directions of what x and a_s
do not tell of W_r a_r, in the metric of the normalisation behind; so no other R numbers leave less of it.
U, A, V and b' are the ridge regression of W_r a_r on what is there.  All follow from second moments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from repurpose_hpc.restructure.tokens.halves import Half
from repurpose_hpc.restructure.tokens.method import FULL, TokenMethod

# Of the mean variance of what is regressed on, added to all: it makes singular moments regular.
RIDGE = 1e-5


class Moments:
    """Mean and covariance of vectors, over tokens.

    Products are in the precision of the vectors, which are taken relative to the mean of the first ones: some
    neurons of a trained stream are much larger than they vary, and rounded squares would hide how they do.

    Args:
        size: of a vector.
    """

    def __init__(self, size: int) -> None:
        self.tokens = 0
        self._origin = np.zeros(size)
        self._sum, self._squares = np.zeros(size), np.zeros((size, size))

    def add(self, V: np.ndarray) -> None:
        """Add vectors, (size, tokens)."""
        if not self.tokens:
            self._origin = V.mean(axis=1, dtype=np.float64).astype(V.dtype)
        self.tokens += V.shape[1]
        V = V - self._origin[:, None]
        self._sum += V.sum(axis=1, dtype=np.float64)
        self._squares += V @ V.T

    @property
    def mean(self) -> np.ndarray:
        """(size,)."""
        return self._origin + self._sum / self.tokens

    @property
    def covariance(self) -> np.ndarray:
        """(size, size)."""
        shift = self._sum / self.tokens
        return self._squares / self.tokens - np.outer(shift, shift)


@dataclass(frozen=True)
class Shape:
    """What stands for y.

    Attributes:
        width: R, numbers that cross.
        shared: neurons of a that every worker computes.
        predicts: whether there is a term of x.
    """

    width: int
    shared: int
    predicts: bool


@dataclass(frozen=True, eq=False)
class Fit:
    """The weights of a half of which R numbers cross.

    Attributes:
        shared: the neurons of a_s, ascending, (k,).
        C: (R, D).
        U: (D, R).
        A: (D, D), or (D, 0) without a term of x.
        V: (D, k).
        bias: b', (D,).
    """

    shared: np.ndarray
    C: np.ndarray
    U: np.ndarray
    A: np.ndarray
    V: np.ndarray
    bias: np.ndarray

    def rest(self, half: Half) -> np.ndarray:
        """The neurons of a_r, ascending."""
        return np.setdiff1d(np.arange(half.neurons), self.shared)

    def apply(self, half: Half, x: np.ndarray, a: np.ndarray) -> np.ndarray:
        """ŷ (D, ...) from x (D, ...) and a (n, ...), in their dtype."""
        rest = self.rest(half)
        C = (self.C @ half.out.weights[:, rest]).astype(a.dtype)
        A = self.A if self.A.shape[1] else np.zeros((half.width, len(x)))
        U, A, V, b = (array.astype(a.dtype) for array in (self.U, A, self.V, self.bias))
        flat_x, flat_a = x.reshape(len(x), -1), a.reshape(len(a), -1)
        y = U @ (C @ flat_a[rest]) + A @ flat_x + V @ flat_a[self.shared] + b[:, None]
        return y.reshape(half.width, *a.shape[1:])


def most_active(half: Half, variance: np.ndarray) -> np.ndarray:
    """The neurons of a, those first that change y most; ``variance`` (n,) is theirs."""
    weights = half.out.weights.astype(np.float64) * half.metric[:, None]
    return np.argsort(-variance * (weights**2).sum(axis=0), kind="stable")


def unexplained(half: Half, covariance: np.ndarray, shape: Shape, order: np.ndarray) -> np.ndarray:
    """What is left of y in the metric, if 0, 1, ... D numbers cross: (D + 1,), descending.

    Args:
        half: whose x and a the covariance is of, x first.
        covariance: (D' + n, D' + n).
        shape: how many neurons are computed by all, and whether x tells something.
        order: of ``most_active``.
    """
    shared, rest = order[: shape.shared], order[shape.shared :]
    n_x = len(covariance) - half.neurons
    known = np.concatenate([np.arange(n_x if shape.predicts else 0), n_x + shared])
    W = half.out.weights[:, rest].astype(np.float64)
    of_y = covariance[:, n_x + rest] @ W.T
    S_yy, S_fy = W @ of_y[n_x + rest], of_y[known]
    left = _left(S_yy, covariance[np.ix_(known, known)], S_fy) * np.outer(half.metric, half.metric)
    gone = np.cumsum(np.maximum(np.linalg.eigvalsh(left), 0))
    return np.concatenate([[0.0], gone])[::-1]


def fit(half: Half, moments: Moments, shape: Shape, shared: np.ndarray, method: TokenMethod = FULL) -> Fit:
    """Fit what stands for y.

    Args:
        half: in which it stands.
        moments: of [x, a_s, W_r a_r].
        shape: of what stands for y; of full width, it is y.
        shared: neurons of a_s, ascending.
        method: whether directions cross or neurons of the stream, and whether weights are fitted.
    """
    if shape.width == half.width:
        nothing = np.zeros((half.width, 0))
        everything = np.eye(half.width)
        return Fit(shared, everything, everything, nothing, nothing, half.out.bias.astype(np.float64))
    S, mean = moments.covariance, moments.mean
    D, R, y = half.width, shape.width, slice(len(S) - half.width, len(S))
    n_x = len(S) - D - shared.size
    known = np.arange(0 if shape.predicts else n_x, len(S) - D)
    left = _left(S[y, y], S[np.ix_(known, known)], S[known, y]) * np.outer(half.metric, half.metric)
    if method.rotates:
        _, vectors = np.linalg.eigh((left + left.T) / 2)
        C = _signed(vectors[:, ::-1][:, :R].T) * half.metric
    else:
        C = np.eye(D)[np.sort(np.argsort(-np.diag(left), kind="stable")[:R])]
    if not method.adjusts:
        return Fit(shared, C, np.linalg.pinv(C), np.zeros((D, 0)), half.out.weights[:, shared], half.out.bias)
    # Regression on z = C y and on what is known.
    to = np.zeros((R + known.size, len(S)))
    to[:R, y] = C
    to[R + np.arange(known.size), known] = 1
    S_ff, S_fy = to @ S @ to.T, to @ S[:, y]
    B = np.linalg.solve(_regular(S_ff), S_fy).T
    n_a = known.size - shared.size
    V = half.out.weights[:, shared] + B[:, R + n_a :]
    bias = half.out.bias + mean[y] - B @ (to @ mean)
    return Fit(shared, C, B[:, :R], B[:, R : R + n_a], V, bias)


def _left(S_yy: np.ndarray, S_ff: np.ndarray, S_fy: np.ndarray) -> np.ndarray:
    """The covariance of y that f does not explain."""
    if not len(S_ff):
        return S_yy
    return S_yy - S_fy.T @ np.linalg.solve(_regular(S_ff), S_fy)


def _regular(S: np.ndarray) -> np.ndarray:
    """A covariance with a little added to its diagonal."""
    if not len(S):
        return S
    floor = RIDGE * float(np.trace(S)) / len(S)
    # Of what never varies any will do.
    return S + (floor if floor > 0 else 1.0) * np.eye(len(S))


def _signed(rows: np.ndarray) -> np.ndarray:
    """Rows, each with its largest entry positive: LAPACK may return either sign."""
    largest = np.abs(rows).argmax(axis=1)
    return rows * np.sign(rows[np.arange(len(rows)), largest])[:, None]
