"""Small ``.nir`` files, written with h5py alone, and those of other programs with what these computed."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from helpers import ROOT

RECORDED = ROOT / "tests/data/spiking"
Edges = list[tuple[str, str]]


def node(kind: str, **parameters: object) -> dict:
    """A node, or of type NIRGraph with ``nodes`` and ``edges``."""
    return {"type": kind, **parameters}


def chain(*names: str) -> Edges:
    """Edges from each node to the next."""
    return list(zip(names, names[1:], strict=False))


def write(path: Path, nodes: dict[str, dict], edges: Edges) -> Path:
    """A file with these nodes."""
    with h5py.File(path, "w") as file:
        file["version"] = "1.0.8"
        _fill(file.create_group("node"), node("NIRGraph", nodes=nodes, edges=edges))
    return path


def _fill(group: h5py.Group, content: dict) -> None:
    for name, value in content.items():
        if name == "nodes":
            inner = group.create_group(name)
            for key, each in value.items():
                _fill(inner.create_group(key), each)
        elif name == "edges":
            pairs = np.array(value, object).reshape(-1, 2)
            group.create_dataset(name, data=pairs, dtype=h5py.string_dtype())
        else:
            group[name] = value


def recorded(name: str) -> tuple[Path, np.ndarray, dict[str, np.ndarray]]:
    """A file of another program, trains, (samples, steps, ...), and spikes by node; see make_spiking.py."""
    with np.load(RECORDED / f"{name}.npz") as file:
        spikes = {}
        for key in file.files:
            if key.startswith("packed."):
                shape = tuple(file[key.replace("packed", "shape", 1)])
                bits = np.unpackbits(file[key])[: int(np.prod(shape))]
                spikes[key.removeprefix("packed.")] = bits.reshape(shape)
        return RECORDED / f"{name}.nir", file["x"].astype(np.float64), spikes
