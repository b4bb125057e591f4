"""Mixings of which ghosts arrive rounded, as nodes; see ``plan.rounding``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from repurpose_hpc.exporters.graph import BFLOAT16_NUMBER, Graph, Value
from repurpose_hpc.exporters.registry import add_operation
from repurpose_hpc.model.comm_dtype import (
    BFLOAT16,
    FLOAT16,
    LARGEST_CODES,
    LARGEST_FLOAT16,
    steps_of,
)
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.model.weights import dense, values_of
from repurpose_hpc.plan.plan import Plan


def add_rounded_mixing(
    graph: Graph, op: Mixing, sources: Sequence[Value], network: Network, plan: Plan
) -> Value:
    """A mixing of what arrives rounded and of what does not, with the weights that meet each.

    Args:
        graph, op, sources: see ``add_operation``.
        network, plan: of the mixing.
    """
    target, away = network.shape(op.target), plan.arriving_weights(network, op)
    if not values_of(away).any():
        return add_operation(graph, op, sources, target)
    arriving = dense(away)
    own = replace(op, name=f"{op.name}.own", weights=dense(op.weights) - arriving)
    ghosts = replace(op, name=f"{op.name}.ghosts", weights=arriving, bias=np.zeros_like(op.bias))
    (x,) = sources
    rounded = add_received(graph, x, op.source, plan)
    left, right = (add_operation(graph, part, [each], target) for part, each in ((own, x), (ghosts, rounded)))
    with graph.within(op.name):
        total = graph.add("Add", left.name, graph.laid(right, left.neurons_last).name)
    return left._replace(name=graph.rename(total, graph.names.new(op.name)))


def add_received(
    graph: Graph, x: Value, tensor: str, plan: Plan, neurons: np.ndarray | slice = slice(None)
) -> Value:
    """A tensor as it arrives.

    Args:
        graph: gets the nodes.
        x: as it is sent.
        tensor: of which it has neurons.
        plan: says how they travel.
        neurons: that ``x`` has; all.
    """
    with graph.within(f"{x.name}.sent"):
        if plan.comm_dtype == BFLOAT16:
            return x._replace(name=graph.cast(graph.add("Cast", x.name, to=BFLOAT16_NUMBER)))
        if plan.comm_dtype == FLOAT16:
            return x._replace(name=_as_float16(graph, x.name))
        name = _in_steps(graph, x, plan.scales[tensor][neurons], plan.comm_dtype)
        outliers = plan.outliers.get(tensor)
        if outliers is not None and outliers[neurons].any():
            where = graph.by_neuron("outliers", outliers[neurons][:, None], x)
            name = graph.add("Where", where, _as_float16(graph, x.name), name)
        return x._replace(name=name)


def _as_float16(graph: Graph, name: str) -> str:
    bounds = graph.number(-LARGEST_FLOAT16), graph.number(LARGEST_FLOAT16)
    return graph.cast(graph.cast(graph.add("Clip", name, *bounds), "float16"))


def _in_steps(graph: Graph, x: Value, scales: np.ndarray, comm_dtype: str) -> str:
    """Multiples of the steps of neurons; one with steps of 0 was always zero."""
    steps, largest = steps_of(scales, comm_dtype), LARGEST_CODES[comm_dtype]
    step = graph.by_neuron("step", np.where(steps > 0, steps, 1)[:, None], x)
    codes = graph.add("Round", graph.add("Div", x.name, step))
    clipped = graph.add("Clip", codes, graph.number(-largest), graph.number(largest))
    factor = step if steps.all() else graph.by_neuron("step", steps[:, None], x)
    return graph.add("Mul", clipped, factor)
