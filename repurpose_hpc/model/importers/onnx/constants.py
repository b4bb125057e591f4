"""Folding of what a graph computes from constants alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.model.importers.onnx.signal import Unsupported
from repurpose_hpc.model.importers.onnx.varying import BATCHES, Varying

if TYPE_CHECKING:
    import onnx

# Their results are another one each time.
_RANDOM = frozenset(
    (
        *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
        *("Bernoulli", "Multinomial"),
    )
)

# In place of an output that nobody reads.
_UNNAMED = np.empty(0)


def fold(
    proto: onnx.NodeProto, inputs: Sequence[np.ndarray | Varying | None], opset: int
) -> tuple[np.ndarray | Varying, ...]:
    """The outputs of a node that has constants alone.

    Raises:
        Unsupported: they cannot be computed, or are drawn at random.
    """
    if proto.op_type in _RANDOM:
        raise Unsupported(f"operator {proto.op_type} is not supported, for it draws random numbers")
    if not any(isinstance(value, Varying) for value in inputs):
        return run(proto, [value for value in inputs if not isinstance(value, Varying)], opset)
    both = [
        run(proto, [value.values[place] if isinstance(value, Varying) else value for value in inputs], opset)
        for place in range(len(BATCHES))
    ]
    return tuple(Varying.of(first, second) for first, second in zip(*both, strict=True))


def run(proto: onnx.NodeProto, inputs: Sequence[np.ndarray | None], opset: int) -> tuple[np.ndarray, ...]:
    """The outputs of a node by the evaluator of the onnx package.

    Raises:
        Unsupported: they cannot be computed, or are no arrays.
    """
    from onnx.helper import make_function, make_opsetid
    from onnx.reference import ReferenceEvaluator

    feeds = {name: value for name, value in zip(proto.input, inputs, strict=True) if name}
    outputs = [name for name in proto.output if name]
    domains = [make_opsetid("", opset)]
    if proto.domain not in ("", "ai.onnx"):
        domains.append(make_opsetid(proto.domain, 1))
    function = make_function("", "fold", list(feeds), outputs, [proto], domains)
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(function).run(None, feeds, attributes={})
    except Exception as error:  # whatever the evaluator raises on a bad model
        raise Unsupported(f"it cannot be computed from its constants: {error}") from None
    if any(isinstance(result, list | dict) or result is None for result in results):
        raise Unsupported("its result from its constants is no tensor")
    arrays = dict(zip(outputs, map(np.asarray, results), strict=True))
    return tuple(arrays.get(name, _UNNAMED) for name in proto.output)
