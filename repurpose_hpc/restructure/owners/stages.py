"""Stages: consecutive layers that some of the workers share, restructured among these.

Workers of a stage follow each other, and all stages have as many, as far as their number allows.  The layers
are cut where no space is made on both sides, so that what residual connections tie together stays together;
of all such cuts those are taken whose slowest stage computes the least, and among these those where the least
crosses.

Source: a chain is cut into intervals whose largest load is as small as can be, by dynamic programming (Pinar
and Aykanat, "Fast optimal load balancing algorithms for 1D partitioning", 2004).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from repurpose_hpc.fields import FieldError
from repurpose_hpc.model.blocks import block_ends
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.model.weights import nonzeros
from repurpose_hpc.plan.plan import REPLICATED
from repurpose_hpc.restructure.constraints import Constraints, constraints_of
from repurpose_hpc.restructure.options import Options


class _Crew(NamedTuple):
    """The workers of a stage: how many, and their speeds together."""

    size: int
    speed: float


def constraints_for(network: Network, options: Options) -> Constraints:
    """The constraints that a user asks for, of a network that may be divided into stages.

    Raises:
        FieldError: there are too many stages; see ``stage_workers``.
    """
    constraints = constraints_of(options)
    replicated = options.input_placement == REPLICATED
    within = stage_workers(
        network, constraints.part_weights, int(options.stages), options.comm_budget, replicated
    )
    return replace(constraints, within=within)


def stage_workers(
    network: Network, part_weights: np.ndarray, stages: int, fraction: float, replicated: bool
) -> dict[str, np.ndarray]:
    """The workers among whom each space is shared out.

    Args:
        network: any whose neurons have one owner each.
        part_weights: relative speeds of the workers, (P,), >= 0.
        stages: S, at most P.
        fraction: of the dense communication that will remain, 0 to 1.
        replicated: everybody has the input.

    Returns:
        free space that some mixing makes -> workers, bool (P,); empty for one stage, as all share all.

    Raises:
        FieldError: the network has fewer parts than stages, or a stage has no speed.
    """
    if stages == 1:
        return {}
    segments = _segments(network)
    if len(segments) < stages:
        raise FieldError(
            "stages",
            f"expected at most {len(segments)}, into which the layers can be divided without parting what "
            f"residual connections add up, got {stages}; ask for fewer",
        )
    ends = block_ends(part_weights.size, np.ones(stages))
    stage_of = np.searchsorted(ends, range(part_weights.size), "right")
    speeds = np.bincount(stage_of, weights=part_weights, minlength=stages)
    if not speeds.all():
        raise FieldError(
            "stages",
            f"expected workers with speed in each of {stages} stages, found none in stage "
            f"{int(speeds.argmin())}, whose part weights are all 0; ask for fewer, or change part_weights",
        )
    working = np.bincount(stage_of, weights=part_weights > 0, minlength=stages).astype(int).tolist()
    crews = [_Crew(*each) for each in zip(working, speeds.tolist(), strict=True)]
    dense = {m.name: nonzeros(m.weights) * network.values(m.target) for m in network.mixings}
    loads = _Loads(network, segments, dense, part_weights.size, fraction, replicated)
    return {
        name: stage_of == stage
        for stage, (first, last) in enumerate(_cut(loads, crews))
        for segment in segments[first:last]
        for mixing in segment
        for name in set(network.parts(mixing.target)) - network.input_spaces
    }


def _segments(network: Network) -> list[list[Mixing]]:
    """The shortest runs of mixings that make spaces of their own, in order."""
    made = [set(network.parts(mixing.target)) - network.input_spaces for mixing in network.mixings]
    last = {name: number for number, names in enumerate(made) for name in names}
    segments: list[list[Mixing]] = [[]]
    end = 0
    for number, (mixing, names) in enumerate(zip(network.mixings, made, strict=True)):
        segments[-1].append(mixing)
        end = max([end, *(last[name] for name in names)])
        if end <= number < len(made) - 1:
            segments.append([])
    return segments


@dataclass(frozen=True, eq=False)
class _Loads:
    """What stages would compute.

    Attributes:
        network, fraction, replicated: arguments of ``stage_workers``.
        segments: of which stages are made.
        dense: multiply-adds of a sample of every mixing, by name.
        workers: P.
    """

    network: Network
    segments: Sequence[Sequence[Mixing]]
    dense: Mapping[str, int]
    workers: int
    fraction: float
    replicated: bool

    def by_end(self, first: int, crew: _Crew) -> Iterator[tuple[int, float]]:
        """Of stages from segment ``first`` on: the end, and multiply-adds of a sample over the speed."""
        made: set[str] = set()
        total = 0.0
        for end, segment in enumerate(self.segments[first:], first + 1):
            made.update(name for mixing in segment for name in self.network.parts(mixing.target))
            total += sum(self._multiply_adds(mixing, made, crew) for mixing in segment)
            yield end, total / crew.speed

    def _multiply_adds(self, mixing: Mixing, made: set[str], crew: _Crew) -> float:
        """Multiply-adds of a mixing: of rows with neurons that their worker has, and that it is sent."""
        network, sources = self.network, set(self.network.parts(mixing.source))
        own = 1 / crew.size
        if sources & network.input_spaces:
            own = 1.0 if self.replicated else 1 / self.workers
        elif not sources & made:
            own = 0.0
        return (own + (1 - own) * self.fraction) * self.dense[mixing.name]

    def crossing(self, last: int) -> int:
        """Values of a sample that segments from ``last`` on read and those before make."""
        before, behind = (
            [mixing for segment in segments for mixing in segment]
            for segments in (self.segments[:last], self.segments[last:])
        )
        made = {name for mixing in before for name in self.network.parts(mixing.target)}
        made -= self.network.input_spaces
        read = {mixing.source for mixing in behind if made.intersection(self.network.parts(mixing.source))}
        return sum(self.network.size(tensor) for tensor in read)


class _Cuts(NamedTuple):
    """The best stages of the first segments: their slowest time, what crosses, and their ends."""

    time: float
    crossing: int
    ends: tuple[int, ...]


def _cut(loads: _Loads, crews: Sequence[_Crew]) -> list[tuple[int, int]]:
    """First and last segment, exclusive, of each stage."""
    count = len(loads.segments)
    crossing = [loads.crossing(end) for end in range(count + 1)]
    best = {0: _Cuts(0.0, 0, ())}
    for number, crew in enumerate(crews):
        # Every stage has a segment at least; the last one ends with the last.
        ends = range(number + 1, count - (len(crews) - 1 - number) + 1)
        found: dict[int, _Cuts] = {}
        for begin, cuts in best.items():
            for end, time in loads.by_end(begin, crew):
                if end in ends:
                    crossings = cuts.crossing + crossing[end]
                    longer = _Cuts(max(cuts.time, time), crossings, (*cuts.ends, end))
                    found[end] = min(longer, found.get(end, longer))
        best = found
    ends_of_best = best[count].ends
    return list(zip((0, *ends_of_best[:-1]), ends_of_best, strict=True))
