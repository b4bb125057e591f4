"""Cycles of nodes: neurons whose spikes come back to them, one step later."""

from __future__ import annotations

from dataclasses import replace

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.importers.nir.graph import Graph
from repurpose_hpc.model.importers.nir.neurons import NEURONS, dynamics_of
from repurpose_hpc.model.importers.nir.nodes import READERS, read_node
from repurpose_hpc.model.importers.nir.options import Rules
from repurpose_hpc.model.importers.nir.parameters import Parameters
from repurpose_hpc.model.importers.spiking.trains import Train, Trains
from repurpose_hpc.model.importers.spiking.unrolled import recurrent

_WITHOUT_STATE = READERS.keys() - NEURONS.keys() - {"Delay"}
_REMEDY = "take the edge out"


def read_cycle(
    trains: Trains, graph: Graph, group: tuple[str, ...], made: dict[str, Train], rules: Rules
) -> tuple[str, Train]:
    """The neurons of a cycle, and their spikes.

    Args:
        trains: under construction.
        graph: of the file.
        group: nodes of the cycle: one layer of spiking neurons, and layers without a state on the way back.
        made: what has been made so far.
        rules: by which the file is read.

    Raises:
        UserError: it is another cycle; names an edge of it.
    """
    members = set(group)
    spiking = [name for name in group if graph.nodes[name].kind in NEURONS]
    if len(spiking) != 1 or not NEURONS[graph.nodes[spiking[0]].kind].fires:
        raise _fault(graph, members, f"a cycle has one layer of spiking neurons, this one {len(spiking)}")
    (neurons,) = spiking
    for name in sorted(members - {neurons}):
        _check(graph, name, members)
    node = Parameters(graph.path, neurons, graph.nodes[neurons])
    back = _in_order(graph, members, neurons)
    outside = [made[source] for source in graph.sources[neurons] if source in made]
    if not outside:
        raise node.fault(
            "expected something to read besides its own spikes, found nothing", "add an edge to it"
        )
    source = summed(trains, node, outside)

    def way_back(single: Trains, ending: str, spikes: Train) -> Train:
        values = {neurons: spikes}
        for name in back:
            inner = replace(node, name=name, node=graph.nodes[name], ending=ending)
            read = summed(single, inner, [values[those] for those in graph.sources[name]])
            values[name] = read_node(single, inner, read, rules)
        inside = [values[those] for those in graph.sources[neurons] if those in values]
        total = summed(single, replace(node, ending=f".back{ending}"), inside)
        if total.shape != source.shape:
            raise node.fault(
                f"expected values of shape {source.shape} to come back to it, found {total.shape}"
            )
        return total

    return neurons, recurrent(trains, neurons, source, dynamics_of(node, rules, source.shape), way_back)


def summed(trains: Trains, node: Parameters, sources: list[Train]) -> Train:
    """What a node reads: the sum of its sources.

    Raises:
        UserError: they are of several shapes.
    """
    shapes = {source.shape for source in sources}
    if len(shapes) > 1:
        raise node.fault(
            f"expected sources of one shape, which are added, found {', '.join(map(str, sorted(shapes)))}"
        )
    return trains.add(node.layer, sources)


def _check(graph: Graph, name: str, members: set[str]) -> None:
    """Refuse a node of a cycle that has a state, or that others read or feed."""
    node = Parameters(graph.path, name, graph.nodes[name])
    if graph.nodes[name].kind not in _WITHOUT_STATE:
        raise _fault(graph, members, f"on the way back from spikes is nothing with a state, here {name}")
    for source in graph.sources[name]:
        if source not in members:
            raise node.fault(
                f"expected nothing that comes to it on the way back from spikes, found an edge from {source}",
                _REMEDY,
            )
    for other, sources in graph.sources.items():
        if name in sources and other not in members:
            raise node.fault(
                f"expected nobody else to read what is on the way back from spikes, found an edge to {other}",
                _REMEDY,
            )


def _in_order(graph: Graph, members: set[str], neurons: str) -> list[str]:
    """The nodes on the way back, each behind those that it reads."""
    known, order = {neurons}, list[str]()
    while rest := sorted(members - known):
        ready = [name for name in rest if known.issuperset(graph.sources[name])]
        if not ready:
            raise _fault(graph, set(rest), "a cycle goes through spiking neurons, this one does not")
        known.update(ready)
        order += ready
    return order


def _fault(graph: Graph, members: set[str], text: str) -> UserError:
    source, target = next(
        (source, name) for name in sorted(members) for source in graph.sources[name] if source in members
    )
    return UserError(f"{graph.path}: edge from {source} to {target}, which leads back: {text}; {_REMEDY}")
