"""GGUF files of the Llama family: the network of the directory that they were written from, and refusals."""

import builtins
import re
import struct

import numpy as np
import pytest

from helpers import ROOT
from helpers.model_directories import llama
from repurpose_hpc.errors import UserError
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model, load_tokens
from repurpose_hpc.model.operations import Attention

gguf = pytest.importorskip("gguf")
pytest.importorskip("ml_dtypes")
pytest.importorskip("safetensors")

import gguf_files  # noqa: E402, needs these packages

DIRECTORY = ROOT / "tests/data/transformers"
NAMES = ("linear", "llama", "llama3", "mistral", "qwen2", "qwen3")
# Rows are whole blocks of quantised types.
WIDE = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture
def write(tmp_path):
    """Writes a fixture, changed: metadata and tensors that are None are left out."""

    def make(name="llama", kind="F32", tensors=None, **metadata):
        entries, arrays = gguf_files.contents(DIRECTORY / name)
        entries |= {key.replace("__", "."): value for key, value in metadata.items()}
        arrays |= tensors or {}
        present = [{key: value for key, value in of.items() if value is not None} for of in (entries, arrays)]
        return gguf_files.write(tmp_path / f"{name}.gguf", *present, kind)

    return make


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A directory of a Llama whose matrices can be quantised."""
    return llama(tmp_path_factory.mktemp("wide"), **WIDE)


def recorded(name):
    with np.load(DIRECTORY / name / "expected.npz") as file:
        return file["ids_31"], file["outputs_31"]


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_that_of_the_directory(write, name):
    network, expected = load_tokens(write(name)), load_tokens(DIRECTORY / name)
    if name == "llama3":  # divisors of its frequencies are float32
        ids, outputs = recorded(name)
        found = forward(network.at(31), ids).reshape(outputs.shape)
        np.testing.assert_allclose(found, outputs, rtol=0, atol=1e-5 * np.abs(outputs).max())
        assert {m.name: m.weights.tobytes() for m in network.mixings} == {
            m.name: m.weights.tobytes() for m in expected.mixings
        }
    else:
        assert network.fingerprint() == expected.fingerprint()
    assert network.longest == expected.longest


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_llama_cpp(write, name):
    """Without windows, which it leaves out."""
    llama_cpp = pytest.importorskip("llama_cpp")
    path, ids = write(name, llama__attention__sliding_window=None), recorded(name)[0][0]
    kinds = dict.fromkeys(("type_k", "type_v"), llama_cpp.GGML_TYPE_F32)
    other = llama_cpp.Llama(str(path), n_ctx=31, logits_all=True, verbose=False, n_threads=1, **kinds)
    other.eval(ids.tolist())
    expected = np.array(other.scores[:31])
    found = forward(load_tokens(path).at(31), ids[None]).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_sequences_of_one_length(write):
    path, (ids, outputs) = write("qwen3"), recorded("qwen3")
    network = load_model(path, {"ids": (31,)})
    found = forward(network, ids).reshape(outputs.shape)
    np.testing.assert_allclose(found, outputs, rtol=0, atol=1e-5 * np.abs(outputs).max())
    with pytest.raises(UserError, match=f"{re.escape(str(path))}: expected the length of all sequences"):
        load_model(path)


def halves(W):
    return W.astype(np.float16).astype(np.float32)


def brain(W):
    """Rounded to the nearest number of 16 bits, to an even one between two."""
    bits = W.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1) >> 16) << 16).astype(np.uint32).view(np.float32)


def blocks_of(path, name, size, shape):
    """The stored bytes of a matrix, (rows, blocks, size), where gguf's own reader finds them."""
    (tensor,) = (tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == name)
    return np.frombuffer(tensor.data.tobytes(), np.uint8).reshape(shape[0], shape[1] // 32, size)


def eight_bits(blocks):
    """A scale of 16 bits, and 32 signed numbers."""
    scales = blocks[..., :2].copy().view(np.float16).astype(np.float32)
    return scales * blocks[..., 2:].view(np.int8)


def four_bits(blocks):
    """A scale of 16 bits; low halves of 16 bytes are the first numbers, high ones the others, all plus 8."""
    scales = blocks[..., :2].copy().view(np.float16).astype(np.float32)
    return scales * (
        np.concatenate([blocks[..., 2:] & 15, blocks[..., 2:] >> 4], axis=-1).astype(np.float32) - 8
    )


@pytest.mark.parametrize(("kind", "rounded"), [("F16", halves), ("BF16", brain)])
def test_numbers_of_16_bits(wide, tmp_path, kind, rounded):
    network = load_tokens(gguf_files.write(tmp_path / "m.gguf", *gguf_files.contents(wide), kind))
    expected = load_tokens(wide)
    for found, original in zip(network.mixings, expected.mixings, strict=True):
        weights = original.weights if original.fixed else rounded(original.weights)
        np.testing.assert_array_equal(found.weights, weights, err_msg=found.name)
        assert found.weights.dtype == np.float32
    assert not all(
        np.array_equal(a.weights, b.weights) for a, b in zip(network.mixings, expected.mixings, strict=True)
    )


STORED = {
    "layers.0.values": ("blk.0.attn_v.weight", (32, 64)),
    "layers.1.down": ("blk.1.ffn_down.weight", (64, 96)),
    "output": ("output.weight", (23, 64)),
    "layers.1.queries": ("blk.1.attn_q.weight", (64, 64)),
    "layers.0.keys": ("blk.0.attn_k.weight", (32, 64)),
}


@pytest.mark.parametrize(("kind", "size", "decoded"), [("Q8_0", 34, eight_bits), ("Q4_0", 18, four_bits)])
def test_quantised_numbers(wide, tmp_path, kind, size, decoded):
    path = gguf_files.write(tmp_path / "m.gguf", *gguf_files.contents(wide), kind)
    weights = {mixing.name: mixing.weights for mixing in load_tokens(path).mixings}
    for name, (stored, shape) in STORED.items():
        expected = decoded(blocks_of(path, stored, size, shape)).reshape(shape)
        if name.endswith(("queries", "keys")):  # heads of 16: number 2 i + j of a head is 8 j + i
            order = np.arange(16).reshape(8, 2).T.ravel()
            expected = expected.reshape(-1, 16, shape[1])[:, order].reshape(shape)
        np.testing.assert_array_equal(weights[name], expected, err_msg=name)
    original = {mixing.name: mixing.weights for mixing in load_tokens(wide).mixings}
    scale = np.abs(original["output"]).max()
    assert 0 < np.abs(weights["output"] - original["output"]).max() < scale * (0.15 if size == 18 else 0.01)


def test_types_that_are_only_read(wide, tmp_path):
    """K-quants, which the package does not write: blocks of 256 numbers, here of one scale each."""
    metadata, tensors = gguf_files.contents(llama(tmp_path / "m", **{**WIDE, "hidden_size": 256}))
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    for name, value in metadata.items():
        if name != "general.architecture":
            gguf_files._add(writer, name, value)
    blocks = np.zeros((23, 1, 210), np.uint8)  # Q6_K: 128 low parts, 64 high parts, 16 scales, one of all
    blocks[..., :128], blocks[..., 192:208] = 0x21, 3
    blocks[..., 208:] = np.array([0.5], np.float16).view(np.uint8)
    for name, array in tensors.items():
        if name == "output.weight":
            writer.add_tensor(name, blocks.reshape(23, 210), raw_dtype=gguf.GGMLQuantizationType.Q6_K)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = load_tokens(tmp_path / "m.gguf").mixings[-1].weights
    assert set(np.unique(found).tolist()) == {0.5 * 3 * (1 - 32), 0.5 * 3 * (2 - 32)}


def test_biases_are_put_back_with_their_rows(write):
    """All layers have biases, those of queries and keys in the order of the rows."""
    found = {mixing.name: mixing.bias for mixing in load_tokens(write("llama3")).mixings}
    for mixing in load_tokens(DIRECTORY / "llama3").mixings:
        np.testing.assert_array_equal(found[mixing.name], mixing.bias)
    assert np.abs(found["layers.1.keys"]).max() > 0.1


def test_an_output_layer_that_is_missing_is_that_of_the_embeddings(write):
    network = load_tokens(write(tensors={"output.weight": None}))
    tokens = gguf_files.contents(DIRECTORY / "llama")[1]["token_embd.weight"]
    np.testing.assert_array_equal(network.mixings[-1].weights, tokens)


@pytest.mark.parametrize("size", [None, 7])
def test_the_vocabulary_is_that_of_the_tokens_where_they_are_listed(write, size):
    tokens = [f"w{token}" for token in range(31)]
    network = load_tokens(write(llama__vocab_size=size, tokenizer__ggml__tokens=tokens))
    assert network.fingerprint() == load_tokens(DIRECTORY / "llama").fingerprint()


def test_entries_may_be_missing_where_there_are_defaults(write):
    defaults = (
        "attention__key_length",
        "attention__value_length",
        "rope__dimension_count",
        "rope__freq_base",
    )
    network = load_tokens(write(**{f"llama__{name}": None for name in defaults}))
    assert network.fingerprint() == load_tokens(DIRECTORY / "llama").fingerprint()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama", {"llama__rope__freq_base": 50.0}),
        ("llama", {"llama__attention__layer_norm_rms_epsilon": 0.5}),
        ("llama", {"llama__rope__scaling__factor": 3.0}),
        ("linear", {"llama__rope__scaling__type": "none"}),
        ("mistral", {"llama__attention__sliding_window": 0}),
        ("mistral", {"llama__attention__sliding_window": 4}),
        ("llama3", {"tensors": {"rope_freqs.weight": None}}),
    ],
)
def test_metadata_matter(write, name, changes):
    ids, outputs = recorded(name)
    found = forward(load_tokens(write(name, **changes)).at(31), ids).reshape(outputs.shape)
    assert np.abs(found - outputs).max() > 1e-2


