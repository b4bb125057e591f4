"""A graph of ONNX operators in the making."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from repurpose_hpc.model.ends import Port, Step, Subgraph
from repurpose_hpc.model.ends.elementwise import DTYPES
from repurpose_hpc.model.operations import Shape

# Of the nodes that are made here: what onnxruntime since 1.12 and most other runtimes know.
OPSET = 17
# Of all real numbers, as in a run.  onnxruntime has no convolutions of others.
REAL = np.dtype(np.float32)
# The numbers that ONNX has for dtypes, by NumPy's name, and for one that NumPy does not have.
DTYPE_NUMBERS = {name: number for number, name in DTYPES.items()}
BFLOAT16_NUMBER = 16


class Value(NamedTuple):
    """A tensor of the graph, the samples on its first axis.

    Attributes:
        name: in the graph.
        shape: of a sample.
        neurons_last: whether the neurons are on the last axis, as ONNX has the features of sequences, rather
            than on the one behind the samples, as it has the channels of images; both, of vectors.
    """

    name: str
    shape: Shape
    neurons_last: bool = False

    @property
    def axis(self) -> int:
        """Of the neurons."""
        return -1 if self.neurons_last else 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of all axes, the samples left out."""
        n, positions = self.shape
        return (*positions, n) if self.neurons_last else (n, *positions)

    def of(self, neurons: int, name: str) -> Value:
        """A tensor of other neurons that lies like this one."""
        return self._replace(name=name, shape=Shape(neurons, self.shape.positions))


