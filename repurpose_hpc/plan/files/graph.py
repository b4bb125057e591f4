"""A network's graph in an HDF5 group: its arrays as datasets, everything else as one JSON text."""

from __future__ import annotations

import json
from dataclasses import asdict, fields

import h5py
import numpy as np

from repurpose_hpc.model import operations
from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.network import Network, Space
from repurpose_hpc.model.operations import Operation, Window

_NAMES = ("space_of", "positions_of", "input_tensors", "output_tensors", "heads")


def write_graph(group: h5py.Group, network: Network) -> None:
    """Store ``network`` in an empty group; what is not an array as one JSON text."""
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
    """The network that ``write_graph`` stored."""
    structure = json.loads(group["structure"][()])
    described = structure["operations"]
    parts = (group.get(f"{number:04d}", {}) for number in range(len(described)))
    return Network(
        spaces=tuple(Space(**_with_tuples(space)) for space in structure["spaces"]),
        operations=tuple(_operation(*both) for both in zip(described, parts, strict=True)),
        space_of=structure["space_of"],
        positions_of=_with_tuples(structure["positions_of"]),
        **{name: tuple(structure[name]) for name in ("input_tensors", "output_tensors", "heads")},
    )


def _fields(op: Operation) -> dict:
    return {each.name: getattr(op, each.name) for each in fields(op)}


def _describe(op: Operation) -> dict:
    described = {name: value for name, value in _fields(op).items() if not isinstance(value, np.ndarray)}
    for name, value in described.items():
        if isinstance(value, (Activation, Window)):
            described[name] = asdict(value)
    return {"type": type(op).__name__, **described}


def _operation(described: dict, arrays: h5py.Group | dict) -> Operation:
    values = _with_tuples(described)
    if values.get("window"):
        values["window"] = Window(**_with_tuples(values["window"]))
    if "activation" in values:
        values["activation"] = Activation(**values["activation"])
    operation = getattr(operations, values.pop("type"))
    return operation(**values, **{name: array[()] for name, array in arrays.items()})


def _with_tuples(described: dict) -> dict:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in described.items()}
