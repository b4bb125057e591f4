"""Neurons on several axes of a signal, such as heads and their features, and positions on all others."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from repurpose_hpc.model.importers.onnx.regrouping import LARGEST_WEIGHTS
from repurpose_hpc.model.importers.onnx.signal import Signal, Unsupported


def joined_axes(
    signals: Sequence[Signal], per_neuron: Sequence[int], neurons: Collection[int] = ()
) -> tuple[int, ...] | None:
    """The axes, the samples not counted, on which the neurons of signals of as many axes lie.

    All other axes are those of their positions.

    Args:
        signals: settled.
        per_neuron: values of a neuron of the tensor of each.
        neurons: axes that are to be among them.

    Returns:
        None if there are no such axes.
    """
    parts = [np.divmod(signal.places, size) for signal, size in zip(signals, per_neuron, strict=True)]
    axes = range(len(signals[0].shape) - 1)
    chosen = tuple(
        axis for axis in axes if axis in neurons or not all(_is_same(numbers, axis) for numbers, _ in parts)
    )
    fits = all(_is_same(positions, axis) for _, positions in parts for axis in chosen)
    return chosen if chosen and fits else None


def with_axes_joined(signal: Signal, axes: Sequence[int]) -> Signal:
    """A signal with some axes as one, in front of all others."""
    places = np.moveaxis(signal.places, axes, range(len(axes)))
    return signal.placed(places.reshape(-1, *places.shape[len(axes) :]))


def with_axes_apart(signal: Signal, shape: tuple[int, ...], axes: Sequence[int]) -> Signal:
    """The inverse of ``with_axes_joined``: the signal that has ``shape``, the samples in front."""
    sizes = shape[1:]
    others = [size for axis, size in enumerate(sizes) if axis not in axes]
    places = signal.places.reshape(*(sizes[axis] for axis in axes), *others)
    return signal.placed(np.moveaxis(places, range(len(axes)), axes))


def with_mixed_axes_apart(signal: Signal, per_neuron: int, axes: Collection[int]) -> Signal:
    """A signal with those of some axes as two that have positions and neurons, such as tokens and heads.

    Args:
        signal: settled.
        per_neuron: values of a neuron of its tensor.
        axes: the samples not counted.
    """
    numbers, positions = np.divmod(signal.places, per_neuron)
    sizes: list[int] = []
    for axis, size in enumerate(signal.shape[1:]):
        is_mixed = axis in axes and not _is_same(numbers, axis) and not _is_same(positions, axis)
        inner = max(_period(each, axis) for each in (numbers, positions)) if is_mixed else size
        sizes += [size] if inner in (1, size) or size % inner else [size // inner, inner]
    return signal.reshaped((signal.shape[0], *sizes))


def _period(numbers: np.ndarray, axis: int) -> int:
    """The first place along an axis with the number of place 0; its size where there is none."""
    row = np.moveaxis(numbers, axis, 0).reshape(numbers.shape[axis], -1)[:, 0]
    again = np.flatnonzero(row[1:] == row[0])
    return 1 + int(again[0]) if again.size else row.size


def members(sizes: Sequence[int], kept: Sequence[int]) -> np.ndarray:
    """Which values of an array belong to which group, ones and zeros, (groups, values) float32.

    Args:
        sizes: of the array.
        kept: those of the groups, 1 along axes on which all values belong together.

    Raises:
        Unsupported: there are too many.
    """
    groups = np.arange(math.prod(kept))
    if groups.size * math.prod(sizes) > LARGEST_WEIGHTS:
        raise Unsupported(f"it groups {math.prod(sizes)} neurons by {groups.size}, which is too many")
    member_of = np.broadcast_to(groups.reshape(kept), sizes).ravel()
    return (member_of == groups[:, None]).astype(np.float32)


def _is_same(numbers: np.ndarray, axis: int) -> bool:
    """Whether numbers do not change along an axis."""
    return bool((numbers == numbers.take([0], axis)).all())
