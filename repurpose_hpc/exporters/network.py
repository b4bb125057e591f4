"""A whole network, with the ends of its model, as one graph."""

from __future__ import annotations

from dataclasses import replace

from repurpose_hpc.exporters import (  # noqa: F401, they fill EXPORTS
    nodes_local,
    nodes_steps,
    nodes_tokens,
    nodes_windows,
)
from repurpose_hpc.exporters.ends import add_back, add_front, settled, take_outputs
from repurpose_hpc.exporters.graph import Graph, Names
from repurpose_hpc.exporters.registry import add_operation
from repurpose_hpc.exporters.rounding import add_rounded_mixing
from repurpose_hpc.model.comm_dtype import EXACT
from repurpose_hpc.model.ends import Subgraph
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.plan import Plan


def graph_of(network: Network, plan: Plan) -> Subgraph:
    """The graph that computes what the workers compute together, with the inputs and outputs of the model.

    Args:
        network: restructured; relays are layers like others.  That of one of tokens takes sequences of any
            length.
        plan: of it; ghosts are rounded where they travel in another format than they have.

    Raises:
        UserError: an end of the model cannot be written.
    """
    longest, network = network.longest, network.at_any_length() if network.longest else network
    network = replace(network, ends=settled(network.ends))
    graph = empty_graph(network, longest)
    outputs = take_outputs(graph, network)
    values = add_front(graph, network)
    for op in network.operations:
        sources = [values[source] for source in op.sources]
        if isinstance(op, Mixing) and plan.comm_dtype != EXACT:
            values[op.target] = add_rounded_mixing(graph, op, sources, network, plan)
        else:
            values[op.target] = add_operation(graph, op, sources, network.shape(op.target))
    add_back(graph, network, values, outputs)
    return graph.subgraph(samples_at_a_time(network))


def empty_graph(network: Network, longest: int = 0, names: Names | None = None) -> Graph:
    """A graph for a network, without anything in it; for the other arguments see ``Graph``."""
    is_of_sequences = any(op.looks_around for op in network.operations)
    return Graph(is_of_sequences, longest, names)


def samples_at_a_time(network: Network) -> int:
    """Samples that the model takes at a time, as one of its ends does; 0: any number."""
    return max((end.batch for end in (network.ends.front, network.ends.back) if end is not None), default=0)
