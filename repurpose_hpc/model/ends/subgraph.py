"""Subgraphs of a model that are computed as they are, outside the network that is restructured.

A subgraph computes arrays, samples first, from arrays, samples first, every sample by itself, in the dtypes
of the model file.  NumPy does where ``FUNCTIONS`` has all of its operators; else it carries the same nodes as
an ONNX model, which onnxruntime runs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.ends import elementwise, layout, reduction  # noqa: F401, they fill FUNCTIONS
from repurpose_hpc.model.ends.call import FUNCTIONS, Call, NotByNumpy
from repurpose_hpc.model.ends.foreign import run_model


@dataclass(frozen=True)
class Port:
    """An input or an output of a subgraph.

    Attributes:
        name: of the tensor.
        shape: for one sample.
        dtype: NumPy's name of it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Values per sample."""
        return math.prod(self.shape)

    @property
    def kind(self) -> str:
        """NumPy's letter of the kind of the dtype."""
        return np.dtype(self.dtype).kind


@dataclass(frozen=True)
class Step:
    """One node.

    Attributes:
        operator: its type, with the domain where that is not ONNX's own.
        inputs: tensors that are read; "" where an optional one is left out.
        outputs: tensors that are made; "" where one is not wanted.
        attributes: those given: numbers, texts, lists and arrays; empty in a subgraph with a ``model``.
        opset: version of its domain.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    opset: int


@dataclass(frozen=True, eq=False)
class Subgraph:
    """Nodes between some inputs and some outputs; see the module.

    Attributes:
        inputs, outputs: an input may be an output as well.
        steps: in an order in which they can be computed.
        constants: tensors that are known, by name; none in a subgraph with a ``model``.
        batch: the number of samples that it computes at a time; 0: any.
        model: the nodes as the bytes of an ONNX model, for onnxruntime; empty: NumPy computes the steps.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    steps: tuple[Step, ...]
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    batch: int = 0
    model: bytes = b""

    @property
    def operators(self) -> tuple[str, ...]:
        """The operators of the steps, each once."""
        return tuple(dict.fromkeys(step.operator for step in self.steps))

    def at(self, positions: int) -> Subgraph:
        """The same steps on sequences of so many positions; they take any number of axes."""
        inputs, outputs = (
            tuple(replace(port, shape=(positions, *port.shape)) for port in ports)
            for ports in (self.inputs, self.outputs)
        )
        return replace(self, inputs=inputs, outputs=outputs)

    def compute(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs, each (samples, *shape) of its dtype.

        Args:
            arrays: one for each input, (samples, *shape) of its dtype.

        Raises:
            UserError: the values do not allow it (an index out of range), or onnxruntime is missing.
        """
        return self._checked(self.in_batches(arrays), len(arrays[0]))

    def in_batches(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """``compute``, whatever shapes and dtypes come out."""
        if not self.batch:
            return self.computed(arrays)
        samples = len(arrays[0])
        parts = [
            [result[: samples - first] for result in self._batch(arrays, first)]
            for first in range(0, samples, self.batch)
        ]
        return [np.concatenate(results) for results in zip(*parts, strict=True)]

    def computed(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs for one batch, whatever shapes and dtypes come out.

        Raises:
            NotByNumpy: there is no model, and a step is none for NumPy.
        """
        tensors = {port.name: array for port, array in zip(self.inputs, arrays, strict=True)}
        if self.model:
            wanted = [port.name for port in self.outputs if port.name not in tensors]
            if wanted:  # onnxruntime gives all outputs where none is asked for
                tensors |= run_model(self.model, self.operators, wanted, tensors)
        else:
            tensors |= self.constants
            with np.errstate(all="ignore"):
                for step in self.steps:
                    tensors.update(_computed_step(step, tensors))
        return [tensors[port.name] for port in self.outputs]

    def update(self, digest: hashlib._Hash) -> None:
        """Add the structure and every constant to a digest."""
        digest.update(repr((self.inputs, self.outputs, self.batch)).encode())
        for step in self.steps:
            digest.update(repr((step.operator, step.inputs, step.outputs, step.opset)).encode())
            digest.update(
                repr(sorted((name, repr(value)) for name, value in step.attributes.items())).encode()
            )
        digest.update(self.model)
        for name, array in sorted(self.constants.items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)

    def _batch(self, arrays: Sequence[np.ndarray], first: int) -> list[np.ndarray]:
        """One batch of the fixed size, the last sample repeated where there are fewer."""
        chosen = np.minimum(np.arange(first, first + self.batch), len(arrays[0]) - 1)
        return self.computed([array[chosen] for array in arrays])

    def _checked(self, results: list[np.ndarray], samples: int) -> list[np.ndarray]:
        for port, result in zip(self.outputs, results, strict=True):
            if result.shape != (samples, *port.shape):
                raise UserError(
                    f"{port.name}: expected {(samples, *port.shape)} values of {samples} samples, found "
                    f"{result.shape}: what it is computed by depends on the values; change the model"
                )
        return results


def _computed_step(step: Step, tensors: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """The outputs of a step, by name.

    Raises:
        NotByNumpy: NumPy does not compute it.
        UserError: its inputs do not allow it.
    """
    inputs = [tensors[name] if name else None for name in step.inputs]
    function = FUNCTIONS.get(step.operator)
    if function is None:
        raise NotByNumpy
    try:
        results = function(Call(step.attributes, step.opset, len(step.outputs)), *inputs)
    except (ValueError, IndexError, TypeError, AttributeError, KeyError) as error:
        raise UserError(
            f"{step.outputs[0]} ({step.operator}): it cannot be computed from these values: {error}"
        ) from None
    if isinstance(results, (np.ndarray, np.generic)):
        results = [np.asarray(results)]
    return zip(step.outputs, results, strict=False)
