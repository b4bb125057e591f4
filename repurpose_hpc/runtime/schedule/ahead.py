"""What of layers by position is computed a round early: the inside of a tile, while its halo is on the way.

A worker's tile is there a round before the halo that ``Stitch`` puts around it.  So the tile is copied to
its place as soon as everything of the round is posted, and convolutions compute all outputs that see no halo.
When it has come, the outputs at the border follow.  Nothing else is sent or waited for, so that each rank
does it where it can.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from repurpose_hpc.kernels import Region
from repurpose_hpc.runtime.lowering.local import StitchStep, two
from repurpose_hpc.runtime.lowering.lower import LoweredOperation
from repurpose_hpc.runtime.lowering.mixings import MixingStep
from repurpose_hpc.runtime.lowering.regions import area, inside, outside

# Positions of an inside, at least.  The weights are read once more for each region of the border, which takes
# as long as a dozen positions where they come from memory.
LEAST_INSIDE = 64


class Halves(NamedTuple):
    """The outputs of a convolution: those that see no halo, and the others."""

    inside: Region
    border: list[Region]


class Ahead(NamedTuple):
    """What is done a round early.

    Attributes:
        stitch: puts a tile and its halo together.
        is_there: which of its sources are there a round early.
        layers: convolutions that read it, and what they compute early, and later.
    """

    stitch: StitchStep
    is_there: Sequence[bool]
    layers: Mapping[MixingStep, Halves]


def find_ahead(
    lowered: Iterable[LoweredOperation], begun: Mapping[str, int], waiting: Collection[str]
) -> dict[int, list[Ahead]]:
    """What can be done a round early, by round.

    Args:
        lowered: of a program, in order.
        begun: tensor -> rounds that must be over before it is complete.
        waiting: names of mixings that wait for messages themselves.
    """
    lowered, found = list(lowered), dict[int, list[Ahead]]()
    readers: dict[str, list[MixingStep]] = {}
    for (source, *_), _, step in lowered:
        if isinstance(step, MixingStep) and step.name not in waiting:
            readers.setdefault(source, []).append(step)
    for sources, target, step in lowered:
        if isinstance(step, StitchStep) and begun[target]:
            early = begun[target] - 1
            is_there = [begun[source] <= early for source in sources]
            layers = _divided(step, is_there, readers.get(target, ()))
            if layers:
                found.setdefault(early, []).append(Ahead(step, is_there, layers))
    return found


def _divided(
    stitch: StitchStep, is_there: Sequence[bool], readers: Iterable[MixingStep]
) -> dict[MixingStep, Halves]:
    """What each convolution can compute early, where that is enough."""
    known, layers = stitch.known(is_there), dict[MixingStep, Halves]()
    for step in readers if known.any() and not known.all() else ():
        convolution = step.convolution
        if convolution is None or len(convolution.window.positions) > 2:
            continue
        region = inside(known, convolution.window)
        if region is not None and area(region) >= LEAST_INSIDE:
            layers[step] = Halves(region, list(outside(region, two(convolution.window.out))))
    return layers
