#!/usr/bin/env bash
# ONNX Runtime: float64 is a type of MatMul and Gemm, but not of convolutions and global pools on the CPU.
#
#     findings/onnxruntime_has_no_float64_convolution.sh        needs python3 with venv
#
# Expected: Conv, MaxPool, AveragePool and GlobalAveragePool take float64 by the standard, onnx.checker accepts
# such models, and a runtime that multiplies matrices of float64 runs convolutions of them too.
#
# Seen with onnx 1.23.2 and onnxruntime 1.32.0, on Linux x86-64, Python 3.11, CPUExecutionProvider:
# - MatMul, Gemm, Relu and MaxPool of float64 run.
# - Conv, AveragePool and GlobalAveragePool of float64 are refused when the session is made: NOT_IMPLEMENTED,
#   although onnx.checker accepts them and onnx.reference runs them.
#
# Exit status: 0 as seen, 1 something has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0

cat > "$folder/finding.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

IMAGE, MATRIX = (1, 2, 4, 4), (3, 2)
# Operator: shape of its input, constants, attributes, and what became of it.
CASES = {
    "MatMul": (MATRIX, [np.ones((2, 5))], {}, "runs"),
    "Gemm": (MATRIX, [np.ones((2, 5))], {}, "runs"),
    "Relu": (MATRIX, [], {}, "runs"),
    "MaxPool": (IMAGE, [], {"kernel_shape": [2, 2]}, "runs"),
    "Conv": (IMAGE, [np.ones((3, 2, 2, 2))], {}, "NotImplemented"),
    "AveragePool": (IMAGE, [], {"kernel_shape": [2, 2]}, "NotImplemented"),
    "GlobalAveragePool": (IMAGE, [], {}, "NotImplemented"),
}


def model_of(operator, shape, constants, attributes):
    names = [f"c{number}" for number in range(len(constants))]
    node = helper.make_node(operator, ["x", *names], ["y"], **attributes)
    x = helper.make_tensor_value_info("x", onnx.TensorProto.DOUBLE, shape)
    y = helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, ["?"] * len(shape))
    arrays = [numpy_helper.from_array(array, name) for array, name in zip(constants, names)]
    graph = helper.make_graph([node], "one", [x], [y], arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def outcome(model, x, expected):
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:
        return type(error).__name__
    return "runs" if np.allclose(session.run(None, {"x": x})[0], expected) else "other numbers"


print(f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}, Python {sys.version.split()[0]}")
changed = 0
for operator, (shape, constants, attributes, seen) in CASES.items():
    model, x = model_of(operator, shape, constants, attributes), np.random.default_rng(0).random(shape)
    onnx.checker.check_model(model)
    found = outcome(model, x, ReferenceEvaluator(model).run(None, {"x": x})[0])
    changed += found != seen
    print(f"{operator:<18} {found}{'' if found == seen else f'   CHANGED, was: {seen}'}")
sys.exit(changed > 0)
PYTHON
"$folder/venv/bin/python" "$folder/finding.py"
