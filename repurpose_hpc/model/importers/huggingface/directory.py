"""Reads a model directory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.importers.huggingface.config import Config
from repurpose_hpc.model.importers.huggingface.families import FAMILIES, OUTPUT, Family
from repurpose_hpc.model.importers.huggingface.weights import Weights
from repurpose_hpc.model.importers.transformers.arrays import Arrays
from repurpose_hpc.model.importers.transformers.transformer import assemble
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
    names = family.names | family.variants(config)
    arrays = Arrays(names, weights, family.prefixes, family.is_transposed)
    tokens = arrays.weight("tokens", (architecture.vocabulary, architecture.width))
    is_tied = bool(config.entries.get("tie_word_embeddings", family.is_tied))
    output = _output(weights, tokens, is_tied) if _has_output(config) else None
    network = assemble(architecture, arrays, tokens, output)
    weights.check_all_read(family.ignored)
    return network


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


def _output(weights: Weights, tokens: np.ndarray, is_tied: bool) -> np.ndarray:
    """The weights of the output layer, (vocabulary, width).

    Args:
        weights: of the model.
        tokens: the embeddings, of the same shape.
        is_tied: whether they are its weights; it need not be in a file then.

    Raises:
        UserError: see ``Weights.array``; or a file has others, and nobody knows which are meant.
    """
    name = f"{OUTPUT}.weight"
    if is_tied and name not in weights:
        return tokens
    W = weights.array(name, tokens.shape)
    if is_tied and not np.array_equal(W, tokens):
        raise UserError(
            f"{weights.directory}: expected {name} to be the embeddings, as tie_word_embeddings "
            "says, found other numbers; set it to false in config.json if the model has an output layer "
            "of its own"
        )
    return W
