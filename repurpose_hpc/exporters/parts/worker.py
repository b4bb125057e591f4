"""The graphs of one worker: a stage is what it computes between one round of exchanges and the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from repurpose_hpc.exporters.graph import REAL, Names, Value
from repurpose_hpc.exporters.network import empty_graph
from repurpose_hpc.exporters.registry import add_operation
from repurpose_hpc.exporters.rounding import add_received
from repurpose_hpc.model.comm_dtype import EXACT
from repurpose_hpc.model.ends import Port
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing, Operation, Rows, Shape
from repurpose_hpc.model.weights import Weights, dense, values_of
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.plan.shard import Block, Lists, Shard

GHOSTS, SUMS = "ghosts", "sums"
# An input of stages whose values depend on no sample: a zero for each.
ZEROS = "zeros"


class Held(NamedTuple):
    """Neurons of a tensor that a worker has.

    Attributes:
        value: in the worker's stages.
        neurons: numbers in the whole tensor, (n,).
    """

    value: Value
    neurons: np.ndarray


class Message(NamedTuple):
    """What a worker sends another one, or receives of it.

    Attributes:
        round: the stage after which it travels.
        kind: ``GHOSTS``, or ``SUMS``, which the receiver adds up.
        layer: the first that reads the ghosts, or whose sums these are.
        other: the worker at the other end.
        value: name in this worker's stages.
        neurons: their numbers, (n,), of the layer's source or of its target.
    """

    round: int
    kind: str
    layer: str
    other: int
    value: str
    neurons: np.ndarray


class Stages:
    """The graphs of one worker, and what goes in and out of them.

    Attributes:
        graphs: one for each stage; in some there is nothing to compute.
        inputs, outputs: what the worker has of those of the network, by tensor.
        sent, received: messages.
    """

    def __init__(
        self, shard: Shard, plan: Plan, rounds: Mapping[str, int], inputs: Mapping[str, Value]
    ) -> None:
        """Write all that the worker computes.

        Args:
            shard: of the worker.
            plan: says how ghosts travel.
            rounds: that must be over before each tensor is complete.
            inputs: of the network, as they are given.
        """
        self._shard, self._plan, self._rounds = shard, plan, rounds
        self._network: Network = shard.graph
        self._names = Names()
        self._zeros = Value(self._names.new(ZEROS), Shape(1, ()))
        self.graphs = [empty_graph(self._network, names=self._names) for _ in range(1 + max(rounds.values()))]
        self._values: dict[str, Value | None] = {}
        self._stage_of: dict[str, int] = {}
        self._arrived: dict[str, list[tuple[Value, np.ndarray]]] = {}
        self.inputs: dict[str, Held] = {}
        self.outputs: dict[str, Held] = {}
        self.sent: list[Message] = []
        self.received: list[Message] = []
        for tensor, value in inputs.items():
            self._take(tensor, value)
        for op in self._network.operations:
            self._values[op.target] = self._mixing(op) if isinstance(op, Mixing) else self._local(op)
        for tensor in self._network.output_tensors:
            self._give(tensor)

    def _own(self, tensor: str) -> np.ndarray:
        """The neurons of a tensor that the worker has."""
        return self._shard.own[self._network.space_of[tensor]]

    def _shape(self, tensor: str) -> Shape:
        return Shape(len(self._own(tensor)), self._network.positions_of[tensor])

    def _take(self, tensor: str, given: Value) -> None:
        """Its neurons of an input."""
        own = self._own(tensor)
        self._values[tensor] = None
        if own.size:
            value = given.of(own.size, self._names.new(given.name))
            self._values[tensor], self.inputs[tensor] = value, Held(value, own)

    def _give(self, tensor: str) -> None:
        """Its neurons of an output."""
        value = self._values[tensor]
        if value is not None:
            stage = self._rounds[tensor]
            laid = self.graphs[stage].laid(self._at(value, stage), self._lies_last(value.shape.positions))
            value = self._made(laid, stage)
            self._keep(value)
            self.outputs[tensor] = Held(value, self._own(tensor))

    def _keep(self, value: Value) -> None:
        """Make a value an output of the stage that computes it, if one does."""
        stage = self._stage_of.get(value.name)
        if stage is not None:
            _add_port(self.graphs[stage].outputs, value)

    def _at(self, value: Value, stage: int) -> Value:
        """A value that a stage reads, from an earlier one or from elsewhere."""
        if self._stage_of.get(value.name) != stage:
            _add_port(self.graphs[stage].inputs, value)
            self._keep(value)
        return value

    def _made(self, value: Value, stage: int, name: str = "") -> Value:
        """A value that a stage may just have made, called ``name`` unless it has one."""
        graph = self.graphs[stage]
        if value.name in self._stage_of or not graph.is_made(value.name):
            return value
        if name:
            value = value._replace(name=graph.rename(value.name, self._names.new(name)))
        self._stage_of[value.name] = stage
        return value

    def _added(self, op: Operation, sources: Sequence[Value], stage: int, target: Shape) -> Value:
        """What an operation makes in a stage."""
        present = [self._at(value, stage) for value in sources]
        return self._made(add_operation(self.graphs[stage], op, present, target), stage)

    def _local(self, op: Operation) -> Value | None:
        if not self._own(op.target).size:
            return None
        rows = [self._rows(tensor) for tensor in (op.target, *op.sources)]
        values = [value for source in op.sources if (value := self._values[source]) is not None]
        return self._added(op.restricted(*rows), values, self._rounds[op.target], self._shape(op.target))

    def _rows(self, tensor: str) -> Rows:
        neurons = self._own(tensor)
        workers = np.full(neurons.size, self._shard.worker, np.int64)
        return Rows(neurons, workers, self._network.space(tensor).neurons)

    def _mixing(self, op: Mixing) -> Value | None:
        block = self._shard.blocks[op.name]
        self._send_ghosts(op, block.ghosts)
        self._send_sums(op, block)
        self._receive_ghosts(op, block.ghosts)
        if not self._own(op.target).size:
            return None
        parts = {"own": (block.own_weights, self._values[op.source])}
        if values_of(block.ghost_weights).any():
            parts[GHOSTS] = block.ghost_weights, self._ghosts(op, block.ghost_neurons)
        sums = [self._spread(op, *arrived) for arrived in self._receive_sums(op, block.sums)]
        return self._total(op, [*self._products(op, block.bias, parts, alone=not sums), *sums])

    def _products(
        self, op: Mixing, bias: np.ndarray, parts: Mapping[str, tuple[Weights, Value | None]], alone: bool
    ) -> list[Value]:
        """What the weights make of each part of the source, the bias with the first.

        Args:
            op: the mixing.
            bias: of the worker's neurons.
            parts: weights for its own neurons and for ghosts, and these.
            alone: whether nothing else is added to it.
        """
        stage, shape, products = self._rounds[op.target], self._shape(op.target), []
        read = {
            word: (weights, value)
            for word, (weights, value) in parts.items()
            if value is not None and values_of(weights).any()
        }
        for word, (weights, value) in read.items():
            name = op.name if alone and len(read) == 1 else f"{op.name}.{word}"
            layer = replace(op, name=name, weights=weights, bias=bias)
            products.append(self._added(layer, [value], stage, shape))
            bias = np.zeros_like(bias)
        return products or [self._same_for_all(op, bias, stage, shape.positions)]

    def _same_for_all(self, op: Mixing, bias: np.ndarray, stage: int, positions: tuple[int, ...]) -> Value:
        """Numbers of neurons that are the same for every sample, made of a zero for each."""
        graph = self.graphs[stage]
        layer = Mixing(f"{op.name}.bias", "", "", np.zeros((len(bias), 1), bias.dtype), bias)
        ones = (1,) * len(positions)
        value = self._added(layer, [self._zeros], stage, Shape(len(bias), ones))
        if not positions:
            return value
        with graph.within(f"{op.name}.bias"):
            zeros = graph.real("positions", np.zeros((1, *positions)))
            name = graph.add("Add", value.name, zeros)
        return self._made(Value(name, Shape(len(bias), positions)), stage)

    def _total(self, op: Mixing, terms: list[Value]) -> Value:
        stage, (total, *others) = self._rounds[op.target], terms
        graph = self.graphs[stage]
        with graph.within(op.name):
            for term in others:
                right = graph.laid(term, total.neurons_last)
                total = total._replace(name=graph.add("Add", total.name, right.name))
        return self._made(total, stage, op.name)

    def _lies_last(self, positions: tuple[int, ...]) -> bool:
        """Whether the neurons of a message are on its last axis; both ends think so."""
        return self.graphs[0].sequences and len(positions) == 1

    def _send(self, round: int, kind: str, op: Mixing, other: int, value: Value, neurons: np.ndarray) -> None:
        graph = self.graphs[round]
        laid = graph.laid(value, self._lies_last(value.shape.positions))
        sent = self._made(laid, round, f"{op.name}.{kind}.to_{other}")
        self._keep(sent)
        self.sent.append(Message(round, kind, op.name, other, sent.name, neurons))

    def _receive(
        self, kind: str, op: Mixing, other: int, positions: tuple[int, ...], neurons: np.ndarray
    ) -> Value:
        round = self._rounds[op.source]
        name = self._names.new(f"{op.name}.{kind}.from_{other}")
        self.received.append(Message(round, kind, op.name, other, name, neurons))
        return Value(name, Shape(neurons.size, positions), self._lies_last(positions))

    def _send_ghosts(self, op: Mixing, lists: Lists) -> None:
        own, value, stage = self._own(op.source), self._values[op.source], self._rounds[op.source]
        graph = self.graphs[stage]
        for other, neurons in _by_worker(lists.sent, lists.sent_to):
            assert value is not None
            with graph.within(f"{op.name}.{GHOSTS}.to_{other}"):
                sent = graph.picked(self._at(value, stage), np.searchsorted(own, neurons))
                if self._plan.comm_dtype != EXACT:
                    sent = add_received(graph, sent, op.source, self._plan, neurons)
                self._send(stage, GHOSTS, op, other, sent, neurons)

    def _receive_ghosts(self, op: Mixing, lists: Lists) -> None:
        positions, arrived = self._network.positions_of[op.source], self._arrived.setdefault(op.source, [])
        for other, neurons in _by_worker(lists.received, lists.received_from):
            arrived.append((self._receive(GHOSTS, op, other, positions, neurons), neurons))

    def _ghosts(self, op: Mixing, neurons: np.ndarray) -> Value:
        """The ghosts of a mixing, of those that have arrived for all that read its source."""
        stage, arrived = self._rounds[op.target], self._arrived[op.source]
        graph, numbers = self.graphs[stage], np.concatenate([each for _, each in arrived])
        order = np.argsort(numbers)
        places = order[np.searchsorted(numbers, neurons, sorter=order)]
        with graph.within(f"{op.name}.{GHOSTS}"):
            joined = graph.joined([self._at(value, stage) for value, _ in arrived])
            return self._made(graph.picked(joined, places), stage)

    def _send_sums(self, op: Mixing, block: Block) -> None:
        stage, own = self._rounds[op.source], self._values[op.source]
        weights, positions = dense(block.sum_weights), self._network.positions_of[op.target]
        for other, neurons in _by_worker(block.sums.sent, block.sums.sent_to):
            bias = np.zeros(neurons.size, block.bias.dtype)
            if own is None:
                value = self._same_for_all(op, bias, stage, positions)
            else:
                rows = weights[block.sums.sent_to == other]
                part = replace(op, name=f"{op.name}.{SUMS}", weights=rows, bias=bias)
                value = self._added(part, [own], stage, Shape(neurons.size, positions))
            self._send(stage, SUMS, op, other, value, neurons)

    def _receive_sums(self, op: Mixing, lists: Lists) -> Iterator[tuple[Value, np.ndarray]]:
        positions = self._network.positions_of[op.target]
        for other, neurons in _by_worker(lists.received, lists.received_from):
            yield self._receive(SUMS, op, other, positions, neurons), neurons

    def _spread(self, op: Mixing, value: Value, neurons: np.ndarray) -> Value:
        """Sums for some neurons of the worker as a tensor of all of them."""
        own, stage = self._own(op.target), self._rounds[op.target]
        graph, axes = self.graphs[stage], len(value.sizes)
        value = self._at(value, stage)
        if np.array_equal(own, neurons):
            return value
        places = np.full(own.size, neurons.size)
        places[np.searchsorted(own, neurons)] = np.arange(neurons.size)
        with graph.within(f"{op.name}.{SUMS}"):
            behind = [0] * (axes + 1)
            behind[value.axis] = 1  # a neuron of zeros, for those of which there is no sum
            widths = graph.integers([0] * (axes + 1) + behind)
            padded = graph.add("Pad", value.name, widths)
            return graph.picked(value.of(neurons.size + 1, padded), places)


def _by_worker(neurons: np.ndarray, workers: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Neurons by the worker at the other end."""
    for worker in np.unique(workers).tolist():
        yield worker, neurons[workers == worker]


def _add_port(ports: list[Port], value: Value) -> None:
    """Add a value to the inputs or the outputs of a graph, once."""
    if value.name not in {port.name for port in ports}:
        ports.append(Port(value.name, value.sizes, REAL.name))
