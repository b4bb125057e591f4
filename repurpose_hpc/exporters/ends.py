"""The ends of a model, and the inputs and outputs of a network, as nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from repurpose_hpc.exporters.graph import REAL, Graph, Value
from repurpose_hpc.exporters.onnx_model import at_opset
from repurpose_hpc.model.ends import Ends, Port
from repurpose_hpc.model.network import Network

_HEADS = {"softmax": "Softmax", "log_softmax": "LogSoftmax"}


def settled(ends: Ends) -> Ends:
    """The ends with nodes that can stand in one graph with others.

    Raises:
        UserError: they cannot be written, or onnx is missing.
    """
    front, back = (None if end is None else at_opset(end) for end in (ends.front, ends.back))
    return replace(ends, front=front, back=back)


def take_outputs(graph: Graph, network: Network) -> list[Port]:
    """The outputs of the model, whose names nothing else in the graph gets."""
    back = network.ends.back
    if back is not None:
        return [Port(graph.names.new(port.name), port.shape, port.dtype) for port in back.outputs]
    tensors = network.output_tensors
    names = ["output"]
    if len(network.ends.output_names) == len(tensors):
        names = [*network.ends.output_names]
    elif len(tensors) > 1:  # after their layers
        heads = ("" if head == "identity" else f".{head}" for head in network.heads)
        names = [tensor.removesuffix(".y") + head for tensor, head in zip(tensors, heads, strict=True)]
    return [
        Port(graph.names.new(name), network.layout(tensor), REAL.name)
        for name, tensor in zip(names, tensors, strict=True)
    ]


def add_front(graph: Graph, network: Network) -> dict[str, Value]:
    """The inputs of the model, and what stands before the network: the inputs of the network, by tensor."""
    front, tensors = network.ends.front, network.input_tensors
    if front is not None:
        made = graph.splice(front, [graph.input(*vars(port).values()) for port in front.inputs])
        ports = [*front.outputs]
    else:
        ports = _inputs(network)
        made = [graph.input(*vars(port).values()) for port in ports]
    names = [
        _seen(graph, name, port, network.layout(tensor))
        for name, port, tensor in zip(made, ports, tensors, strict=True)
    ]
    return {
        tensor: _by_neuron(graph, network, tensor, name) for tensor, name in zip(tensors, names, strict=True)
    }


def _inputs(network: Network) -> list[Port]:
    """The inputs of a model without a front: as in its file, where that is known of each."""
    ports, tensors = network.ends.input_ports, network.input_tensors
    if [port.size for port in ports] == [network.size(tensor) for tensor in tensors]:
        return [*ports]
    return [Port(network.space_of[tensor], network.layout(tensor), REAL.name) for tensor in tensors]


def _seen(graph: Graph, name: str, port: Port, sizes: tuple[int, ...]) -> str:
    """What a front has made, in the dtype of the network and the shape of its input."""
    if port.dtype != REAL.name:
        name = graph.cast(name)
    return name if port.shape == sizes else graph.reshaped(name, sizes)


def _by_neuron(graph: Graph, network: Network, tensor: str, name: str) -> Value:
    shape, axis = network.shape(tensor), network.neuron_axes.get(tensor, 0)
    if 0 < axis < len(shape.positions):
        others = [each for each in range(1, len(shape.positions) + 2) if each != 1 + axis]
        name = graph.add("Transpose", name, perm=[0, 1 + axis, *others])
    return Value(name, shape, neurons_last=0 < axis == len(shape.positions))


def add_back(graph: Graph, network: Network, values: Mapping[str, Value], outputs: list[Port]) -> None:
    """What stands behind the network, and the outputs of the model.

    Args:
        graph: gets them.
        network: of the model.
        values: its outputs, by tensor.
        outputs: of ``take_outputs``.
    """
    names = [
        _with_head(graph, head, _as_given(graph, network, tensor, values[tensor]))
        for tensor, head in zip(network.output_tensors, network.heads, strict=True)
    ]
    back = network.ends.back
    if back is not None:
        read = zip(names, back.inputs, network.output_tensors, strict=True)
        names = graph.splice(
            back, [_given(graph, name, port, network.layout(tensor)) for name, port, tensor in read]
        )
    for name, port in zip(names, outputs, strict=True):
        graph.output(name, port)


def _as_given(graph: Graph, network: Network, tensor: str, value: Value) -> str:
    """An output as it lies in a sample."""
    axis, axes = network.neuron_axes.get(tensor, 0), len(value.shape.positions)
    if not 0 < axis < axes:
        return graph.laid(value, 0 < axis == axes).name
    first = graph.laid(value, False).name
    return graph.add("Transpose", first, perm=[0, *range(2, 2 + axis), 1, *range(2 + axis, 2 + axes)])


def _with_head(graph: Graph, head: str, name: str) -> str:
    return graph.add(_HEADS[head], name, axis=-1) if head in _HEADS else name


def _given(graph: Graph, name: str, port: Port, sizes: tuple[int, ...]) -> str:
    """An output of the network, in the dtype and the shape in which the back reads it."""
    if port.shape != sizes:
        name = graph.reshaped(name, port.shape)
    return name if port.dtype == REAL.name else graph.cast(name, port.dtype)
