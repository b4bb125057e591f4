"""Step 1.1: the moments of a mixing, from calibration data streamed batch by batch.

*Moments* of the inputs x̂ of the restructured network and the pre-activations y of the original one:
with them every least-squares question about the mixing is linear algebra.

A mixing on maps sees many *columns* in each sample, a patch for each position of its target.  Some of the
samples, and some positions drawn at random in each, tell enough.

Batches are propagated by the team in turn; every rank is then given the tensors and adds its slabs of
rows to the sums.  Neither batches nor slabs depend on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from repurpose_hpc.io.samples import Samples, check_finite
from repurpose_hpc.model.forward import patches, patches_at, values_per_sample
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.restructure.team import Team

# Samples propagated at a time, at most; part of the result, since it orders the sums.
BATCH = 1000
# Values of all tensors of two networks that a batch on maps may have: 512 MiB.
BATCH_VALUES = 1 << 26
# Values of all tensors of a network that any batch may have: 2 GiB.
MOST_VALUES = 1 << 28
# Columns for each of the n k weights of a row: fitting to so many makes the error on others larger by 5 %.
COLUMNS_PER_WEIGHT = 20
# The fewest samples and columns on maps: columns of one sample are alike, so that they count less.
FEWEST_SAMPLES = 2_000
FEWEST_COLUMNS = 20_000
# Rows of a sum that are added up together by one rank; part of the result for the same reason.
SLAB = 256
# Weight of staying near the original weights, relative to the mean variance of an input.
RIDGE = 1e-3
# The same, relative to the mean square of an input: smaller variances are rounding errors in float32.
CONSTANT = 1e-18

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Moments:
    """The least-squares problem of one mixing.

    The error of weights Ŵ (with the best bias) is, up to a constant,
    ``mean |y − Ŵ x̂ − b̂|² + α |Ŵ − W|²  =  Σ_i variance_i − 2 Ŵ_i R_iᵀ + Ŵ_i H Ŵ_iᵀ``: the second term
    keeps weights that the data do not determine at their original value.  On maps x̂ is a patch, and the
    mean is over positions too.

    Attributes:
        H: centred Gram matrix of x̂ plus α I, (n k, n k).
        R: centred mean of y x̂ᵀ plus α W, (m, n k).
        variance: of y, plus α |W_i|², (m,).
        mean_x, mean_y: (n k,) and (m,).
    """

    H: np.ndarray
    R: np.ndarray
    variance: np.ndarray
    mean_x: np.ndarray
    mean_y: np.ndarray

    @cached_property
    def best(self) -> np.ndarray:
        """Wt = R H⁻¹, (m, n k): the best weights without any restriction."""
        return cho_solve(cho_factor(self.H), self.R.T).T

    def aiming_at(self, best: np.ndarray) -> Moments:
        """The moments of the same inputs and of y = ``best`` x̂, (m, n k)."""
        R = best @ self.H
        moments = replace(self, R=R, variance=np.einsum("ij,ij->i", R, best))
        moments.__dict__["best"] = best  # as cached
        return moments


def data_free_moments(mixing: Mixing) -> Moments:
    """The moments of uncorrelated inputs of variance 1: G = I, the Frobenius form of the paper."""
    W = mixing.W.astype(np.float64)
    m, n = W.shape
    return Moments(np.eye(n), W, np.einsum("ij,ij->i", W, W), np.zeros(n), np.zeros(m))


class ProductSum:
    """Σ a bᵀ over batches, (rows, columns), in slabs of rows that stay with the rank that adds them."""

    def __init__(self, rows: int, columns: int, team: Team) -> None:
        self.team = team
        self.slabs = [slice(first, min(first + SLAB, rows)) for first in range(0, rows, SLAB)]
        self.sums = [np.zeros((0, columns))] * len(self.slabs)

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """Add a batch: a (rows, batch), b (columns, batch); collective."""

        def add_slab(number: int) -> None:
            slab = self.slabs[number]
            product = a[slab] @ b[self._first_column(slab) :].T
            self.sums[number] = self.sums[number] + product if len(self.sums[number]) else product

        self.team.apply(add_slab, range(len(self.slabs)))

    def total(self) -> np.ndarray:
        """The sum; collective."""
        return np.concatenate(self._totals())

    def _first_column(self, slab: slice) -> int:
        """The first column that a slab adds up."""
        return 0

    def _totals(self) -> list[np.ndarray]:
        return self.team.map(self.sums.__getitem__, range(len(self.slabs)))


class SquareSum(ProductSum):
    """Σ a aᵀ over batches, (rows, rows): it is symmetric, so that half of it is added up."""

    def __init__(self, rows: int, team: Team) -> None:
        super().__init__(rows, rows, team)

    def add_square(self, a: np.ndarray) -> None:
        """Add a batch: a (rows, batch); collective."""
        self.add(a, a)

    def total(self) -> np.ndarray:
        """The sum; collective."""
        rows = self.slabs[-1].stop
        total = np.empty((rows, rows))
        for slab, part in zip(self.slabs, self._totals(), strict=True):
            total[slab, slab.start :] = part
            total[slab.stop :, slab] = part[:, slab.stop - slab.start :].T
        return total

    def _first_column(self, slab: slice) -> int:
        return slab.start


class InputSums:
    """Sums over batches of what mixings read, from which their moments are made.

    All samples are taken relative to the first one: means far from zero must not drown the variances
    in rounding, and an input that never changes has variance 0 exactly.

    Args:
        columns: n k.
        team: shares the work.
    """

    def __init__(self, columns: int, team: Team) -> None:
        self.xx, self.x = SquareSum(columns, team), np.zeros(columns)
        self.first_x = np.zeros(columns)
        self.count = 0

    def add(self, x: np.ndarray) -> np.ndarray:
        """Add a batch: x̂ (n k, columns); x̂ relative to the first one; collective."""
        if not self.count:
            self.first_x = x[:, 0].copy()
        x = x - self.first_x[:, None]
        self.xx.add_square(x)
        self.x += x.sum(axis=1)
        self.count += x.shape[1]
        return x

    def moments(self, mixing: Mixing) -> Moments:
        """The moments of a mixing that reads x itself, where y = W x + b; collective."""
        H, mean_x, _ = self.gram()
        W, mean_x = mixing.W.astype(np.float64), self.first_x + mean_x
        return Moments(H, W, np.zeros(len(W)), mean_x, W @ mean_x + mixing.bias).aiming_at(W)

    def gram(self) -> tuple[np.ndarray, np.ndarray, float]:
        """H, the mean of x̂ relative to the first one, and α; collective."""
        mean_x, G = self.x / self.count, self.xx.total()
        # In place: temporary matrices would be the most memory that restructuring ever takes.
        G /= self.count
        G -= np.outer(mean_x, mean_x)
        squares = np.mean((self.first_x + mean_x) ** 2)
        alpha = max(RIDGE * np.trace(G) / len(G), CONSTANT * squares) or 1.0
        G[np.diag_indices_from(G)] += alpha
        return G, mean_x, alpha


class MomentSums:
    """Sums over batches from which the moments of one mixing are made, whatever y is.

    Args:
        mixing: the mixing.
        team: shares the work.
    """

    def __init__(self, mixing: Mixing, team: Team) -> None:
        m, n = mixing.W.shape
        self.W = mixing.W.astype(np.float64)
        self.inputs, self.yx = InputSums(n, team), ProductSum(m, n, team)
        self.yy, self.y, self.first_y = np.zeros(m), np.zeros(m), np.zeros(m)

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Add a batch: x̂ (n k, columns) and y (m, columns); collective."""
        if not self.inputs.count:
            self.first_y = y[:, 0].copy()
        x, y = self.inputs.add(x), y - self.first_y[:, None]
        self.yx.add(y, x)
        self.yy += np.einsum("ij,ij->i", y, y)
        self.y += y.sum(axis=1)

    def moments(self) -> Moments:
        """The moments of all batches added; collective."""
        W, mean_y, count = self.W, self.y / self.inputs.count, self.inputs.count
        (H, mean_x, alpha), R = self.inputs.gram(), self.yx.total()
        R /= count
        R -= np.outer(mean_y, mean_x)
        R += alpha * W
        return Moments(
            H=H,
            R=R,
            variance=self.yy / count - mean_y**2 + alpha * np.einsum("ij,ij->i", W, W),
            mean_x=self.inputs.first_x + mean_x,
            mean_y=self.first_y + mean_y,
        )


