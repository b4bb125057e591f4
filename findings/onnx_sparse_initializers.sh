#!/usr/bin/env bash
# onnx: sparse initializers are legal, and run in ONNX Runtime, but the package's own tools do not know of them.
#
#     findings/onnx_sparse_initializers.sh        needs python3 with venv
#
# Expected: what onnx.checker accepts, the other tools of the same package can read: a weight of a MatMul that is
# a sparse initializer is a constant of the graph like any other.
#
# Seen with onnx 1.23.2 and onnxruntime 1.32.0, on Linux x86-64, Python 3.11, with indices in either form (one
# number for each entry, or one for each axis):
# - onnx.checker.check_model accepts the model, and ONNX Runtime gives the right product.
# - onnx.reference.ReferenceEvaluator raises a ValueError when it is made.
# - Shape inference in strict mode raises an InferenceError: the weight has no shape.
# - onnx.version_converter raises a ConvertError: the weight is undefined.
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

W = np.array([[0, 2], [0, 0], [-1, 0]], np.float32)
X = np.array([[1, 2, 3]], np.float32)
FORMS = {"one number": np.flatnonzero(W).astype(np.int64), "by axis": np.argwhere(W).astype(np.int64)}


def model_with(indices):
    """x W, W a sparse initializer."""
    values = numpy_helper.from_array(W[W != 0], "W")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(indices), W.shape)
    x, y = (helper.make_tensor_value_info(name, 1, ["N", size]) for name, size in (("x", 3), ("y", 2)))
    node = helper.make_node("MatMul", ["x", "W"], ["y"])
    graph = helper.make_graph([node], "product", [x], [y], sparse_initializer=[sparse])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def outcome(function, *arguments, **options):
    """The name of what a function raises, or "right" for what is no wrong product."""
    try:
        result = function(*arguments, **options)
    except Exception as error:
        return type(error).__name__
    return "right" if result is None or np.array_equal(result, X @ W) else "other"


def run(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X})[0]


print(f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}, Python {sys.version.split()[0]}")
changed = 0
for form, indices in FORMS.items():
    model = model_with(indices)
    found = [
        outcome(onnx.checker.check_model, model),
        outcome(run, model),
        outcome(ReferenceEvaluator, model),
        outcome(onnx.shape_inference.infer_shapes, model, strict_mode=True),
        outcome(onnx.version_converter.convert_version, model, 21),
    ]
    expected = ["right", "right", "ValueError", "InferenceError", "ConvertError"]
    changed += found != expected
    print(f"{form:<12} {found}{'' if found == expected else f'   CHANGED, was: {expected}'}")
sys.exit(changed > 0)
PYTHON
"$folder/venv/bin/python" "$folder/finding.py"
