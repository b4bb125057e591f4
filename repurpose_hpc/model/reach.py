"""Reach: which positions of the input of a network each position of its tensors is computed from.

Maps have one axis.  A window that sees padding would see values if the map went on there, so that its reach
has no end on that side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from repurpose_hpc.fields import FieldError
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import (
    Affine,
    Combine,
    Depthwise,
    Elementwise,
    Mixing,
    Operation,
    Pool,
    Rearrange,
    Select,
    Stitch,
    Window,
)
from repurpose_hpc.model.registry import entered


class Reach(NamedTuple):
    """What each position of a tensor is computed from.

    Attributes:
        first, last: position of the input, (values,) float64.
        kind: (values,) int64, the same where the same is computed of what lies from ``first`` on.  Behind a
            nearest resize, positions that see equally far take their values from different places.
    """

    first: np.ndarray
    last: np.ndarray
    kind: np.ndarray

    def taken(self, places: np.ndarray) -> Reach:
        """Of some of the positions; -1: nothing is known of it."""
        is_known = places >= 0
        return Reach(
            np.where(is_known, self.first[places], -np.inf),
            np.where(is_known, self.last[places], np.inf),
            self.kind[places],
        )

    @classmethod
    def of_several(cls, first: np.ndarray, last: np.ndarray, kind: np.ndarray) -> Reach:
        """Of positions that are each computed from several of them, (values, several) each."""
        if first.shape[1] == 1:  # also what brings a halo to a tile, and is no other kind
            return cls(first[:, 0], last[:, 0], kind[:, 0])
        begin = first.min(axis=1)
        offset = first.clip(-_FAR, _FAR) - begin[:, None].clip(-_FAR, _FAR)
        seen = np.stack([kind, offset.astype(np.int64)], axis=1)
        kinds = np.array([hash(row.tobytes()) for row in seen], np.int64)
        return cls(begin, last.max(axis=1), kinds)


_FAR = 2.0**52  # instead of no end, where positions are subtracted

# From an operation and the reaches of its sources to that of its target; None: positions are not alike.
Rule = Callable[[Any, Sequence[Reach]], Reach | None]
_RULES: dict[type[Operation], Rule] = {}


def _rule(*kinds: type[Operation]) -> Callable[[Rule], Rule]:
    """Enter a function into ``_RULES``."""
    return entered(_RULES, *kinds)


def reach_of(network: Network) -> Reach:
    """The reach of the only output of a network in its only input.

    Raises:
        FieldError: an operation that does not do the same at every position, named.
    """
    (source,), (target,) = network.input_tensors, network.output_tensors
    places = np.arange(network.values(source), dtype=np.float64)
    reaches = {source: Reach(places, places, np.zeros(places.size, np.int64))}
    for op in network.operations:
        rule = _RULES.get(type(op))
        found = None if rule is None else rule(op, [reaches[name] for name in op.sources])
        if found is None:
            raise FieldError(
                "signal",
                f"expected operations that do the same at every position of a map, found {op.name}, "
                f"{type(op).__name__}, which does not; run the network sample by sample",
            )
        reaches[op.target] = found
    return reaches[target]


@_rule(Elementwise, Select, Combine)
def _value_by_value(op: Operation, sources: Sequence[Reach]) -> Reach | None:
    if len({source.first.size for source in sources}) > 1:  # a vector beside a map
        return None
    if len(sources) == 1:
        return sources[0]
    return Reach.of_several(*(np.stack(ends, axis=1) for ends in zip(*sources, strict=True)))


@_rule(Affine)
def _affine(op: Affine, sources: Sequence[Reach]) -> Reach | None:
    is_alike = all((array == array[:, :1]).all() for array in (op.scale, op.shift))
    return sources[0] if is_alike else None


@_rule(Mixing, Depthwise, Pool)
def _window(op: Mixing | Depthwise | Pool, sources: Sequence[Reach]) -> Reach | None:
    (source,) = sources
    if op.window is None:  # a vector, or every position by itself
        return source
    return _seen(op.window, source) if len(op.window.positions) == 1 else None


def _seen(window: Window, source: Reach) -> Reach:
    """The reach of what the positions of a window see."""
    (size,), (kernel,), (out,) = window.positions, window.kernel, window.out
    (stride,), (dilation,), (pad,) = window.strides, window.dilations, window.pads
    places = np.arange(out)[:, None] * stride + np.arange(kernel) * dilation - pad
    inside = source.taken(places.clip(0, size - 1))
    first = np.where(places < 0, -np.inf, np.where(places < size, inside.first, np.inf))
    last = np.where(places >= size, np.inf, np.where(places >= 0, inside.last, -np.inf))
    return Reach.of_several(first, last, inside.kind)


@_rule(Rearrange)
def _rearrange(op: Rearrange, sources: Sequence[Reach]) -> Reach | None:
    return sources[0].taken(op.index)


@_rule(Stitch)
def _stitch(op: Stitch, sources: Sequence[Reach]) -> Reach | None:
    joined = Reach(*(np.concatenate(ends) for ends in zip(*sources, strict=True)))
    return joined.taken(op.index)
