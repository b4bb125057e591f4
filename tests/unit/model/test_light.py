"""Graphs that the onnx package ships, with random weights, against onnxruntime (scripts/light_models.py)."""

import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import light_models  # noqa: E402


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_agrees_with_onnxruntime(tmp_path, name):
    onnx.save(light_models.random_model(name), tmp_path / "model.onnx")
    x, expected = light_models.expected_outputs(tmp_path / "model.onnx", samples=1)
    y = light_models.reference_outputs(tmp_path / "model.onnx", x)
    assert light_models.relative_difference(y, expected) <= 1e-4


@pytest.mark.parametrize("name", ["densenet121", "inception_v2", "resnet50"])
def test_imports(name):
    from repurpose_hpc.model.importers.load import load_model

    network = load_model(light_models.FOLDER / f"light_{name}.onnx")
    assert (network.inputs, network.outputs) == (3 * 224 * 224, 1000)
