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

    def turned(self, x, first=0):
        angles = (first + torch.arange(x.shape[2]))[:, None] * 10.0 ** -torch.arange(SIZE // 2)
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


class Cached(Decoder):
    """The same block behind earlier tokens, with heads that are normalised; keys and values are outputs."""

    def __init__(self):
        super().__init__(False)
        self.of_queries, self.of_keys = nn.RMSNorm(SIZE), nn.RMSNorm(SIZE)

    def forward(self, ids, past_keys, past_values):
        x = self.tokens(ids)
        y = self.norm(x)
        q, k, v = (layer(y).unflatten(-1, (-1, SIZE)) for layer in (self.queries, self.keys, self.values))
        q, k, v = (each.transpose(1, 2) for each in (self.of_queries(q), self.of_keys(k), v))
        earlier, tokens = past_keys.shape[2], ids.shape[1]
        places = torch.arange(earlier + tokens)
        mask = places[None] <= places[earlier:, None]
        q, k = (self.turned(each, earlier) for each in (q, k))
        k, v = torch.cat([past_keys, k], 2), torch.cat([past_values, v], 2)
        y = F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
        return self.logits(x + self.joined(y.transpose(1, 2).flatten(-2))), k, v


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
    "cached": (Cached, ("input_ids", "past_keys", "past_values"), (20, 24)),
    "encoder": (Encoder, ("input_ids", "attention_mask"), (OLD, 20, 24)),
}


def inputs_of(names, ids, earlier=0):
    """Inputs for ids (texts, tokens): keys and values of earlier tokens, or ones."""
    sizes = len(ids), GROUPS, earlier, SIZE
    return [ids, *(torch.zeros(sizes) if "past" in name else torch.ones_like(ids) for name in names[1:])]


def export(module, names, path, opset):
    """Write a module to a file; the numbers of texts and of tokens are free."""
    arguments = tuple(inputs_of(names, torch.ones(2, 7, dtype=torch.int64), 3))
    options = {"input_names": list(names), "opset_version": opset}
    if opset == OLD:
        options |= {"dynamo": False, "dynamic_axes": {name: {0: "N", 1: "S"} for name in names}}
    else:
        pytest.importorskip("onnxscript")
        free = torch.export.Dim.DYNAMIC
        axes = [{0: free, 2 if "past" in name else 1: free} for name in names]
        options |= {"dynamo": True, "dynamic_shapes": axes, "external_data": False}
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
        feeds = [each.numpy() for each in inputs_of(names, torch.from_numpy(ids))]
        expected, *_ = session.run(None, dict(zip(names, feeds, strict=True)))
        found = forward(network.at(length), ids).reshape(expected.shape)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