def test_entries_on_which_nothing_depends(write):
    names = {"attention__layer_norm_epsilon": 0.5, "rope__scaling__original_context_length": 8}
    network = load_tokens(write(**{f"llama__{name}": value for name, value in names.items()}))
    assert network.fingerprint() == load_tokens(DIRECTORY / "llama").fingerprint()


def test_a_window(write):
    attentions = [op for op in load_tokens(write("mistral")).operations if isinstance(op, Attention)]
    assert {op.before for op in attentions} == {4}


METADATA_REFUSED = {
    "another architecture": (
        {"general__architecture": "gemma2"},
        "general.architecture: expected one of llama, qwen2, qwen3, found 'gemma2'; others can come as ONNX",
    ),
    "a list of tokens that is none": (
        {"llama__vocab_size": None, "tokenizer__ggml__tokens": 31},
        "llama.vocab_size: expected a positive integer, found None",
    ),
    "an adapter": ({"general__type": "adapter"}, "general.type: expected 'model', found 'adapter'; merge"),
    "one of several files": ({"split__count": 3}, "split.count: expected a model in one file, found 3"),
    "another scaling": (
        {"llama__rope__scaling__type": "yarn"},
        "llama.rope.scaling.type: expected 'none' or 'linear', found 'yarn'",
    ),
    "its parameters": (
        {"llama__rope__scaling__yarn_log_multiplier": 0.1},
        "llama.rope.scaling.yarn_log_multiplier: expected no such entry, found 0.1",
    ),
    "experts": ({"llama__expert_count": 8}, "llama.expert_count: expected 0, found 8"),
    "a soft cap": (
        {"llama__attn_logit_softcapping": 50.0},
        "llama.attn_logit_softcapping: expected no such entry, found 50.0",
    ),
    "another scale": ({"llama__attention__scale": 0.5}, "llama.attention.scale: expected no such entry"),
    "no context": (
        {"llama__context_length": None},
        "llama.context_length: expected a positive integer, found None",
    ),
    "no vocabulary": (
        {"llama__vocab_size": None},
        "llama.vocab_size: expected a positive integer, found None",
    ),
    "heads of each layer": (
        {"llama__attention__head_count": [4, 4]},
        r"llama.attention.head_count: expected a positive integer, found \[4, 4\]",
    ),
    "groups that do not fit": (
        {"llama__attention__head_count_kv": 3},
        "llama.attention.head_count_kv: expected a divisor of head_count, which is 4, found 3",
    ),
    "half a pair": ({"llama__attention__key_length": 5}, "key_length: expected pairs of neurons .* found 5"),
    "values of another size": ({"llama__attention__value_length": 8}, "value_length: expected 4, found 8"),
    "a part of a head turned": ({"llama__rope__dimension_count": 2}, "dimension_count: expected 4, found 2"),
    "an encoder": ({"llama__attention__causal": False}, "causal: expected True, found False"),
    "a base that is none": (
        {"llama__rope__freq_base": -1.0},
        "freq_base: expected a positive number, found -1",
    ),
    "another layout": (
        {"llama__tensor_data_layout": "mine"},
        "tensor_data_layout: expected 'Meta AI original",
    ),
}


