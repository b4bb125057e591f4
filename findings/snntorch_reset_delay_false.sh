#!/usr/bin/env bash
# snnTorch: with reset_delay=False a neuron may stay above its threshold for ever, and never fire again.
#
#     findings/snntorch_reset_delay_false.sh        needs python3 with venv, and the network
#
# Expected: snntorch.Leaky fires when its potential is above the threshold.  With reset_delay=False and
# reset_mechanism "subtract" the threshold is taken off at once, not in the next step.
#
# Seen with snntorch 1.0.0, torch 2.13.0 (CPU), on Linux x86-64, Python 3.11: the next step takes the threshold
# off again, as it always does where the potential it finds is above it, and gives it back afterwards, but fires
# by what it has in between.  A potential that is still above the threshold after a spike has to be above twice
# the threshold to fire again: with a decay of 1 and no more input it stays at 1.5 thresholds.  With "zero", and
# where no step brings more than one threshold, spikes are right.
#
# Exit status: 0 as seen, 1 something has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    snntorch==1.0.0 torch==2.13.0 numpy==2.4.6

cat > "$folder/finding.py" <<'PYTHON'
import sys

import snntorch as snn
import torch


def course(inputs, reset, delay):
    """Spikes, and the potential behind each step, of a neuron that does not leak."""
    neuron = snn.Leaky(beta=1.0, threshold=1.0, reset_mechanism=reset, reset_delay=delay)
    state, fired, potentials = torch.zeros(1), [], []
    for x in inputs:
        spike, state = neuron(torch.tensor([x]), state)
        fired.append(int(spike))
        potentials.append(float(state))
    return fired, potentials


def at_once(inputs):
    """The same with reset by subtraction, as it is described."""
    v, fired, potentials = 0.0, [], []
    for x in inputs:
        v += x
        fired.append(int(v > 1))
        v -= fired[-1]
        potentials.append(v)
    return fired, potentials


strong, weak = [2.5, 0.0, 0.0, 0.0], [0.75, 0.5, 0.75, 0.75]
cases = [
    ("subtract, at once, 2.5 and nothing more", course(strong, "subtract", False), ([1, 0, 0, 0], [1.5] * 4)),
    ("as it is described", at_once(strong), ([1, 1, 0, 0], [1.5, 0.5, 0.5, 0.5])),
    ("subtract, delayed", course(strong, "subtract", True), ([1, 1, 0, 0], [2.5, 1.5, 0.5, 0.5])),
    ("zero, at once", course(strong, "zero", False), ([1, 0, 0, 0], [0.0] * 4)),
    ("subtract, at once, small inputs", course(weak, "subtract", False), at_once(weak)),
]
print(f"snntorch {snn.__version__}, torch {torch.__version__}, Python {sys.version.split()[0]}")
changed = 0
for name, seen, expected in cases:
    changed += seen != expected
    print(f"{name:<40} spikes {seen[0]}, potentials {seen[1]}{'' if seen == expected else '   CHANGED'}")
sys.exit(changed > 0)
PYTHON
"$folder/venv/bin/python" "$folder/finding.py"
