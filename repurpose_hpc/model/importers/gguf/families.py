"""Families of transformers in GGUF files: what their metadata say, and how their tensors are called."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import numpy as np

from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.importers.transformers.architecture import Architecture
from repurpose_hpc.model.importers.transformers.entries import Entries

_READERS = {"layers.queries": "q", "layers.keys": "k", "layers.values": "v"}
_NAMES = {
    "tokens": "token_embd",
    **{name: f"blk.{{}}.attn_{letter}" for name, letter in _READERS.items()},
    "layers.attention.out": "blk.{}.attn_output",
    "layers.attention.norm": "blk.{}.attn_norm",
    "layers.perceptron.norm": "blk.{}.ffn_norm",
    **{f"layers.{word}": f"blk.{{}}.ffn_{word}" for word in ("gate", "up", "down")},
    "norm": "output_norm",
}
_HEAD_NORMS = {"layers.queries.norm": "blk.{}.attn_q_norm", "layers.keys.norm": "blk.{}.attn_k_norm"}
# Layers that have a bias if the first of them has one.
_MAY_BE_BIASED = (*_READERS, "layers.attention.out", "layers.gate", "layers.up", "layers.down")
# Nothing that is computed depends on them.
_IGNORED = (
    "attention.layer_norm_epsilon",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "vocab_size",
)
OUTPUT, DIVISORS = "output.weight", "rope_freqs.weight"


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        names: what ``transformer`` calls a tensor -> its name in files, without ``.weight`` and ``.bias``.
        biased: layers that always have a bias.
        turns_neighbours: whether rotary positions turn neighbours, to which queries and keys are reordered.
        has_window: whether there may be a window, in all layers.
    """

    names: dict[str, str]
    biased: tuple[str, ...] = ()
    turns_neighbours: bool = False
    has_window: bool = False

    def biased_in(self, tensors: Container[str]) -> tuple[str, ...]:
        """The layers that have a bias in a file."""
        return tuple(
            name
            for name in _MAY_BE_BIASED
            if name in self.biased or f"{self.names[name].format(0)}.bias" in tensors
        )

    def reordered(self, architecture: Architecture) -> dict[str, int]:
        """The heads of layers that are reordered, by the middle of the names of their tensors."""
        heads = {"attn_q": architecture.heads, "attn_k": architecture.groups}
        return heads if self.turns_neighbours else {}


# By the entry ``general.architecture``; files of Mistral have that of Llama.
FAMILIES = {
    "llama": Family(_NAMES, turns_neighbours=True, has_window=True),
    "qwen2": Family(_NAMES, biased=tuple(_READERS)),
    "qwen3": Family(_NAMES | _HEAD_NORMS),
}


def family_of(metadata: Entries) -> tuple[str, Family]:
    """The name of an architecture, and its family.

    Raises:
        UserError: it is not known, or the file is a part of a model.
    """
    name = str(metadata.value("general.architecture"))
    if metadata.value("general.type") not in (None, "model"):
        raise metadata.error(
            "general.type", "'model'", "merge adapters into their model before it is converted"
        )
    if metadata.value("split.count") not in (None, 0, 1):
        raise metadata.error("split.count", "a model in one file", "merge its files with llama-gguf-split")
    if name not in FAMILIES:
        raise metadata.error(
            "general.architecture", f"one of {', '.join(FAMILIES)}", "others can come as ONNX"
        )
    return name, FAMILIES[name]


def architecture_of(metadata: Entries, tensors: Container[str]) -> Architecture:
    """What a model is, but for divisors of its frequencies.

    Raises:
        UserError: an entry is missing or wrong, or says what is not supported.
    """
    name, family = family_of(metadata)
    key = f"{name}.{{}}".format
    width, heads = metadata.integer(key("embedding_length")), metadata.integer(key("attention.head_count"))
    groups = metadata.integer(key("attention.head_count_kv"), heads)
    head_size = metadata.integer(key("attention.key_length"), width // heads)
    if heads % groups:
        raise metadata.error(key("attention.head_count_kv"), f"a divisor of head_count, which is {heads}")
    if head_size % 2:
        raise metadata.error(
            key("attention.key_length"), f"pairs of neurons to turn, not {head_size} of a head"
        )
    for entry, allowed in {
        "attention.value_length": head_size,
        "rope.dimension_count": head_size,
        "attention.causal": True,
        "expert_count": 0,
        "expert_used_count": 0,
        "tensor_data_layout": "Meta AI original pth",
        "use_parallel_residual": False,
    }.items():
        metadata.require(key(entry), allowed)
    found = Architecture(
        layers=metadata.integer(key("block_count")),
        width=width,
        hidden=metadata.integer(key("feed_forward_length")),
        heads=heads,
        groups=groups,
        head_size=head_size,
        vocabulary=_vocabulary(metadata, key("vocab_size")),
        longest=metadata.integer(key("context_length")),
        epsilon=metadata.number(key("attention.layer_norm_rms_epsilon")),
        activation=Activation("silu"),
        is_gated=True,
        frequencies=_frequencies(metadata, name, head_size),
        window=_window(metadata, key("attention.sliding_window"), family),
        biased=family.biased_in(tensors),
    )
    _refuse_others(metadata, name)
    return found


def _vocabulary(metadata: Entries, entry: str) -> int:
    """Tokens: as many as are listed, whatever the entry says beside them."""
    listed = metadata.value("tokenizer.ggml.tokens")
    return len(listed) if isinstance(listed, list) and listed else metadata.integer(entry)


def _frequencies(metadata: Entries, name: str, head_size: int) -> np.ndarray:
    """Frequencies of rotary positions, (pairs,) float64."""
    key = f"{name}.rope.{{}}".format
    plain = metadata.number(key("freq_base"), 10000.0) ** (-np.arange(0, head_size, 2) / head_size)
    metadata.require(key("scaling.type"), "none", "linear")
    metadata.require(key("scaling.attn_factor"), 1.0)
    factor = metadata.number(key("scaling.factor"), 1.0)
    # Without a type, a factor is linear.
    return plain if metadata.value(key("scaling.type")) == "none" else plain / factor


def _window(metadata: Entries, entry: str, family: Family) -> int:
    """Positions that a position sees; 0: all."""
    if not family.has_window:
        metadata.require(entry, 0)
    return metadata.integer(entry) if metadata.value(entry) else 0


def _refuse_others(metadata: Entries, name: str) -> None:
    """Refuse entries of the architecture that nobody has asked for."""
    ignored = {f"{name}.{entry}" for entry in _IGNORED}
    for entry in sorted(metadata.entries.keys() - metadata.asked - ignored):
        if entry.startswith(f"{name}."):
            raise metadata.error(entry, "no such entry", "a model that has it is not supported")
