"""Inputs on which an imported network is compared with its original."""

from __future__ import annotations

import numpy as np

from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import values_per_sample
from repurpose_hpc.model.network import Network

# Bounds and dead zones of activations are far from where data are: rows of data are scaled by these.
_SCALES = (1.0, 0.01, 30.0)
# An entry of a row, or a whole row, becomes so many times larger.
_LARGE = 1000.0
# Of probes: all of them, or so many that the reference takes seconds.
_MOST, _FEWEST = 16, 3
_MOST_MULTIPLY_ADDS, _MOST_VALUES = 1 << 33, 1 << 26
# Rows of the data, or random ones.
_ROWS = 3
_HUGE = float(np.sqrt(np.finfo(np.float32).max))
# Of the data, bytes that are looked at.
_MOST_BYTES = 1 << 26


def draw_probes(network: Network, samples: Samples | None, seed: int = 0) -> np.ndarray:
    """Rows of the data scaled down and up, rows with large entries, and zeros.

    Args:
        network: that will take them; a large one gets fewer.
        samples: rows are drawn from the first of them; None: rows are normally distributed.
        seed: of the choice.

    Returns:
        float64, (probes, inputs of the model): the first is a row as it is.
    """
    rng = np.random.default_rng(seed)
    first, *others = _rows(network.ends.inputs(network.inputs), samples, rng)
    probes = [
        *(*_scaled(first), _spiked(first, rng), np.zeros_like(first)),
        *(_LARGE * first, -_LARGE * first, _spiked(first, rng)),
        *(probe for row in others for probe in (*_scaled(row), _spiked(row, rng))),
    ]
    return np.stack(probes[: _affordable(network)])


def _scaled(row: np.ndarray) -> list[np.ndarray]:
    return [scale * row for scale in _SCALES]


def _affordable(network: Network) -> int:
    work = sum(mixing.weights.size * network.values(mixing.target) for mixing in network.mixings)
    most = min(_MOST_MULTIPLY_ADDS // max(work, 1), _MOST_VALUES // values_per_sample(network))
    return min(max(most, _FEWEST), _MOST)


def _rows(width: int, samples: Samples | None, rng: np.random.Generator) -> np.ndarray:
    """``_ROWS`` finite rows, float64, (rows, width): of the data as far as they are not all zeros."""
    rows = np.empty((0, width))
    if samples is not None:
        batch_size = min(max(_MOST_BYTES // (8 * width), 1), 256)
        block = next(iter(samples.batches(batch_size, dtype=np.float64)))
        block = block[np.isfinite(block).all(axis=1) & block.any(axis=1)]
        rows = block[rng.permutation(len(block))[:_ROWS]]
    largest = np.abs(rows).max() if len(rows) else 1.0
    return np.vstack([rows, largest * rng.standard_normal((_ROWS - len(rows), width))])


def _spiked(row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``row`` with an entry that is far larger than all others, and one far below where there are any."""
    row, largest = row.copy(), float(np.abs(row).max()) or 1.0
    places = rng.permutation(len(row))[:2]
    signs = (1, -1) if row.min() < 0 else (1,)
    for place, sign in zip(places, signs, strict=False):
        row[place] = sign * min(_LARGE * largest, _HUGE)
    return row