@pytest.mark.parametrize("case", METADATA_REFUSED)
def test_metadata_that_are_not_supported(write, case):
    changes, message = METADATA_REFUSED[case]
    path = write(**changes)
    with pytest.raises(UserError, match=f"{re.escape(str(path))}: .*{message}"):
        load_tokens(path)


def test_a_window_in_a_family_that_has_none(write):
    with pytest.raises(UserError, match="qwen2.attention.sliding_window: expected 0, found 4"):
        load_tokens(write("qwen2", qwen2__attention__sliding_window=4))


ONES = np.ones((2, 4), np.float32)
TENSORS_REFUSED = {
    "experts": ({"blk.0.ffn_gate_exps.weight": ONES}, "found 'blk.0.ffn_gate_exps.weight' besides"),
    "long factors": ({"rope_factors_long.weight": ONES[0]}, "found 'rope_factors_long.weight' besides"),
    "a bias of one layer": ({"blk.1.attn_v.bias": np.ones(8)}, "found 'blk.1.attn_v.bias' besides"),
    "a bias of the other": ({"blk.0.attn_v.bias": np.ones(8, np.float32)}, "a tensor 'blk.1.attn_v.bias' of"),
    "missing": (
        {"blk.1.ffn_up.weight": None},
        r"expected a tensor 'blk.1.ffn_up.weight' of shape \(20, 16\), found none; download or convert",
    ),
    "misshapen": (
        {"blk.1.ffn_up.weight": ONES},
        r"blk.1.ffn_up.weight: expected shape \(20, 16\) as the metadata say, found \(2, 4\)",
    ),
    "no embeddings": ({"token_embd.weight": None}, "expected a tensor 'token_embd.weight'"),
    "not finite": (
        {"output_norm.weight": np.full(16, np.nan, np.float32)},
        "output_norm.weight: expected finite",
    ),
    "no divisors": ({"rope_freqs.weight": np.zeros(2, np.float32)}, "rope_freqs.weight: expected positive"),
}


