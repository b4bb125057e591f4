"""Reads a model directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from repurpose_hpc.model.importers.huggingface.arrays import Arrays
from repurpose_hpc.model.importers.huggingface.config import Config
from repurpose_hpc.model.importers.huggingface.families import FAMILIES, Family
from repurpose_hpc.model.importers.huggingface.transformer import Transformer, embedding
from repurpose_hpc.model.importers.huggingface.weights import Weights
from repurpose_hpc.model.network import Network

CONFIG = "config.json"


def load_directory(directory: Path) -> Network:
    """The network of tokens in a directory: ids in, logits out, or the stream where there is no output layer.

    Raises:
        UserError: something is missing, damaged or not supported; names the file and the entry or array.
    """
    config = Config.read(directory / CONFIG)
    family = _family(config)
    architecture, weights = family.architecture(config), Weights(directory)
    arrays = Arrays(family, weights)
    transformer = Transformer(architecture, arrays)
    tokens = arrays.weight("tokens", (architecture.vocabulary, architecture.width))
    stream = transformer.embedded()
    for layer in range(architecture.layers):
        stream = transformer.block(stream, layer)
    stream = transformer.finished(stream)
    output = stream
    if _has_output(config):
        is_tied = bool(config.entries.get("tie_word_embeddings", family.is_tied))
        output = transformer.logits(stream, arrays.output(tokens, is_tied))
    weights.check_all_read(family.ignored)
    network = transformer.builder.build((output,), ("identity",), longest=architecture.longest)
    return replace(network, ends=embedding(tokens))


def _family(config: Config) -> Family:
    """The family that a configuration names.

    Raises:
        UserError: it is not known, or the model has another head.
    """
    family = FAMILIES.get(str(config.entries.get("model_type")))
    if family is None:
        raise config.error("model_type", f"one of {', '.join(FAMILIES)}", "others can come as ONNX")
    for name in config.entries.get("architectures") or ():
        if name not in family.classes:
            raise config.error(
                "architectures", f"one of {', '.join(family.classes)}", "export other heads to ONNX"
            )
    return family


def _has_output(config: Config) -> bool:
    """Whether the model ends with a layer that has the vocabulary as its outputs."""
    names = config.entries.get("architectures") or ()
    return any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in names)
