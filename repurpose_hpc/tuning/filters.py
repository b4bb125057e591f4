"""Depthwise convolutions on a rank: filters of the hosted workers' neurons, for which nothing crosses."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.model.operations import Depthwise
from repurpose_hpc.runtime.hosting import Hosting
from repurpose_hpc.tuning.parameters import Parameter, Update

if TYPE_CHECKING:
    from mpi4py import MPI


class TunedFilters:
    """A depthwise convolution of which the rank has the filters of its workers.

    Where workers have copies of a neuron, as of a replicated input, filters stay: each would tune its own.

    Attributes:
        part: what the rank computes.
        is_tuned: whether filters change, the same on all ranks.
        parameters: weights and biases of each hosted worker; none where filters stay.
    """

    def __init__(self, whole: Depthwise, space: str, hosting: Hosting, comm: MPI.Comm | None) -> None:
        """Copies the rank's filters; all ranks tell each other whose these are, which is collective.

        Args:
            whole: the operation on all neurons.
            space: of these.
            hosting: of the rank.
            comm: of the ranks; None: this process is alone.
        """
        self._whole, self._comm = whole, comm
        mine = hosting.neurons(space)
        self._neurons: list[np.ndarray] = [mine] if comm is None else comm.allgather(mine)
        self.part = replace(whole, weights=whole.weights[mine], bias=whole.bias[mine])
        everybody = np.concatenate(self._neurons)
        self.is_tuned = np.unique(everybody).size == everybody.size
        self._slices = hosting.slices(space) if self.is_tuned else []
        self.parameters = [
            parameter
            for worker, rows in zip(hosting.workers, self._slices, strict=False)
            for parameter in self._parameters(worker, rows)
        ]

    def _parameters(self, worker: int, rows: slice) -> tuple[Parameter, Parameter]:
        name, part = f"{self.part.name} {worker}", self.part
        return (
            Parameter(f"{name} weights", worker, part.weights[rows], None, part.source),
            Parameter(f"{name} bias", worker, part.bias[rows], None, None),
        )

    def backward(self, g: np.ndarray, x: np.ndarray, update: Update) -> None:
        """Tune them by the derivatives ``g`` by what they made of ``x``."""
        if not self.parameters:
            return
        by_weights, by_bias = self.part.gradient(g, x)
        parts = [part[rows] for rows in self._slices for part in (by_weights, by_bias)]
        for parameter, gradient in zip(self.parameters, parts, strict=True):
            update(parameter, gradient)

    def tuned(self) -> Depthwise:
        """The operation on all neurons with the filters as they are now; collective."""
        mine = self.part.weights, self.part.bias
        of_ranks = [mine] if self._comm is None else self._comm.allgather(mine)
        weights, bias = self._whole.weights.copy(), self._whole.bias.copy()
        for neurons, (its_weights, its_biases) in zip(self._neurons, of_ranks, strict=True):
            weights[neurons], bias[neurons] = its_weights, its_biases
        return replace(self._whole, weights=weights, bias=bias)