@pytest.mark.parametrize("case", TENSORS_REFUSED)
def test_tensors_that_are_not_those_of_the_model(write, case):
    changes, message = TENSORS_REFUSED[case]
    path = write(tensors=changes)
    with pytest.raises(UserError, match=f"{re.escape(str(path))}: .*{message}"):
        load_tokens(path)


@pytest.mark.parametrize("name", NAMES)
def test_no_tensor_may_be_missing(write, name):
    """But an output layer, and divisors of frequencies, without which there are others."""
    for tensor in gguf_files.contents(DIRECTORY / name)[1]:
        if tensor not in ("output.weight", "rope_freqs.weight") and not tensor.startswith("blk.1"):
            path = write(name, tensors={tensor: None})
            with pytest.raises(UserError, match=r"expected a tensor '.*' of shape .*, found none|besides"):
                load_tokens(path)


def with_type(path, number):
    """A file whose first tensor has numbers of another type."""
    content = bytearray(path.read_bytes())
    name = b"output.weight" if b"output.weight" in content else b"token_embd.weight"
    place = content.index(name) + len(name)
    axes = struct.unpack_from("<I", content, place)[0]
    struct.pack_into("<I", content, place + 4 + 8 * axes, number)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("number", "called"), [(26, "I32"), (9, "Q8_1"), (28, "F64"), (99, "99")])
