"""What a network is: spaces of neurons joined by mixings (design: spaces and mixings).

A *space* is a set of neurons that share one owner map.  A *mixing* carries weights from one
space to another.  An *element-wise* operation maps a tensor to another tensor of the same
space, so it never moves a neuron from one worker to another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from repurpose_hpc.model.activations import Activation

HEADS = ("identity", "softmax", "log_softmax")


@dataclass(frozen=True)
class Space:
    """A set of neurons.

    Attributes:
        name: unique within the network.
        neurons: how many.
        values: values per neuron and sample that an exchange carries (s_j; 1 for dense).
    """

    name: str
    neurons: int
    values: int = 1


@dataclass(frozen=True, eq=False)
class Mixing:
    """``target = weights @ source + bias``: every neuron of B from every neuron of A.

    Attributes:
        name: unique within the network; reports use it.
        source: the tensor that is read.
        target: the tensor that is made.
        weights: W, shape (m, n), float32 or float64.
        bias: b, shape (m,), the dtype of ``weights``.
    """

    name: str
    source: str
    target: str
    weights: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True)
class Elementwise:
    """``target = activation(source)``, neuron by neuron; both tensors are of one space."""

    name: str
    source: str
    target: str
    activation: Activation


Operation = Mixing | Elementwise
Step = tuple[np.ndarray, np.ndarray] | Activation


@dataclass(frozen=True, eq=False)
class Network:
    """A graph of operations over named tensors, in an order in which it can be executed.

    Attributes:
        spaces: the spaces, the input's first.
        operations: topologically ordered.
        space_of: tensor name -> space name.
        input: name of the input tensor.
        output: name of the output tensor.
        head: what is applied to a whole output vector at the end: one of ``HEADS``.
    """

    spaces: tuple[Space, ...]
    operations: tuple[Operation, ...]
    space_of: dict[str, str]
    input: str
    output: str
    head: str = "identity"
    _spaces_by_name: dict[str, Space] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_spaces_by_name", {space.name: space for space in self.spaces})

    def space(self, tensor: str) -> Space:
        """The space that ``tensor`` belongs to."""
        return self._spaces_by_name[self.space_of[tensor]]

    @property
    def mixings(self) -> tuple[Mixing, ...]:
        """The mixings, in the order of execution."""
        return tuple(op for op in self.operations if isinstance(op, Mixing))

    @property
    def inputs(self) -> int:
        """Number of input neurons."""
        return self.space(self.input).neurons

    @property
    def outputs(self) -> int:
        """Number of output neurons."""
        return self.space(self.output).neurons

    @property
    def weight_count(self) -> int:
        """Number of nonzero weights, biases not counted."""
        return sum(int(np.count_nonzero(mixing.weights)) for mixing in self.mixings)

    def with_mixings(self, mixings: dict[str, Mixing]) -> Network:
        """The same graph with the mixings named in ``mixings`` replaced."""
        operations = tuple(mixings.get(op.name, op) for op in self.operations)
        return replace(self, operations=operations)

    def astype(self, dtype: type) -> Network:
        """The same network with weights and biases rounded to ``dtype``, float32 or float64."""
        rounded = {
            mixing.name: replace(mixing, weights=mixing.weights.astype(dtype), bias=mixing.bias.astype(dtype))
            for mixing in self.mixings
        }
        return self.with_mixings(rounded)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the structure and of every weight and bias."""
        digest = hashlib.sha256()
        for space in self.spaces:
            digest.update(repr(space).encode())
        for op in self.operations:
            digest.update(f"{type(op).__name__} {op.name} {op.source} {op.target}".encode())
            if isinstance(op, Mixing):
                for array in (op.weights, op.bias):
                    digest.update(f"{array.dtype.str} {array.shape}".encode())
                    digest.update(np.ascontiguousarray(array).data)
            else:
                digest.update(repr(op.activation).encode())
        digest.update(f"{self.input} {self.output} {self.head}".encode())
        return digest.hexdigest()


def chain(
    weights: list[np.ndarray],
    biases: list[np.ndarray],
    activations: list[Activation],
    head: str = "identity",
) -> Network:
    """A multilayer perceptron: ``activations[l]`` follows layer l (identity: none).

    Args:
        weights: W_l, shapes (n_{l+1}, n_l).
        biases: b_l, shapes (n_{l+1},).
        activations: one for each layer.
        head: what is applied to the output vector, one of ``HEADS``.

    Raises:
        ValueError: the lists differ in length or the shapes do not chain.
    """
    if not len(weights) == len(biases) == len(activations):
        raise ValueError(f"{len(weights)} weights, {len(biases)} biases, {len(activations)} activations")
    steps: list[Step] = []
    for W, b, activation in zip(weights, biases, activations, strict=True):
        steps.append((W, b))
        if activation.kind != "identity":
            steps.append(activation)
    return sequence(weights[0].shape[1], steps, head)


def sequence(inputs: int, steps: Sequence[Step], head: str = "identity") -> Network:
    """A network without branches: mixings and activations in any order.

    Args:
        inputs: number of input neurons.
        steps: (W, b) of shapes (m, n) and (m,) for a mixing, or an ``Activation``.
        head: what is applied to the output vector, one of ``HEADS``.

    Raises:
        ValueError: the shapes do not chain.
    """
    spaces = [Space("input", inputs)]
    space_of = {"x0": "input"}
    operations: list[Operation] = []
    tensor = "x0"
    layers = 0
    primes = "'"  # tell apart the activations that follow one another; x0 is the input itself
    for step in steps:
        source = tensor
        if isinstance(step, Activation):
            place = str(layers - 1) if layers else "_input"
            tensor = f"x{layers}{primes}"
            operations.append(Elementwise(f"{step.kind}{place}{primes}", source, tensor, step))
            primes += "'"
        else:
            W, b = step
            if W.shape[1] != spaces[-1].neurons or b.shape != (W.shape[0],):
                raise ValueError(
                    f"layer {layers}: W {W.shape} and b {b.shape} after {spaces[-1].neurons} neurons"
                )
            spaces.append(Space(f"layer{layers}", W.shape[0]))
            tensor = f"y{layers}"
            operations.append(Mixing(f"layer{layers}", source, tensor, W, b))
            layers += 1
            primes = ""
        space_of[tensor] = spaces[-1].name
    return Network(tuple(spaces), tuple(operations), space_of, "x0", tensor, head)
