"""Models of opsets that are too old to be read, at the oldest one that can be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.importers.onnx.varying import BATCHES

if TYPE_CHECKING:
    import onnx

# The meaning of Add and Mul, and the way in which Reshape is told its shape, are settled since then.
OLDEST_OPSET = 7

_BROADCASTING = ("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less")


def converted(model: onnx.ModelProto, opset: int, path: Path) -> onnx.ModelProto:
    """The model at ``OLDEST_OPSET``, by the converter of the onnx package.

    Args:
        model: of an older opset.
        opset: of ``model``.
        path: of the file.

    Raises:
        UserError: the converter cannot.
    """
    import onnx
    from onnx import version_converter

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    for item in fixed.graph.input:
        for axis in item.type.tensor_type.shape.dim:
            axis.dim_value = axis.dim_value or BATCHES[0]  # for any size: the converter takes no names
    for item in fixed.graph.output:
        item.type.tensor_type.ClearField("shape")
    try:
        _settle_nodes(fixed.graph, onnx.shape_inference.infer_shapes(fixed).graph)
        result = version_converter.convert_version(fixed, OLDEST_OPSET)
    except Exception as error:  # RuntimeError and others, by what the converter stumbles over
        raise UserError(
            f"{path}: expected opset {OLDEST_OPSET} or later, or an older one that onnx's version converter "
            f"takes, found {opset}: {error}; export with opset_version=17"
        ) from None
    del result.graph.input[:]
    result.graph.input.extend(model.graph.input)
    return result


def _settle_nodes(graph: onnx.GraphProto, inferred: onnx.GraphProto) -> None:
    """Write out the shapes to which older operators broadcast along an axis; the converter does not always.

    Raises:
        ValueError: a shape is not known, or a node is in training.
    """
    from onnx.helper import make_node

    items = (*inferred.input, *inferred.value_info, *inferred.output)
    axes_of = {item.name: len(item.type.tensor_type.shape.dim) for item in items}
    nodes = list(graph.node)
    del graph.node[:]
    for number, node in enumerate(nodes):
        if any(attribute.name == "is_test" and not attribute.i for attribute in node.attribute):
            # The converter would drop the attribute, and with it that statistics are those of the batch.
            raise ValueError(f"node {node.name or node.output[0]!r} ({node.op_type}) is in training")
        if (axis := _axis(node)) is not None:
            left, right = node.input
            if not axes_of.get(left) or not axes_of.get(right):
                raise ValueError(f"node {node.name or node.output[0]!r} ({node.op_type}) has unknown shapes")
            behind = axes_of[left] - axis % axes_of[left] - axes_of[right]
            if behind > 0:
                axes = [axes_of[right] + place for place in range(behind)]
                node.input[1] = f"{right}.broadcast{number}"
                graph.node.append(make_node("Unsqueeze", [right], [node.input[1]], axes=axes))
        graph.node.append(node)


def _axis(node: onnx.NodeProto) -> int | None:
    """The axis of the first input on which those of the second begin; None: the last ones are common.

    The attribute that says so is taken away.
    """
    if node.op_type == "PRelu":
        return 1  # a slope for each channel; since opset 7 it would be one for each value of the last axis
    if node.op_type not in _BROADCASTING:
        return None
    for attribute in node.attribute:
        if attribute.name == "axis":
            node.attribute.remove(attribute)
            return attribute.i
    return None
