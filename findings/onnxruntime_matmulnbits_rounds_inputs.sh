#!/usr/bin/env bash
# ONNX Runtime: MatMulNBits with accuracy_level 4 rounds its inputs to 8 bits; levels 2 and 3 round nothing.
#
#     findings/onnxruntime_matmulnbits_rounds_inputs.sh        needs python3 with venv, and the network
#
# Expected: weights of 4 bits and inputs of float32 give the product of these inputs with the numbers that the
# weights stand for, whatever accuracy_level says: the names of the levels, float32, float16, bfloat16 and int8,
# are those of a "minimum accuracy", and inputs of 16 bits would be off by 1e-3.
#
# Seen with onnxruntime 1.32.0 (CPU), onnx 1.23.2, on Linux x86-64, Python 3.11, beside NumPy in float64:
# - Without the attribute, and with levels 0 to 3, outputs are right to 1e-6 of the largest.  Levels 2 (float16)
#   and 3 (bfloat16) are not faster formats that are less exact: nothing is rounded.
# - With level 4 they are off by more than 1e-3 of the largest, in silence.
# - There each block of inputs has one scale.  One entry of 1000 among others of about 1 makes what the others of
#   its block add vanish: outputs without the share of that entry are off by more than a quarter of the largest.
#
# So whoever compares an int4 model with another program must say accuracy_level = 1, or compare with
# something that rounds as well.
#
# Exit status: 0 as seen, 1 something has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6

cat > "$folder/finding.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

ROWS, COLUMNS, BLOCK = 64, 256, 32
rng = np.random.default_rng(0)
codes = rng.integers(0, 16, (ROWS, COLUMNS // BLOCK, BLOCK)).astype(np.uint8)
scales = rng.uniform(0.01, 0.02, (ROWS, COLUMNS // BLOCK)).astype(np.float32)
# Two codes in a byte, the first one below; 8 stands for 0.
packed = codes[..., ::2] | codes[..., 1::2] << 4
W = ((codes.astype(float) - 8) * scales[..., None]).reshape(ROWS, COLUMNS)


def product(X, level):
    """X Wᵀ by onnxruntime."""
    chosen = {} if level is None else {"accuracy_level": level}
    node = helper.make_node(
        "MatMulNBits", ["X", "W", "scales"], ["Y"], domain="com.microsoft",
        K=COLUMNS, N=ROWS, bits=4, block_size=BLOCK, **chosen,
    )
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["rows", COLUMNS])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["rows", ROWS])],
        [numpy_helper.from_array(packed, "W"), numpy_helper.from_array(scales.reshape(-1), "scales")],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"X": X})[0]


X = rng.standard_normal((5, COLUMNS)).astype(np.float32)
expected = X.astype(float) @ W.T
largest = np.abs(expected).max()
outlier = X.copy()
outlier[:, 5] = 1000
without = outlier.astype(float)[:, 5:6] @ W.T[5:6]
rest = outlier.astype(float) @ W.T - without

print(f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}, Python {sys.version.split()[0]}")
changed = 0
for level in (None, 0, 1, 2, 3, 4):
    error = np.abs(product(X, level) - expected).max() / largest
    off = np.abs(product(outlier, level) - without - rest).max() / np.abs(rest).max()
    as_seen = error > 1e-3 and off > 0.25 if level == 4 else error < 1e-6 and off < 1e-3
    changed += not as_seen
    words = f"accuracy_level {level}: off by {error:.1e} of the largest, beside an entry of 1000 by {off:.1e}"
    print(words + ("" if as_seen else "   CHANGED"))
sys.exit(changed > 0)
PYTHON
"$folder/venv/bin/python" "$folder/finding.py"
