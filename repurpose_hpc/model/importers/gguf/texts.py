"""Texts as tokens, and the tokens that end one, by the metadata of a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from repurpose_hpc.io.reading import reading
from repurpose_hpc.model.importers.gguf.file import REMEDY, File
from repurpose_hpc.model.importers.transformers.entries import Entries
from repurpose_hpc.model.importers.transformers.texts import Texts, package

# Ends of a text, of a turn and of a message.
_ENDS = ("eos", "eot", "eom")
# How a text is cut into words, by the entry ``pre``; without a pattern as package tokenizers does by itself.
_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = {
    "gpt-2": "",
    "llama-bpe": rf"{_ENGLISH}\p{{N}}{{1,3}}{_REST}",
    "qwen2": rf"{_ENGLISH}\p{{N}}{_REST}",
}
_LLAMA_3, _QWEN = "llama-bpe", "qwen2"
# Kinds of tokens: of control, which no text shows, and others that are found in a text as they are.
_CONTROL, _DEFINED = 3, 4
_INSTEAD = "put the tokenizer.json of the model beside the file, or give token ids"


def tokenizer_of(path: Path, vocabulary: int) -> Texts:
    """The tokenizer in a file.

    Args:
        path: of a model.
        vocabulary: tokens that the model has.

    Raises:
        UserError: it is missing, damaged, of another vocabulary or of a kind that is not known, or a package
            is missing.
    """
    metadata, tokenizers = Entries(path, File.read(path).metadata), package(path)
    known = {"model": ("gpt2",), "pre": (*_WORDS,), "add_space_prefix": (False, None)}
    for name, values in known.items():
        if metadata.value(_key(name)) not in values:
            words = " or ".join(map(repr, values))
            raise metadata.error(_key(name), f"{words} to read texts", _INSTEAD)
    with reading(path, "tokenizer in a .gguf file", REMEDY):
        tokenizer = _made(metadata, tokenizers)
    return Texts(tokenizer, path, vocabulary)


def ending_tokens(path: Path) -> tuple[int, ...]:
    """The tokens after which a text ends; none where the file names none.

    Raises:
        UserError: the file is damaged, or names something else.
    """
    metadata, ends = Entries(path, File.read(path).metadata), []
    for word in _ENDS:
        token = metadata.value(_key(f"{word}_token_id"))
        if token is not None:
            if not isinstance(token, int):
                raise metadata.error(_key(f"{word}_token_id"), "the number of a token")
            ends.append(token)
    return tuple(ends)


def _key(name: str) -> str:
    return f"tokenizer.ggml.{name}"


def _made(metadata: Entries, tokenizers: Any) -> Any:
    """The tokenizer of package tokenizers.

    Raises:
        Exception: of any kind, on damage.
    """
    tokens, words = metadata.entries[_key("tokens")], metadata.entries[_key("pre")]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        raise ValueError("it has a token twice")
    merges = [tuple(merge.split(" ")) for merge in metadata.entries[_key("merges")]]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab=vocabulary, merges=merges, ignore_merges=words == _LLAMA_3)
    )
    if words == _QWEN:
        tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = _cutter(tokenizers, _WORDS[words])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    kinds = metadata.value(_key("token_type")) or [0] * len(tokens)
    of_kind = {
        wanted: [
            tokenizers.AddedToken(token, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == wanted
        ]
        for wanted in (_CONTROL, _DEFINED)
    }
    tokenizer.add_special_tokens(of_kind[_CONTROL])
    tokenizer.add_tokens(of_kind[_DEFINED])
    before, behind = _frame(metadata, words)
    if before or behind:
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single=[tokens[each] for each in before] + ["$A"] + [tokens[each] for each in behind],
            special_tokens=[(tokens[each], each) for each in {*before, *behind}],
        )
    return tokenizer


def _cutter(tokenizers: Any, pattern: str) -> Any:
    """What cuts a text into words, as letters that stand for bytes."""
    letters = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not pattern)
    if not pattern:
        return letters
    words = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated")
    return tokenizers.pre_tokenizers.Sequence([words, letters])


def _frame(metadata: Entries, words: str) -> tuple[list[int], list[int]]:
    """The tokens before and behind every text."""
    begins, ends = (metadata.value(_key(f"add_{word}_token")) for word in ("bos", "eos"))
    begins = words == _LLAMA_3 if begins is None else begins
    return (
        [metadata.entries[_key("bos_token_id")]] if begins else [],
        [metadata.entries[_key("eos_token_id")]] if ends else [],
    )
