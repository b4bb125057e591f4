"""Mixings behind which no activation bends anything: combinations of their rows, and products of two.

Both rules are taken only where weights do not become more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from repurpose_hpc.model.lossless.local import straight
from repurpose_hpc.model.lossless.values import NOTHING, Values, is_padded
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Elementwise, Mixing, Operation
from repurpose_hpc.model.weights import dense

# A row is a combination of others if what is left of it is no larger, relative to it; those of float32 that
# are none leave far more.
_LEFT = 2.0**-40
# With larger factors than this, rounding of what is combined could show.
_LARGEST_FACTOR = 4.0
# Both rules are of dense algebra: of sparse mixings those with no more weights, zeros among them.
_LARGEST = 1 << 24


class Stretch(NamedTuple):
    """A mixing and what reads it, with nothing but an activation between.

    Attributes:
        first: the mixing.
        inner: it, and the activation if there is one.
        slopes, shifts: of the activation where bounds keep it straight, else NaN; (m,).
        readers: mixings that are not fixed, the only operations that read it.
    """

    first: Mixing
    inner: tuple[Operation, ...]
    slopes: np.ndarray
    shifts: np.ndarray
    readers: tuple[Mixing, ...]


def straightened(network: Network, values: dict[str, Values]) -> Network:
    """The network after the first of these rules that finds something; itself if none does.

    Args:
        network: any.
        values: what is known of its tensors.
    """
    for stretch in _stretches(network, values):
        mixings = _without_combinations(stretch)
        if mixings:
            return network.with_mixings({mixing.name: mixing for mixing in mixings}).stored_like(network)
        product = _product(stretch)
        if product is not None:
            return _without(network, stretch, product).stored_like(network)
    return network


def _stretches(network: Network, values: dict[str, Values]) -> Iterator[Stretch]:
    """Mixings that are not fixed, and whose neurons are no output's and tied to no others."""
    readers: dict[str, list[Operation]] = {}
    for op in network.operations:
        for source in op.sources:
            readers.setdefault(source, []).append(op)
    tensors: dict[str, set[str]] = {}
    for tensor, space in network.space_of.items():
        tensors.setdefault(space, set()).add(tensor)
    parts = {part for space in network.spaces for part in space.parts}
    for first in network.mixings:
        inner: tuple[Operation, ...] = (first,)
        m = len(first.bias)
        slopes, shifts = np.ones(m), np.zeros(m)
        behind = readers.get(first.target, [])
        if len(behind) == 1 and isinstance(behind[0], Elementwise):
            inner = first, behind[0]
            slopes, shifts = straight(behind[0], values[first.target])
            behind = readers.get(behind[0].target, [])
        space = network.space_of[first.target]
        is_alone = tensors[space] == {op.target for op in inner} and space not in parts
        mixings = tuple(op for op in behind if isinstance(op, Mixing) and not op.fixed)
        is_output = any(op.target in network.output_tensors for op in inner)
        is_inside = is_alone and not is_output and not first.fixed
        if is_inside and behind and len(mixings) == len(behind) and all(map(_fits, (first, *mixings))):
            yield Stretch(_dense(first), inner, slopes, shifts, tuple(map(_dense, mixings)))


def _fits(mixing: Mixing) -> bool:
    """Whether an array of all weights may be made of it."""
    return not mixing.is_sparse or math.prod(mixing.weights.shape) <= _LARGEST


def _dense(mixing: Mixing) -> Mixing:
    return replace(mixing, weights=dense(mixing.weights))


