#!/usr/bin/env bash
# PyTorch: exporting a wrapper around a network that is set to eval() leaves the network's dropout on.
#
#     findings/torch_export_turns_dropout_on.sh        needs python3 with venv, and the network
#
# Expected: to choose what a network returns one writes a small module around it; the network is in eval() mode,
# and torch.onnx.export sets the mode for the export and puts it back.  What is exported and what the network
# computes afterwards should be the same.
#
# Seen with torch 2.13.0 (CPU), on Linux x86-64, Python 3.11:
# - With dynamo=False the exporter remembers the mode of the outermost module alone.  A new wrapper is in training
#   mode, so after the export every module inside is, too: dropout is on, and the same input gives other outputs
#   than before, and others each time.  The exported file is right.
# - With dynamo=True modes stay as they were.
# - wrapper.eval() before the export avoids it.
#
# Exit status: 0 as seen, 1 something has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 numpy==2.4.6

cat > "$folder/finding.py" <<'PYTHON'
import contextlib
import io
import sys
import warnings
from pathlib import Path

import onnxruntime
import torch

warnings.simplefilter("ignore")
folder = Path(sys.argv[1])


class Chosen(torch.nn.Module):
    """A network of which one output is wanted."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)


def seen(dynamo, evaluates):
    """What is in training mode, whether outputs stayed, and whether the file has those from before."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Dropout(0.5)).eval()
    wrapper, x = Chosen(network), torch.randn(2, 8)
    if evaluates:
        wrapper.eval()
    with torch.no_grad():
        before = wrapper(x)
        path = folder / f"{dynamo}{evaluates}.onnx"
        with contextlib.redirect_stdout(io.StringIO()):
            torch.onnx.export(wrapper, (x,), path, dynamo=dynamo, input_names=["x"])
        after = wrapper(x)
    (stored,) = onnxruntime.InferenceSession(path).run(None, {"x": x.numpy()})
    is_same = torch.equal(before, after)
    return network[1].training, is_same, bool(torch.allclose(before, torch.from_numpy(stored), atol=1e-5))


cases = [
    ("dynamo=False", seen(False, False), (True, False, True)),
    ("dynamo=False, wrapper.eval()", seen(False, True), (False, True, True)),
    ("dynamo=True", seen(True, False), (False, True, True)),
]
print(f"torch {torch.__version__}, Python {sys.version.split()[0]}")
changed = 0
for name, found, expected in cases:
    changed += found != expected
    words = "dropout {}, outputs {}, file {}".format(
        "on" if found[0] else "off", "as before" if found[1] else "differ", "right" if found[2] else "wrong"
    )
    print(f"{name:<30} {words}{'' if found == expected else '   CHANGED'}")
sys.exit(changed > 0)
PYTHON
"$folder/venv/bin/python" "$folder/finding.py" "$folder"
