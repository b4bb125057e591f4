"""Texts as tokens, and the tokens that end one, of a model directory."""

from __future__ import annotations

import json
from pathlib import Path

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.reading import reading
from repurpose_hpc.model.importers.huggingface.directory import CONFIG

TOKENIZER, GENERATION = "tokenizer.json", "generation_config.json"


def tokenizer_in(directory: Path) -> str:
    """The content of the ``tokenizer.json`` in the directory of a model.

    Raises:
        UserError: it is missing, or no text.
    """
    path = directory / TOKENIZER
    if not path.is_file():
        raise UserError(
            f"{directory}: expected a file {TOKENIZER} for texts, found none; save the tokenizer there, or "
            "give token ids"
        )
    with reading(path, "tokenizer", "save the tokenizer again"):
        return path.read_text(encoding="utf-8")


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
