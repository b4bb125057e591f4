"""Texts as tokens, and the tokens that end one, of a directory or a file that ``load_tokens`` reads."""

from __future__ import annotations

from pathlib import Path

from repurpose_hpc.model.importers.gguf import texts as of_file
from repurpose_hpc.model.importers.huggingface import texts as of_directory
from repurpose_hpc.model.importers.huggingface.texts import TOKENIZER
from repurpose_hpc.model.importers.load import GGUF
from repurpose_hpc.model.importers.transformers.texts import Texts

__all__ = ["TOKENIZER", "Texts", "ending_tokens", "tokenizer_of"]


def tokenizer_of(model: Path, vocabulary: int) -> Texts:
    """The tokenizer in a directory; the one beside a file, or in it.

    Args:
        model: of a transformer.
        vocabulary: tokens that it has.

    Raises:
        UserError: it is missing, damaged, of another vocabulary or not supported, or a package is missing.
    """
    if model.suffix == GGUF and not model.with_name(TOKENIZER).is_file():
        return of_file.Tokenizer(model, vocabulary)
    return of_directory.Tokenizer(model.parent if model.suffix == GGUF else model, vocabulary)


def ending_tokens(model: Path) -> tuple[int, ...]:
    """The tokens after which a text ends; none where the model names none.

    Raises:
        UserError: a file is damaged.
    """
    return (of_file if model.suffix == GGUF else of_directory).ending_tokens(model)
