"""Texts by what a GGUF file says of them, against the tokenizer that it was made from."""

import json
import random

import numpy as np
import pytest

from helpers import ROOT
from helpers.model_directories import tokenizer as words
from repurpose_hpc.errors import UserError
from repurpose_hpc.model.importers.texts import Texts, ending_tokens, rules_of, tokenizer_of
from repurpose_hpc.model.texts import UNPOOLED

pytest.importorskip("gguf")
pytest.importorskip("ml_dtypes")
pytest.importorskip("safetensors")
tokenizers = pytest.importorskip("tokenizers")

import gguf_files  # noqa: E402, needs these packages

SIZE = 420
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
# As the tokenizer.json of GPT-2, Llama 3 and Qwen 2 have them.
PATTERNS = {"gpt-2": None, "llama-bpe": LLAMA_3, "qwen2": LLAMA_3.replace("{1,3}", "")}
BEGIN, END, USER = "<|begin|>", "<|end|>", "<|user|>"
TEXTS = (
    "",
    "It's HE'LL we've  two  spaces\n\n\n  tabs\t\tx",
    "1234567 12 3,456.78 \u0663\u0664\u0665\u0666 \u00b2\u00b3 \u2167",
    "na\u00efve \u00e9t\u00e9 e\u0301 \u4e2d\u6587 \u0440\u0443\u0441 \U0001f642\U0001f642",
    f"{END}hello{USER} there {END}",
    " leading, trailing  ",
    "a\r\nb\r\n\r\n c\u00a0d\u2003e",
    *("".join(random.Random(n).choices("ab '\n\r\t1239,.!\u00e9\u4e2dS'tT  _-<>", k=60)) for n in range(40)),
)


def original(pre):
    """A small tokenizer as the original ones are."""
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    made, pattern = tokenizers.Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe")), PATTERNS[pre]
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    cut = [] if pattern is None else [pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")]
    made.pre_tokenizer, made.decoder = pre_tokenizers.Sequence([*cut, letters]), decoders.ByteLevel()
    if pre == "qwen2":
        made.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[BEGIN, END],
        show_progress=False,
    )
    made.train_from_iterator([(ROOT / "README.md").read_text(encoding="utf-8"), *TEXTS[1:4]], trainer)
    made.add_tokens([tokenizers.AddedToken(USER, normalized=False)])
    if pre == "llama-bpe":
        made.post_processor = processors.TemplateProcessing(single=[BEGIN, "$A"], special_tokens=[(BEGIN, 0)])
    return made


@pytest.fixture
def write(tmp_path):
    """Writes a file with a tokenizer; metadata that are None are left out."""

    def make(like="gpt-2", **metadata):
        made = original(like)
        vocabulary, entries = made.get_vocab(True), json.loads(made.to_str())["model"]
        tokens = sorted(vocabulary, key=vocabulary.get)
        said, tensors = gguf_files.contents(ROOT / "tests/data/transformers/llama")
        said |= {
            "llama.vocab_size": SIZE,
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": like,
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.merges": [" ".join(merge) for merge in entries["merges"]],
            "tokenizer.ggml.token_type": [{BEGIN: 3, END: 3, USER: 4}.get(token, 1) for token in tokens],
            "tokenizer.ggml.bos_token_id": 0,
            "tokenizer.ggml.eos_token_id": 1,
            **{f"tokenizer.ggml.{name}": value for name, value in metadata.items()},
        }
        tensors |= dict.fromkeys(("token_embd.weight", "output.weight"), np.ones((SIZE, 16), np.float32))
        said = {name: value for name, value in said.items() if value is not None}
        return gguf_files.write(tmp_path / f"{like}.gguf", said, tensors)

    return make


@pytest.mark.parametrize("pre", PATTERNS)
def test_tokens_are_those_of_the_original(write, pre):
    found, expected = tokenizer_of(write(pre), SIZE), original(pre)
    for text in TEXTS:
        ids = expected.encode(text).ids
        assert found.ids(text).tolist() == ids, text
        assert found.text(ids) == expected.decode(ids), text


@pytest.mark.parametrize("pre", PATTERNS)
def test_rules_keep_the_tokenizer(write, pre):
    path = write(pre)
    found, rules = tokenizer_of(path, SIZE), rules_of(path, SIZE)
    assert rules == rules_of(path, SIZE) and rules.ends == (1,) and rules.pooling == UNPOOLED
    kept = Texts.read(rules.tokenizer, path, SIZE)
    for text in TEXTS:
        ids = found.ids(text).tolist()
        assert kept.ids(text).tolist() == ids and kept.text(ids) == found.text(ids), text


@pytest.mark.parametrize("pre", PATTERNS)
def test_tokens_are_those_of_llama_cpp(write, pre):
    """But for letters in two parts, which Qwen's tokenizer joins."""
    llama_cpp = pytest.importorskip("llama_cpp")
    path = write(pre)
    found, other = tokenizer_of(path, SIZE), llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    for text in TEXTS:
        if "e\u0301" not in text:
            assert found.ids(text).tolist() == other.tokenize(text.encode(), special=True), text


def test_tokens_around_a_text(write):
    inside = original("gpt-2").encode("a b").ids
    for before, behind in ((True, False), (False, True), (True, True)):
        path = write(add_bos_token=before, add_eos_token=behind)
        assert tokenizer_of(path, SIZE).ids("a b").tolist() == [0] * before + inside + [1] * behind
    path = write("llama-bpe", add_bos_token=False)
    assert tokenizer_of(path, SIZE).ids("a b")[0] != 0


def test_a_tokenizer_beside_the_file_comes_first(write):
    path = write()
    words(path.parent)
    assert tokenizer_of(path, SIZE).ids("w3 w1").tolist() == [3, 1]


REFUSED = {
    "sentencepiece": (
        {"model": "llama"},
        "ggml.model: expected 'gpt2' to read texts, found 'llama'; put the tok",
    ),
    "none": (
        {"model": None},
        "ggml.model: expected 'gpt2' to read texts, found None; put the tokenizer.json",
    ),
    "other words": (
        {"pre": "tekken"},
        "expected 'gpt-2' or 'llama-bpe' or 'qwen2' .* found 'tekken'; .* give token ids",
    ),
    "a space in front": (
        {"add_space_prefix": True},
        "add_space_prefix: expected False or None .* found True",
    ),
    "a token twice": ({"tokens": ["a"] * SIZE}, "tokenizer in a .gguf file: it has a token twice"),
    "no merges": ({"merges": None}, "expected a readable tokenizer in a .gguf file: .*merges"),
    "merges of nothing": ({"merges": ["q\u0122 zz"]}, "expected a readable tokenizer in a .gguf file"),
    "types of others": ({"token_type": [1, 3]}, "expected a readable tokenizer in a .gguf file"),
    "no first token": ({"bos_token_id": SIZE, "add_bos_token": True}, "expected a readable tokenizer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tokenizers_that_are_not_read(write, case):
    changes, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        tokenizer_of(write(**changes), SIZE)


def test_a_tokenizer_of_another_vocabulary(write):
    with pytest.raises(UserError, match=f"which has {SIZE - 1} tokens, found one with token {SIZE - 1}"):
        tokenizer_of(write(), SIZE - 1)


def test_the_end_of_texts(write):
    assert ending_tokens(write()) == (1,)
    assert ending_tokens(write(eos_token_id=None)) == ()
    assert ending_tokens(write(eot_token_id=7)) == (1, 7)
    with pytest.raises(UserError, match="eos_token_id: expected the number of a token, found 'end'"):
        ending_tokens(write(eos_token_id="end"))
