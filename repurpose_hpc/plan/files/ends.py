"""The ends of a model in an HDF5 group: their constants as datasets, everything else as one JSON text."""

from __future__ import annotations

import json
from typing import Any

import h5py
import numpy as np

from repurpose_hpc.model.ends import Ends, Port, Step, Subgraph
from repurpose_hpc.plan.files.content import Content

_ENDS = ("front", "back")
# Beside the group: programs that know nothing of it run the same shards.
NAMES = "names"


def write_ends(group: h5py.Group, ends: Ends) -> None:
    """Store the ends that there are in an empty group."""
    for name in _ENDS:
        subgraph = getattr(ends, name)
        if subgraph is not None:
            _write(group.create_group(name), subgraph)


def write_names(file: h5py.File, ends: Ends) -> None:
    """Store what the inputs and outputs of the model are called, if that is known."""
    if ends.input_ports or ends.output_names:
        names = {"inputs": [vars(port) for port in ends.input_ports], "outputs": ends.output_names}
        file[NAMES] = np.bytes_(json.dumps(names))


def read_ends(content: Content) -> Ends:
    """The ends and names in a file, those that there are.

    Raises:
        ValueError, KeyError: they are damaged.
    """
    file = content.file
    group = file.get("ends", {})
    try:
        front, back = (_read(content, group[name]) if name in group else None for name in _ENDS)
        names = json.loads(file[NAMES][()]) if NAMES in file else {"inputs": [], "outputs": []}
        inputs, outputs = _ports(names["inputs"]), tuple(map(str, names["outputs"]))
    except (TypeError, AttributeError) as error:  # an attribute too many, missing, or of another type
        raise ValueError(f"its ends are damaged: {error}") from None
    return Ends(front, back, input_ports=inputs, output_names=outputs)


def _write(group: h5py.Group, subgraph: Subgraph) -> None:
    structure = {
        "inputs": [vars(port) for port in subgraph.inputs],
        "outputs": [vars(port) for port in subgraph.outputs],
        "steps": [vars(step) for step in subgraph.steps],
        "constants": list(subgraph.constants),
        "batch": subgraph.batch,
    }
    group["structure"] = np.bytes_(json.dumps(structure, default=_described))
    for number, array in enumerate(subgraph.constants.values()):
        group[f"{number:04d}"] = array
    if subgraph.model:
        group["model"] = np.frombuffer(subgraph.model, np.uint8)


def _read(content: Content, group: h5py.Group) -> Subgraph:
    structure = json.loads(group["structure"][()], object_hook=_array)
    return Subgraph(
        inputs=_ports(structure["inputs"]),
        outputs=_ports(structure["outputs"]),
        steps=tuple(
            Step(**{**step, "inputs": tuple(step["inputs"]), "outputs": tuple(step["outputs"])})
            for step in structure["steps"]
        ),
        constants={
            name: content.array(group[f"{number:04d}"]) for number, name in enumerate(structure["constants"])
        },
        batch=structure["batch"],
        model=group["model"][()].tobytes() if "model" in group else b"",
    )


def _ports(described: list[dict[str, Any]]) -> tuple[Port, ...]:
    return tuple(Port(**{**port, "shape": tuple(port["shape"])}) for port in described)


def _described(array: np.ndarray) -> dict[str, Any]:
    """An attribute that is an array, as JSON holds it."""
    return {"array": array.tolist(), "dtype": array.dtype.name}


def _array(described: dict[str, Any]) -> Any:
    if described.keys() == {"array", "dtype"}:
        return np.array(described["array"], described["dtype"])
    return described
