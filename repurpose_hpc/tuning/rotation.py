"""Rotation: for some steps at a time workers tune their neurons in subnets, which are then drawn anew.

Subnets (``subnets``) are of the plan: in a step crosses what crosses without them, and what they have beside
it is taken from the original, which every rank has.  Weights of the plan are tuned; those of the original
stay as they are.  The last steps tune the network as it will run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np

from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.plan.shard import Shard
from repurpose_hpc.tuning.parameters import LocalBlock, Parameter, Update
from repurpose_hpc.tuning.passes import NO_DERIVATIVES, Derivatives, Passes
from repurpose_hpc.tuning.subnets import Widening, drawn, sampled_spaces, widened

# Steps with subnets, over all.
ROTATED = 0.8
# Samples of neurons must not depend on, nor change, the order of the training data.
_STREAM = 3

_Place: TypeAlias = tuple[slice | np.ndarray, ...]


class Subnets:
    """The subnets of a rank: they run in the place of the plan's passes, and tune their parameters."""

    def __init__(self, planned: Passes, passes: Passes) -> None:
        """Nothing is sent.

        Args:
            planned: passes of the plan.
            passes: of the subnets of the same shards.
        """
        self._passes = passes
        wide = {parameter.name: parameter for parameter in passes.parameters}
        self._twins = {
            parameter.name: (parameter, wide[parameter.name], place)
            for parameter, place in _places(planned, passes)
        }

    def forward(self, X: np.ndarray, starts: Sequence[str] | None = None) -> np.ndarray:
        """See ``Passes``."""
        return self._passes.forward(X, starts)

    def backward(self, G: np.ndarray, update: Update, others: Derivatives = NO_DERIVATIVES) -> None:
        """See ``Passes``; who changes a parameter of the plan has to ``renew`` it."""

        def update_planned(parameter: Parameter, gradient: np.ndarray) -> None:
            # Where the plan has pruned all weights, a subnet may have some.
            if parameter.name in self._twins:
                planned, _, place = self._twins[parameter.name]
                update(planned, np.ascontiguousarray(gradient[place]))

        self._passes.backward(G, update_planned, others)

    def renew(self, parameter: Parameter) -> None:
        """Take over a parameter of the plan, which has changed."""
        _, twin, place = self._twins[parameter.name]
        twin.values[place] = parameter.values

    def free(self) -> None:
        """See ``Passes``."""
        self._passes.free()


def _places(planned: Passes, passes: Passes) -> Iterator[tuple[Parameter, _Place]]:
    """The parameters of the plan, and where they are in those of the subnets."""
    for block, wide in zip(planned.blocks, passes.blocks, strict=True):
        rows = _rows(block, wide)
        for parameter in block.parameters:
            yield parameter, _place(parameter.values, rows[: len(parameter.values)])
    for parameter in planned.filters:
        yield parameter, _place(parameter.values, np.arange(len(parameter.values)))


def _rows(block: LocalBlock, wide: LocalBlock) -> np.ndarray:
    """The places of a block's rows: sampled neurons are between its own and the sums."""
    rows = np.arange(len(block.own.mixing.weights))
    rows[block.rows :] += wide.rows - block.rows
    return rows


def _place(values: np.ndarray, rows: np.ndarray) -> _Place:
    """Some rows, and the first columns: those of sampled neurons are behind them."""
    if np.array_equal(rows, np.arange(rows.size)):
        return tuple(map(slice, values.shape))
    return np.ix_(rows, *map(np.arange, values.shape[1:]))


class Rotations:
    """The subnets of a rank's steps; ``at`` and ``free`` are collective."""

    def __init__(
        self, original: Network, plan: Plan, shards: Sequence[Shard], planned: Passes, every: int, seed: int
    ) -> None:
        """Nothing is sent.

        Args:
            original: the trained network, with the neurons of the plan.
            plan: of the shards.
            shards: those of the hosted workers.
            planned: their passes, whose parameters are tuned.
            every: steps after which subnets are drawn anew.
            seed: of the samples.

        Raises:
            UserError: the network has nothing to sample.
        """
        graph = shards[0].graph
        self._spaces = sampled_spaces(graph, original)
        self._plan, self._shards, self._planned, self._graph = plan, shards, planned, graph
        self._widening = Widening(original, plan, graph)
        self._every, self._seed, self._steps = every, seed, 0  # steps so far
        self._drawn: tuple[int, int] | None = None
        self._subnets: Subnets | None = None

    def at(self, epoch: int, step: int, share: float) -> Subnets | None:
        """The subnets of a step, the same for any number of ranks; None: it has none.

        Every epoch begins with others, so that a run may go on with it.

        Args:
            epoch: its number.
            step: of the epoch, from 0.
            share: of all steps of the run, that were made before.
        """
        self._steps += 1
        number = None if share >= ROTATED else (epoch, step // self._every)
        if number != self._drawn:
            self.free()
            self._subnets = None if number is None else self._made(number)
            self._drawn = number
        return self._subnets

    @property
    def weights(self) -> float:
        """Weights of the original that the subnets of this rank take, on average over all steps."""
        return self._widening.weights / max(self._steps, 1)

    def free(self) -> None:
        """Give back what MPI keeps."""
        if self._subnets is not None:
            self._subnets.free()
        self._subnets = self._drawn = None

    def _made(self, number: tuple[int, int]) -> Subnets:
        """Subnets of the weights as they are now; collective."""
        samples = drawn(self._plan, self._graph, self._spaces, (self._seed, *number, _STREAM))
        graph = self._planned.tuned_graph()
        wide, shards = widened(graph, samples), self._planned.tuned(self._shards, graph)
        subnets = [self._widening.subnet(shard, wide, samples) for shard in shards]
        return Subnets(self._planned, self._planned.of(subnets))
