"""What a ``.nir`` file has: nodes with parameters, and edges between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from repurpose_hpc.io.hdf5 import find_dataset, open_hdf5
from repurpose_hpc.io.reading import reading

REMEDY = "export the network again"
GRAPH = "NIRGraph"
# More than any network that is written by hand or by an exporter; damage and hostile links have no end.
_MOST_NODES, _DEEPEST = 10_000, 16

Value = np.ndarray | str


@dataclass(frozen=True, eq=False)
class StoredNode:
    """A node as it is stored.

    Attributes:
        kind: its type, such as ``LIF``.
        parameters: by name, as they are stored: of any shape and type.
        nodes, edges: of a graph, ``GRAPH``: what is in it, by name.
    """

    kind: str
    parameters: dict[str, Value]
    nodes: dict[str, StoredNode]
    edges: tuple[tuple[str, str], ...]


def read_file(path: Path) -> StoredNode:
    """The outermost graph of a file.

    Raises:
        UserError: it cannot be read, or is no such file.
    """
    with reading(path, ".nir file", REMEDY), open_hdf5(path) as file:
        if not isinstance(file.get("node"), h5py.Group):
            raise ValueError("it has no group 'node'")
        graph = _Reader(file).node("/node", 0)
        if graph.kind != GRAPH:
            raise ValueError(f"its outermost node is of type {graph.kind!r}, expected {GRAPH}")
    return graph


class _Reader:
    """Reads nodes; all raise ValueError or UserError, or what h5py raises.

    Args:
        file: open.
    """

    def __init__(self, file: h5py.File) -> None:
        self._file, self._count = file, 0

    def node(self, place: str, depth: int) -> StoredNode:
        self._count += 1
        if self._count > _MOST_NODES or depth > _DEEPEST:
            raise ValueError(f"it has more than {_MOST_NODES} nodes, or graphs in graphs {_DEEPEST} deep")
        parameters = {name: self._value(f"{place}/{name}") for name in self._datasets(place)}
        kind = parameters.pop("type", None)
        if not isinstance(kind, str):
            raise ValueError(f"{place} has no type")
        if kind != GRAPH:
            return StoredNode(kind, parameters, {}, ())
        nodes = {
            name: self.node(f"{place}/nodes/{name}", depth + 1) for name in self._groups(f"{place}/nodes")
        }
        return StoredNode(kind, {}, nodes, self._edges(f"{place}/edges"))

    def _edges(self, place: str) -> tuple[tuple[str, str], ...]:
        edges = find_dataset(self._file, place)
        if edges is None:
            raise ValueError(f"{place} is missing")
        rows = edges[()]
        if edges.size == 0:
            return ()
        if rows.ndim != 2 or rows.shape[1] != 2:
            raise ValueError(f"{place} has shape {rows.shape}, expected pairs of names")
        return tuple((_text(source, place), _text(target, place)) for source, target in rows.tolist())

    def _value(self, place: str) -> Value:
        dataset = find_dataset(self._file, place)
        assert dataset is not None
        if dataset.dtype.kind in "OSU":
            return _text(dataset[()], place)
        if dataset.dtype.kind not in "fiub":
            raise ValueError(f"{place} has values of type {dataset.dtype}, expected numbers or text")
        return np.asarray(dataset[()])

    def _datasets(self, place: str) -> Iterator[str]:
        group = self._file[place]
        yield from (name for name in group if isinstance(group.get(name), h5py.Dataset) and name != "edges")

    def _groups(self, place: str) -> Iterator[str]:
        if not isinstance(self._file.get(place), h5py.Group):
            raise ValueError(f"{place} is missing")
        group = self._file[place]
        yield from (name for name in group if isinstance(group.get(name), h5py.Group))


def _text(value: object, place: str) -> str:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.ravel()[0]
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, str):
        return value
    raise ValueError(f"{place} has {value!r}, expected text")
