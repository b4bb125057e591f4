"""Operators that NumPy computes outside the network, against examples of the onnx package and onnxruntime."""

import warnings
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx  # noqa: E402
import onnxruntime  # noqa: E402
from onnx import helper  # noqa: E402
from onnx.backend.test.case.node import collect_testcases  # noqa: E402

from repurpose_hpc.model.ends.call import FUNCTIONS, Call, NotByNumpy  # noqa: E402
from repurpose_hpc.model.ends.elementwise import DTYPES  # noqa: E402
from repurpose_hpc.model.ends.subgraph import Step  # noqa: E402, F401, it fills FUNCTIONS
from repurpose_hpc.model.importers.onnx.refusal import operator_of  # noqa: E402
from repurpose_hpc.model.importers.onnx.subgraphs import attribute_value  # noqa: E402

# Nothing is reduced, or units are dropped at random.
REFUSED = ("empty_set", "training_dropout")
# Of other domains, or with examples of types that NumPy does not have: tested below.
NO_EXAMPLES = {"Cast", "CastLike", "ai.onnx.ml.Scaler", "ai.onnx.ml.Normalizer", "repurpose.Embedding"}


def examples():
    """Name, node, opset, inputs and outputs of the examples of one node that NumPy computes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    for case in cases:
        if case.model is None or len(case.model.graph.node) != 1 or not case.data_sets:
            continue
        (proto,), (inputs, outputs) = case.model.graph.node, case.data_sets[0]
        arrays = all(isinstance(array, (np.ndarray, np.generic)) for array in (*inputs, *outputs))
        if operator_of(proto) in FUNCTIONS and arrays:
            opset = next(each.version for each in case.model.opset_import if each.domain == proto.domain)
            named = dict(zip((each.name for each in case.model.graph.input), inputs, strict=True))
            values = [np.asarray(named[name]) if name else None for name in proto.input]
            yield case.name, proto, opset, values, [np.asarray(output) for output in outputs]


def computed(proto, opset, inputs):
    """What NumPy computes, as a list."""
    attributes = {each.name: attribute_value(each) for each in proto.attribute}
    with np.errstate(all="ignore"):
        results = FUNCTIONS[operator_of(proto)](Call(attributes, opset, len(proto.output)), *inputs)
    return [results] if isinstance(results, (np.ndarray, np.generic)) else list(results)


def assert_same(name, results, outputs):
    for result, output in zip(results, outputs, strict=False):
        result = np.asarray(result)
        assert (result.shape, result.dtype) == (output.shape, output.dtype), name
        if output.dtype.kind == "f":
            np.testing.assert_allclose(result, output, rtol=1e-3, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(result, output, err_msg=name)


def test_examples_of_the_onnx_package():
    right = Counter()
    for name, proto, opset, inputs, outputs in examples():
        try:
            results = computed(proto, opset, inputs)
        except NotByNumpy:
            continue
        except ValueError:
            if not any(part in name for part in REFUSED):
                raise
            continue
        assert len(results) >= len(outputs)
        assert_same(name, results, outputs)
        right[operator_of(proto)] += 1
    assert {*FUNCTIONS} - {*right} == NO_EXAMPLES
    assert right.total() > 500


def run(proto, inputs):
    """What onnxruntime computes of a node."""
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip(proto.input, inputs, strict=True)
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in proto.output]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    graph = helper.make_graph([proto], "node", infos, outputs)
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=imports, ir_version=8))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip(proto.input, inputs, strict=True)))


@pytest.mark.parametrize("target", DTYPES)
@pytest.mark.parametrize("source", ["float32", "float64", "int64", "uint8", "bool"])
def test_casts(source, target):
    x = np.array([[0, 1, 2.75, 3, 100.5, 7]]).astype(source)
    cast = helper.make_node("Cast", ["x"], ["y"], to=target)
    assert_same("Cast", computed(cast, 17, [x]), run(cast, [x]))
    like = np.zeros(1, DTYPES[target])
    cast_like = helper.make_node("CastLike", ["x", "like"], ["y"])
    assert_same("CastLike", computed(cast_like, 17, [x, like]), run(cast, [x]))


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_normalizers(norm):
    x = np.random.default_rng(0).random((5, 4)).astype(np.float32)
    node = helper.make_node("Normalizer", ["x"], ["y"], domain="ai.onnx.ml", norm=norm)
    assert_same("Normalizer", computed(node, 3, [x]), run(node, [x]))


@pytest.mark.parametrize("numbers", [([0.5], [2.0]), ([0.5, 1.0, 0.0, -3.0], [2.0, 1.0, 0.5, 3.0])])
def test_scalers(numbers):
    offset, scale = numbers
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    node = helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=offset, scale=scale)
    assert_same("Scaler", computed(node, 3, [x]), run(node, [x]))


def test_large_values_do_not_drown_a_logarithm():
    x = np.array([[1e4, 1e4], [-3e7, -3e7]], np.float32)
    found = FUNCTIONS["LogSoftmax"](Call({"axis": 1}, 20, 1), x)
    np.testing.assert_allclose(found, np.full((2, 2), -np.log(2)), rtol=1e-6)
