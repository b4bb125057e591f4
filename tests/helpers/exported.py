"""What tests of exported networks share: they run files by onnxruntime, and compare with the network."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from helpers import ROOT, small_plans
from repurpose_hpc.exporters.network import graph_of
from repurpose_hpc.exporters.onnx_file import write_onnx
from repurpose_hpc.model.comm_dtype import EXACT
from repurpose_hpc.model.ends import Subgraph
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.plan import Plan, single_worker_plan
from repurpose_hpc.plan.relays import Relays, with_relays

SAMPLES = 3
# Of the largest output: both sides compute in float32, in other orders.
ROUNDING = 1e-5


def example(name: str):
    """A program of ``examples/`` as a module."""
    spec = spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def samples_of(network: Network, seed: int = 0) -> np.ndarray:
    """Samples as the model takes them, (SAMPLES, inputs) float32."""
    inputs = network.ends.inputs(network.inputs)
    return np.random.default_rng(seed).standard_normal((SAMPLES, inputs)).astype(np.float32)


def split(rows: np.ndarray, shapes: list[tuple[int, ...]], dtypes: list[str]) -> list[np.ndarray]:
    """The inputs of a model from its samples, (samples, values)."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    parts = zip(np.split(rows, ends, axis=1), shapes, dtypes, strict=True)
    return [part.reshape(len(rows), *shape).astype(dtype) for part, shape, dtype in parts]


def joined(outputs: list[np.ndarray]) -> np.ndarray:
    """Outputs one after the other, (samples, values)."""
    return np.hstack([np.asarray(each).reshape(len(each), -1) for each in outputs])


def graph_alone(network: Network, plan: Plan | None = None) -> Subgraph:
    """The graph of a network, by default of one that nobody has cut."""
    return graph_of(network, plan or single_worker_plan(network))


def relayed(network: Network, workers: int, wire: str = EXACT) -> tuple[Network, Plan]:
    """A network of dense layers cut at random, of which the second has relays; and its plan."""
    plan = small_plans.random_plan(network, workers, "partitioned", 3)
    network, draw = small_plans.pruned(network, plan), np.random.default_rng(4)
    mixing = network.mixings[1]
    source, target = plan.ends(network, mixing)
    sender = draw.integers(0, workers, 2 * workers).astype(np.int32)
    receiver = (sender + 1) % workers
    relays = Relays(
        sender,
        receiver,
        draw.standard_normal((sender.size, source.size)) * (sender[:, None] == source),
        draw.standard_normal((target.size, sender.size)) * (target[:, None] == receiver),
        np.ones(sender.size, np.float32),
        np.zeros(sender.size, bool),
    )
    network, plan = with_relays(network.astype(np.float32), plan, {mixing.name: relays})
    return network, small_plans.scaled(network, plan, wire=wire)


def outputs_of(path: Path, graph: Subgraph, rows: np.ndarray) -> np.ndarray:
    """What onnxruntime makes of an exported file that the checker of ONNX accepts, (samples, values)."""
    write_onnx(graph, path)
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    ports = graph.inputs
    arrays = split(rows, [port.shape for port in ports], [port.dtype for port in ports])
    feeds = {port.name: array for port, array in zip(ports, arrays, strict=True)}
    assert [each.name for each in session.get_outputs()] == [port.name for port in graph.outputs]
    return joined(session.run(None, feeds))


def played(directory: Path, rows: np.ndarray) -> np.ndarray:
    """What the parts in a directory make of samples, played by ``examples/parts.py``, (samples, values)."""
    ports = json.loads((directory / "parts.json").read_text())["inputs"]
    arrays = split(rows, [tuple(port["shape"]) for port in ports], [port["dtype"] for port in ports])
    return joined(example("parts").play(directory, *arrays))


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float = ROUNDING) -> None:
    """Equal but for rounding, relative to the largest output."""
    assert found.shape == expected.shape
    assert np.abs(expected).max() > 0
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()
