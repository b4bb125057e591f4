"""Neurons with a state as nodes: those of one step after those of the other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from repurpose_hpc.exporters.graph import Graph, Value
from repurpose_hpc.exporters.registry import exports
from repurpose_hpc.model.operations import Membrane, Shape
from repurpose_hpc.model.operations.membrane import NONE, SET


@exports(Membrane)
def _membrane(op: Membrane, graph: Graph, sources: Sequence[Value], target: Shape) -> Value:
    (x,) = sources
    # Maps of one step, the steps on an axis of their own.
    by_step = graph.shaped(x, (op.steps, x.shape.values // op.steps))
    axis = 1 if by_step.neurons_last else 2
    one = by_step._replace(shape=Shape(x.shape.neurons, (1, x.shape.values // op.steps)))

    @cache  # those that no step needs are not written
    def number(name: str) -> str:
        return graph.by_neuron(name, op.by_position(name), one)

    course: list[str] = []
    current = potential = spike = ""
    for step in range(op.steps):
        bounds = (graph.integers([each]) for each in (step, step + 1, axis))
        read = graph.add("Slice", by_step.name, *bounds)
        if current and op.synapse.any():
            read = graph.add("Add", graph.add("Mul", current, number("synapse")), read)
        current = read
        if spike and not op.is_delayed:
            potential = _after(op, graph, potential, spike, number("reset_value"))
        if potential:
            potential = graph.add("Mul", potential, number("decay"))
        if spike and op.is_delayed:
            potential = _after(op, graph, potential, spike, number("reset_value"))
        added = graph.add("Mul", current, number("resistance"))
        potential = graph.add("Add", potential, added) if potential else added
        if op.fires or op.reset != NONE:
            fired = graph.add("Greater", potential, number("threshold"))
            spike = fired if op.reset != NONE else ""
        course.append(graph.cast(fired) if op.fires else potential)
    return by_step._replace(name=graph.add("Concat", *course, axis=axis))


def _after(op: Membrane, graph: Graph, potential: str, spike: str, value: str) -> str:
    """The potential with what spikes do to it."""
    reset = value if op.reset == SET else graph.add("Sub", potential, value)
    return graph.add("Where", spike, reset, potential)