def test_types_that_are_not_read(write, number, called):
    path = with_type(write(), number)
    message = f"output.weight: expected numbers of a type that the package gguf reads, .* found {called};"
    with pytest.raises(UserError, match=f"{re.escape(str(path))}: {message}"):
        load_tokens(path)


def test_rows_that_are_no_whole_blocks(write):
    path = with_type(write(), gguf.GGMLQuantizationType.Q8_0)
    with pytest.raises(
        UserError, match=r"rows of blocks of 32 numbers, as Q8_0 has them, found shape \(31, 16\)"
    ):
        load_tokens(path)


def test_a_file_that_is_cut_off(write):
    """Anywhere: in the header, and in the numbers."""
    path = write()
    whole = path.read_bytes()
    for size in (0, 3, 4, 7, 20, 60, 333, 999, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(
            UserError, match=f"{re.escape(str(path))}: expected a readable .gguf file: .*; down"
        ):
            load_tokens(path)


def packed(version=3, entries=b"", count=0, tensors=0):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, count) + entries


def entry(kind, value, name=b"a"):
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + value


DAMAGED = {
    "another format": (b"GGML" + bytes(40), "it does not begin with GGUF"),
    "an old version": (packed(1), "it is of version 1, expected 2 or 3"),
    "the other order of bytes": (packed(3 << 24), "its numbers are big-endian"),
    "an entry twice": (packed(3, 2 * entry(4, bytes(4)), 2), "it has 'a' twice"),
    "a type of values": (packed(3, entry(77, bytes(8)), 1), "a value of type 77, which is none"),
    "a list without end": (
        packed(3, entry(9, struct.pack("<IQ", 0, 2**60)), 1),
        "it ends at byte .*, before its header does",
    ),
    "texts without end": (packed(3, entry(9, struct.pack("<IQ", 8, 2**60)), 1), "before its header does"),
    "lists of lists": (packed(3, entry(9, 40000 * struct.pack("<IQ", 9, 1)), 1), "recursion"),
    "no text": (packed(3, entry(4, bytes(4), b"\xff"), 1), "utf-8"),
    "tensors without end": (packed(3, b"", 0, 2**63), "before its header does"),
    "an alignment": (
        packed(3, entry(4, struct.pack("<I", 3), b"general.alignment"), 1),
        "general.alignment is 3, expected a power of two",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file(tmp_path, case):
    content, message = DAMAGED[case]
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=f"{re.escape(str(path))}: expected a readable .gguf file: .*{message}"
    ):
        load_tokens(path)


def test_the_header_is_what_the_package_reads(write):
    from repurpose_hpc.model.importers.gguf.file import File

    given = {
        "general__name": "n\u00e4me",
        "general__tags": ["a", "", "b"],
        "x__floats": [0.5, -1.0],
        "x__flag": True,
    }
    path = write(**given)
    reader, file = gguf.GGUFReader(path), File.read(path)
    expected = {
        name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")
    }
    assert file.metadata == expected
    assert {name: tensor.offset for name, tensor in file.tensors.items()} == {
        tensor.name: tensor.data_offset for tensor in reader.tensors
    }


def test_an_architecture_that_is_no_text(tmp_path):
    listed = struct.pack("<IQI", 4, 1, 5)
    (tmp_path / "m.gguf").write_bytes(packed(3, entry(9, listed, b"general.architecture"), 1))
    with pytest.raises(UserError, match=r"general.architecture: expected one of llama, .* found \[5\]"):
        load_tokens(tmp_path / "m.gguf")


def test_another_alignment(write):
    assert load_tokens(write(general__alignment=128)).fingerprint() == load_tokens(write()).fingerprint()


def test_no_file(tmp_path):
    with pytest.raises(UserError, match="m.gguf: expected a .gguf file, found none"):
        load_tokens(tmp_path / "m.gguf")
    with pytest.raises(UserError, match="m.gguf: expected a model file, found none"):
        load_model(tmp_path / "m.gguf")


def test_without_the_package(write, monkeypatch):
    path, original = write(), builtins.__import__

    def refuse(name, *rest):
        if name == "gguf":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=re.escape("pip install 'repurpose-hpc[gguf]'")):
        load_tokens(path)
