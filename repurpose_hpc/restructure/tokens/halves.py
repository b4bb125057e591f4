"""Halves of blocks: what reads the residual stream of a transformer, and adds to it.

A half reads one tensor x of the stream, makes neurons a of it, as attention or a perceptron, and adds
y = W a + b.  All that crosses between workers which have copies of the stream is y.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Affine, Combine, Elementwise, Mixing, Operation
from repurpose_hpc.restructure.exact import adding_mixings, common_spaces


@dataclass(frozen=True, eq=False)
class Half:
    """One half of a block.

    Attributes:
        read: x, the tensor of the stream that is read.
        inner: the operations that make a of x, in order.
        out: the mixing that makes y of a.
        metric: g, how much an error of each neuron of the stream counts: the scale of the normalisation
            behind, (D,).
        is_divisible: whether some of its neurons may be computed by themselves: in a perceptron each may.
    """

    read: str
    inner: tuple[Operation, ...]
    out: Mixing
    metric: np.ndarray
    is_divisible: bool

    @property
    def name(self) -> str:
        """Name of the mixing that adds to the stream."""
        return self.out.name

    @property
    def width(self) -> int:
        """D, neurons of the stream."""
        return len(self.out.bias)

    @property
    def neurons(self) -> int:
        """Neurons of a."""
        return self.out.W.shape[1]

    def out_of(self, a: np.ndarray) -> np.ndarray:
        """y (D, ...) of a (n, ...), in its dtype."""
        W, b = (array.astype(a.dtype, copy=False) for array in (self.out.W, self.out.bias))
        return (W @ a.reshape(len(a), -1) + b[:, None]).reshape(self.width, *a.shape[1:])

    def inner_multiply_adds(self) -> int:
        """Weights that make a of x."""
        return sum(op.W.size for op in self.inner if isinstance(op, Mixing) and not op.fixed)


def halves_of(network: Network) -> list[Half]:
    """The halves of a network of tokens whose outputs are not of the stream, in order.

    Raises:
        UserError: there are none; or something else adds to the stream, such as what reads several of its
            tensors.
    """
    outs = adding_mixings(network)
    halves = [half for out in outs if (half := _half(network, out)) is not None]
    if len(halves) < max(len(outs), 1):
        others = ", ".join(sorted({out.name for out in outs} - {half.name for half in halves})) or "nothing"
        raise UserError(
            "network: expected a transformer, in which attention and perceptrons each read one tensor of the "
            f"stream and add to it, found {others} to add to it otherwise; restructure splits it as it is "
            "without calibration data"
        )
    return halves


def _half(network: Network, out: Mixing) -> Half | None:
    makers, common = {op.target: op for op in network.operations}, common_spaces(network)
    inner: set[str] = set()
    read: set[str] = set()
    pending = [out.source]
    while pending:
        tensor = pending.pop()
        if network.space_of[tensor] in common | network.input_spaces:
            read.add(tensor)
        elif tensor not in inner:
            inner.add(tensor)
            pending += makers[tensor].sources
    outside = [op for op in network.operations if op is not out and op.target not in inner]
    shown = inner & {source for op in outside for source in op.sources} | inner & {*network.output_tensors}
    if len(read) != 1 or shown or network.space_of[min(read)] != network.space_of[out.target]:
        return None
    operations = tuple(op for op in network.operations if op.target in inner)
    return Half(
        read.pop(), operations, out, _metric(network, out), _is_divisible(network, operations, len(inner))
    )


def _is_divisible(network: Network, inner: tuple[Operation, ...], tensors: int) -> bool:
    """Whether all is of one space, neuron by neuron, so that some neurons may be left out."""
    spaces = {part for op in inner for part in (network.space_of[op.target], *network.parts(op.target))}
    local = all(
        isinstance(op, Elementwise | Affine | Combine) or (isinstance(op, Mixing) and not op.fixed)
        for op in inner
    )
    mixed = all(op.source not in {other.target for other in inner} for op in inner if isinstance(op, Mixing))
    return len(spaces) == 1 and local and mixed and tensors == len(inner)


def _metric(network: Network, out: Mixing) -> np.ndarray:
    """The scale of the next normalisation of the stream; ones, if there is none."""
    space = network.space_of[out.target]
    for op in network.operations[network.operations.index(out) + 1 :]:
        if isinstance(op, Affine) and network.space_of[op.target] == space and op.scale.shape[1] == 1:
            return np.abs(op.scale[:, 0]).astype(np.float64)
    return np.ones(len(out.bias))
