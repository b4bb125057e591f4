"""Weights for late exchanges (``plan.late``): each sweep has its own, adjusted to ghosts of the one before.

The network of K sweeps is a network like others, in which several copies stand for a mixing of the original.
They are adjusted as mixings are in the exact order (step 4.2): y is that of the original; x̂ is what really
arrives, a worker's own neurons as they are in this sweep beside those of others as they were in the last one.
Where there was none, a worker makes of its own neurons what can be made of them.  Copies whose inputs are
those of the exact order keep its weights.

Rows are solved for by themselves: that they make up for each other (step 4.3) did not lower the error of the
outputs on held-out calibration data, which are the deep networks of ``docs/late.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from repurpose_hpc.fields import FieldError
from repurpose_hpc.io.progress import PENDING
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing, Operation
from repurpose_hpc.plan.late import Late, late
from repurpose_hpc.plan.sweeps import Share
from repurpose_hpc.restructure.adjustment import adjust
from repurpose_hpc.restructure.calibration.propagation import Copy, CurrentNetwork, Part, Propagation
from repurpose_hpc.restructure.calibration.statistics import trained
from repurpose_hpc.restructure.context import Log, silent
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.team import ALONE, Team


def with_late_weights(
    original: Network, cut: Cut, sweeps: int, samples: Samples, log: Log = silent, team: Team = ALONE
) -> Cut:
    """The network of so many sweeps, with weights of their own; collective.

    Args:
        original: the trained network.
        cut: it, restructured for the exact order, without relays.
        sweeps: 1 or more.
        samples: calibration data.
        log: is given one line for each mixing.
        team: shares the work; the result does not depend on it.

    Returns:
        the network and its plan, weights in float64.

    Raises:
        FieldError: weights are stored sparse.
        UserError: see ``late``.
    """
    mixings = trained(original)
    for mixing in mixings:
        if mixing.is_sparse:
            raise FieldError(
                "late",
                f"expected arrays of weights, found sparse ones of {mixing.name}, to which these sweeps "
                "would add none; leave it out",
            )
    result = late(cut.network, cut.plan, sweeps, apart=True)
    network = result.network(cut.network.astype(np.float64))
    propagation = Propagation(original, mixings, samples, team, network)
    copies = {mixing.name: [*_inexact_copies(result, network, mixing)] for mixing in mixings}
    waiting = {part.mixing.name for found in copies.values() for copy in found for part in copy.parts}
    for number, mixing in enumerate(mixings):
        if copies[mixing.name]:
            place = f"{number + 1} of {len(mixings)}"
            log(f"{mixing.name} ({place}): adjusting to late exchanges{PENDING}")
        for copy in copies[mixing.name]:
            finished = {each.name for each in network.mixings} - waiting
            current = CurrentNetwork(network, result.plan, finished)
            moments = propagation.moments(mixing, current, copy)
            wide = copy.wide(mixing)
            adjusted = adjust(wide, moments, wide.W != 0, None, team)
            network = result.plan.without_removed(network.with_mixings(_parts_of(copy, adjusted)))
            waiting -= {part.mixing.name for part in copy.parts}
    return Cut(network, result.plan)


def _inexact_copies(result: Late, network: Network, mixing: Mixing) -> Iterator[Copy]:
    """The copies of a mixing of the original whose weights have to be adjusted, in the order of sweeps.

    Args:
        result: the late network.
        network: it, with the weights of the exact order.
        mixing: of the original.
    """
    made_by = {op.target: op for op in network.operations}
    copies = [tensor for tensor, exact in result.tensors.items() if exact == mixing.target]
    added = {source for copy in copies for source in made_by[copy].sources}
    exact = _exact_tensors(result)
    for copy in copies:
        if copy not in added and copy not in exact:
            parts = [*_mixings_of(made_by, copy)]
            used = [np.flatnonzero(part.W.any(axis=0)) for part in parts]
            if not sum(map(len, used)):  # there is the bias to adjust
                used[0] = np.arange(parts[0].W.shape[1])
            yield Copy(copy, tuple(map(Part, parts, used)))


def _mixings_of(made_by: Mapping[str, Operation], tensor: str) -> Iterator[Mixing]:
    """The mixings that a tensor is, or is the sum of."""
    op = made_by[tensor]
    if isinstance(op, Mixing):
        yield op
        return
    for source in op.sources:
        yield from _mixings_of(made_by, source)


def _exact_tensors(result: Late) -> set[str]:
    """The tensors that are what they are in the exact order."""
    exact = {*result.graph.input_tensors}
    for op in result.graph.operations:
        origin = result.origins.get(op.name)
        if exact.issuperset(op.sources) and (origin is None or origin.share is not Share.ALONE):
            exact.add(op.target)
    return exact


def _parts_of(copy: Copy, adjusted: Mixing) -> dict[str, Mixing]:
    """The parts of a copy, by name, from what ``Copy.wide`` has become; the first has the bias."""
    parts, bias, first = {}, adjusted.bias, 0
    for part in copy.parts:
        weights, columns = np.zeros(part.mixing.W.shape), part.of(np.arange(part.mixing.W.shape[1]))
        weights[:, columns] = adjusted.W[:, first : first + len(columns)]
        parts[part.mixing.name] = replace(part.mixing, weights=weights, bias=bias)
        bias, first = np.zeros_like(bias), first + len(columns)
    return parts
