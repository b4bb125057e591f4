"""Transformers that ONNX Runtime's optimiser has rewritten, against onnxruntime."""

import collections

import numpy as np
import pytest

from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.operations import Attention

onnx = pytest.importorskip("onnx")
pytest.importorskip("sympy")  # the optimiser infers shapes with it
optimizer = pytest.importorskip("onnxruntime.transformers.optimizer")
fusion_options = pytest.importorskip("onnxruntime.transformers.fusion_options")

from helpers.onnx_models import node, outputs_of_runtime, save  # noqa: E402

SAMPLES, LENGTH, HEADS, FEATURES, HIDDEN, LAYERS, WORDS = 3, 6, 4, 8, 40, 2, 20
WIDTH = HEADS * FEATURES
INPUTS = ("ids", "mask", "types")


class Bert:
    """An encoder as exporters write it.

    Attributes:
        nodes, constants: of the graph, from ``INPUTS`` to y.
    """

    def __init__(self) -> None:
        self.nodes, self.constants = [], {}
        self._rng = np.random.default_rng(0)
        for name, value in {"root": FEATURES**0.5, "one": 1, "half": 0.5, "root_of_2": 2**0.5}.items():
            self.constants[name] = np.float32(value)
        self.constants |= {"low": np.float32(-1e4), "axis": np.array([1]), "two": np.array([2])}
        self.constants |= {"heads": np.array([0, 0, HEADS, FEATURES]), "joined": np.array([0, 0, WIDTH])}
        self.constants |= {"positions": np.arange(LENGTH)[None]}
        self._embed()
        self.add("Unsqueeze", "mask axis", "m3")
        self.add("Unsqueeze", "m3 two", "m4")
        self.add("Cast", "m4", "m_float", to=1)
        self.add("Sub", "one m_float", "unseen")
        self.add("Mul", "unseen low", "added")
        for layer in range(LAYERS):
            self._layer(f"x{layer}", f"l{layer}", f"x{layer + 1}" if layer + 1 < LAYERS else "y")

    def add(self, operator, inputs, output, **attributes):
        """Add a node; returns its output."""
        self.nodes.append(node(operator, inputs, output, **attributes))
        return output

    def weights(self, name, *shape):
        """Add a random constant; returns its name."""
        self.constants[name] = (self._rng.standard_normal(shape) / shape[0] ** 0.5).astype(np.float32)
        return name

    def _embed(self):
        sizes = {"ids": WORDS, "positions": 2 * LENGTH, "types": 2}
        rows = [
            self.add("Gather", f"{self.weights(f'of_{name}', size, WIDTH)} {name}", f"rows_{name}")
            for name, size in sizes.items()
        ]
        words, positions, types = rows
        self.add("Add", f"{words} {types}", "some")
        self.add("Add", f"some {positions}", "all")
        self._normalise("all", "embedded", "x0")

    def _normalise(self, x, name, output):
        affine = f"{self.weights(f'{name}.scale', WIDTH)} {self.weights(f'{name}.shift', WIDTH)}"
        self.add("LayerNormalization", f"{x} {affine}", output, epsilon=1e-12)

    def _dense(self, x, name, inputs, outputs):
        self.add("MatMul", f"{x} {self.weights(f'{name}.W', inputs, outputs)}", f"{name}.product")
        return self.add("Add", f"{self.weights(f'{name}.b', outputs)} {name}.product", name)

    def _layer(self, x, name, output):
        parts = []
        for part, order in (("q", (0, 2, 1, 3)), ("k", (0, 2, 3, 1)), ("v", (0, 2, 1, 3))):
            dense = self._dense(x, f"{name}.{part}", WIDTH, WIDTH)
            self.add("Reshape", f"{dense} heads", f"{dense}.4")
            parts.append(self.add("Transpose", f"{dense}.4", f"{dense}.heads", perm=order))
        self.add("MatMul", f"{parts[0]} {parts[1]}", f"{name}.s")
        self.add("Div", f"{name}.s root", f"{name}.scaled")
        self.add("Add", f"{name}.scaled added", f"{name}.masked")
        self.add("Softmax", f"{name}.masked", f"{name}.P", axis=-1)
        self.add("MatMul", f"{name}.P {parts[2]}", f"{name}.O")
        self.add("Transpose", f"{name}.O", f"{name}.o", perm=(0, 2, 1, 3))
        self.add("Reshape", f"{name}.o joined", f"{name}.means")
        self.add("Add", f"{self._dense(f'{name}.means', f'{name}.out', WIDTH, WIDTH)} {x}", f"{name}.sum")
        self._normalise(f"{name}.sum", f"{name}.first", f"{name}.x")
        hidden = self._dense(f"{name}.x", f"{name}.hidden", WIDTH, HIDDEN)
        self.add("Div", f"{hidden} root_of_2", f"{name}.ratio")
        self.add("Erf", f"{name}.ratio", f"{name}.erf")
        self.add("Add", f"{name}.erf one", f"{name}.twice")
        self.add("Mul", f"{hidden} {name}.twice", f"{name}.both")
        gelu = self.add("Mul", f"{name}.both half", f"{name}.gelu")
        self.add("Add", f"{self._dense(gelu, f'{name}.last', HIDDEN, WIDTH)} {name}.x", f"{name}.total")
        self._normalise(f"{name}.total", f"{name}.second", output)


FUSED = {
    "Attention": False,
    "MultiHeadAttention": True,
}


@pytest.mark.parametrize("operator", FUSED)
def test_an_encoder(tmp_path, operator):
    """Its attention, normalisations and activations are each one node; the mask is counted."""
    bert, plain, path = Bert(), tmp_path / "plain.onnx", tmp_path / "optimised.onnx"
    save(plain, bert.nodes, bert.constants, ("N", LENGTH), 17, inputs=INPUTS)
    model = onnx.load(plain)
    for item in model.graph.input:
        item.type.tensor_type.elem_type = onnx.TensorProto.INT64
    del model.graph.value_info[:]
    onnx.save(model, plain)
    options = fusion_options.FusionOptions("bert")
    options.use_multi_head_attention = FUSED[operator]
    arguments = {"num_heads": HEADS, "hidden_size": WIDTH, "opt_level": 0, "optimization_options": options}
    optimizer.optimize_model(str(plain), "bert", **arguments).save_model_to_file(str(path))
    counts = collections.Counter(each.op_type for each in onnx.load(path).graph.node)
    assert counts[operator] == counts["BiasGelu"] == LAYERS
    assert counts["SkipLayerNormalization"] == 2 * LAYERS
    # The check would draw lengths below 0 as well, which Attention cannot run.
    network = load_model(path, check=False)
    assert sum(isinstance(op, Attention) for op in network.operations) == LAYERS
    rng = np.random.default_rng(1)
    feeds = {"ids": rng.integers(0, WORDS, (SAMPLES, LENGTH)), "mask": np.tri(SAMPLES, LENGTH, 2)}
    feeds |= {"types": rng.integers(0, 2, (SAMPLES, LENGTH))}
    feeds = {name: values.astype(np.int64) for name, values in feeds.items()}
    (expected,) = outputs_of_runtime(plain, feeds)
    result = forward(network, np.hstack([feeds[name] for name in INPUTS]).astype(np.float64))
    np.testing.assert_allclose(result, expected.reshape(SAMPLES, -1), rtol=0, atol=1e-5)
