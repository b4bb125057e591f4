"""Networks between ends: restructured, saved, and run by one process that hosts all workers."""

from itertools import product

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from helpers.end_models import MODELS, expected, packed  # noqa: E402
from repurpose_hpc.errors import UserError  # noqa: E402
from repurpose_hpc.io.samples import Samples  # noqa: E402
from repurpose_hpc.model.forward import forward  # noqa: E402
from repurpose_hpc.model.importers.load import load_model  # noqa: E402
from repurpose_hpc.plan.files.store import open_plan, read_network  # noqa: E402
from repurpose_hpc.restructure.job import restructure_network  # noqa: E402
from repurpose_hpc.runtime.session import Session  # noqa: E402

CALIBRATION, SAMPLES = 150, 11
NAMES = [name for name in MODELS if name != "fixed_batch"]


def loaded(name, tmp_path):
    """A model and its file."""
    path = MODELS[name].save(tmp_path / "model.onnx")
    return load_model(path), path


def parts(outputs):
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


@pytest.mark.parametrize(
    ("name", "workers"),
    [*((name, 3) for name in NAMES), *product(("tokens", "map_softmax", "classifier"), (1, 2, 4, 8))],
)
def test_without_loss_outputs_are_those_of_onnxruntime(name, workers, tmp_path):
    """Also with more workers than outputs; every output with its shape and its dtype, integers exact."""
    model, (network, path) = MODELS[name], loaded(name, tmp_path)
    cut = restructure_network(network, Samples.of(model.draw(CALIBRATION)), workers=workers, comm_budget=1.0)
    cut.save(tmp_path / "shards")
    x = model.draw(SAMPLES, seed=2)
    want = expected(path, model, x)
    for source in (cut, tmp_path / "shards"):
        found = parts(Session(source, batch_size=4).run(x))
        for y, target in zip(found, want, strict=True):
            assert y.shape == target.shape
            if target.dtype.kind == "f":
                np.testing.assert_allclose(y, target, rtol=0, atol=2e-6 * max(1, np.abs(target).max()))
            else:
                assert y.dtype == target.dtype
                np.testing.assert_array_equal(y, target)


@pytest.mark.parametrize("name", NAMES)
def test_with_loss_a_session_computes_what_the_restructured_network_does(name, tmp_path):
    model, (network, _) = MODELS[name], loaded(name, tmp_path)
    cut = restructure_network(network, Samples.of(model.draw(CALIBRATION)), workers=3, comm_budget=0.3)
    cut.save(tmp_path / "shards", np.float64)
    assert cut.report["values_sent"] <= 0.3 * cut.report["dense_values"]
    stored = open_plan(tmp_path / "shards")
    assert stored.ends.fingerprints() == network.ends.fingerprints()
    x = model.draw(SAMPLES, seed=2)
    want = forward(cut.network, x)
    np.testing.assert_array_equal(forward(read_network(stored), x), want)
    found = packed(parts(Session(tmp_path / "shards", dtype=np.float64).run(x)))
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-5 * max(1, np.abs(want).max()))


def labelled(name, tmp_path, samples=600):
    """A network, and samples with the classes that it tells them."""
    model, (network, path) = MODELS[name], loaded(name, tmp_path)
    x = model.draw(samples)
    outputs = expected(path, model, x)
    labels = outputs[0].ravel() if outputs[0].dtype.kind == "i" else outputs[0].argmax(axis=1)
    return network, Samples.of(x, labels.astype(np.int64))


@pytest.mark.parametrize("name", ["argmax", "classifier", "channels_last", "tokens"])
def test_accuracy_is_that_of_the_classes_that_the_model_tells(name, tmp_path):
    network, samples = labelled(name, tmp_path)
    report = restructure_network(network, samples, workers=4, comm_budget=1.0).report
    assert report["reference_accuracy"] == report["accuracy"] == report["agreement"] == 1
    worse = restructure_network(network, samples, workers=4, comm_budget=0.05).report
    assert worse["reference_accuracy"] == 1 > worse["accuracy"] == worse["agreement"]


def test_a_promise_on_classes_that_the_model_tells(tmp_path):
    network, samples = labelled("classifier", tmp_path)
    report = restructure_network(network, samples, workers=4, max_accuracy_drop=10.0).report
    assert report["accuracy_drop"] <= 10
    assert report["values_sent"] < report["dense_values"]


@pytest.mark.parametrize(
    ("name", "key"), [("boxes", "final_output_error"), ("segmentation", "final_agreement")]
)
def test_errors_of_what_the_model_gives(name, key, tmp_path):
    model, (network, _) = MODELS[name], loaded(name, tmp_path)
    x = model.draw(CALIBRATION)
    cut = restructure_network(network, Samples.of(x), workers=3, comm_budget=0.3, dtype=np.float64)
    y, y_hat = forward(network, x), forward(cut.network, x)
    if key == "final_agreement":
        assert cut.report[key] == np.mean(y == y_hat) < 1
    else:
        error = np.linalg.norm(y.astype(np.float64) - y_hat) / np.linalg.norm(y.astype(np.float64))
        np.testing.assert_allclose(cut.report[key], error, rtol=1e-6)


def test_a_promise_on_what_the_model_gives(tmp_path):
    model, (network, _) = MODELS["boxes"], loaded("boxes", tmp_path)
    cut = restructure_network(network, Samples.of(model.draw(400)), workers=3, max_output_error=0.2)
    assert cut.report["final_output_error_held_out"] <= 0.2
    assert cut.report["values_sent"] < cut.report["dense_values"]


@pytest.mark.parametrize("name", ["tokens", "one_hot_and_reals"])
def test_an_input_in_parts_is_refused(name, tmp_path):
    model, (network, _) = MODELS[name], loaded(name, tmp_path)
    with pytest.raises(UserError, match=r"input_placement: .*choose replicated or root"):
        restructure_network(network, Samples.of(model.draw(9)), workers=2, input_placement="partitioned")


@pytest.mark.parametrize("placement", ["partitioned", "root"])
def test_a_back_goes_with_every_placement(placement, tmp_path):
    model, (network, path) = MODELS["argmax"], loaded("argmax", tmp_path)
    options = {"workers": 3, "comm_budget": 1.0, "input_placement": placement}
    cut = restructure_network(network, Samples.of(model.draw(50)), **options)
    x = model.draw(SAMPLES, seed=2)
    np.testing.assert_array_equal(Session(cut).run(x), expected(path, model, x)[0])
