"""Turns signals of an ONNX graph into tensors of a network, as they are needed."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import numpy as np

from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.builder import Builder
from repurpose_hpc.model.importers.onnx.axes import (
    joined_axes,
    with_axes_apart,
    with_axes_joined,
    with_mixed_axes_apart,
)
from repurpose_hpc.model.importers.onnx.expression import Expression
from repurpose_hpc.model.importers.onnx.regrouping import add as add_regrouping
from repurpose_hpc.model.importers.onnx.regrouping import regrouping
from repurpose_hpc.model.importers.onnx.signal import Signal, Unsupported
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Window, pointwise, whole_map


class Tensors:
    """The network under construction.

    The neurons of an input are decided on by its first use: all its values for a layer that sees a vector,
    channels for one that sees a map.

    Attributes:
        builder: what has been added so far.
        regrouped: values per sample that became other neurons' (see ``regrouping``).
    """

    def __init__(self, with_features_last: bool = False) -> None:
        """Begin with nothing.

        Args:
            with_features_last: whether the neurons of inputs with several axes, such as sequences
                (positions, features), are on the last one rather than on the first.
        """
        self.builder, self.regrouped = Builder(), 0
        self._with_features_last = with_features_last
        self._axes: dict[str, int] = {}  # of the neurons of inputs and outputs, 0 where not given
        self._outputs: set[str] = set()
        self._copies: dict[tuple[str, int], str] = {}  # of outputs that lie in another order as well
        self._names = {"input"}
        self._inputs: dict[str, tuple[str, tuple[int, ...]]] = {}  # space and shape, samples left out
        self._declared: set[str] = set()
        self._tensor_of: dict[Expression, str] = {}
        self._maps: dict[tuple[Signal, int], str] = {}

    def name(self, text: str) -> str:
        """A name that nothing has yet, fit to be one of an HDF5 group, after that of a node."""
        base = text.strip("/").replace("/", ".").replace("\0", "_")
        name = base = base if base.strip(".") else "node"
        count = 1
        while name in self._names or f"{name}.y" in self._inputs:
            count += 1
            name = f"{base}_{count}"
        self._names.add(name)
        return name

    def input(self, name: str, shape: tuple[int, ...], alone: bool) -> Signal:
        """A further input of the network, of ``shape`` with the samples first.

        Args:
            name: in the graph; an input that is ``alone`` is called "input" like that of any network.
        """
        space = "input" if alone else self.name(name)
        tensor = "x0" if alone else space
        self._names.add(tensor)
        sizes = shape[1:]
        if not self._with_features_last or sizes[-1] == 1 or sum(size > 1 for size in sizes) < 2:
            self._inputs[tensor] = (space, sizes)
            return Signal(self.expression(tensor, math.prod(sizes)), shape)
        self._axes[tensor] = len(sizes) - 1
        self._inputs[tensor] = (space, (sizes[-1], *sizes[:-1]))
        return self.signal(tensor, shape, Signal.origin, len(sizes) - 1)

    def expression(self, tensor: str, size: int, origin: str = "") -> Expression:
        """The expression that is a tensor of ``size`` values per sample itself."""
        return Expression(tensor, size, origin=origin)

    def signal(self, tensor: str, shape: tuple[int, ...], origin: str, axis: int = 0) -> Signal:
        """The signal of a tensor whose neurons are on ``axis`` of ``shape``, the samples not counted."""
        sizes = shape[1:]
        result = Signal(self.expression(tensor, math.prod(sizes), origin), shape)
        if axis == 0:
            return result
        places = np.arange(math.prod(sizes)).reshape(sizes[axis], *sizes[:axis], *sizes[axis + 1 :])
        return result.placed(np.moveaxis(places, 0, axis))

    def settled(self, signal: Signal) -> Signal:
        """The same values as those of a tensor, without a function of it."""
        self._declare(signal)
        if not signal.expression.operands:
            return signal
        tensor = self._tensor(signal.expression)
        return replace(signal, expression=self.expression(tensor, signal.expression.size))

    def flat(self, signal: Signal) -> tuple[str, Window | None, np.ndarray | None]:
        """A vector as a dense layer sees it.

        Returns:
            a tensor; the window that sees a whole map of it, None if it is a vector; the place of every
            value of ``signal`` in it, None if they are all there in their order.
        """
        signal = self.settled(signal)
        tensor, index = signal.expression.tensor, signal.index
        positions = self.builder.positions(tensor)
        window = whole_map(positions) if positions else None
        if index is None:
            return tensor, window, None
        per_neuron = math.prod(positions)
        used, places = np.unique(index.ravel() // per_neuron, return_inverse=True)
        if len(used) < self.builder.neurons(tensor):
            tensor = self._select(tensor, used)
        inside = index.ravel() % per_neuron
        if per_neuron > 1 and (inside == inside[0]).all():
            # One position of a map, such as a step of a sequence: no layer has to see the others.
            name = self.name(f"{tensor.removesuffix('.y')}.position")
            tensor = self.builder.rearrange(name, tensor, inside[:1], ())
            is_ordered = np.array_equal(places, np.arange(self.builder.neurons(tensor)))
            return tensor, None, None if is_ordered else places
        return tensor, window, places * per_neuron + inside

    def flat_weights(self, signal: Signal, W: np.ndarray) -> tuple[str, Window | None, np.ndarray]:
        """Weights (m, values) of a signal's values as those of a mixing: its source, its window, and they."""
        tensor, window, places = self.flat(signal)
        if places is None:
            return tensor, window, W
        taps = window.taps if window else 1
        W_map = np.zeros((self.builder.neurons(tensor) * taps, len(W)), W.dtype)
        np.add.at(W_map, places, W.T)
        return tensor, window, W_map.T

    def sums_of_values(self, origin: str, signal: Signal, W: np.ndarray, bias: np.ndarray) -> str:
        """Weighted sums of all values that belong to a definition: a vector of W.shape[0] neurons."""
        tensor, window, W = self.flat_weights(signal, W)
        return self.builder.mixing(self.name(origin), tensor, np.ascontiguousarray(W), bias, window, True)

    def is_vector(self, signal: Signal) -> bool:
        """True if every value is a neuron."""
        return self.values_per_neuron(signal) == 1

    def map(self, signal: Signal, axis: int = 0) -> str:
        """A tensor whose neurons are on ``axis`` of ``signal``, the positions on all other axes, in order.

        Raises:
            Unsupported: values of one neuron would have to be spread over others, too many of them.
        """
        key = (signal, axis)
        if key not in self._maps:
            if len(signal.shape) == 1:
                signal = signal.reshaped((*signal.shape, 1))
            self._declare(signal, (axis,))
            self._maps[key] = self._map(self.settled(signal), axis)
        return self._maps[key]

    def axis_of_neurons(self, signal: Signal) -> int:
        """The axis on which the neurons are, the samples not counted; the first if they are on none."""
        axes = range(len(signal.shape) - 1)
        self._declare(signal, axes)
        return next((axis for axis in axes if self.has_neurons_on(signal, axis)), 0)

    def axes_of_neurons(
        self, signals: Sequence[Signal], neurons: Collection[int] = ()
    ) -> tuple[int, ...] | None:
        """The axes, two or more, on which the neurons of maps lie where they are on none alone.

        Args:
            signals: settled, of as many axes.
            neurons: axes that are to be among them.

        Returns:
            None if there are no such axes, or the signals are vectors: their neurons may have any shape.
        """
        if max(map(self.values_per_neuron, signals)) == 1:
            return None
        axes = range(len(signals[0].shape) - 1)
        if any(all(self.has_neurons_on(signal, axis) for signal in signals) for axis in axes):
            return None
        joined = joined_axes(signals, [self.values_per_neuron(signal) for signal in signals], neurons)
        return joined if joined is not None and len(joined) > 1 else None

    def map_of_axes(self, signal: Signal, axes: Sequence[int]) -> str:
        """A tensor whose neurons are on one axis of ``signal``, or several, see ``axes_of_neurons``."""
        return self.map(signal, *axes) if len(axes) == 1 else self.map(with_axes_joined(signal, axes))

    def signal_on_axes(self, tensor: str, shape: tuple[int, ...], origin: str, axes: Sequence[int]) -> Signal:
        """The signal of a tensor whose neurons are on some axes of ``shape``, the samples not counted."""
        whole = Signal(
            self.expression(tensor, math.prod(shape[1:]), origin), (shape[0], math.prod(shape[1:]))
        )
        return with_axes_apart(whole, shape, axes)

    def has_neurons_on(self, signal: Signal, axis: int) -> bool:
        """True if the neurons are on ``axis``, the samples not counted."""
        self._declare(signal, (axis,))
        return self._places(signal, axis) is not None

    def values(self, signal: Signal, constant: np.ndarray) -> np.ndarray:
        """One value of a constant for each neuron, (n, 1), or for each value of the tensor, (n, positions).

        Args:
            signal: settled and permuted at most.
            constant: of a shape that can be broadcast to that of ``signal``.
        """
        tensor = signal.expression.tensor
        has_rows = constant.ndim == len(signal.shape) and len(constant) == signal.shape[0]
        if has_rows and (constant == constant[:1]).all():
            constant = constant[:1]  # of a batch whose size is fixed
        flat = np.broadcast_to(constant, (1, *signal.shape[1:])).ravel()
        if signal.index is not None:
            flat, ordered = np.empty_like(flat), flat
            flat[signal.index.ravel()] = ordered
        table = flat.reshape(self.builder.neurons(tensor), -1)
        return np.ascontiguousarray(table[:, :1]) if (table == table[:, :1]).all() else table

    def values_per_neuron(self, signal: Signal) -> int:
        """How many values a neuron of the signal's tensor has."""
        self._declare(signal)
        return math.prod(self.builder.positions(signal.expression.tensor))

    def compact(self, signal: Signal) -> Signal:
        """The same values, settled, as all those of a tensor."""
        signal = self.settled(signal)
        if signal.is_permuted():
            return signal
        axes = self.axes_of_neurons([signal])
        if axes is not None:
            return self.signal_on_axes(self.map_of_axes(signal, axes), signal.shape, signal.origin, axes)
        axis = self.axis_of_neurons(signal)
        return self.signal(self.map(signal, axis), signal.shape, signal.origin, axis)

    def apart(self, signal: Signal, axes: Collection[int]) -> Signal:
        """A settled signal with positions and neurons, where some axes have both, on axes of their own."""
        return with_mixed_axes_apart(signal, self.values_per_neuron(signal), axes)

    def sums(self, origin: str, tensor: str, weights: np.ndarray, bias: float = 0.0) -> str:
        """Weighted sums of neurons, place by place, that belong to a definition."""
        biases, window = np.full(len(weights), bias, weights.dtype), self.pointwise(tensor)
        return self.builder.mixing(self.name(origin), tensor, weights, biases, window, True)

    def pointwise(self, tensor: str) -> Window | None:
        """The window of a mixing that sees one position at a time."""
        return pointwise(self.builder.positions(tensor))

    def build(self, outputs: list[Signal]) -> Network:
        """The network with these outputs.

        Raises:
            Unsupported: the values of one do not lie in their order.
        """
        tensors = tuple(self.output(signal) for signal in outputs)
        for tensor, (_, shape) in self._inputs.items():
            if tensor not in self._declared:
                self._add_input(tensor, shape)
        heads = tuple(signal.head for signal in outputs)
        return self.builder.build(tensors, heads, tuple(self._inputs), self._axes)

    def output(self, signal: Signal) -> str:
        """The tensor of an output.

        Raises:
            Unsupported: the values do not lie in their order, or no operation makes them.
        """
        settled = self.settled(signal)
        axis = 0 if settled.index is None else self._output_axis(settled)
        if axis is None:
            return self._with_axis(self.map(signal), 0)
        return self._with_axis(settled.expression.tensor, axis)

    def _with_axis(self, tensor: str, axis: int) -> str:
        """A tensor as an output with its neurons on ``axis``, or a copy if it lies otherwise in samples."""
        is_settled = tensor in self._inputs or tensor in self._outputs
        if is_settled and self._axes.get(tensor, 0) != axis:
            key = (tensor, axis)
            if key not in self._copies:
                self._copies[key] = self._select(tensor, np.arange(self.builder.neurons(tensor)))
            tensor = self._copies[key]
        self._outputs.add(tensor)
        self._axes[tensor] = axis
        return tensor

    def _output_axis(self, signal: Signal) -> int | None:
        """The axis, among the positions of its tensor, of the neurons of a signal that has all its values.

        None if the signal has others, or in another order.
        """
        if not signal.is_permuted() or signal.head != "identity":
            return None
        on_axis, positions = self.axis_of_neurons(signal), self.builder.positions(signal.expression.tensor)
        places = self._places(signal, on_axis)
        if places is None or any((place != np.arange(place.size)).any() for place in places):
            return None
        before = math.prod(signal.shape[1 : 1 + on_axis])
        return next((a for a in range(len(positions) + 1) if math.prod(positions[:a]) == before), None)

    def _declare(self, signal: Signal, axes: Iterable[int] | None = None) -> None:
        """Decide on the neurons of an input if this is its first use.

        Where it needs them on one of ``axes`` and they would be cut there, the whole input is one neuron:
        every worker reads the input anyway.
        """
        tensor = signal.expression.tensor
        if tensor not in self._inputs or tensor in self._declared:
            return
        shape = (self._inputs[tensor][1] if signal.index is not None else signal.shape[1:]) or (1,)
        per_neuron = math.prod(shape[1:])
        is_cut = axes is not None and all(_places(signal, axis, per_neuron) is None for axis in axes)
        if is_cut and tensor not in self._axes:  # these have their values in another order than a neuron
            shape = (1, *shape)
        self._add_input(tensor, shape)

    def _add_input(self, tensor: str, shape: tuple[int, ...]) -> None:
        if not shape:
            raise Unsupported("an input has no axis but that of the samples")
        self._declared.add(tensor)
        self.builder.input(self._inputs[tensor][0], shape[0], shape[1:])

    def _tensor(self, expression: Expression) -> str:
        if not expression.operands:
            return expression.tensor
        if expression not in self._tensor_of:
            self._tensor_of[expression] = self._make(expression)
        return self._tensor_of[expression]

    def _make(self, expression: Expression) -> str:
        """A tensor for an expression: one activation if it is one, else step by step."""
        activation, function = expression.activation(), expression.function
        if activation is not None:
            return self._activate(expression, expression.tensor, activation)
        if isinstance(function, Activation):
            return self._activate(expression, self._tensor(expression.operand), function)
        source, (_, other) = self._tensor(expression.operand), expression.operands
        name = self.name(expression.origin)
        if isinstance(other, Expression):
            return self.builder.combine(name, source, self._tensor(other), function)
        ones = np.ones((self.builder.neurons(source), 1))
        scale, shift = (ones * other, ones * 0) if function == "scale" else (ones, ones * other)
        return self.builder.affine(name, source, scale, shift)

    def _activate(self, expression: Expression, source: str, activation: Activation) -> str:
        if activation.kind == "identity":
            return source
        return self.builder.elementwise(self.name(expression.origin), source, activation)

    def _map(self, signal: Signal, axis: int) -> str:
        tensor, places = signal.expression.tensor, self._places(signal, axis)
        if places is None:
            return self._regrouped(signal, axis)
        neurons, positions = places
        if not np.array_equal(neurons, np.arange(self.builder.neurons(tensor))):
            tensor = self._select(tensor, neurons)
        if not np.array_equal(positions, np.arange(math.prod(self.builder.positions(tensor)))):
            shape = signal.shape[1 : 1 + axis] + signal.shape[2 + axis :]
            tensor = self.builder.rearrange(
                self.name(f"{tensor.removesuffix('.y')}.rearrange"), tensor, positions, shape
            )
        return tensor

    def _regrouped(self, signal: Signal, axis: int) -> str:
        """A tensor with neurons of its own on ``axis``, from others that are cut."""
        tensor, sizes = signal.expression.tensor, signal.shape[1:]
        old = self.builder.neurons(tensor), math.prod(self.builder.positions(tensor))
        shape, places = sizes[:axis] + sizes[axis + 1 :], _neuron_major(signal, axis)
        self.regrouped += places.size
        name = f"{tensor.removesuffix('.y')}.regroup"
        plan = regrouping(*np.divmod(places, old[1]), old)
        if plan is not None:
            return add_regrouping(self.builder, self.name, name, tensor, plan, shape)
        # In two steps: every value that is needed becomes a neuron, and these the positions of others.
        values, copies = np.unique(places, return_inverse=True)
        cut = regrouping(*np.divmod(values[:, None], old[1]), old)
        joined = regrouping(np.arange(places.size).reshape(places.shape), places * 0, (places.size, 1))
        if cut is None or joined is None:
            raise Unsupported(
                f"its features of shape {sizes} would need {old[0]} neurons of {old[1]} values from "
                f"{signal.origin} in other groups, which is too much; expected neurons (channels) that stay "
                "together"
            )
        tensor = add_regrouping(self.builder, self.name, f"{name}.cut", tensor, cut, ())
        return add_regrouping(
            self.builder, self.name, name, self._select(tensor, copies.ravel()), joined, shape
        )

    def _select(self, tensor: str, neurons: np.ndarray) -> str:
        return self.builder.select(self.name(f"{tensor.removesuffix('.y')}.select"), (tensor,), neurons)

    def _places(self, signal: Signal, axis: int) -> tuple[np.ndarray, np.ndarray] | None:
        """See the function below; the first axis of whole tensors is the usual case."""
        tensor = signal.expression.tensor
        n, per_neuron = self.builder.neurons(tensor), math.prod(self.builder.positions(tensor))
        if signal.index is None and axis == 0 and signal.shape[1:2] == (n,):
            return np.arange(n), np.arange(per_neuron)
        return _places(signal, axis, per_neuron)


def _neuron_major(signal: Signal, axis: int) -> np.ndarray:
    """The places of the values of a signal, (values on ``axis``, all others)."""
    return np.moveaxis(signal.places, axis, 0).reshape(signal.shape[1 + axis], -1)


def _places(signal: Signal, axis: int, per_neuron: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Neurons of the tensor that lie on ``axis``, (n,), and positions that lie on the others, (p,).

    None if neurons of ``per_neuron`` values would be cut.
    """
    neurons, positions = np.divmod(_neuron_major(signal, axis), per_neuron)
    if (neurons != neurons[:, :1]).any() or (positions != positions[:1]).any():
        return None
    return neurons[:, 0], positions[0]
