"""Texts as tokens, and the tokens that end one, of a model directory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.reading import reading
from repurpose_hpc.model.importers.huggingface.directory import CONFIG

TOKENIZER, GENERATION = "tokenizer.json", "generation_config.json"


class Tokenizer:
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
        try:
            import tokenizers
        except ImportError:
            raise UserError(
                f"{path}: reading texts needs a package that is not installed; "
                "pip install 'repurpose-hpc[tokenizers]'"
            ) from None
        with reading(path, "tokenizer", "save the tokenizer again"):
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
            # Some files say how texts were made as long as each other for training.
            self._tokenizer.no_padding()
            self._tokenizer.no_truncation()
        last = max(self._tokenizer.get_vocab(True).values(), default=-1)
        if last >= vocabulary:
            raise UserError(
                f"{path}: expected a tokenizer of the model, which has {vocabulary} tokens, found one with "
                f"token {last}; take the one that the model was trained with"
            )

    def ids(self, text: str) -> np.ndarray:
        """The tokens of a text, (n,) int64."""
        return np.array(self._tokenizer.encode(text).ids, np.int64)

    def text(self, ids: list[int]) -> str:
        """The text of tokens, special ones left out."""
        return self._tokenizer.decode(ids)


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
