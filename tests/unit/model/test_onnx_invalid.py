"""Graphs that the checker of the onnx package lets pass and that mean nothing are refused by name."""

import numpy as np
import pytest

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.importers.load import load_model

onnx = pytest.importorskip("onnx")

from helpers.onnx_models import node, save  # noqa: E402

MAP = ("N", 4, 7, 6)


def _i(*numbers):
    return np.array(numbers, np.int64)


def _f(*shape):
    return np.ones(shape, np.float32)


CONSTANTS = {
    **{
        "K": _f(6, 4, 3, 3),
        "K1": _f(4, 4, 1, 1),
        "Kt": _f(4, 5, 3, 2),
        "W": _f(6, 3),
        "scalar": np.float32(2),
    },
    **{"c3": _f(3), "c4": _f(4), "c5": _f(5), "W5": _f(5, 3), "wide": _f(1, 2, 1)},
    **{"sizes_short": _i(1, 2), "sizes_long": _i(2, 3), "sizes_negative": _i(5, -1), "nine": _i(9)},
    **{"two_unknown": _i(0, -1, -1), "minus_two": _i(0, -2), "beyond": _i(0, 0, 0, 0, 0), "twice": _i(2, 2)},
    **{"from": _i(0), "to": _i(3), "from2": _i(0, 0), "axis9": _i(9), "zero_step": _i(0)},
    **{
        "pads_short": _i(0, 0, 1),
        "pads_cut": _i(0, 0, -4, 0, 0, 0, -4, 0),
        "pads_far": _i(0, 0, 7, 0, 0, 0, 0, 0),
    },
    **{"scales2": np.float32([1, 2]), "scales0": np.float32([1, 1, 0, 1]), "roi": np.float32([])},
    **{"triangle": _i(2, 1), "too_far": _i(0, 4)},
}
INVALID = {
    "kernel_shape": ("Conv", "h K y", {"kernel_shape": [2, 3]}, "kernel of shape"),
    "strides_0": ("Conv", "h K y", {"strides": [0, 1]}, "attribute strides"),
    "strides_negative": ("MaxPool", "h y", {"kernel_shape": [2, 2], "strides": [-1, 1]}, "attribute strides"),
    "strides_short": ("Conv", "h K y", {"strides": [1]}, "attribute strides"),
    "dilations_0": ("Conv", "h K y", {"dilations": [0, 1]}, "attribute dilations"),
    "pads_negative": ("Conv", "h K y", {"pads": [-1, 0, 0, 0]}, "attribute pads"),
    "pads_short": ("AveragePool", "h y", {"kernel_shape": [2, 2], "pads": [1, 1]}, "attribute pads"),
    "pads_of_nothing": (
        "MaxPool",
        "h y",
        {"kernel_shape": [2, 2], "pads": [2, 0, 0, 0]},
        "as large as a kernel",
    ),
    "kernel_0": ("AveragePool", "h y", {"kernel_shape": [0, 2]}, "a kernel of shape"),
    "groups": ("Conv", "h K y", {"group": 4}, "attribute group is 4"),
    "groups_0": ("Conv", "h K y", {"group": 0}, "attribute group is 0"),
    "bias": ("Conv", "h K c5 y", {}, "input 'c5' has shape"),
    "channels": ("Conv", "h K2 y", {}, "do not fit 4 channels"),
    "transposed_groups": ("ConvTranspose", "h Kt y", {"group": 3}, "attribute group is 3"),
    "transposed_pads": ("ConvTranspose", "h Kt y", {"pads": [0, 0, -1, 0]}, "attribute pads"),
    "output_padding": ("ConvTranspose", "h Kt y", {"output_padding": [5, 0]}, "attribute output_padding"),
    "split_short": ("Split", "h sizes_short a b", {"axis": 1}, "splits 4 values"),
    "split_long": ("Split", "h sizes_long a b", {"axis": 1}, "splits 4 values"),
    "split_negative": ("Split", "h sizes_negative a b", {"axis": 1}, "splits 4 values"),
    "split_axis": ("Split", "h sizes_short a b", {"axis": 7}, "axis 7 of 4"),
    "two_unknown": ("Reshape", "h two_unknown y", {}, "it does not fit"),
    "size_minus_2": ("Reshape", "h minus_two y", {}, "it does not fit"),
    "size_beyond": ("Reshape", "h beyond y", {}, "it does not fit"),
    "flatten": ("Flatten", "h y", {"axis": 9}, "attribute axis is 9"),
    "squeezed": ("Squeeze", "h twice y", {}, "it does not fit"),
    "unsqueezed": ("Unsqueeze", "h twice y", {}, "it does not fit"),
    "perm": ("Transpose", "h y", {"perm": [0, 1, 1, 3]}, "attribute perm"),
    "slice_lengths": ("Slice", "h from2 to axis1 y", {}, "its starts are"),
    "slice_axis": ("Slice", "h from to axis9 y", {}, "its axes are"),
    "slice_twice": ("Slice", "h from2 twice twice y", {}, "its axes are"),
    "slice_step": ("Slice", "h from to axis1 zero_step y", {}, "steps"),
    "gathered": ("Gather", "h nine y", {"axis": 1}, "out of bounds"),
    "gather_axis": ("Gather", "h from y", {"axis": 5}, "axis 5 of 4"),
    "concat_axis": ("Concat", "h h y", {"axis": 4}, "axis 4 of 4"),
    "softmax_axis": ("Softmax", "h y", {"axis": 4}, "axis 4 of 4"),
    "reduced_twice": ("ReduceMean", "h twice y", {}, "named twice"),
    "reduced_axis": ("ReduceMax", "h axis9 y", {}, "its axes are"),
    "pad_lengths": ("Pad", "h pads_short y", {}, "its pads are"),
    "pad_cuts": ("Pad", "h pads_cut y", {}, "take more away"),
    "pad_reflects": ("Pad", "h pads_far y", {"mode": "reflect"}, "its pads are"),
    "scales_short": ("Resize", "h - scales2 y", {}, "its scales are"),
    "scale_0": ("Resize", "h - scales0 y", {}, "above 0"),
    "normalised": ("BatchNormalization", "h c3 c4 c4 c4 y", {}, "input 'c3' has shape"),
    "normalised_alike": ("InstanceNormalization", "h c5 c4 y", {}, "input 'c5' has shape"),
    "normalised_groups": ("GroupNormalization", "h c4 c4 y", {"num_groups": 3}, "attribute num_groups"),
    "normalised_last": ("LayerNormalization", "h c5 y", {}, "does not fit"),
    "slopes": ("PRelu", "h c5 y", {}, "does not fit"),
    "neighbours": ("LRN", "h y", {"size": 0}, "attribute size"),
    "depth": ("DepthToSpace", "h y", {"blocksize": 3}, "cannot"),
    "number_as_matrix": ("MatMul", "h scalar y", {}, "expected axes"),
    "width": ("MatMul", "h W5 y", {}, "by weights of shape"),
    "equation": ("Einsum", "h W y", {"equation": "bcd,do->bco"}, "attribute equation"),
    "equation_result": ("Einsum", "h W y", {"equation": "bchw,wo->bzo"}, "its result has the axes"),
}


