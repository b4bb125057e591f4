"""Texts in files: as token ids, or as lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.arrays import open_member, open_npz, read_array
from repurpose_hpc.io.reading import reading
from repurpose_hpc.io.samples import open_samples

LINES = ".txt"
# What tokenizers of Hugging Face's libraries return, by their names.
_IDS, _MASK, _TYPES = "input_ids", "attention_mask", "token_type_ids"
# Of a file of ids, read at a time.
_ROWS = 1024


def read_lines(path: Path) -> list[str]:
    """The lines of a file in UTF-8, each a text, without the characters that end them or a byte order mark.

    Raises:
        UserError: it cannot be read, or has none.
    """
    with reading(path, "file of texts in UTF-8, one a line", "save it again"):
        # Not as text: that would end lines at a lone "\r" too.
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    if not lines[-1]:
        lines.pop()
    if not lines:
        raise UserError(f"{path}: expected texts, one a line, found an empty file; give it one")
    return [line.removesuffix("\r") for line in lines]


def read_ids(path: Path) -> list[np.ndarray]:
    """The ids of texts, each (tokens,) int64.

    Args:
        path: samples (texts, tokens) as ``open_samples`` reads them; or an ``.npz`` with ``input_ids``
            (texts, tokens) and perhaps ``attention_mask``, which is 1 for the tokens of a text and 0 behind
            them, and ``token_type_ids``, all 0.

    Raises:
        UserError: the file cannot be read, or holds something else; a text has no tokens.
    """
    if path.suffix == ".npz":
        arrays = _padded(path)
        if _IDS in arrays:
            return _without_padding(arrays, path)
    samples = open_samples(path)
    if samples.dtype.kind not in "iu" or len(samples.shape) != 1:
        raise _error(path, samples.dtype, (samples.samples, *samples.shape))
    return [row for batch in samples.batches(_ROWS, dtype=np.int64) for row in batch]


def _padded(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file that a tokenizer may have made."""
    arrays = {}
    with reading(path), open_npz(path) as archive:
        for name in (_IDS, _MASK, _TYPES):
            if f"{name}.npy" in archive.namelist():
                with open_member(archive, name) as (file, header):
                    arrays[name] = read_array(file, header)
    return arrays


def _without_padding(arrays: dict[str, np.ndarray], path: Path) -> list[np.ndarray]:
    ids = arrays[_IDS]
    for name, array in arrays.items():
        kinds = "iub" if name == _MASK else "iu"
        if array.dtype.kind not in kinds or array.ndim != 2 or array.shape != ids.shape or not array.size:
            raise _error(path, array.dtype, array.shape, name)
    if np.any(arrays.get(_TYPES, 0)):
        raise UserError(
            f"{path}: {_TYPES}: expected zeros, a single text in each row, found others; pairs of texts are "
            "not supported"
        )
    mask = arrays.get(_MASK, np.ones_like(ids))
    lengths = np.count_nonzero(mask, axis=1)
    wrong = np.flatnonzero(
        (lengths == 0) | (mask != (np.arange(ids.shape[1]) < lengths[:, None])).any(axis=1)
    )
    if wrong.size:
        raise UserError(
            f"{path}: {_MASK}: expected ones for the tokens of a text and zeros behind them, found something "
            f"else in row {wrong[0]} (counted from 0); let the tokenizer pad on the right"
        )
    return [row[:length].astype(np.int64) for row, length in zip(ids, lengths, strict=True)]


def _error(path: Path, dtype: np.dtype, shape: tuple[int, ...], name: str = "") -> UserError:
    named = f"{name}: " if name else ""
    return UserError(
        f"{path}: {named}expected token ids, integers (texts, tokens), found {dtype} of shape {shape}; save "
        "them so"
    )
