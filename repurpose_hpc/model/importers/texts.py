"""Texts as tokens, and the tokens that end one, of a directory or a file that ``load_tokens`` reads."""

from __future__ import annotations

from pathlib import Path

from repurpose_hpc.model.importers.gguf import texts as of_file
from repurpose_hpc.model.importers.huggingface import texts as of_directory
from repurpose_hpc.model.importers.huggingface.texts import TOKENIZER, Tokenizer

__all__ = ["TOKENIZER", "Tokenizer", "ending_tokens", "tokenizer_of"]


def tokenizer_of(model: Path, vocabulary: int) -> Tokenizer:
    """The tokenizer in a directory, or in that of a file.

    Args:
        model: of a transformer.
        vocabulary: tokens that it has.

    Raises:
        UserError: see ``Tokenizer``.
    """
    return Tokenizer(model.parent if model.suffix == ".gguf" else model, vocabulary)


def ending_tokens(model: Path) -> tuple[int, ...]:
    """The tokens after which a text ends; none where the model names none.

    Raises:
        UserError: a file is damaged.
    """
    return (of_file if model.suffix == ".gguf" else of_directory).ending_tokens(model)
