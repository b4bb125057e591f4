"""Groups of ranks that each hold a copy of the plan, and share the samples of a batch (data parallelism).

G groups of R ranks: ranks of one group exchange ghosts and sums; ranks at one place in all groups have the
same workers, and add up their gradients (``MPI_Iallreduce``).  Only weights that there are travel, while the
backward pass goes on.  All copies then change alike.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from repurpose_hpc.mpi.groups import Groups
from repurpose_hpc.tuning.parameters import Parameter, Update

if TYPE_CHECKING:
    from mpi4py import MPI

N = TypeVar("N", float, np.ndarray)
# Sums that travel at the same time: each is a gradient in memory.
_TRAVELLING = 2


class Share(NamedTuple):
    """Samples of one group, at least one, and whether they count."""

    samples: np.ndarray
    counts: bool


class Copies:
    """This rank's group, and the ranks at its place in the others; the constructor is collective.

    Attributes:
        comm: of the ranks of the group; None: this process is alone.
        groups, group: how many there are, and the number of this one.
        bytes: of gradients that this rank has handed to MPI.
    """

    def __init__(self, groups: Groups) -> None:
        self.comm, self.groups, self.group = groups.inside, groups.count, groups.number
        self.bytes, self._across = 0, groups.across

    def share(self, batch: np.ndarray) -> Share:
        """The samples of a batch that are this group's.

        Of a batch with fewer samples than groups some have one that does not count: all exchange alike.
        """
        own = np.array_split(batch, self.groups)[self.group]
        return Share(own, True) if own.size else Share(batch[:1], False)

    def total(self, numbers: dict[str, N]) -> dict[str, N]:
        """The sums over the groups of numbers or arrays, the same on all ranks; collective."""
        if self._across is None:
            return numbers
        of_groups = self._across.allgather(numbers)
        return {name: sum((group[name] for group in of_groups[1:]), of_groups[0][name]) for name in numbers}

    def sums(self, update: Update) -> GradientSums:
        """What adds up the gradients of a backward pass, and hands them to ``update``."""
        return GradientSums(self._across, update, self)


class GradientSums:
    """Adds up gradients over the groups, in the order in which a backward pass finds them; collective.

    Args:
        across: the ranks at one place in all groups; None: there is one group.
        update: takes the sums.
        copies: counts what is sent.
    """

    def __init__(self, across: MPI.Comm | None, update: Update, copies: Copies) -> None:
        self._across, self._update, self._copies = across, update, copies
        self._travelling: deque[tuple[Parameter, np.ndarray, np.ndarray, MPI.Request]] = deque()

    def add(self, parameter: Parameter, gradient: np.ndarray) -> None:
        """Begin to add one up; one that was begun before may be handed on."""
        if self._across is None:
            self._update(parameter, gradient)
            return
        sent = gradient.reshape(-1) if parameter.mask is None else gradient[parameter.mask]
        received = np.empty_like(sent)
        request = self._across.Iallreduce(sent, received)
        self._copies.bytes += sent.nbytes
        self._travelling.append((parameter, sent, received, request))
        if len(self._travelling) > _TRAVELLING:
            self._finish()

    def finish(self) -> None:
        """Wait for all, and hand them on."""
        while self._travelling:
            self._finish()

    def _finish(self) -> None:
        parameter, _, received, request = self._travelling.popleft()
        request.Wait()
        total = received
        if parameter.mask is not None:
            total = np.zeros(parameter.values.shape, received.dtype)
            total[parameter.mask] = received
        self._update(parameter, total.reshape(parameter.values.shape))