@pytest.mark.parametrize("name", INVALID)
def test_refused_by_name(tmp_path, name):
    operator, names, attributes, message = INVALID[name]
    constants = {**CONSTANTS, "K2": _f(6, 3, 3, 3), "axis1": _i(1)}
    *inputs, output = names.split() if operator != "Split" else (*names.split()[:2], "a")
    outputs = "a y" if operator == "Split" else output
    nodes = [node("Conv", "x K1", "h"), node(operator, " ".join(inputs), outputs, **attributes)]
    used = {each for node_ in nodes for each in node_.input}
    constants = {key: value for key, value in constants.items() if key in used}
    path = save(tmp_path / "model.onnx", nodes, constants, MAP, opset=21)
    with pytest.raises(UserError, match=rf"node 'node_{outputs.split()[0]}' \({operator}\): .*{message}"):
        load_model(path)


def _layer(tmp_path, shape):
    nodes = [node("Flatten", "x", "f"), node("MatMul", "f W", "y")]
    return save(tmp_path / "m.onnx", nodes, {"W": _f(3, 2)}, shape)


@pytest.mark.parametrize("shape", [("N", 1 << 21, 1 << 20), ("N", 1 << 62, 1 << 62), (1 << 40, 3)])
def test_inputs_that_no_memory_holds_are_refused(tmp_path, shape):
    with pytest.raises(UserError, match=r"m.onnx: input 'x': expected at most 1,099,511,627,776 values"):
        load_model(_layer(tmp_path, shape), check=False)


def test_a_size_that_the_user_gives_is_no_larger(tmp_path):
    with pytest.raises(UserError, match="expected at most 1,099,511,627,776 values"):
        load_model(_layer(tmp_path, ("N", "C")), {"x": (1 << 41,)}, check=False)


def test_too_little_memory_for_the_outputs_is_said(tmp_path, monkeypatch):
    def fail(*arguments):
        raise MemoryError("Unable to allocate 4.00 GiB")

    monkeypatch.setattr("repurpose_hpc.model.importers.onnx.tensors.Tensors.build", fail)
    with pytest.raises(UserError, match="in the memory of this machine: Unable to allocate 4.00 GiB"):
        load_model(_layer(tmp_path, ("N", 3)), check=False)


@pytest.mark.parametrize("change", ["node", "tensor", "initializer", "attribute", "text", "inner"])
def test_names_and_texts_that_are_no_text_are_refused(tmp_path, change):
    path = save(tmp_path / "m.onnx", [node("MatMul", "x W", "y")], {"W": _f(5, 2)})
    model = onnx.load(path)
    (layer,) = model.graph.node
    if change == "node":
        layer.name = "DAMAGE"
    elif change == "tensor":
        layer.output[0] = model.graph.output[0].name = "DAMAGE"
    elif change == "initializer":
        layer.input[1] = model.graph.initializer[0].name = "DAMAGE"
    elif change == "inner":
        layer.attribute.append(onnx.helper.make_attribute("g", onnx.GraphProto(name="g")))
        layer.attribute[0].g.node.append(onnx.helper.make_node("Relu", ["x"], ["z"], name="DAMAGE"))
    else:
        name, value = ("DAMAGE", "x") if change == "attribute" else ("name", "DAMAGE")
        layer.attribute.append(onnx.helper.make_attribute(name, value))
    layer.domain = "foreign"  # the checker knows none of its attributes
    model.opset_import.append(onnx.helper.make_opsetid("foreign", 1))
    path.write_bytes(model.SerializeToString().replace(b"DAMAGE", b"\x8aAMAGE"))
    with pytest.raises(UserError, match=r"m.onnx: expected a readable ONNX model: .*0x8a"):
        load_model(path, check=False)
