"""One graph of nested ones, in an order in which it can be computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.importers.nir.file import GRAPH, REMEDY, StoredNode

INPUT, OUTPUT, IDENTITY = "Input", "Output", "Identity"
Edge = tuple[str, str]


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes that are no graphs.

    Attributes:
        path: of the file.
        nodes: by name; those of graphs within have names with dots, their inputs and outputs are of type
            Identity.
        sources: node -> those that it reads, whose values are added.
    """

    path: Path
    nodes: dict[str, StoredNode]
    sources: dict[str, tuple[str, ...]]

    def only(self, kind: str) -> str:
        """The name of the only node of a kind.

        Raises:
            UserError: there is none, or several.
        """
        names = [name for name, node in self.nodes.items() if node.kind == kind]
        if len(names) != 1:
            raise UserError(
                f"{self.path}: expected one node of type {kind}, found {len(names)}"
                f"{': ' if names else ''}{', '.join(names)}; {REMEDY} with one"
            )
        return names[0]

    def groups(self) -> Iterator[tuple[str, ...]]:
        """Nodes in an order in which they can be computed; those of a cycle together."""
        return _components(self.sources)


def flat_graph(path: Path, outermost: StoredNode) -> Graph:
    """The nodes and edges of a graph and of those within.

    Raises:
        UserError: an edge begins or ends nowhere, or at a graph with several inputs or outputs.
    """
    nodes: dict[str, StoredNode] = {}
    edges = list(_flattened(path, outermost, "", nodes))
    sources: dict[str, list[str]] = {name: [] for name in nodes}
    for source, target in dict.fromkeys(edges):
        for end in (source, target):
            if end not in nodes:
                raise UserError(
                    f"{path}: expected edges between nodes, found one from {source} to {target} and no node "
                    f"{end}; {REMEDY}"
                )
        sources[target].append(source)
    return Graph(path, nodes, {name: tuple(sorted(those)) for name, those in sources.items()})


def _flattened(path: Path, graph: StoredNode, prefix: str, nodes: dict[str, StoredNode]) -> Iterator[Edge]:
    """Enter the nodes of a graph into ``nodes``; its edges."""
    for name, node in graph.nodes.items():
        full = f"{prefix}{name}"
        if node.kind == GRAPH:
            yield from _flattened(path, node, f"{full}.", nodes)
            continue
        if full in nodes:
            raise UserError(f"{path}: expected names for one node each, found two called {full}; {REMEDY}")
        is_end = prefix and node.kind in (INPUT, OUTPUT)
        nodes[full] = StoredNode(IDENTITY, {}, {}, ()) if is_end else node
    for source, target in graph.edges:
        yield (
            _end(path, graph, prefix, source, OUTPUT),
            _end(path, graph, prefix, target, INPUT),
        )


def _end(path: Path, graph: StoredNode, prefix: str, name: str, kind: str) -> str:
    """The node at an end of an edge: of a graph within, its only input or output."""
    node = graph.nodes.get(name)
    if node is None or node.kind != GRAPH:
        return f"{prefix}{name}"
    ends = [inner for inner, those in node.nodes.items() if those.kind == kind]
    if len(ends) != 1:
        raise UserError(
            f"{path}: node {prefix}{name}: expected a graph with one node of type {kind}, as an edge leads "
            f"there, found {len(ends)}; {REMEDY}"
        )
    return f"{prefix}{name}.{ends[0]}"


def _components(sources: dict[str, tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Strongly connected components, what is read before what reads it (Tarjan), without recursion."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    is_open: set[str] = set()
    for root in sorted(sources):
        if root in number:
            continue
        path = [(root, iter(sources[root]))]
        number[root] = lowest[root] = len(number)
        stack.append(root)
        is_open.add(root)
        while path:
            name, rest = path[-1]
            for source in rest:
                if source not in number:
                    number[source] = lowest[source] = len(number)
                    stack.append(source)
                    is_open.add(source)
                    path.append((source, iter(sources[source])))
                    break
                if source in is_open:
                    lowest[name] = min(lowest[name], number[source])
            else:
                path.pop()
                if path:
                    lowest[path[-1][0]] = min(lowest[path[-1][0]], lowest[name])
                if lowest[name] == number[name]:
                    place = stack.index(name)
                    component = stack[place:]
                    del stack[place:]
                    is_open.difference_update(component)
                    yield tuple(component)