class Names:
    """Names that are taken, of one graph or of several that share tensors."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def new(self, name: str) -> str:
        """``name``, or the same with a number where that is taken."""
        result, count = name, 1
        while result in self._taken:
            count += 1
            result = f"{name}_{count}"
        self._taken.add(result)
        return result


class Graph:
    """Nodes, constants, inputs and outputs.

    Args:
        sequences: whether maps of one axis are sequences, whose features lie on the last axis where layers
            take them one by one.
        longest: tokens that a sequence may have, where it has any number (``FREE``).
        names: those that are taken.
    """

    def __init__(self, sequences: bool = False, longest: int = 0, names: Names | None = None) -> None:
        self.sequences, self.longest = sequences, longest
        self.names = names or Names()
        self.inputs: list[Port] = []
        self.outputs: list[Port] = []
        self.steps: list[Step] = []
        self.constants: dict[str, np.ndarray] = {}
        self._scope = "graph"
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._laid: dict[Value, Value] = {}
        self._renamed: dict[str, str] = {}
        self._once: dict[str, str] = {}

    @contextmanager
    def within(self, scope: str) -> Iterator[None]:
        """A block in which what is added is named after ``scope``, such as a layer."""
        before, self._scope = self._scope, scope
        yield
        self._scope = before

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """A node of one output, whose name is returned."""
        output = self.names.new(f"{self._scope}.{operator.lower()}")
        self.steps.append(Step(operator, inputs, (output,), attributes, OPSET))
        return output

    def cast(self, name: str, dtype: str = REAL.name) -> str:
        """A tensor in another dtype."""
        return self.add("Cast", name, to=DTYPE_NUMBERS[dtype])

    def constant(self, name: str, array: np.ndarray) -> str:
        """An array that is part of the graph, called after the scope."""
        name = self.names.new(f"{self._scope}.{name}")
        self.constants[name] = array
        return name

    def known(self, array: np.ndarray) -> str:
        """An array, such as a shape, that is part of the graph once, however often it is needed."""
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self._known:
            self._known[key] = name = self.names.new(f"constant_{len(self._known)}")
            self.constants[name] = array
        return self._known[key]

    def once(self, word: str, make: Callable[[], str]) -> str:
        """A tensor that is made where it is first needed; ``word``: what stands for it."""
        if word not in self._once:
            with self.within("sequence"):
                self._once[word] = make()
        return self._once[word]

    def integers(self, values: Sequence[int] | np.ndarray) -> str:
        """A shape, axes or the like, (values,) int64."""
        return self.known(np.array(values, np.int64))

    def number(self, value: float) -> str:
        """A real number."""
        return self.known(np.array(value, REAL))

    def real(self, name: str, array: np.ndarray) -> str:
        """``constant`` of real numbers."""
        return self.constant(name, np.ascontiguousarray(array, REAL))

    def by_neuron(self, name: str, array: np.ndarray, value: Value) -> str:
        """A constant for the neurons of a tensor, or for all their values, shaped so that it broadcasts.

        Args:
            name: see ``constant``.
            array: (neurons or 1, values or 1), real numbers or truth values.
            value: the tensor.
        """
        positions = value.shape.positions
        axes = positions if array.shape[1] == math.prod(positions) else (1,) * len(positions)
        shaped = array.reshape(len(array), *axes)
        shaped = np.moveaxis(shaped, 0, -1) if value.neurons_last else shaped
        return self.constant(name, shaped) if shaped.dtype == bool else self.real(name, shaped)

    def laid(self, value: Value, neurons_last: bool) -> Value:
        """The same tensor, its neurons on the last axis or on the first."""
        if value.neurons_last == neurons_last or not value.shape.positions:
            return value
        if value not in self._laid:
            axes = range(1, len(value.sizes) + 1)
            perm = (0, *axes[1:], 1) if neurons_last else (0, axes[-1], *axes[:-1])
            name = self.add("Transpose", value.name, perm=[*perm])
            self._laid[value] = Value(name, value.shape, neurons_last)
        return self._laid[value]

    def shaped(self, value: Value, positions: tuple[int, ...]) -> Value:
        """The same neurons, their maps seen in another shape."""
        if positions == value.shape.positions:
            return value
        result = value._replace(
            shape=Shape(value.shape.neurons, positions), neurons_last=value.neurons_last and bool(positions)
        )
        return result._replace(name=self.reshaped(value.name, result.sizes))

    def reshaped(self, name: str, sizes: Sequence[int]) -> str:
        """A tensor with other axes, the samples left out."""
        return self.add("Reshape", name, self.integers((0, *sizes)))

    def picked(self, value: Value, neurons: np.ndarray) -> Value:
        """Some neurons of a tensor, in any order."""
        first, count = int(neurons[0]), len(neurons)
        if not np.array_equal(neurons, np.arange(first, first + count)):
            index = self.constant("index", neurons.astype(np.int64))
            return value.of(count, self.add("Gather", value.name, index, axis=value.axis))
        if count == value.shape.neurons:
            return value
        bounds = (self.integers([each]) for each in (first, first + count, value.axis))
        return value.of(count, self.add("Slice", value.name, *bounds))

    def joined(self, values: Sequence[Value]) -> Value:
        """The neurons of one tensor after those of the other, all of which lie alike."""
        if len(values) == 1:
            return values[0]
        neurons = sum(value.shape.neurons for value in values)
        name = self.add("Concat", *(value.name for value in values), axis=values[0].axis)
        return values[0].of(neurons, name)

    def input(self, name: str, shape: tuple[int, ...], dtype: str = REAL.name) -> str:
        """An input, whose name is returned; the other arguments are those of ``Port``."""
        self.inputs.append(Port(self.names.new(name), shape, dtype))
        return self.inputs[-1].name

    def rename(self, old: str, new: str) -> str:
        """Another name, taken already, for what a node of this graph has made; the new one."""

        def renamed(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(new if name == old else name for name in names)

        for place in range(len(self.steps) - 1, -1, -1):
            step = self.steps[place]
            self.steps[place] = replace(step, inputs=renamed(step.inputs), outputs=renamed(step.outputs))
            if old in step.outputs:
                break
        for value, laid in self._laid.items():
            if laid.name == old:
                self._laid[value] = laid._replace(name=new)
        return new

    def is_made(self, name: str) -> bool:
        """Whether a node of this graph makes a tensor."""
        return any(name in step.outputs for step in reversed(self.steps))

    def output(self, value: str, port: Port) -> None:
        """Make a tensor an output, under the name of the port, which is taken for it."""
        value = self._renamed.get(value, value)
        is_free = self.is_made(value) and value not in {port.name for port in self.outputs}
        self._renamed[value] = self.rename(value if is_free else self.add("Identity", value), port.name)
        self.outputs.append(port)

    def splice(self, nodes: Subgraph, inputs: Sequence[str]) -> list[str]:
        """Nodes of another graph, from tensors of this one; the names of its outputs.

        What has a name that is taken gets another one.
        """
        names = dict(zip((port.name for port in nodes.inputs), inputs, strict=True))
        for name, array in nodes.constants.items():
            names[name] = self.names.new(name)
            self.constants[names[name]] = array
        for step in nodes.steps:
            names |= {name: self.names.new(name) for name in step.outputs if name}
            read, made = (tuple(names.get(name, "") for name in each) for each in (step.inputs, step.outputs))
            self.steps.append(replace(step, inputs=read, outputs=made))
        return [names[port.name] for port in nodes.outputs]

    def subgraph(self, batch: int = 0) -> Subgraph:
        """All of it; ``batch``: samples that it takes at a time, 0: any number."""
        return Subgraph(tuple(self.inputs), tuple(self.outputs), tuple(self.steps), self.constants, batch)
