"""Random ONNX graphs shared out by position: the same outputs, and a dense exchange counts as before."""

import numpy as np
import onnx
import pytest

from helpers.random_graphs import random_graph
from repurpose_hpc.model.forward import forward_middle
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.tiles import tileable
from repurpose_hpc.plan.plan import dense_plan
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.sharing import cheapest

# Among them means of maps that do not divide; of 289 nobody needs the first parts of a layer.
NUMBERS = (1, 4, 7, 12, 21, 32, 49, 57, 111, 289)


def dense_values(network, workers):
    plan = dense_plan(network, workers, "replicated", np.ones(workers))
    return sum(plan.dense_values(network, mixing) for mixing in network.mixings)


@pytest.mark.parametrize("number", NUMBERS)
def test_random_graphs(tmp_path, number):
    onnx.save(random_graph(number)[0], tmp_path / "model.onnx")
    network = load_model(tmp_path / "model.onnx", check=False)
    x = np.random.default_rng(number).standard_normal((3, network.inputs))
    expected = forward_middle(network, x)
    for workers in (2, 5):
        options = Options(workers)
        sharings = [cheapest(network, options, layers) for layers in (1, tileable(network))]
        assert any(sharing.division for sharing in sharings)
        for sharing in sharings:
            cut = sharing.of(network, options)
            np.testing.assert_allclose(forward_middle(cut, x), expected, rtol=1e-10, atol=1e-10)
            assert dense_values(cut, workers) == dense_values(network, workers)
