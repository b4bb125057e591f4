"""A network's graph in an HDF5 group: its arrays as datasets, everything else as one JSON text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

import h5py
import numpy as np

from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.network import Network, Space, TilePart
from repurpose_hpc.model.operations import OPERATIONS, Operation, Window
from repurpose_hpc.model.spec import check

# Attributes of operations that are dataclasses themselves.
_RECORDS: dict[str, type[Activation] | type[Window]] = {"activation": Activation, "window": Window}
# Attributes of networks that are JSON values.
_NAMES = tuple(
    field.name
    for field in fields(Network)
    if field.init and field.name not in ("spaces", "operations", "ends")
)


def write_graph(group: h5py.Group, network: Network) -> None:
    """Store ``network`` without its ends in an empty group; what is not an array as one JSON text."""
    # Not attributes: those end at 64 KiB.
    structure = {name: getattr(network, name) for name in _NAMES}
    structure["spaces"] = [asdict(space) for space in network.spaces]
    structure["operations"] = [_describe(op) for op in network.operations]
    group["structure"] = np.bytes_(json.dumps(structure))
    for number, op in enumerate(network.operations):
        for name, value in _fields(op).items():
            if isinstance(value, np.ndarray):
                group[f"{number:04d}/{name}"] = value


def read_graph(group: h5py.Group) -> Network:
    """The network that ``write_graph`` stored.

    Raises:
        ValueError, KeyError: the graph is damaged.
    """
    structure = json.loads(group["structure"][()])
    try:
        return check(_network(structure, group), bare=True)
    except (TypeError, AttributeError) as error:  # an attribute too many, missing, or of another type
        raise ValueError(f"its graph is damaged: {error}") from None


def _network(structure: dict[str, Any], group: h5py.Group) -> Network:
    described = structure["operations"]
    parts = (group.get(f"{number:04d}", {}) for number in range(len(described)))
    return Network(
        spaces=tuple(Space(**_with_tuples(space)) for space in structure["spaces"]),
        operations=tuple(_operation(*pair) for pair in zip(described, parts, strict=True)),
        space_of=structure["space_of"],
        positions_of=_with_tuples(structure["positions_of"]),
        input_tensors=tuple(structure["input_tensors"]),
        output_tensors=tuple(structure["output_tensors"]),
        heads=tuple(structure["heads"]),
        # Older files have none of these.
        neuron_axes=structure.get("neuron_axes", {}),
        longest=structure.get("longest", 0),
        tile_owners=structure.get("tile_owners", {}),
        tile_parts={name: TilePart(*part) for name, part in structure.get("tile_parts", {}).items()},
        has_binary_inputs=structure.get("has_binary_inputs", False),
    )


def _fields(op: Operation) -> dict[str, Any]:
    return {field.name: getattr(op, field.name) for field in fields(op)}


def _describe(op: Operation) -> dict[str, Any]:
    described = {
        name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        for name, value in _fields(op).items()
        if not isinstance(value, np.ndarray)
    }
    return {"type": type(op).__name__, **described}


def _operation(described: dict[str, Any], arrays: Mapping[str, h5py.Dataset]) -> Operation:
    values = _with_tuples(described)
    for name, record in _RECORDS.items():
        if values.get(name):
            values[name] = record(**_with_tuples(values[name]))
    kind = OPERATIONS[values.pop("type")]
    return kind(**values, **{name: array[()] for name, array in arrays.items()})


def _with_tuples(described: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in described.items()}
