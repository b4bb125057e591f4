#!/usr/bin/env bash
# snnTorch: what it writes to NIR and reads again fires otherwise, as the file does not say how neurons are reset.
#
#     findings/snntorch_nir_round_trip.sh        needs python3 with venv, and the network
#
# Expected: export_to_nir and import_from_nir of one release are inverse to each other, up to rounding; three
# networks that compute different things make three files.
#
# Seen with snntorch 1.0.0, nir 1.0.8, nirtorch 2.6, torch 2.13.0 (CPU), on Linux x86-64, Python 3.11:
# - The graphs of networks with reset_mechanism "subtract", "zero" and "none" are equal in all numbers.
# - import_from_nir makes neurons with reset_mechanism "zero" of all of them.  Those with "subtract", which is the
#   default, and "none" fire otherwise than before; there is neither an error nor a warning.
# - A neuron that does not leak (IF) becomes one that keeps 0.9 of its potential.
#
# Exit status: 0 as seen, 1 something has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    snntorch==1.0.0 nir==1.0.8 nirtorch==2.6 torch==2.13.0 numpy==2.4.6

cat > "$folder/finding.py" <<'PYTHON'
import contextlib
import io
import sys
import warnings

import nir
import numpy as np
import snntorch as snn
import torch
from snntorch import utils
from snntorch.export_nir import export_to_nir
from snntorch.import_nir import import_from_nir

warnings.simplefilter("ignore")
INPUTS, NEURONS, STEPS = 8, 16, 40
torch.manual_seed(0)
weights, bias = 2 * torch.rand(NEURONS, INPUTS) - 0.5, torch.zeros(NEURONS)
trains = (torch.rand(STEPS, 4, INPUTS) < 0.3).float()


def network(reset):
    """Neurons with a decay of 0.8, in the form that the exporter takes: numbers for each of them."""
    dense = torch.nn.Linear(INPUTS, NEURONS)
    dense.weight.data, dense.bias.data = weights, bias
    beta, threshold = torch.full((NEURONS,), 0.8), torch.ones(NEURONS)
    return torch.nn.Sequential(dense, snn.Leaky(beta, threshold, reset_mechanism=reset, init_hidden=True))


def spikes(module):
    """Of every step; what is imported carries its states along."""
    utils.reset(module)
    state, fired = None, []
    with torch.no_grad():
        for x in trains:
            result = module(x) if isinstance(module, torch.nn.Sequential) else module(x, state)
            if isinstance(result, tuple):
                result, state = result
            fired.append(result)
    return torch.stack(fired)


def numbers(graph):
    return {
        f"{name}.{key}": value
        for name, node in graph.nodes.items()
        for key, value in vars(node).items()
        if isinstance(value, (np.ndarray, torch.Tensor))
    }


def neurons(module):
    return next(layer for layer in module.modules() if isinstance(layer, snn.Leaky))


seen = {}
graphs, before = {}, {}
for reset in ("subtract", "zero", "none"):
    module = network(reset)
    before[reset] = spikes(module)
    graphs[reset] = export_to_nir(network(reset), trains[0, :1], ignore_dims=[0])
    with contextlib.redirect_stdout(io.StringIO()):
        again = import_from_nir(graphs[reset])
    differ = int((spikes(again) != before[reset]).sum())
    seen[f"{reset}: read again as"] = f"{neurons(again).reset_mechanism}, reset_delay={neurons(again).reset_delay}"
    seen[f"{reset}: spikes that differ"] = "some" if differ else "none"
    print(f"{reset}: {differ} of {before[reset].numel()} values differ, of which {int(before[reset].sum())} are spikes")
first, *others = map(numbers, graphs.values())
equal = all(
    first.keys() == other.keys() and all(np.array_equal(first[key], other[key]) for key in first) for other in others
)
seen["numbers of the three files"] = "equal" if equal else "different"
seen["spikes of the three networks"] = (
    "equal" if torch.equal(before["subtract"], before["zero"]) else "different"
)
integrate = nir.NIRGraph(
    nodes={
        "input": nir.Input(np.array([1])),
        "if": nir.IF(r=np.ones(1), v_threshold=np.ones(1)),
        "output": nir.Output(np.array([1])),
    },
    edges=[("input", "if"), ("if", "output")],
)
with contextlib.redirect_stdout(io.StringIO()):
    seen["IF keeps of its potential"] = f"{float(neurons(import_from_nir(integrate)).beta):g}"

expected = {f"{reset}: read again as": "zero, reset_delay=False" for reset in before}
expected |= {f"{reset}: spikes that differ": "none" if reset == "zero" else "some" for reset in before}
expected |= {
    "numbers of the three files": "equal",
    "spikes of the three networks": "different",
    "IF keeps of its potential": "0.9",
}
print(f"snntorch {snn.__version__}, nir {nir.version}, torch {torch.__version__}, Python {sys.version.split()[0]}")
changed = 0
for name, words in expected.items():
    changed += seen[name] != words
    print(f"{name:<32} {seen[name]}{'' if seen[name] == words else f'   CHANGED, was: {words}'}")
sys.exit(changed > 0)
PYTHON
"$folder/venv/bin/python" "$folder/finding.py"
