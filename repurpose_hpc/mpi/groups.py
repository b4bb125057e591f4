"""Groups of ranks in a row, each of which does the whole work of a job on a share of its samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repurpose_hpc.fields import FieldError

if TYPE_CHECKING:
    from mpi4py import MPI


def group_size(ranks: int, groups: int) -> int:
    """Ranks of each group.

    Raises:
        FieldError: they cannot be divided so.
    """
    if ranks % groups:
        raise FieldError(
            "groups",
            f"expected a number that divides the {ranks} ranks, got {groups}; start a multiple of it",
        )
    return ranks // groups


class Groups:
    """This rank's group, and the ranks at its place in the others; the constructor is collective.

    Attributes:
        everybody: all ranks; None: this process is alone.
        inside: the ranks of the group, in the same order; None: this process is alone.
        across: the ranks at one place in all groups, in their order; None: there is one group.
        count, number: how many groups there are, and the number of this one.
    """

    def __init__(self, comm: MPI.Comm | None, count: int = 1) -> None:
        """Splits ``comm`` into ``count`` groups of ranks in a row, as many in each.

        Raises:
            FieldError: on all ranks: they cannot be divided so.
        """
        self.everybody, self.inside, self.count, self.number = comm, comm, count, 0
        self.across: MPI.Comm | None = None
        if comm is None or count == 1:
            return
        size = group_size(comm.size, count)
        self.number = comm.rank // size
        self.inside = comm.Split(self.number, comm.rank)
        self.across = comm.Split(comm.rank % size, comm.rank)

    def free(self) -> None:
        """Give back the communicators; collective."""
        if self.across is not None and self.inside is not None:
            self.across.Free()
            self.inside.Free()
