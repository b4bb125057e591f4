"""The recurrent networks that were published with NIR, with the resets with which they were trained.

snnTorch 1.0.0 does not reset such neurons at once, so what is compared with are its equations in plain steps.
"""

import numpy as np
import pytest

from helpers.nir_files import paper, parameters
from repurpose_hpc.model.forward import trace

pytestmark = pytest.mark.filterwarnings("ignore::repurpose_hpc.errors.Note")
STEP = 1e-4


def _fired(x, nodes, reset):
    """Spikes of both layers, (samples, steps, neurons) each: spikes come back in the next step."""
    hidden, outputs = _Neurons(nodes["lif1.lif"], reset), _Neurons(nodes["lif2"], reset)
    last, recorded = np.zeros((len(x), len(hidden.threshold))), []
    for step in range(x.shape[1]):
        last = hidden.step(_dense(nodes["fc1"], x[:, step]) + _dense(nodes["lif1.w_rec"], last))
        recorded.append((last, outputs.step(_dense(nodes["fc2"], last))))
    return [np.stack(values, axis=1) for values in zip(*recorded, strict=True)]


def _dense(node, x):
    return x @ node["weight"].T.astype(np.float64) + node.get("bias", 0.0)


class _Neurons:
    """CubaLIF in steps of Euler's method, that are reset as soon as they have fired."""

    def __init__(self, node, reset):
        self.node, self.reset, self.threshold = node, reset, node["v_threshold"]
        self.current = self.potential = 0.0

    def step(self, x):
        node = self.node
        self.current = self.current + STEP / node["tau_syn"] * (node["w_in"] * x - self.current)
        change = node["v_leak"] - self.potential + node["r"] * self.current
        self.potential = self.potential + STEP / node["tau_mem"] * change
        fired = self.potential > self.threshold
        left = 0.0 if self.reset == "set" else self.potential - self.threshold
        self.potential = np.where(fired, left, self.potential)
        return fired.astype(np.float64)


@pytest.mark.parametrize("name, reset", [("braille_zero", "set"), ("braille_subtract", "subtract")])
def test_recurrent_neurons_fire_as_they_were_trained(name, reset):
    network, x = paper(name, steps=40)
    hidden, outputs = _fired(x, parameters(f"paper_{name}"), reset)
    tensors = trace(network, x.reshape(len(x), -1).T)
    for tensor, expected in (("lif1.lif.y", hidden), ("lif2.y", outputs)):
        assert 0.005 < expected.mean() < 0.5
        np.testing.assert_array_equal(tensors[tensor], expected.transpose(2, 0, 1))
