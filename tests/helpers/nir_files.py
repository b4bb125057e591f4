"""Small ``.nir`` files, written with h5py alone, and those of other programs with what these computed."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from helpers import ROOT
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.importers.nir.options import SpikingOptions
from repurpose_hpc.model.network import Network

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


# How the networks published with NIR were trained, and how many samples and which rate they are tested with.
PAPER = {
    "cnn": ({"convention": "sinabs"}, 2, 0.05),
    "braille_zero": ({"convention": "snntorch", "reset": "set", "reset_delay": False}, 6, 0.2),
    "braille_subtract": ({"convention": "snntorch", "reset_delay": False}, 6, 0.2),
}


def paper(name: str, steps: int) -> tuple[Network, np.ndarray]:
    """A network published with NIR, whose outputs are trains, and trains, (samples, steps, ...)."""
    rules, samples, rate = PAPER[name]
    options = SpikingOptions(steps=steps, read_out="trains", **rules)
    network = load_model(RECORDED / f"paper_{name}.nir", spiking=options)
    x = np.random.default_rng(1).random((samples, *network.input_shape)) < rate
    return network, x.astype(np.float64)


def parameters(name: str) -> dict[str, dict[str, np.ndarray]]:
    """What the nodes of a file have, by node."""
    with h5py.File(RECORDED / f"{name}.nir") as file:
        return {
            node: {key: values[()] for key, values in group.items() if key != "type"}
            for node, group in file["node/nodes"].items()
        }
