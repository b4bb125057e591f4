"""Random legal ONNX graphs of the operators that the importer knows, each reproducible by its number.

Sizes are small and odd, some are 1; parts may be empty; constants broadcast in every way.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from helpers.graph_drawing import BATCH, OPSET, Illegal, RandomGraph
from helpers.random_steps import STEPS


def random_graph(number: int, steps: int = 8) -> tuple[onnx.ModelProto, list[float]]:
    """A model, and the numbers at which its activations have a jump or a bend.

    Args:
        number: which.
        steps: nodes or groups of nodes that are tried.
    """
    rng = np.random.default_rng([15, number])
    graph = RandomGraph(rng)
    shape = tuple(int(size) for size in rng.choice([1, 2, 3, 4, 5, 6, 7], rng.choice([1, 1, 2, 3])))
    graph.values["x"] = rng.standard_normal((BATCH, *shape)).astype(np.float32)
    _first(graph, identity=graph.chance(0.4))
    for _ in range(steps):
        before = len(graph.nodes), set(graph.values), set(graph.constants), len(graph.compared)
        try:
            STEPS[int(rng.integers(len(STEPS)))](graph)
        except Illegal:
            _restore(graph, *before)
    return _model(graph, shape), graph.compared


def _restore(graph: RandomGraph, nodes: int, values: set[str], constants: set[str], compared: int) -> None:
    del graph.nodes[nodes:], graph.compared[compared:]
    graph.values = {name: value for name, value in graph.values.items() if name in values}
    graph.constants = {name: value for name, value in graph.constants.items() if name in constants}


def _first(graph: RandomGraph, identity: bool) -> None:
    """A layer with weights; an identity lets inputs reach the constants behind it as they are."""
    shape = graph.shape("x")
    if len(shape) == 1 or graph.chance(0.3):
        n = shape[-1]
        weights = graph.constant(np.eye(n)) if identity else graph.normal(n, int(graph.rng.integers(1, 7)))
        graph.add("MatMul", "x", weights)
    else:
        kernel = (1,) * (len(shape) - 1)
        n = shape[0]
        eye = np.eye(n).reshape(n, n, *kernel)
        weights = graph.constant(eye) if identity else graph.normal(int(graph.rng.integers(1, 6)), n, *kernel)
        graph.add("Conv", "x", weights)


def _model(graph: RandomGraph, shape: tuple[int, ...]) -> onnx.ModelProto:
    read = {name for node in graph.nodes for name in node.input}
    ends = [name for name in graph.values if name not in read and graph.values[name].dtype == np.float32]
    ends = [name for name in ends if graph.values[name].size] or [graph.nodes[0].output[0]]
    outputs = ends[-1 - int(graph.chance(0.3) and len(ends) > 1) :]
    proto = helper.make_graph(
        graph.nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        # Without sizes: the reference gets some wrong, of SAME_LOWER for one.
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * graph.values[name].ndim)
            for name in outputs
        ],
        [numpy_helper.from_array(value, name) for name, value in graph.constants.items()],
    )
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
