"""Attention as PyTorch's exporters write it, against onnxruntime or PyTorch."""

import contextlib
import io
import warnings

import numpy as np
import pytest

from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.operations import UNLIMITED, Attention

torch = pytest.importorskip("torch")
onnxruntime = pytest.importorskip("onnxruntime")

from helpers.attention_modules import CASES, FEATURES, HEADS, LENGTH  # noqa: E402

pytestmark = pytest.mark.slow
OLD = 17  # opset of the older exporter
EXPORTS = [
    *((name, opset) for name, case in CASES.items() for opset in case.opsets),
    *((name, OLD) for name, case in CASES.items() if not case.without_script),
]
# onnxruntime's Attention does not take its mask, (N, 1, 1, T).
NOT_RUN = {("padded by truth", 24)}


@pytest.fixture(scope="module")
def modules():
    """All networks of the cases, with biases and norms that are not what they begin as."""
    torch.manual_seed(0)
    made = {name: case.module().eval() for name, case in CASES.items()}
    for module in made.values():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, 0.5, 0.5)
    return made


def export(module, inputs, path, opset):
    """Write a module to a file; the size of the batch is free."""
    names = ["x", "other"][: len(inputs)]
    options = {"input_names": names, "opset_version": opset}
    if opset == OLD:
        options |= {"dynamo": False, "dynamic_axes": {name: {0: "N"} for name in names}}
    else:
        batch = torch.export.Dim("N", min=2, max=1000)
        options |= {"dynamo": True, "dynamic_shapes": [{0: batch}] * len(names), "external_data": False}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        torch.onnx.export(module, tuple(map(torch.from_numpy, inputs)), path, **options)


def inputs_of(case, samples, seed=0):
    """Random inputs, (samples, ...) each, float32."""
    rng = np.random.default_rng(seed)
    inputs = [rng.standard_normal((samples, *shape)).astype(np.float32) for shape in case.shapes]
    if case.marks:
        lengths = rng.integers(1, LENGTH + 1, (samples, 1))
        inputs[-1] = (np.arange(LENGTH) < lengths).astype(np.float32)
    return inputs


def expected_outputs(name, module, path, opset, inputs):
    """What onnxruntime computes; PyTorch where it refuses the file."""
    if (name, opset) in NOT_RUN:
        with torch.no_grad():
            return module(*map(torch.from_numpy, inputs)).numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {each.name: x for each, x in zip(session.get_inputs(), inputs, strict=True)}
    return session.run(None, feeds)[0]


@pytest.mark.parametrize(("name", "opset"), EXPORTS)
def test_exported_attention(tmp_path, modules, name, opset):
    case, path = CASES[name], tmp_path / "model.onnx"
    if opset != OLD:
        pytest.importorskip("onnxscript")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(modules[name], inputs_of(case, 2), path, opset)
    network, inputs = load_model(path, check=False), inputs_of(case, 3, seed=1)
    y = expected_outputs(name, modules[name], path, opset, inputs).reshape(3, -1)
    result = forward(network, np.hstack([x.reshape(3, -1) for x in inputs]))
    assert result.shape == y.shape
    assert np.abs(result - y).max() <= 1e-5 * np.abs(y).max()
    attentions = [op for op in network.operations if isinstance(op, Attention)]
    assert len(attentions) == case.attentions
    expected = {"heads": HEADS, "groups": HEADS, "before": UNLIMITED, "after": UNLIMITED, "softcap": 0}
    expected |= {"scale": FEATURES**-0.5, **case.expected}
    for attention in attentions:
        found = {key: getattr(attention, key) for key in expected}
        assert found == pytest.approx(expected, rel=1e-6)
        assert not len(attention.seen)
        assert len(attention.bias) == (HEADS if name == "bias" else 0)
        assert len(attention.sources) == 3 + case.marks
    assert not [mixing.name for mixing in network.mixings if "regroup" in mixing.name]
