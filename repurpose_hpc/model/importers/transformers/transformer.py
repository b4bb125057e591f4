"""Networks of tokens from the hyperparameters and arrays of a transformer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.builder import Builder
from repurpose_hpc.model.ends import Ends, Port, Step, Subgraph
from repurpose_hpc.model.ends.call import EMBEDDING
from repurpose_hpc.model.importers.transformers.architecture import Architecture
from repurpose_hpc.model.importers.transformers.arrays import Arrays
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import UNLIMITED, Attention, Retention

# The name of the model's input, and of the values that a token's number stands for.
IDS, EMBEDDED = "ids", "embedded"


def assemble(
    architecture: Architecture, arrays: Arrays, tokens: np.ndarray, output: np.ndarray | None
) -> Network:
    """The network of tokens: ids in, logits out, or the stream where there is no output layer.

    Args:
        architecture: what it is.
        arrays: its weights.
        tokens: the embeddings, (vocabulary, width).
        output: weights of the output layer, likewise; None: there is none.

    Raises:
        UserError: an array is missing or cannot be used.
    """
    transformer = Transformer(architecture, arrays)
    stream = transformer.embedded()
    for layer in range(architecture.layers):
        stream = transformer.block(stream, layer)
    last = transformer.finished(stream)
    if output is not None:
        last = transformer.logits(last, output)
    network = transformer.builder.build((last,), ("identity",), longest=architecture.longest)
    return replace(network, ends=embedding(tokens))


class Transformer:
    """A transformer under construction.

    Args:
        architecture: what it is.
        arrays: its weights.
    """

    def __init__(self, architecture: Architecture, arrays: Arrays) -> None:
        self._architecture, self._arrays = architecture, arrays
        self.builder = Builder()

    def embedded(self) -> str:
        """The stream in front of the first block: tokens and positions."""
        width, longest, arrays = self._architecture.width, self._architecture.longest, self._arrays
        stream = self.builder.input("input", width)
        if self._architecture.embedding_scale != 1:
            scale = np.full((width, 1), self._architecture.embedding_scale, np.float32)
            stream = self.builder.affine("tokens.scaled", stream, scale, np.zeros_like(scale))
        if arrays.has("positions"):
            table = arrays.weight("positions", (longest, width)).T
            if types := self._architecture.types:
                table = table + arrays.weight("types", (types, width))[0][:, None]
            stream = self.builder.position_table("positions", stream, np.ascontiguousarray(table))
        return self._normalised("tokens.norm", stream) if arrays.has("tokens.norm") else stream

    def block(self, stream: str, layer: int) -> str:
        """The stream behind a block."""
        for half, name in ((self._attended, "attention"), (self._perceptron, "perceptron")):
            prefix = f"layers.{layer}.{name}"
            if self._architecture.normalises_first:
                addend = half(self._normalised(f"layers.{name}.norm", stream, layer), layer)
                stream = self.builder.combine(f"{prefix}.sum", stream, addend, "add")
            else:
                total = self.builder.combine(f"{prefix}.sum", stream, half(stream, layer), "add")
                stream = self._normalised(f"layers.{name}.norm", total, layer)
        return stream

    def finished(self, stream: str) -> str:
        """The stream behind the last normalisation, if there is one."""
        return self._normalised("norm", stream) if self._arrays.has("norm") else stream

    def logits(self, stream: str, W: np.ndarray) -> str:
        """The output layer, of weights (vocabulary, width)."""
        return self.builder.mixing("output", stream, W, np.zeros(len(W), W.dtype))

    def _attended(self, x: str, layer: int) -> str:
        """What attention or retention adds to the stream."""
        a, name = self._architecture, f"layers.{layer}.attention"
        queries, keys, values = self._read(x, layer)
        queries = self._placed("queries", queries, a.heads, layer)
        sources = queries, self._placed("keys", keys, a.groups, layer), values
        target, scale = f"{name}.y", a.head_size**-0.5
        if a.decay is not None:
            made = self.builder.attention(Retention(name, sources, target, a.decay, scale))
            return self._linear("layers.attention.out", self._gated(made, x, layer), a.width, layer)
        op = Attention(
            name=name,
            sources=sources,
            target=target,
            heads=a.heads,
            groups=a.groups,
            scale=scale,
            before=a.window - 1 if a.window else UNLIMITED,
            after=0 if a.is_causal else UNLIMITED,
        )
        return self._linear("layers.attention.out", self.builder.attention(op), a.width, layer)

    def _gated(self, made: str, x: str, layer: int) -> str:
        """What retention makes, of each head over its root mean square, times a gate."""
        size = self.builder.neurons(made) // self._architecture.heads
        ones = np.ones(size, np.float32)
        normalised = self._scaled(
            f"layers.{layer}.attention.heads", made, ones, 0 * ones, self._architecture.heads
        )
        gate = self._linear("layers.attention.gate", x, self.builder.neurons(made), layer)
        gate = self.builder.elementwise(f"layers.{layer}.attention.gate.activation", gate, Activation("silu"))
        return self.builder.combine(f"layers.{layer}.attention.gated", gate, normalised, "multiply")

    def _read(self, x: str, layer: int) -> list[str]:
        """Queries, keys and values; some families have them in one layer."""
        a = self._architecture
        value_size = a.value_size or a.head_size
        sizes = [a.heads * a.head_size, a.groups * a.head_size, a.groups * value_size]
        words = [f"layers.{word}" for word in ("queries", "keys", "values")]
        if not self._arrays.has("layers.packed"):
            return [self._linear(word, x, size, layer) for word, size in zip(words, sizes, strict=True)]
        W, b = self._arrays.linear("layers.packed", sum(sizes), a.width, layer, "layers.packed" in a.biased)
        ends = np.cumsum(sizes)[:-1]
        parts = zip(words, np.split(W, ends), np.split(b, ends), strict=True)
        return [self._mixing(_numbered(word, layer), x, rows, bias) for word, rows, bias in parts]

    def _placed(self, word: str, x: str, heads: int, layer: int) -> str:
        """Queries or keys, normalised head by head where the model does so, and turned by position."""
        a, name = self._architecture, f"layers.{word}"
        if self._arrays.has(f"{name}.norm"):
            x = self._normalised(f"{name}.norm", x, layer, heads)
        if a.frequencies is None:
            return x
        return self.builder.rotary(
            _numbered(f"{name}.turned", layer), x, heads, a.frequencies, a.is_interleaved
        )

    def _perceptron(self, x: str, layer: int) -> str:
        """What the perceptron adds to the stream."""
        a = self._architecture
        inner = self._linear("layers.up", x, a.hidden, layer)
        if a.is_gated:
            gate = self._activated(self._linear("layers.gate", x, a.hidden, layer))
            inner = self.builder.combine(f"layers.{layer}.gated", gate, inner, "multiply")
        else:
            inner = self._activated(inner)
        return self._linear("layers.down", inner, a.width, layer)

    def _activated(self, x: str) -> str:
        return self.builder.elementwise(
            f"{x.removesuffix('.y')}.activation", x, self._architecture.activation
        )

    def _linear(self, name: str, x: str, outputs: int, layer: int) -> str:
        is_biased = name in self._architecture.biased
        W, b = self._arrays.linear(name, outputs, self.builder.neurons(x), layer, is_biased)
        return self._mixing(_numbered(name, layer), x, W, b)

    def _mixing(self, name: str, x: str, W: np.ndarray, b: np.ndarray) -> str:
        return self.builder.mixing(name, x, np.ascontiguousarray(W), np.ascontiguousarray(b))

    def _normalised(self, name: str, x: str, layer: int = 0, heads: int = 1) -> str:
        """A LayerNorm or an RMSNorm of all neurons, or of those of each head."""
        called, builder = _numbered(name, layer), self.builder
        size = builder.neurons(x) // heads
        scale = self._arrays.weight(name, (size,), layer)
        is_centred = self._architecture.centred
        shift = self._arrays.bias(name, size, layer) if is_centred else np.zeros(size, scale.dtype)
        if is_centred:
            members = _members(size, heads)
            mean = self._spread(f"{called}.mean", self._mean(f"{called}.mean", x, members), members)
            x = builder.combine(f"{called}.centred", x, mean, "subtract")
        return self._scaled(called, x, scale, shift, heads)

    def _scaled(self, called: str, x: str, scale: np.ndarray, shift: np.ndarray, heads: int) -> str:
        """All neurons, or those of each head, over their root mean square; then scale and shift, (size,)."""
        builder, members = self.builder, _members(scale.size, heads)
        squares = builder.elementwise(f"{called}.squares", x, Activation("square"))
        variance = self._mean(f"{called}.variance", squares, members)
        ones, epsilon = np.ones((heads, 1), scale.dtype), self._architecture.epsilon
        raised = builder.affine(f"{called}.raised", variance, ones, ones * scale.dtype.type(epsilon))
        inverse = builder.elementwise(f"{called}.inverse", raised, Activation("power", -0.5))
        spread = self._spread(f"{called}.inverse", inverse, members)
        normalised = builder.combine(f"{called}.normalised", x, spread, "multiply")
        scale, shift = (np.tile(array.astype(scale.dtype), heads)[:, None] for array in (scale, shift))
        return builder.affine(called, normalised, scale, shift)

    def _mean(self, name: str, x: str, members: np.ndarray) -> str:
        """The mean of the neurons of each head, members (heads, neurons)."""
        weights = members / members.sum(axis=1, keepdims=True)
        return self.builder.mixing(name, x, weights, np.zeros(len(members), np.float32), None, True)

    def _spread(self, name: str, x: str, members: np.ndarray) -> str:
        """A number of each head for every neuron of it."""
        weights = np.ascontiguousarray(members.T)
        return self.builder.mixing(
            f"{name}.spread", x, weights, np.zeros(len(weights), np.float32), None, True
        )


def _members(size: int, heads: int) -> np.ndarray:
    """Which neurons belong to each head, (heads, neurons) of 0 and 1."""
    return np.repeat(np.eye(heads, dtype=np.float32), size, axis=1)


def _numbered(name: str, layer: int) -> str:
    """The name of an array of a layer with its number."""
    return name.replace("layers.", f"layers.{layer}.", 1)


def embedding(tokens: np.ndarray, padding: int | None = None) -> Ends:
    """The front that gives every token its row of a table (vocabulary, width).

    Args:
        tokens: the table.
        padding: the id that it refuses; None: none.
    """
    attributes = {} if padding is None else {"padding": padding}
    step = Step(EMBEDDING, ("tokens", IDS), (EMBEDDED,), attributes, 1)
    ids, embedded = Port(IDS, (), "int64"), Port(EMBEDDED, tokens.shape[1:], tokens.dtype.name)
    return Ends(Subgraph((ids,), (embedded,), (step,), {"tokens": tokens}))
