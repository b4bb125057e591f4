#!/usr/bin/env bash
# ONNX Runtime: the operator Attention refuses masks that are the same for all queries; onnx misreads causal ones.
#
#     findings/onnxruntime_attention_mask_rows.sh        needs python3 with venv, and the network
#
# Expected: a mask of Attention may have any shape that broadcasts to (batch, heads, queries, keys), as its
# specification says: (batch, 1, 1, keys), the mask of padding that torch.onnx writes for
# scaled_dot_product_attention(attn_mask=mask[:, None, None, :]), and (1, keys).  The reference of the onnx
# package computes what NumPy does.
#
# Seen with onnxruntime 1.32.0 (CPU), onnx 1.23.2, on Linux x86-64, Python 3.11:
# - At opsets 23 and 24 onnxruntime refuses both shapes, of truth values and of numbers, when the model runs:
#   the inference of shapes passes.  The same masks repeated for all queries are right.
# - At opset 25 it takes them, and is right.
# - The reference of onnx, given a mask of one row and is_causal = 1, takes all queries for the first one: it
#   differs from NumPy at all queries but that.  With the mask repeated it is right.
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
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

BATCH, HEADS, LENGTH, SIZE = 2, 3, 5, 4
onnxruntime.set_default_logger_severity(4)
rng = np.random.default_rng(0)
Q, K, V = (rng.standard_normal((BATCH, HEADS, LENGTH, SIZE)).astype(np.float32) for _ in range(3))


def model(opset, mask, causal):
    """Attention with a mask; every tensor has its full shape."""
    kind = TensorProto.BOOL if mask.dtype == bool else TensorProto.FLOAT
    sizes = [BATCH, HEADS, LENGTH, SIZE]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name in "QKV"]
    inputs.append(helper.make_tensor_value_info("mask", kind, mask.shape))
    node = helper.make_node("Attention", [*"QKV", "mask"], ["Y"], is_causal=int(causal))
    outputs = [helper.make_tensor_value_info("Y", TensorProto.FLOAT, sizes)]
    graph = helper.make_graph([node], "attention", inputs, outputs)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made


def expected(mask, causal):
    """What the specification says, in NumPy."""
    scores = Q @ K.swapaxes(2, 3) / np.sqrt(SIZE)
    scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    if causal:
        scores = np.where(np.tri(LENGTH, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=3, keepdims=True))
    return weights / weights.sum(axis=3, keepdims=True) @ V


def verdict(run, mask, causal):
    """"right", "wrong", or the kind of error."""
    try:
        found = run()
    except Exception as error:
        return f"refused ({type(error).__name__})"
    return "right" if np.abs(found - expected(mask, causal)).max() < 1e-5 else "wrong"


def by_onnxruntime(opset, mask, causal=False):
    made = model(opset, mask, causal).SerializeToString()

    def run():
        session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
        return session.run(None, {"Q": Q, "K": K, "V": V, "mask": mask})[0]

    return verdict(run, mask, causal)


def by_onnx(opset, mask, causal=False):
    made = model(opset, mask, causal)
    return verdict(
        lambda: ReferenceEvaluator(made).run(None, {"Q": Q, "K": K, "V": V, "mask": mask})[0], mask, causal
    )


truth = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], bool)[:, None, None]
number = np.where(truth, 0, -2).astype(np.float32)
repeated = np.ascontiguousarray(np.broadcast_to(truth, (BATCH, 1, LENGTH, LENGTH)))
cases = []
for opset, words in ((23, "refused"), (24, "refused"), (25, "right")):
    name = f"onnxruntime, opset {opset}"
    cases += [
        (f"{name}, truth (N, 1, 1, T)", by_onnxruntime(opset, truth), words),
        (f"{name}, numbers (N, 1, 1, T)", by_onnxruntime(opset, number), words),
        (f"{name}, truth (1, T)", by_onnxruntime(opset, truth[0, 0]), words),
        (f"{name}, truth (N, 1, S, T)", by_onnxruntime(opset, repeated), "right"),
    ]
cases += [
    ("onnx, truth (N, 1, 1, T)", by_onnx(23, truth), "right"),
    ("onnx, truth (1, T), causal", by_onnx(23, truth[0, 0], True), "wrong"),
    ("onnx, truth (S, T), causal", by_onnx(23, repeated[0, 0], True), "right"),
]
print(f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}, Python {sys.version.split()[0]}")
changed = 0
for name, seen, words in cases:
    changed += not seen.startswith(words)
    print(f"{name:<42} {seen}{'' if seen.startswith(words) else f'   CHANGED, was: {words}'}")
sys.exit(changed > 0)
PYTHON
"$folder/venv/bin/python" "$folder/finding.py"
