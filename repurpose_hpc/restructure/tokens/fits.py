"""What stands for y = W a + b of a half when less than y crosses, fitted to calibration data.

    ŷ = U z + A x + V a_s + b',    z = C W_r a_r

with x what the half reads, which every worker has; a_s the neurons that every worker computes, and a_r the
rest, which have owners.  Only z crosses, R numbers.  C has the leading principal directions of what x and a_s
do not tell of W_r a_r, in the metric of the normalisation behind; so no other R numbers leave less of it.
U, A, V and b' are the ridge regression of W_r a_r on what is there.  All follow from second moments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from repurpose_hpc.restructure.tokens.halves import Half
from repurpose_hpc.restructure.tokens.method import FULL, TokenMethod

# Added to the variance of what is regressed on, which is 1: it makes singular moments regular.
RIDGE = 1e-5


class Moments:
    """Mean and covariance of vectors, over tokens.

    Sums are in float64 and relative to the mean: a few tokens of a trained stream are much larger than all
    others, and some neurons than they vary, so that little would be left of their squares in float32.

    Args:
        parts: gives the vectors, (size, tokens) in each part, whenever it is called.
    """

    def __init__(self, parts: Callable[[], Iterable[np.ndarray]]) -> None:
        sums = [(part.shape[1], part.sum(axis=1, dtype=np.float64)) for part in parts()]
        self.tokens = sum(tokens for tokens, _ in sums)
        self.mean = np.sum([total for _, total in sums], axis=0) / self.tokens
        self.covariance = np.zeros((self.mean.size, self.mean.size))
        for part in parts():
            V = part - self.mean[:, None]
            self.covariance += V @ V.T / self.tokens


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
        C = (self.C @ half.out.W[:, rest]).astype(a.dtype)
        U, A, V, b = (array.astype(a.dtype) for array in (self.U, self.A, self.V, self.bias))
        flat_x, flat_a = x.reshape(len(x), -1)[: A.shape[1]], a.reshape(len(a), -1)
        y = U @ (C @ flat_a[rest]) + A @ flat_x + V @ flat_a[self.shared] + b[:, None]
        return y.reshape(half.width, *a.shape[1:])


def most_active(half: Half, variance: np.ndarray) -> np.ndarray:
    """The neurons of a, those first that change y most; ``variance`` (n,) is theirs."""
    weights = half.out.W.astype(np.float64) * half.metric[:, None]
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
    W = half.out.W[:, rest].astype(np.float64)
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
    B = _regression(S[np.ix_(known, known)], S[known, y])
    left = S[y, y] - B @ S[known, y]
    in_metric = left * np.outer(half.metric, half.metric)
    if method.rotates:
        _, vectors = np.linalg.eigh((in_metric + in_metric.T) / 2)
        C = _signed(vectors[:, ::-1][:, :R].T) * half.metric
    else:
        C = np.eye(D)[np.sort(np.argsort(-np.diag(in_metric), kind="stable")[:R])]
    if not method.adjusts:
        return Fit(shared, C, np.linalg.pinv(C), np.zeros((D, 0)), half.out.W[:, shared], half.out.bias)
    # Regression on z and what is known, in two steps: on what z tells beyond that, whatever its scale is.
    U = _regression(C @ left @ C.T, C @ left)
    B -= U @ C @ B
    n_a = known.size - shared.size
    bias = half.out.bias + mean[y] - U @ C @ mean[y] - B @ mean[known]
    return Fit(shared, C, U, B[:, :n_a], half.out.W[:, shared] + B[:, n_a:], bias)


def _left(S_yy: np.ndarray, S_ff: np.ndarray, S_fy: np.ndarray) -> np.ndarray:
    """The covariance of y that f does not explain."""
    return S_yy - _regression(S_ff, S_fy) @ S_fy


def _regression(S_ff: np.ndarray, S_fy: np.ndarray) -> np.ndarray:
    """The weights of f for y, (y, f): the ridge regression on f of unit variance."""
    scale = np.sqrt(np.maximum(np.diag(S_ff), 0))
    scale[scale == 0] = 1.0  # never varies; any will do
    normal = S_ff / np.outer(scale, scale) + RIDGE * np.eye(len(scale))
    return (np.linalg.solve(normal, S_fy / scale[:, None]) / scale[:, None]).T


def _signed(rows: np.ndarray) -> np.ndarray:
    """Rows, each with its largest entry positive: LAPACK may return either sign."""
    largest = np.abs(rows).argmax(axis=1)
    return rows * np.sign(rows[np.arange(len(rows)), largest])[:, None]
