"""What the tests of rewritten graphs share: comparison with onnxruntime, for several workers."""

import numpy as np
import onnxruntime

import repurpose_hpc as rp
from repurpose_hpc.model.forward import forward


def expected(path, x, optimised=False):
    """The outputs of a model by onnxruntime, (N, ...) each flattened, side by side.

    Args:
        path: of the file.
        x: (N, ...).
        optimised: as users run it.  A product with dequantised weights then rounds the activations, too.
    """
    levels, options = onnxruntime.GraphOptimizationLevel, onnxruntime.SessionOptions()
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    results = session.run(None, {session.get_inputs()[0].name: x})
    return np.hstack([result.reshape(len(x), -1) for result in results])


def check(path, x, tolerance=1e-5):
    """The imported network computes the same as onnxruntime; returns it."""
    network = rp.load_model(path)
    y, wanted = forward(network, x.reshape(len(x), -1)), expected(path, x)
    assert y.shape == wanted.shape and wanted.any()
    assert np.abs(y - wanted).max() <= tolerance * np.abs(wanted).max()
    return network


def check_workers(path, x, tolerance=1e-4):
    """The network cut for 1, 2 and 3 workers computes the same with nothing pruned, and runs pruned."""
    network, wanted, flat = rp.load_model(path), expected(path, x), x.reshape(len(x), -1)
    samples = rp.Samples.of(np.random.default_rng(2).normal(size=(40, flat.shape[1])).astype(np.float32))
    for workers in (1, 2, 3):
        cut = rp.restructure_network(network, samples, workers=workers, comm_budget=1.0)
        with rp.Session(cut) as session:
            y = session.run(flat)
        assert np.abs(y - wanted).max() <= tolerance * np.abs(wanted).max()
    cut = rp.restructure_network(network, samples, workers=3, comm_budget=0.3)
    assert cut.report["comm_fraction"] <= 0.3
    with rp.Session(cut) as session:
        assert np.isfinite(session.run(flat)).all()