def _without_combinations(stretch: Stretch) -> list[Mixing]:
    """Readers that take rows which others combine to from these; empty if there are none, or no gain."""
    first, readers = stretch.first, stretch.readers
    is_line = ~np.isnan(stretch.slopes) & (stretch.slopes != 0)
    lines = np.flatnonzero(is_line & first.W.any(axis=1))
    if lines.size < 2:
        return []
    rows = stretch.slopes[lines, None] * first.W[lines].astype(np.float64)
    basis, others, factors = _combinations(rows)
    if not others.size:
        return []
    bias = stretch.slopes[lines] * first.bias[lines] + stretch.shifts[lines]
    constants = bias[others] - factors.T @ bias[basis]
    constants[np.abs(constants) <= _LEFT * np.abs(bias).max()] = 0
    if constants.any() and any(is_padded(reader.window) for reader in readers):
        return []
    changed = [_reading(reader, lines[basis], lines[others], factors, constants) for reader in readers]
    saved = np.count_nonzero(first.W[lines[others]])
    added = sum(
        np.count_nonzero(new.W) - np.count_nonzero(old.W) for new, old in zip(changed, readers, strict=True)
    )
    return changed if added <= saved else []


def _combinations(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows that are combinations of others.

    Returns:
        (r,) rows of a basis, (d,) rows that are combinations of it, and their factors (r, d).
    """
    from scipy.linalg import qr, solve_triangular

    scales = np.linalg.norm(rows, axis=1)
    R, order = qr((rows / scales[:, None]).T, mode="r", pivoting=True)
    diagonal = np.abs(np.diag(R))
    rank = int(np.count_nonzero(diagonal > _LEFT))
    basis, others = order[:rank], order[rank:]
    factors = solve_triangular(R[:rank, :rank], R[:rank, rank:])
    factors[np.abs(factors) <= NOTHING] = 0
    is_moderate = np.abs(factors).max(axis=0, initial=0) <= _LARGEST_FACTOR
    others, factors = others[is_moderate], factors[:, is_moderate]
    return basis, others, factors / scales[basis, None] * scales[others]


def _reading(
    reader: Mixing, basis: np.ndarray, others: np.ndarray, factors: np.ndarray, constants: np.ndarray
) -> Mixing:
    """The mixing with weights for a basis of neurons instead of those for their combinations."""
    weights = reader.W.astype(np.float64).reshape(len(reader.bias), -1, reader.taps)
    moved = weights[:, others]
    weights[:, basis] += np.einsum("bd,mdk->mbk", factors, moved)
    weights[:, others] = 0
    bias = reader.bias + moved.sum(axis=2) @ constants
    return replace(reader, weights=weights.reshape(reader.W.shape), bias=bias)


def _product(stretch: Stretch) -> Mixing | None:
    """One mixing for both; None if it would have as many weights, or cannot be."""
    first, second = stretch.first, stretch.readers[0]
    is_local = first.window is None or first.window.is_pointwise
    if len(stretch.readers) > 1 or not is_local or np.isnan(stretch.slopes).any():
        return None
    W = first.W.astype(np.float64) * stretch.slopes[:, None]
    b = first.bias * stretch.slopes + stretch.shifts
    if b.any() and is_padded(second.window):
        return None
    by_tap = second.W.astype(np.float64).reshape(len(second.bias), len(b), second.taps)
    weights = np.einsum("mjk,jn->mnk", by_tap, W, optimize=True).reshape(len(second.bias), -1)
    edges = np.count_nonzero(first.W) + np.count_nonzero(second.W)
    if np.count_nonzero(weights) >= edges:
        return None
    bias = second.bias + by_tap.sum(axis=2) @ b
    return replace(second, source=first.source, weights=weights, bias=bias)


def _without(network: Network, stretch: Stretch, product: Mixing) -> Network:
    """The network with the product of both mixings in place of the second."""
    tensors = {op.target for op in stretch.inner}
    spaces = {network.space_of[tensor] for tensor in tensors}
    gone = {op.name for op in stretch.inner}
    operations = (product if op.name == product.name else op for op in network.operations)
    return replace(
        network,
        spaces=tuple(space for space in network.spaces if space.name not in spaces),
        operations=tuple(op for op in operations if op.name not in gone),
        space_of={name: space for name, space in network.space_of.items() if name not in tensors},
        positions_of={name: of for name, of in network.positions_of.items() if name not in tensors},
    )
