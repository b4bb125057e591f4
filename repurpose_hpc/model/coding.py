"""Spike trains of samples that do not change: what stands in front of a network of steps.

The train of a sample depends on that sample and the seed alone, so that batches and ranks do not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.ends import Port, Step, Subgraph
from repurpose_hpc.model.network import Network

CONSTANT, RATE, LATENCY = "constant", "rate", "latency"
_OPSET = 17
_FLOAT = 1  # ONNX's number of float32

# Nodes from the values "x" of a sample, with one step, to its train "train"; and their constants.
_Nodes = tuple[list[Step], Mapping[str, np.ndarray]]


class Coding(NamedTuple):
    """A way to make trains.

    Attributes:
        nodes: of steps, shape of a sample and seed.
        is_binary: whether trains are 0 or 1 for any sample.
    """

    nodes: Callable[[int, tuple[int, ...], int], _Nodes]
    is_binary: bool


def coded(network: Network, coding: str, seed: int = 0) -> Network:
    """The network that takes samples without steps, and makes the same of them as of their trains.

    Args:
        network: of steps, whose only input lies as (steps, features) or (steps, channels, ...).
        coding: of ``CODINGS``.  Values are numbers from 0 to 1 but for "constant", where they are the
            input of every step.  "rate": a value x fires in a step with probability x; the noise is the same
            for all samples.  "latency": it fires once, the sooner the larger it is, and 0 never.
        seed: of the noise.

    Raises:
        UserError: another coding, or a network that has something in front of it already.
    """
    if coding not in CODINGS:
        raise UserError(f"coding: expected one of {', '.join(CODINGS)}, got {coding}; name one of them")
    if network.ends.front is not None or len(network.input_tensors) != 1:
        raise UserError("coding: expected a network with one input and nothing in front of it, found another")
    steps, *shape = network.input_shape
    nodes, constants = CODINGS[coding].nodes(steps, tuple(shape), seed)
    front = Subgraph(
        (Port("sample", tuple(shape), "float32"),),
        (Port("train", (steps, *shape), "float32"),),
        (_node("Reshape", ("sample", "shape"), "x"), *nodes),
        {"shape": np.array([0, 1, *shape]), **constants},
    )
    ends = replace(network.ends, front=front)
    return replace(network, ends=ends, has_binary_inputs=CODINGS[coding].is_binary)


def _node(operator: str, inputs: tuple[str, ...], output: str, **attributes: int) -> Step:
    return Step(operator, inputs, (output,), attributes, _OPSET)


def _by_step(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A number for each step, as a constant that broadcasts over a sample of ``shape``."""
    return values.reshape(1, len(values), *(1,) * len(shape))


def _constant(steps: int, shape: tuple[int, ...], seed: int) -> _Nodes:
    zeros = _by_step(np.zeros(steps, np.float32), shape)
    return [_node("Add", ("x", "zeros"), "train")], {"zeros": zeros}


def _rate(steps: int, shape: tuple[int, ...], seed: int) -> _Nodes:
    noise = np.random.default_rng(seed).random((1, steps, *shape), np.float32)
    nodes = [_node("Greater", ("x", "noise"), "fires"), _node("Cast", ("fires",), "train", to=_FLOAT)]
    return nodes, {"noise": noise}


def _latency(steps: int, shape: tuple[int, ...], seed: int) -> _Nodes:
    """x fires in step (1 - x) (steps - 1), rounded."""
    one, zero, last = (np.array(number, np.float32) for number in (1, 0, steps - 1))
    nodes = [
        _node("Sub", ("one", "x"), "distance"),
        _node("Mul", ("distance", "last"), "delay"),
        _node("Round", ("delay",), "step"),
        _node("Equal", ("step", "steps"), "now"),
        _node("Greater", ("x", "zero"), "ever"),
        _node("And", ("now", "ever"), "fires"),
        _node("Cast", ("fires",), "train", to=_FLOAT),
    ]
    numbers = _by_step(np.arange(steps, dtype=np.float32), shape)
    return nodes, {"one": one, "zero": zero, "last": last, "steps": numbers}


CODINGS = {
    CONSTANT: Coding(_constant, is_binary=False),
    RATE: Coding(_rate, is_binary=True),
    LATENCY: Coding(_latency, is_binary=True),
}
