"""Reads a ``.nir`` file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from repurpose_hpc.errors import LacksMemory, Note, UserError
from repurpose_hpc.model.importers.nir.file import REMEDY, read_file
from repurpose_hpc.model.importers.nir.graph import INPUT, OUTPUT, Graph, flat_graph
from repurpose_hpc.model.importers.nir.nodes import DENSE, FLATTEN, flat_shape, read_node
from repurpose_hpc.model.importers.nir.options import Rules, SpikingOptions
from repurpose_hpc.model.importers.nir.parameters import Parameters
from repurpose_hpc.model.importers.nir.recurrent import read_cycle, summed
from repurpose_hpc.model.importers.spiking.readout import TRAINS, read_out
from repurpose_hpc.model.importers.spiking.trains import Train, Trains
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Membrane


def load_nir(path: Path, options: SpikingOptions) -> Network:
    """The network in a file, on trains of so many steps as ``options`` says; a ``Note`` says how it was read.

    Returns:
        a sample is (steps, features) or (steps, channels, height, width), an output of trains likewise.

    Raises:
        UserError: something is missing, damaged or not supported; names the node.
        FieldError: an option is missing.
    """
    rules = options.settled()
    graph = flat_graph(path, read_file(path))
    try:
        network = options.coded(_Reader(graph, rules).network())
    except MemoryError:
        raise LacksMemory(
            f"{path}: expected a network of {rules.steps} steps that fits into memory, found a larger one; "
            "give fewer --steps, or check the file"
        ) from None
    except ValueError as error:  # of the builder: names of layers that are made besides
        raise UserError(f"{path}: {error}; give nodes other names") from None
    warnings.warn(f"{path}: {rules}{_decays(network)}", Note, stacklevel=2)
    return network


def _decays(network: Network) -> str:
    """The range of decays in words: those of a wrong convention are next to 0 or 1."""
    decays = [op.decay for op in network.operations if isinstance(op, Membrane)]
    if not decays:
        return ""
    low, high = (f"{end(np.concatenate([*map(np.ravel, decays)])):.3g}" for end in (np.min, np.max))
    return f"; a step keeps {low if low == high else f'{low} to {high}'} of a potential"


class _Reader:
    """Makes layers of nodes, in an order in which they can be computed.

    Args:
        graph: of the file.
        rules: by which it is read.
    """

    def __init__(self, graph: Graph, rules: Rules) -> None:
        self._graph, self._rules, self._trains = graph, rules, Trains(rules.steps)
        self._made: dict[str, Train] = {}

    def network(self) -> Network:
        start, end = self._graph.only(INPUT), self._graph.only(OUTPUT)
        self._made[start] = self._trains.input(start, self._input_shape(start))
        for group in self._graph.groups():
            name = group[0]
            if len(group) > 1 or name in self._graph.sources[name]:
                neurons, spikes = read_cycle(self._trains, self._graph, group, self._made, self._rules)
                self._made[neurons] = spikes
            elif name != start and self._is_reached(name):
                self._made[name] = self._node(name)
        if end not in self._made:
            raise UserError(f"{self._graph.path}: expected a way from {start} to {end}, found none; {REMEDY}")
        output = read_out(self._trains, self._made[end], self._rules.read_out)
        return self._trains.build(output, self._rules.read_out == TRAINS)

    def _is_reached(self, name: str) -> bool:
        """Whether a node reads something that comes from the input."""
        return any(source in self._made for source in self._graph.sources[name])

    def _node(self, name: str) -> Train:
        node = self._parameters(name)
        sources = [self._made[source] for source in self._graph.sources[name] if source in self._made]
        return read_node(self._trains, node, summed(self._trains, node, sources), self._rules)

    def _parameters(self, name: str) -> Parameters:
        return Parameters(self._graph.path, name, self._graph.nodes[name])

    def _input_shape(self, start: str) -> tuple[int, ...]:
        """The shape of a step of the input: that of the file, flat where it is only read so."""
        node = self._parameters(start)
        readers = [self._parameters(name) for name in self._readers(start)]
        if node.has("shape"):
            shape = node.whole("shape", node.numbers("shape").size, 1)
        else:
            shape = next((those for reader in readers if (those := _expected_shape(reader))), ())
        if len(shape) > 3 and shape[0] == 1:
            shape = shape[1:]  # of an exporter that was given a sample with an axis of samples
        if not 1 <= len(shape) <= 3:
            raise node.fault(
                "expected a shape (features,), (channels, length) or (channels, height, width), found "
                f"{shape or 'none, nor a node behind it that says one'}"
            )
        if readers and all(_reads_flat(reader, shape) for reader in readers):
            return (Train("", shape).size,)
        return shape

    def _readers(self, start: str) -> Iterator[str]:
        """Nodes that read another, not counting those that change nothing."""
        for name, sources in self._graph.sources.items():
            if start in sources:
                if self._graph.nodes[name].kind == "Identity":
                    yield from self._readers(name)
                else:
                    yield name


def _expected_shape(node: Parameters) -> tuple[int, ...]:
    """The shape of a step that a node reads, as its parameters say; (): they do not."""
    kind = node.node.kind
    if kind in DENSE:
        return node.weights(2).shape[1:]
    if kind.startswith("Conv") and node.has("input_shape"):
        axes = int(kind[4])
        (groups,) = node.whole("groups", 1, least=1, default=1)
        return (node.weights(axes + 2).shape[1] * groups, *node.whole("input_shape", axes, 1))
    for key in ("v_threshold", "r", "scale", "delay", "threshold", "input_type"):
        if node.has(key) and node.numbers(key).ndim:
            value = node.numbers(key)
            return tuple(map(int, value.tolist())) if key == "input_type" else value.shape
    return ()


def _reads_flat(node: Parameters, shape: tuple[int, ...]) -> bool:
    kind = node.node.kind
    return kind in DENSE or kind == FLATTEN and len(flat_shape(node, shape)) == 1
