"""A random ONNX graph under construction: every node is computed when it is added."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

OPSET = 20
# Samples that are computed along.
BATCH = 2
_LARGEST = 1e4
_MOST_VALUES = 600
# Bounds and thresholds of activations: within data, close to zero, far away.
LIMITS = (0.0, 1.0, -1.0, 0.5, 3.0, 1 / 32, -1 / 64, 1e-3, 100.0, 200.0, -150.0)


@dataclass
class RandomGraph:
    """A graph under construction.

    Attributes:
        rng: of all choices.
        nodes, constants: added so far.
        values: of all tensors with samples, for two samples, float32.
        compared: numbers at which an activation has a jump or a bend.
    """

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)
    compared: list[float] = field(default_factory=list)

    def constant(self, value: np.ndarray | float | list) -> str:
        """The name of a further constant; numbers become float32, integers int64."""
        array = np.asarray(value)
        name = f"c{len(self.constants)}"
        self.constants[name] = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        return name

    def normal(self, *shape: int, scale: float = 1.0) -> str:
        """A constant of random numbers."""
        return self.constant(scale * self.rng.standard_normal(shape))

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: object) -> list[str]:
        """Names of the outputs of a further node; ``Illegal`` if it cannot be computed."""
        names = [f"t{len(self.values)}_{place}" for place in range(outputs)]
        node = helper.make_node(
            operator, inputs, names, name=f"{operator.lower()}{len(self.nodes)}", **attributes
        )
        feeds = {name: self.values.get(name, self.constants.get(name)) for name in inputs if name}
        function = helper.make_function(
            "", "node", list(feeds), names, [node], [helper.make_opsetid("", OPSET)]
        )
        try:
            with np.errstate(all="ignore"):
                results = ReferenceEvaluator(function).run(None, feeds, attributes={})
        except Exception as error:  # of many kinds; the node is not legal
            raise Illegal from error
        results = [np.asarray(value) for value in results]
        if not all(_is_tame(value) for value in results):
            raise Illegal
        self.nodes.append(node)
        self.values |= dict(zip(names, results, strict=True))
        return names

    def pick(self, accepts: Callable[[tuple[int, ...]], bool] = bool) -> str:
        """The name of a tensor of numbers whose shape is accepted, rather a late one; by default not ()."""
        names = [
            name
            for name, value in self.values.items()
            if value.dtype == np.float32 and accepts(value.shape[1:]) and value.size
        ]
        if not names:
            raise Illegal
        return names[-1 - min(int(self.rng.geometric(0.5)) - 1, len(names) - 1)]

    def shape(self, name: str) -> tuple[int, ...]:
        """The sizes of a tensor, the samples left out."""
        return self.values[name].shape[1:]

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return bool(self.rng.random() < probability)

    def choice(self, *options: object) -> object:
        """One of some options."""
        return options[int(self.rng.integers(len(options)))]

    def limit(self) -> float:
        """A bound or threshold."""
        number = float(np.float32(self.choice(*LIMITS, self.rng.normal())))
        self.compared.append(number)
        return number


class Illegal(Exception):
    """A step cannot be taken."""


def _is_tame(value: np.ndarray) -> bool:
    if value.shape[:1] != (BATCH,) or value.size > BATCH * _MOST_VALUES or value.dtype == np.float64:
        return False
    return value.dtype.kind == "b" or bool(np.isfinite(value).all() and (np.abs(value) < _LARGEST).all())
