"""LSTM, GRU and RNN, unrolled step by step.

Every step has mixings of its own, of the same weights.  The formulas and names are those of the ONNX
operators.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from repurpose_hpc.errors import Note
from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.rewriting.nodes import Nodes
from repurpose_hpc.model.importers.onnx.signal import Moved, Signal, Unsupported
from repurpose_hpc.model.importers.onnx.varying import Varying

if TYPE_CHECKING:
    import onnx

# More steps are unrolled, too, but with a word.
_FEW_STEPS = 64

# Default of alpha and beta by activation; None: it has none; NaN: it has no default.
_PARAMETERS: dict[str, tuple[float | None, float | None]] = {
    **dict.fromkeys(("Relu", "Tanh", "Sigmoid", "Softsign", "Softplus"), (None, None)),
    **{"LeakyRelu": (0.01, None), "ThresholdedRelu": (1.0, None), "Elu": (1.0, None)},
    **{"HardSigmoid": (0.2, 0.5), "ScaledTanh": (np.nan, np.nan), "Affine": (np.nan, np.nan)},
}


@dataclass(frozen=True)
class _Activation:
    """An activation of a gate; alpha and beta None where it has none."""

    operator: str
    alpha: float | None
    beta: float | None


@dataclass(frozen=True, eq=False)
class _Direction:
    """The weights of one direction, and where its nodes go.

    Attributes:
        nodes: what is added to.
        W: names of the weights of the input and R of those of the state, inputs first.
        bias: (gates · H,) of both, what is inside of R alone left out.
        inner_bias: of R alone, (H,): that of a GRU whose reset gate comes after it.
        peepholes: names of the peephole weights of i, o and f; none: there are none.
        activations: of the gates.
        clip: bound of the arguments of activations; None: no bound.
        attributes: of the node.
    """

    nodes: Nodes
    W: str
    R: np.ndarray
    bias: str
    inner_bias: np.ndarray
    peepholes: tuple[str, ...]
    activations: tuple[_Activation, ...]
    clip: float | None
    couples_gates: bool
    resets_late: bool

    @property
    def hidden(self) -> int:
        """Size of the state."""
        return len(self.R[0])

    def inputs(self, x: str) -> str:
        """The part of all gates that comes of the input."""
        return self.nodes.add("Gemm", x, self.W, self.bias, transB=1)

    def recurrent(self, h: str, rows: slice = slice(None)) -> str:
        """The part of gates that comes of the state."""
        return self.nodes.add("MatMul", h, self.nodes.constant(self.R[rows].T))

    def activate(self, gate: int, y: str) -> str:
        """The activation of a gate, the first of the three of an LSTM being f."""
        chosen, nodes = self.activations[gate], self.nodes
        if self.clip is not None and gate < 2:
            # The state of an LSTM is not bounded, as in onnxruntime: ONNX does not say.
            bounds = (nodes.constant(self._number(bound)) for bound in (-self.clip, self.clip))
            y = nodes.add("Clip", y, *bounds)
        if chosen.operator in ("ScaledTanh", "Affine"):
            assert chosen.alpha is not None and chosen.beta is not None
            alpha, beta = (nodes.constant(self._number(value)) for value in (chosen.alpha, chosen.beta))
            if chosen.operator == "Affine":
                return nodes.add("Add", nodes.add("Mul", y, alpha), beta)
            return nodes.add("Mul", nodes.add("Tanh", nodes.add("Mul", y, beta)), alpha)
        numbers = {"alpha": chosen.alpha, "beta": chosen.beta}
        given: dict[str, Any] = {name: value for name, value in numbers.items() if value is not None}
        return nodes.add(chosen.operator, y, **given)

    def complement(self, y: str) -> str:
        """1 - y."""
        return self.nodes.add("Sub", self.nodes.constant(self._number(1.0)), y)

    def _number(self, value: float) -> np.ndarray:
        return np.asarray(value, self.R.dtype)


_State = tuple[str | None, ...]
"""Names of the values of a state, H and perhaps C; None: all zero."""


def _sum(nodes: Nodes, *terms: str | None) -> str:
    total, *others = filter(None, terms)
    for term in others:
        total = nodes.add("Add", total, term)
    return total


def _rnn(cell: _Direction, x: str, state: _State) -> _State:
    (h,) = state
    y = _sum(cell.nodes, cell.inputs(x), h and cell.recurrent(h))
    return (cell.activate(0, y),)


def _gru(cell: _Direction, x: str, state: _State) -> _State:
    (h,), nodes, size = state, cell.nodes, cell.hidden
    z, r, candidate = nodes.split(cell.inputs(x), 3)
    if h is not None:
        z_of_h, r_of_h = nodes.split(cell.recurrent(h, slice(0, 2 * size)), 2)
        z, r = _sum(nodes, z, z_of_h), _sum(nodes, r, r_of_h)
    z, r = cell.activate(0, z), cell.activate(0, r)
    last_rows = slice(2 * size, None)
    if cell.resets_late:
        bias = nodes.constant(cell.inner_bias[None])
        inner = bias if h is None else nodes.add("Add", cell.recurrent(h, last_rows), bias)
        candidate = _sum(nodes, candidate, nodes.add("Mul", r, inner))
    elif h is not None:
        candidate = _sum(nodes, candidate, cell.recurrent(nodes.add("Mul", r, h), last_rows))
    new = nodes.add("Mul", cell.complement(z), cell.activate(1, candidate))
    return (_sum(nodes, new, h and nodes.add("Mul", z, h)),)


def _lstm(cell: _Direction, x: str, state: _State) -> _State:
    (h, c), nodes = state, cell.nodes
    gates = _sum(nodes, cell.inputs(x), h and cell.recurrent(h))
    i, o, f, candidate = nodes.split(gates, 4)

    def peeped(gate: str, place: int, c: str | None) -> str:
        if c is None or not cell.peepholes:
            return gate
        return _sum(nodes, gate, nodes.add("Mul", c, cell.peepholes[place]))

    i = cell.activate(0, peeped(i, 0, c))
    kept = None
    if c is not None:
        f = cell.complement(i) if cell.couples_gates else cell.activate(0, peeped(f, 2, c))
        kept = nodes.add("Mul", f, c)
    c = _sum(nodes, nodes.add("Mul", i, cell.activate(1, candidate)), kept)
    o = cell.activate(0, peeped(o, 1, c))
    return nodes.add("Mul", o, cell.activate(2, c)), c


_Cell = Callable[[_Direction, str, _State], _State]


@dataclass(frozen=True)
class _Kind:
    """An operator: a step of it, and the default activations."""

    step: _Cell
    gates: int
    activations: tuple[str, ...]
    states: int = 1


_KINDS = {
    "RNN": _Kind(_rnn, 1, ("Tanh",)),
    "GRU": _Kind(_gru, 3, ("Sigmoid", "Tanh")),
    "LSTM": _Kind(_lstm, 4, ("Sigmoid", "Tanh", "Tanh"), states=2),
}


def unroll(proto: onnx.NodeProto, node: Node) -> Nodes:
    """LSTM, GRU or RNN as the nodes of all its steps."""
    kind, nodes, layout = (
        _KINDS[node.operator],
        Nodes(node.name, node.opset),
        node.attributes.get("layout", 0),
    )
    x = node.input(0)
    if not isinstance(x, (Signal, Moved)):
        raise Unsupported(f"its input {node.input_names[0]!r} is a constant")
    time_axis = 1 if layout else 0
    steps = x.shape[time_axis]
    _check_lengths(node, steps)
    if steps > _FEW_STEPS:
        warnings.warn(
            f"{node}: {steps} steps are unrolled, each with weights of its own in the shards; "
            f"expected {_FEW_STEPS} or fewer",
            Note,
            stacklevel=2,
        )
    outputs: list[list[str]] = []  # of every direction, the states of all steps
    last: list[_State] = []
    directions = _directions(node)
    for number, backward in enumerate(directions):
        cell = _direction(node, nodes, number, len(directions))
        state = _initial(node, nodes, number, layout)
        hs = {}
        for step in reversed(range(steps)) if backward else range(steps):
            x_step = nodes.add("Gather", proto.input[0], nodes.constant(np.int64(step)), axis=time_axis)
            state = kind.step(cell, x_step, state)
            hs[step] = state[0]
        outputs.append([hs[step] for step in range(steps)])  # type: ignore[misc]
        last.append(state)
    ends = [tuple(name for step in zip(*outputs, strict=True) for name in step)]
    ends += [tuple(str(state[place]) for state in last) for place in range(kind.states)]
    for place, (output, names) in enumerate(zip(proto.output, ends, strict=False)):
        if output:
            sizes = (steps, len(directions)) if place == 0 else (len(directions),)
            _stack(nodes, names, sizes, layout, output)
    return nodes


def _stack(nodes: Nodes, names: tuple[str, ...], sizes: tuple[int, ...], layout: int, output: str) -> None:
    """One value of many of shape (N, H), the axes ``sizes`` before the samples, or behind with layout 1."""
    flat = names[0] if len(names) == 1 else nodes.add("Concat", *names, axis=1)
    axes = len(sizes)
    shape = nodes.constant(np.array([0, *sizes, -1]))
    stacked = nodes.add("Reshape", flat, shape, output=output if layout else "")
    if not layout:
        nodes.add("Transpose", stacked, output=output, perm=[*range(1, axes + 1), 0, axes + 1])


def _directions(node: Node) -> tuple[bool, ...]:
    """Whether each direction goes backward."""
    direction = node.text("direction", "forward")
    return {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[direction]


def _check_lengths(node: Node, steps: int) -> None:
    if node.input(4) is not None and (node.constant(4) != steps).any():
        raise Unsupported(f"its sequence_lens differ from {steps}, expected sequences of one length")


def _direction(node: Node, nodes: Nodes, number: int, directions: int) -> _Direction:
    """The weights of one direction."""
    kind, size = _KINDS[node.operator], node.attributes["hidden_size"]
    W, R = node.weights(1)[number], node.weights(2)[number]
    B = np.zeros(2 * len(R), R.dtype) if node.input(3) is None else node.weights(3)[number]
    bias_of_W, bias_of_R = np.split(B, 2)
    resets_late = bool(node.attributes.get("linear_before_reset", 0))
    inner_bias = bias_of_R[2 * size :]
    if resets_late:
        bias_of_R = np.concatenate([bias_of_R[: 2 * size], 0 * inner_bias])
    peepholes: tuple[str, ...] = ()
    if node.input(7) is not None:
        peepholes = tuple(nodes.constant(part[None]) for part in np.split(node.weights(7)[number], 3))
    functions = len(kind.activations)
    return _Direction(
        nodes=nodes,
        W=nodes.constant(W),
        R=R,
        bias=nodes.constant(bias_of_W + bias_of_R),
        inner_bias=inner_bias,
        peepholes=peepholes,
        activations=_activations(node, directions)[number * functions : (number + 1) * functions],
        clip=node.attributes.get("clip"),
        couples_gates=bool(node.attributes.get("input_forget", 0)),
        resets_late=resets_late,
    )


def _activations(node: Node, directions: int) -> tuple[_Activation, ...]:
    """Those of all directions; alphas and betas are used up by the activations that have them."""
    names = node.attributes.get("activations")
    chosen = [name.decode() for name in names] if names else _KINDS[node.operator].activations * directions
    alphas = iter(node.attributes.get("activation_alpha", ()))
    betas = iter(node.attributes.get("activation_beta", ()))
    result = []
    for name in chosen:
        known = next((each for each in _PARAMETERS if each.lower() == name.lower()), None)
        if known is None:
            raise Unsupported(f"attribute activations has {name}, expected {', '.join(_PARAMETERS)}")
        alpha, beta = _PARAMETERS[known]
        alpha = None if alpha is None else next(alphas, alpha)
        beta = None if beta is None else next(betas, beta)
        if alpha != alpha or beta != beta:
            raise Unsupported(f"attributes activation_alpha and activation_beta have none for {known}")
        result.append(_Activation(known, alpha, beta))
    return tuple(result)


def _initial(node: Node, nodes: Nodes, number: int, layout: int) -> _State:
    """The state before the first step of a direction."""
    places = (5, 6)[: _KINDS[node.operator].states]
    return tuple(_initial_value(node, nodes, place, number, 1 if layout else 0) for place in places)


def _initial_value(node: Node, nodes: Nodes, place: int, number: int, axis: int) -> str | None:
    value = node.input(place)
    if value is None:
        return None
    if isinstance(value, (Signal, Moved)):
        return nodes.add("Gather", node.input_names[place], nodes.constant(np.int64(number)), axis=axis)
    values = value.values if isinstance(value, Varying) else (value, value)
    rows = Varying.of(*(array.take(number, axis) for array in values))
    row = rows.row() if isinstance(rows, Varying) else rows[:1]
    if row is None or (isinstance(rows, np.ndarray) and (rows != row).any()):
        raise Unsupported(
            f"its input {node.input_names[place]!r} differs from sample to sample, expected one state for all"
        )
    return nodes.constant(row) if row.any() else None


REWRITERS = dict.fromkeys(_KINDS, unroll)
