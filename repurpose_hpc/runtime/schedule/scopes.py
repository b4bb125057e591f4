"""The scopes of a program: one that all samples of a batch go through, and one of those that are wanted.

In a network of tokens, what a token becomes behind the last operation that looks at other tokens, or at
positions, matters for its own outputs alone.  That is the second scope: the rest of the last block, the last
normalisation and the output layer.  Keys and values of all tokens are made and kept in the first.  Other
networks have one scope.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.texts import tokens_alone
from repurpose_hpc.runtime.buffers import Buffer
from repurpose_hpc.runtime.lowering.lower import Lowering
from repurpose_hpc.runtime.schedule.rounds import Round, in_rounds

if TYPE_CHECKING:
    from mpi4py import MPI


class Scope(NamedTuple):
    """One scope.

    Attributes:
        rounds: of its steps; exchanges of two scopes are never merged.
        inputs: the tensors that are complete when it begins, and read in it or given as outputs.
    """

    rounds: list[Round]
    inputs: list[Buffer]


def scopes_of(lowering: Lowering, graph: Network, max_batch: int, comm: MPI.Comm | None) -> list[Scope]:
    """The scope of all samples, and that of the wanted ones, if there is one.

    Collective, and the same on all ranks: see ``in_rounds``.

    Args:
        lowering: of a program.
        graph: that it is of.
        max_batch: most samples of a forward.
        comm: of the ranks; None: this process is alone.
    """
    operations, inputs = lowering.operations, [lowering.tensors[name] for name in graph.input_tensors]
    if not graph.longest:
        return [Scope(in_rounds(operations, graph, max_batch, comm), inputs)]
    alone = tokens_alone(graph)
    first, second = (
        [lowered for lowered in operations if (lowered.target in alone) is is_second]
        for is_second in (False, True)
    )
    read = [*(source for lowered in second for source in lowered.sources), *graph.output_tensors]
    crossing = [lowering.tensors[name] for name in dict.fromkeys(read) if name not in alone]
    return [
        Scope(in_rounds(first, graph, max_batch, comm), inputs),
        Scope(in_rounds(second, graph, max_batch, comm), crossing),
    ]
