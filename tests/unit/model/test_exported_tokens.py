"""Transformers for texts of any lengths as PyTorch's exporters write them, against onnxruntime."""

import contextlib
import io
import warnings

import numpy as np
import pytest

from repurpose_hpc.errors import Note
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_tokens
from repurpose_hpc.model.operations import Attention, Rotary

torch = pytest.importorskip("torch")
onnxruntime = pytest.importorskip("onnxruntime")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

pytestmark = pytest.mark.slow
VOCABULARY, WIDTH, HEADS, GROUPS, SIZE = 30, 16, 4, 2, 6
OLD = 17  # opset of the older exporter


class Decoder(nn.Module):
    """A block with rotary positions, RMSNorm and grouped queries, and logits."""

    def __init__(self, of_neighbours):
        super().__init__()
        self.tokens, self.norm = nn.Embedding(VOCABULARY, WIDTH), nn.RMSNorm(WIDTH)
        self.queries = nn.Linear(WIDTH, HEADS * SIZE)
        self.keys, self.values = nn.Linear(WIDTH, GROUPS * SIZE), nn.Linear(WIDTH, GROUPS * SIZE)
        self.joined, self.logits = nn.Linear(HEADS * SIZE, WIDTH), nn.Linear(WIDTH, VOCABULARY)
        self.of_neighbours = of_neighbours

    def turned(self, x):
        angles = torch.arange(x.shape[2])[:, None] * 10.0 ** -torch.arange(SIZE // 2)
        if self.of_neighbours:
            a, b, cos, sin = x[..., ::2], x[..., 1::2], angles.cos(), angles.sin()
            return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
        angles = torch.cat([angles, angles], -1)
        a, b = x.chunk(2, -1)
        return x * angles.cos() + torch.cat([-b, a], -1) * angles.sin()

    def forward(self, ids):
        x = self.tokens(ids)
        y = self.norm(x)
        q, k, v = (
            layer(y).unflatten(-1, (-1, SIZE)).transpose(1, 2)
            for layer in (self.queries, self.keys, self.values)
        )
        q, k = self.turned(q), self.turned(k)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.logits(x + self.joined(y.transpose(1, 2).flatten(-2)))


class Encoder(nn.Module):
    """A block with learned positions and a mask of padding that is an input."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(40, WIDTH)
        self.packed, self.joined = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, ids, mask):
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        q, k, v = (
            y.unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2) for y in self.packed(x).chunk(3, -1)
        )
        scores = q @ k.transpose(2, 3) / 2 + (1.0 - mask[:, None, None].float()) * -10000.0
        y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(-2)
        return self.norm(x + self.joined(y))


CASES = {
    "halves": (lambda: Decoder(False), ("input_ids",), (20, 24)),
    "neighbours": (lambda: Decoder(True), ("input_ids",), (20, 24)),
    "encoder": (Encoder, ("input_ids", "attention_mask"), (OLD, 20, 24)),
}


def export(module, names, path, opset):
    """Write a module to a file; the numbers of texts and of tokens are free."""
    arguments = tuple(torch.ones(2, 7, dtype=torch.int64) for _ in names)
    options = {"input_names": list(names), "opset_version": opset}
    if opset == OLD:
        options |= {"dynamo": False, "dynamic_axes": {name: {0: "N", 1: "S"} for name in names}}
    else:
        pytest.importorskip("onnxscript")
        free = torch.export.Dim.DYNAMIC
        options |= {"dynamo": True, "dynamic_shapes": [{0: free, 1: free}] * len(names)}
        options |= {"external_data": False}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        torch.onnx.export(module, arguments, path, **options)


@pytest.mark.parametrize(
    ("name", "opset"), [(name, opset) for name, (*_, opsets) in CASES.items() for opset in opsets]
)
def test_exported_tokens(tmp_path, name, opset):
    torch.manual_seed(0)
    make, names, _ = CASES[name]
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(make().eval(), names, path, opset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        network = load_tokens(path)
    assert network.longest == (40 if name == "encoder" else 2048)
    kinds = [type(op) for op in network.operations]
    assert kinds.count(Attention) == 1
    assert kinds.count(Rotary) == (0 if name == "encoder" else 2)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for length in (1, 2, 9, 40):
        ids = np.random.default_rng(length).integers(0, VOCABULARY, (2, length))
        feeds = dict(zip(names, (ids, np.ones_like(ids)), strict=False))
        (expected,) = session.run(None, feeds)
        found = forward(network.at(length), ids).reshape(expected.shape)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
