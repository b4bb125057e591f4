"""What a GGUF file says of texts."""

from __future__ import annotations

from pathlib import Path

from repurpose_hpc.model.importers.gguf.file import File
from repurpose_hpc.model.importers.transformers.entries import Entries

# Ends of a text, of a turn and of a message.
_ENDS = ("eos", "eot", "eom")


def ending_tokens(path: Path) -> tuple[int, ...]:
    """The tokens after which a text ends; none where the file names none.

    Raises:
        UserError: the file is damaged, or names something else.
    """
    metadata, ends = Entries(path, File.read(path).metadata), []
    for word in _ENDS:
        name = f"tokenizer.ggml.{word}_token_id"
        token = metadata.value(name)
        if token is not None:
            if not isinstance(token, int):
                raise metadata.error(name, "the number of a token")
            ends.append(token)
    return tuple(ends)
