"""Branches that are decided beforehand, and loops that are gone through a known number of times."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.signal import Unsupported
from repurpose_hpc.model.importers.onnx.varying import Varying

if TYPE_CHECKING:
    import onnx

# Passes through a loop, all of which become part of the network.
_MOST_PASSES = 64


def inline_branch(proto: onnx.NodeProto, node: Node) -> Iterator[onnx.NodeProto]:
    """If: the nodes of the branch that its condition, a constant, chooses.

    They keep their names: these differ from all that the branch can see, and nobody else sees them.
    """
    condition = node.input(0)
    if not isinstance(condition, np.ndarray):
        what = "size of the batch" if isinstance(condition, Varying) else "input"
        raise Unsupported(
            f"its condition depends on the {what}, expected one that is known beforehand; "
            "export a model that always takes the same branch"
        )
    yield from nodes_of_branch(proto, node.attributes["then_branch" if condition.item() else "else_branch"])


def nodes_of_branch(proto: onnx.NodeProto, branch: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes in place of an If whose ``branch`` is taken."""
    yield from _body(branch)
    for inner, outer in zip(branch.output, proto.output, strict=True):
        if inner.name != outer:
            yield _identity(inner.name, outer)


def unroll_loop(proto: onnx.NodeProto, node: Node) -> Iterator[onnx.NodeProto]:
    """Loop: the nodes of its body once for every pass, of which the number is a constant."""
    body = node.attributes["body"]
    passes, condition = node.input(0), node.input(1)
    if not isinstance(passes, np.ndarray) or not _goes_on(body):
        raise Unsupported(
            "how often it runs depends on the input or on what it computes, expected a constant number of "
            "passes; export a model without it"
        )
    if condition is not None and not node.constant(1).item():
        passes = np.int64(0)
    count = int(passes.item())
    carried = len(proto.input) - 2
    if count > _MOST_PASSES or count < 1 or len(proto.output) > carried:
        raise Unsupported(
            f"it runs {count} times and stacks {len(proto.output) - carried} results, expected 1 to "
            f"{_MOST_PASSES} passes and no stacked results; export a model without it"
        )
    states = list(proto.input)[2:]
    for number in range(count):
        yield _constant(body.input[0].name, np.int64(number))
        yield _constant(body.input[1].name, np.bool_(True))
        # All states are read before the first is written: one may be that of another before.
        held = [f"{proto.output[place]}.{number}" for place in range(carried)]
        for state, name in zip(states, held, strict=True):
            yield _identity(state, name)
        for name, item in zip(held, body.input[2:], strict=True):
            yield _identity(name, item.name)
        yield from _body(body)
        states = [item.name for item in body.output[1:]]
    for state, output in zip(states, proto.output, strict=True):
        if output:
            yield _identity(state, output)


def refuse_scan(proto: onnx.NodeProto, node: Node) -> Iterator[onnx.NodeProto]:
    """Scan."""
    raise Unsupported("loops over an axis are not supported; export a model without it")


def _body(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    from onnx.helper import make_node

    for initializer in graph.initializer:
        yield make_node("Constant", [], [initializer.name], value=initializer)
    yield from graph.node


def _goes_on(body: onnx.GraphProto) -> bool:
    """True if the condition that a body returns is the one that it is given, or true."""
    from onnx.numpy_helper import to_array

    maker_of = {name: node for node in body.node for name in node.output}
    name = body.output[0].name
    while name in maker_of and maker_of[name].op_type in ("Identity", "Cast"):
        name = maker_of[name].input[0]
    if name == body.input[1].name:
        return True
    values = {initializer.name: initializer for initializer in body.initializer}
    if name in maker_of and maker_of[name].op_type == "Constant":
        values[name] = maker_of[name].attribute[0].t
    return name in values and bool(to_array(values[name]).item())


def _identity(source: str, target: str) -> onnx.NodeProto:
    from onnx.helper import make_node

    return make_node("Identity", [source], [target], name=target)


def _constant(name: str, value: np.generic) -> onnx.NodeProto:
    from onnx.helper import make_node
    from onnx.numpy_helper import from_array

    return make_node("Constant", [], [name], value=from_array(np.asarray(value)))


REWRITERS = {"If": inline_branch, "Loop": unroll_loop, "Scan": refuse_scan}
