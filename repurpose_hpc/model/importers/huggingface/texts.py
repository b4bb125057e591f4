"""Texts as tokens, and the tokens that end one, of a model directory."""

from __future__ import annotations

import json
from pathlib import Path

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.reading import reading
from repurpose_hpc.model.importers.huggingface.directory import CONFIG
from repurpose_hpc.model.importers.transformers.texts import Texts, package

TOKENIZER, GENERATION = "tokenizer.json", "generation_config.json"


class Tokenizer(Texts):
    """The tokenizer in a directory.

    Args:
        directory: of a model.
        vocabulary: tokens that the model has.

    Raises:
        UserError: it is missing, damaged or of another vocabulary, or the package that reads it is missing.
    """

    def __init__(self, directory: Path, vocabulary: int) -> None:
        path = directory / TOKENIZER
        if not path.is_file():
            raise UserError(
                f"{directory}: expected a file {TOKENIZER} for texts, found none; save the tokenizer "
                "there, or give token ids"
            )
        tokenizers = package(path)
        with reading(path, "tokenizer", "save the tokenizer again"):
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
            # Some files say how texts were made as long as each other for training.
            tokenizer.no_padding()
            tokenizer.no_truncation()
        super().__init__(tokenizer, path, vocabulary)


def ending_tokens(directory: Path) -> tuple[int, ...]:
    """The tokens after which a text ends; none where the directory names none.

    Raises:
        UserError: a file is damaged.
    """
    for name in (GENERATION, CONFIG):
        path = directory / name
        if path.is_file():
            with reading(path, "model configuration", "save the model again"):
                ends = json.loads(path.read_text()).get("eos_token_id")
                if ends is not None:
                    return tuple(int(token) for token in (ends if isinstance(ends, list) else [ends]))
    return ()
