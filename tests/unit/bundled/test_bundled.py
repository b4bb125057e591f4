"""The bundled network and data are what their README says."""

import re
from pathlib import Path

import numpy as np
import pytest

from repurpose_hpc import bundled
from repurpose_hpc.model.activations import IDENTITY, RELU
from repurpose_hpc.model.chain import chain
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_tokens

WIDTHS = (784, 512, 512, 512, 10)
MEGABYTE = 1_000_000


def test_model_is_a_float32_chain():
    with np.load(bundled.MODEL) as model:
        assert set(model) == {f"{kind}{layer}" for kind in "Wb" for layer in range(4)}
        for layer in range(4):
            assert model[f"W{layer}"].shape == (WIDTHS[layer + 1], WIDTHS[layer])
            assert model[f"b{layer}"].shape == (WIDTHS[layer + 1],)
        assert all(model[name].dtype == np.float32 for name in model)


@pytest.mark.parametrize(("path", "samples"), [(bundled.CALIBRATION, 4000), (bundled.TEST, 2000)])
def test_data_is_raw_pixels_with_labels(path: Path, samples: int):
    with np.load(path) as data:
        assert data["x"].shape == (samples, WIDTHS[0]) and data["x"].dtype == np.uint8
        assert data["y"].shape == (samples,) and data["y"].dtype == np.uint8
        assert data["x"].max() == 255
        assert set(data["y"]) == set(range(WIDTHS[-1]))


def test_accuracy_is_as_stated():
    readme = (bundled.TEST.parent / "README.md").read_text()
    stated = float(re.search(r"accuracy on `test.npz`: (0\.\d+)", readme)[1])
    with np.load(bundled.MODEL) as model:
        weights, biases = ([model[f"{kind}{layer}"] for layer in range(4)] for kind in "Wb")
    network = chain(weights, biases, [RELU, RELU, RELU, IDENTITY])
    with np.load(bundled.TEST) as test:
        accuracy = np.mean(forward(network, test["x"], np.float32).argmax(axis=1) == test["y"])
    assert accuracy == pytest.approx(stated, abs=0.002)
    assert stated >= 0.89


def test_size():
    paths = (bundled.MODEL, bundled.CALIBRATION, bundled.TEST)
    assert sum(path.stat().st_size for path in paths) < 6.5 * MEGABYTE


def test_calibration_texts_are_none_of_those_for_testing():
    whole = []
    for path in (bundled.LANGUAGE_CALIBRATION, bundled.LANGUAGE_TEST):
        with np.load(path) as data:
            assert data["x"].dtype == np.uint16 and data["x"].shape[1] == 257
            # Between two ends; 0 is the end.
            rows = ("".join(map(chr, row)).split("\0")[1:-1] for row in data["x"])
            whole.append({text for row in rows for text in row})
    assert min(map(len, whole)) > 300 and not whole[0] & whole[1]
    with np.load(bundled.LANGUAGE_CALIBRATION) as data:
        assert data["x"].shape[0] == len({row.tobytes() for row in data["x"]}) == 400


def test_the_language_model_is_as_good_as_stated():
    pytest.importorskip("safetensors")
    stated = float(
        re.search(r"on `test.npz`: (\d+\.\d+) \(", (bundled.TEST.parent / "README.md").read_text())[1]
    )
    with np.load(bundled.LANGUAGE_TEST) as data:
        rows = data["x"].astype(np.int64)
    network = load_tokens(bundled.LANGUAGE).at(rows.shape[1] - 1)
    losses = []
    for batch in np.array_split(rows, 9):
        logits = forward(network, batch[:, :-1], np.float32).reshape(*batch[:, 1:].shape, -1)
        below = logits - logits.max(axis=-1, keepdims=True)
        logarithms = below - np.log(np.exp(below).sum(axis=-1, keepdims=True))
        losses.append(-np.take_along_axis(logarithms, batch[:, 1:, None], axis=-1))
    assert np.exp(np.concatenate(losses).mean()) == pytest.approx(stated, abs=0.005)
