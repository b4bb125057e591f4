"""Texts as tokens, and what else is said of them, in a directory or a file that ``load_tokens`` reads."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from repurpose_hpc.errors import Note, UserError
from repurpose_hpc.model.importers.gguf import texts as of_file
from repurpose_hpc.model.importers.huggingface import pooling
from repurpose_hpc.model.importers.huggingface import texts as of_directory
from repurpose_hpc.model.importers.huggingface.texts import TOKENIZER
from repurpose_hpc.model.importers.load import GGUF, ONNX
from repurpose_hpc.model.importers.transformers.texts import Texts
from repurpose_hpc.model.texts import Pooling, TextRules

__all__ = ["TOKENIZER", "Texts", "ending_tokens", "pooling_of", "rules_of", "tokenizer_of"]

T = TypeVar("T")


def tokenizer_of(model: Path, vocabulary: int) -> Texts:
    """The tokenizer in a directory; the one beside a file, or in it.

    Args:
        model: of a transformer.
        vocabulary: tokens that it has.

    Raises:
        UserError: it is missing, damaged, of another vocabulary or not supported, or a package is missing.
    """
    if _is_inside(model):
        return of_file.tokenizer_of(model, vocabulary)
    folder = _folder(model)
    return Texts.read(of_directory.tokenizer_in(folder), folder / TOKENIZER, vocabulary)


def ending_tokens(model: Path) -> tuple[int, ...]:
    """The tokens after which a text ends; none where the model names none.

    Raises:
        UserError: a file is damaged.
    """
    return (
        of_file.ending_tokens(model) if model.suffix == GGUF else of_directory.ending_tokens(_folder(model))
    )


def pooling_of(model: Path) -> Pooling:
    """How the vector of a text is made, as files in a directory, or beside a file, say.

    Raises:
        UserError: a file is damaged, or says what is not supported.
    """
    return pooling.pooling_of(_folder(model))


def rules_of(model: Path, vocabulary: int) -> TextRules:
    """All that a model says of texts, to be kept; a note says what it lacks, and why.

    Args:
        model: of a transformer.
        vocabulary: tokens that it has.

    Raises:
        UserError: the tokens that end a text are damaged.
    """

    def tokenizer() -> str:
        if _is_inside(model):
            return of_file.tokenizer_of(model, vocabulary).content()
        return of_directory.tokenizer_in(_folder(model))

    def vectors() -> Pooling:
        return pooling_of(model)

    return TextRules(
        tokenizer=_or_note(tokenizer, "no tokenizer is kept") or "",
        ends=ending_tokens(model),
        pooling=_or_note(vectors, "no pooling is kept"),
    )


def _or_note(read: Callable[[], T], lacking: str) -> T | None:
    try:
        return read()
    except UserError as error:
        warnings.warn(f"{lacking}: {error}", Note, stacklevel=2)
        return None


def _is_inside(model: Path) -> bool:
    """Whether the tokenizer is in the file of the model."""
    return model.suffix == GGUF and not model.with_name(TOKENIZER).is_file()


def _folder(model: Path) -> Path:
    return model.parent if model.suffix in (GGUF, ONNX) and not model.is_dir() else model
