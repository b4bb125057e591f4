"""Weights for late exchanges (``plan.late``): every sweep has its own, adjusted to ghosts of the sweep before.

The network of K sweeps is a network like others, whose copies of a mixing all stand for that of the original.
So they are adjusted in the order of execution as mixings always are: y is that of the original, x̂ is what
really arrives, the neurons of the worker as they are in this sweep beside what others had in the last one.
A first sweep, which has nothing of others, makes of the worker's own neurons what can be made of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Combine, Mixing, Operation
from repurpose_hpc.plan.late import Late, late
from repurpose_hpc.plan.sweeps import Share
from repurpose_hpc.restructure.adjustment import adjust
from repurpose_hpc.restructure.calibration.propagation import Copy, CurrentNetwork, Part, Propagation
from repurpose_hpc.restructure.calibration.statistics import trained
from repurpose_hpc.restructure.context import Log, silent
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.restructure.team import ALONE, Team


def with_late_weights(
    original: Network,
    cut: Cut,
    sweeps: int,
    samples: Samples,
    roots: Mapping[str, np.ndarray],
    passes: int,
    log: Log = silent,
    team: Team = ALONE,
) -> Cut:
    result = late(cut.network, cut.plan, sweeps, Share.ALONE)
    network = result.network(cut.network.astype(np.float64))
    propagation = Propagation(original, trained(original), samples, team, network)
    exact = exact_tensors(result)
    copies = [
        (mixing, copy) for mixing in trained(original) for copy in copies_of(mixing, result, network)
        if copy.target not in exact
    ]
    waiting = {part.mixing.name for _, copy in copies for part in copy.parts}
    for number, (mixing, copy) in enumerate(copies):
        finished = {m.name for m in network.mixings} - waiting
        current = CurrentNetwork(network, result.plan, finished)
        wide = replace(copy.wide(mixing))
        moments = propagation.moments(mixing, current, copy)
        mask = copy.wide(mixing).links if not copy.wide(mixing).is_sparse else None
        adjusted = adjust(wide, moments, wide.W != 0, roots.get(mixing.name), team, None, passes)
        network = with_parts(network, copy, adjusted)
        waiting -= {part.mixing.name for part in copy.parts}
        log(f"{copy.target}: adjusted ({number + 1} of {len(copies)})")
    return Cut(result.plan.without_removed(network), result.plan)


def exact_tensors(result: Late) -> set[str]:
    exact = {*result.graph.input_tensors}
    for op in result.graph.operations:
        origin = result.origins.get(op.name)
        if exact.issuperset(op.sources) and (origin is None or origin.share is not Share.ALONE):
            exact.add(op.target)
    return exact


def copies_of(mixing: Mixing, result: Late, network: Network) -> Iterator[Copy]:
    made_by = {op.target: op for op in network.operations}
    targets = [t for t, exact in result.tensors.items() if exact == mixing.target]
    added = {source for t in targets for source in made_by[t].sources}
    for target in targets:
        if target not in added:
            parts = tuple(Part(m, m.W.any(axis=0)) for m in _parts(made_by, target))
            yield Copy(target, tuple(part for part in parts if part.columns.any()))


def _parts(made_by: Mapping[str, Operation], target: str) -> Iterator[Mixing]:
    op = made_by[target]
    if isinstance(op, Mixing):
        yield op
    else:
        for source in op.sources:
            yield from _parts(made_by, source)


def with_parts(network: Network, copy: Copy, adjusted: Mixing) -> Network:
    mixings, first, bias = {m.name: m for m in network.mixings}, 0, adjusted.bias
    for part in copy.parts:
        weights = np.zeros_like(part.mixing.W)
        count = np.count_nonzero(part.columns)
        weights[:, part.columns] = adjusted.W[:, first:first + count]
        first += count
        mixings[part.mixing.name] = replace(part.mixing, weights=weights, bias=bias)
        bias = np.zeros_like(bias)
    return network.with_mixings(mixings)