class CalibrationBatches:
    """The batches of calibration data from which mixings are measured, and their columns.

    Networks on vectors are measured with all samples.

    Args:
        network: that the data are for.
        mixings: to be measured; the one that needs most samples decides how many there are.  None:
            all samples are taken.
        samples: calibration data.

    Attributes:
        samples: those that are propagated, evenly spaced.
        rows: of the file, to be read for a batch.
    """

    def __init__(self, network: Network, mixings: Sequence[Mixing] | None, samples: Samples) -> None:
        self.network, self.samples = network, samples
        # Of wide and deep networks even vectors are too many at a time.
        self.rows = min(BATCH, max(1, MOST_VALUES // values_per_sample(network)))
        if not any(network.positions_of.values()):
            return
        self.rows = min(BATCH, max(1, BATCH_VALUES // (2 * values_per_sample(network))))
        count = samples.samples if mixings is None else max(map(self._samples_for, mixings), default=1)
        if count < samples.samples:
            self.samples = samples.subset(_evenly_spaced(samples.samples, count))
            self.rows *= samples.samples // count

    def columns(
        self, mixing: Mixing, number: int, x: np.ndarray, y: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Columns of a batch for a mixing: x̂ (n k, columns) and y (m, columns).

        Args:
            mixing: the mixing.
            number: of the batch; decides which positions are looked at.
            x, y: tensors of its source and of its target.
        """
        all_positions, batch = self.network.values(mixing.target), x.shape[1]
        columns_wanted = max(COLUMNS_PER_WEIGHT * mixing.weights.shape[1], FEWEST_COLUMNS)
        count = -(-columns_wanted // self.samples.samples)
        # A mixing on vectors has one position.
        if mixing.window is None or count >= all_positions:
            return patches(mixing.window, x), y.reshape(len(y), -1)
        order = np.random.default_rng(number).random((batch, all_positions))
        positions = np.argpartition(order, count, axis=1)[:, :count]
        return patches_at(mixing.window, x, positions), y[:, np.arange(batch)[:, None], positions].reshape(
            len(y), -1
        )

    def _samples_for(self, mixing: Mixing) -> int:
        columns_wanted = COLUMNS_PER_WEIGHT * mixing.weights.shape[1]
        return max(FEWEST_SAMPLES, -(-columns_wanted // self.network.values(mixing.target)))


def _evenly_spaced(samples: int, count: int) -> np.ndarray:
    """A mask of ``count`` of the samples, bool (samples,)."""
    chosen = np.zeros(samples, bool)
    chosen[np.arange(count) * samples // count] = True
    return chosen


def map_batches(
    function: Callable[[int, np.ndarray], Result], batches: CalibrationBatches, team: Team
) -> Iterator[Result]:
    """``function`` (number, batch) of every batch (inputs, batch), in order, on every rank; collective.

    Every rank reads all samples, but works on its own batches only.

    Raises:
        UserError: NaN or infinity.
    """

    def work(numbered: tuple[int, np.ndarray]) -> Result:
        number, raw = numbered
        batch = raw.astype(np.float64)
        check_finite(batch, batches.samples.name, number * batches.rows)
        return function(number, np.ascontiguousarray(batch.T))

    for numbered in team.in_batches(enumerate(batches.samples.batches(batches.rows, dtype=None))):
        yield from team.map(work, numbered)
