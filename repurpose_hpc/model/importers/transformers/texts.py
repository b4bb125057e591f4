"""Texts as tokens, wherever what makes them is described."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.reading import reading


class Texts:
    """Texts as tokens.

    Args:
        tokenizer: of package tokenizers.
        path: that describes it.
        vocabulary: tokens that the model has.

    Raises:
        UserError: the tokenizer is of another vocabulary.
    """

    def __init__(self, tokenizer: Any, path: Path, vocabulary: int) -> None:
        self._tokenizer = tokenizer
        last = max(tokenizer.get_vocab(True).values(), default=-1)
        if last >= vocabulary:
            raise UserError(
                f"{path}: expected a tokenizer of the model, which has {vocabulary} tokens, found one with "
                f"token {last}; take the one that the model was trained with"
            )

    @classmethod
    def read(cls, content: str, path: Path, vocabulary: int) -> Texts:
        """The tokenizer that a ``tokenizer.json`` describes; see the class.

        Args:
            content: of the file.
            path: of the file, or of what has its content.
            vocabulary: tokens that the model has.

        Raises:
            UserError: it is damaged or of another vocabulary, or the package that reads it is missing.
        """
        tokenizers = package(path)
        with reading(path, "tokenizer", "save the tokenizer again"):
            tokenizer = tokenizers.Tokenizer.from_str(content)
            # Some files say how texts were made as long as each other for training.
            tokenizer.no_padding()
            tokenizer.no_truncation()
        return cls(tokenizer, path, vocabulary)

    def content(self) -> str:
        """A ``tokenizer.json`` that describes it."""
        return self._tokenizer.to_str()

    def ids(self, text: str) -> np.ndarray:
        """The tokens of a text, (n,) int64."""
        return np.array(self._tokenizer.encode(text).ids, np.int64)

    def cut_ids(self, text: str, longest: int) -> np.ndarray:
        """The tokens of a text, cut to ``longest``; those that stand at its end stay there."""
        self._tokenizer.enable_truncation(longest)
        try:
            return self.ids(text)
        finally:
            self._tokenizer.no_truncation()

    def text(self, ids: list[int]) -> str:
        """The text of tokens, special ones left out."""
        return self._tokenizer.decode(ids)


def package(path: Path):  # noqa: ANN201, of an optional package
    """Package tokenizers, to read ``path``.

    Raises:
        UserError: it is not installed.
    """
    try:
        import tokenizers
    except ImportError:
        raise UserError(
            f"{path}: reading texts needs a package that is not installed; "
            "pip install 'repurpose-hpc[tokenizers]'"
        ) from None
    return tokenizers
