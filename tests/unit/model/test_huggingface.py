"""Transformers of Hugging Face's library: outputs as it has recorded them, and what is refused.

The fixtures are written by ``tests/data/make_transformers.py``, those of RetNet by ``make_retnet.py``.
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model, load_tokens
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import UNLIMITED, Attention

pytest.importorskip("ml_dtypes")
numpy_files = pytest.importorskip("safetensors.numpy")

DIRECTORY = Path(__file__).resolve().parents[2] / "data/transformers"
NAMES = sorted(path.name for path in DIRECTORY.iterdir())
LENGTHS = (9, 31)
VOCABULARY, LONGEST = 31, 32


def assert_close(actual, expected, tolerance=1e-5):
    """Within the rounding of the float32 that recorded ones were computed in."""
    np.testing.assert_allclose(
        actual.reshape(expected.shape), expected, rtol=0, atol=tolerance * np.abs(expected).max()
    )


def recorded(name: str, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and outputs of a fixture."""
    with np.load(DIRECTORY / name / "expected.npz") as file:
        return file[f"ids_{length}"], file[f"outputs_{length}"]


@pytest.fixture
def copy(tmp_path):
    """Makes a copy of a fixture that a test may change."""

    def make(name: str = "llama3") -> Path:
        return shutil.copytree(DIRECTORY / name, tmp_path / name)

    return make


def rewrite(directory: Path, **entries) -> Path:
    """Entries of its config.json replaced; removed where they are None."""
    path = directory / "config.json"
    config = json.loads(path.read_text()) | entries
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
    return directory


def rewrite_arrays(directory: Path, change) -> Path:
    """Arrays of its file, as ``change`` leaves the dictionary."""
    path = directory / "model.safetensors"
    arrays = numpy_files.load_file(path)
    change(arrays)
    numpy_files.save_file(arrays, path)
    return directory


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", LENGTHS)
def test_outputs_are_those_recorded(name, length):
    ids, expected = recorded(name, length)
    network = load_model(DIRECTORY / name, {"ids": (length,)})
    assert network.outputs == expected[0].size
    assert_close(forward(network, ids), expected)
    assert load_tokens(DIRECTORY / name).at(length).fingerprint() == network.fingerprint()


@pytest.mark.parametrize("name", NAMES)
def test_the_network_of_tokens(name):
    network = load_tokens(DIRECTORY / name)
    assert network.longest == LONGEST
    assert not any(network.positions_of.values())
    assert {mixing.weights.dtype for mixing in network.mixings} == {np.dtype(np.float32)}
    with pytest.raises(ValueError, match=f"expected 1 to {LONGEST} positions, got {LONGEST + 1}"):
        network.at(LONGEST + 1)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"bert"}))
def test_greedy_continuations_are_those_recorded(name):
    network = load_tokens(DIRECTORY / name)
    with np.load(DIRECTORY / name / "expected.npz") as file:
        ids, expected = file["ids_9"], file["continuations"]
    while ids.shape[1] < 9 + expected.shape[1]:
        logits = forward(network.at(ids.shape[1]), ids).reshape(*ids.shape, -1)
        ids = np.column_stack([ids, logits[:, -1].argmax(axis=1)])
    assert ids[:, 9:].tolist() == expected.tolist()


@pytest.mark.parametrize("length", [1, 2, 8])
def test_a_decoder_sees_nothing_behind_a_position(length):
    ids, expected = recorded("qwen3", 9)
    network = load_model(DIRECTORY / "qwen3", {"ids": (length,)})
    assert_close(forward(network, ids[:, :length]), expected[:, :length])


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("linear", {"rope_scaling": None, "rope_theta": 10.0}),
        ("llama3", {"rope_scaling": None, "rope_theta": 10.0}),
        ("mistral", {"sliding_window": None}),
        ("mistral", {"sliding_window": 4}),
        ("qwen2", {"rms_norm_eps": 0.1}),
        ("gpt2", {"activation_function": "relu"}),
        ("bert", {"layer_norm_eps": 0.1}),
        ("retnet", {"layernorm_eps": 0.1}),
        ("retnet", {"activation_fn": "gelu"}),
        ("retnet", {"use_lm_decay": True}),
        ("retnet", {"no_scale_embedding": False}),
    ],
)
def test_entries_of_the_configuration_matter(copy, name, changes):
    ids, expected = recorded(name, 9)
    network = load_model(rewrite(copy(name), **changes), {"ids": (9,)})
    assert np.abs(forward(network, ids).reshape(expected.shape) - expected).max() > 1e-2


def outputs_of(network: Network) -> np.ndarray:
    """Of a fixture's ids."""
    return forward(network, recorded("llama", 31)[0])


@pytest.mark.parametrize("name", ["llama3", "linear", "mistral"])
def test_rotary_positions_as_newer_versions_write_them(copy, name):
    directory = rewrite(copy(name), rope_theta=500.0)
    old = load_model(directory, {"ids": (31,)})
    scaling = json.loads((directory / "config.json").read_text()).get("rope_scaling")
    parameters = {"rope_type": "default", **(scaling or {}), "rope_theta": 500.0}
    rewrite(directory, rope_theta=None, rope_scaling=None, rope_parameters=parameters)
    new = load_model(directory, {"ids": (31,)})
    assert new.fingerprint() == old.fingerprint()
    parameters["rope_theta"] = 10000.0
    other = load_model(rewrite(directory, rope_parameters=parameters), {"ids": (31,)})
    assert np.abs(outputs_of(other) - outputs_of(old)).max() > 1e-2


def test_a_model_without_output_layer_ends_with_the_stream(copy):
    directory = rewrite(copy(), architectures=["LlamaModel"])

    def strip(arrays):
        for name in list(arrays):
            arrays[name.removeprefix("model.")] = arrays.pop(name)

    rewrite_arrays(directory, strip)
    network = load_model(directory, {"ids": (9,)})
    with_logits = load_model(DIRECTORY / "llama3", {"ids": (9,)})
    ids, expected = recorded("llama3", 9)
    stream = forward(network, ids).reshape(2, 9, 16)
    assert_close(stream @ with_logits.mixings[-1].weights.T, expected)


def test_heads_may_have_any_size():
    """head_dim beside hidden_size: both are read, and shapes of arrays follow."""
    network = load_tokens(DIRECTORY / "mistral")
    rows = {mixing.name: mixing.weights.shape for mixing in network.mixings}
    assert rows["layers.0.queries"] == (40, 16) and rows["layers.0.keys"] == (20, 16)


STRETCHED = {
    **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0},
    "original_max_position_embeddings": 16,
}
CONFIG_REFUSED = {
    "unknown model_type": ({"model_type": "mamba"}, "model_type: expected one of llama, .*found 'mamba'"),
    "no model_type": ({"model_type": None}, "model_type: expected one of .*found None"),
    "other head": (
        {"architectures": ["LlamaForSequenceClassification"]},
        "architectures: expected one of LlamaForCausalLM, LlamaModel, found .*Classification.*ONNX",
    ),
    "no heads": ({"num_attention_heads": 0}, "num_attention_heads: expected a positive integer, found 0"),
    "half a layer": ({"num_hidden_layers": 1.5}, "num_hidden_layers: expected a positive integer, found 1.5"),
    "no size": ({"hidden_size": None}, "hidden_size: expected a positive integer, found None"),
    "true as a size": ({"vocab_size": True}, "vocab_size: expected a positive integer, found True"),
    "negative base": ({"rope_theta": -1.0}, "rope_theta: expected a positive number, found -1.0"),
    "epsilon in words": (
        {"rms_norm_eps": "small"},
        "rms_norm_eps: expected a positive number, found 'small'",
    ),
    "unknown activation": ({"hidden_act": "mish"}, "hidden_act: expected one of .*gelu.*, found 'mish'"),
    "unknown scaling": (
        {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
        "rope_scaling: expected a rope_type of default, linear or llama3, found .*yarn",
    ),
    "unknown scaling, new": (
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 500.0}, "rope_scaling": None},
        "rope_parameters: expected a rope_type of default, linear or llama3, found .*yarn",
    ),
    "scaling without factor": (
        {"rope_scaling": {"rope_type": "linear"}},
        "factor: expected a positive number, found None",
    ),
    "scaling in words": ({"rope_scaling": "linear"}, "rope_scaling: expected an object, found 'linear'"),
    "a rotation for each kind of layer": (
        {"rope_parameters": {"full_attention": {"rope_type": "default"}}, "rope_scaling": None},
        "rope_parameters: expected one rotation for all layers, found .*full_attention",
    ),
    "high frequencies that are low": (
        {"rope_scaling": STRETCHED | {"high_freq_factor": 1.0}},
        "high_freq_factor: expected more than low_freq_factor, which is 1.0, found 1.0",
    ),
    "a window": ({"sliding_window": 4}, "sliding_window: expected None, found 4"),
    "half a pair": ({"head_dim": 5}, "head_dim: expected pairs of neurons .* not 5 of a head, found 5"),
    "groups that do not fit": (
        {"num_key_value_heads": 3},
        "num_key_value_heads: expected a divisor of num_attention_heads, which is 4, found 3",
    ),
}


@pytest.mark.parametrize("case", CONFIG_REFUSED)
def test_a_configuration_that_is_not_supported(copy, case):
    changes, message = CONFIG_REFUSED[case]
    directory = rewrite(copy(), **changes)
    place = re.escape(str(directory / "config.json"))
    with pytest.raises(UserError, match=f"{place}: .*{message}"):
        load_tokens(directory)


@pytest.mark.parametrize(
    ("name", "changes", "entry"),
    [
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("gpt2", {"activation_function": "mish"}, "activation_function"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("bert", {"is_decoder": True}, "is_decoder"),
        ("bert", {"architectures": ["BertForMaskedLM"]}, "architectures"),
        ("retnet", {"hidden_size": 16}, "hidden_size"),
        ("retnet", {"deepnorm": True}, "deepnorm"),
        ("retnet", {"decoder_normalize_before": False}, "decoder_normalize_before"),
        ("retnet", {"use_glu": False}, "subln"),
        ("retnet", {"decoder_value_embed_dim": 22}, "decoder_value_embed_dim"),
        ("retnet", {"decoder_embed_dim": 12}, "decoder_embed_dim"),
    ],
)
def test_an_entry_of_a_family_that_is_not_supported(copy, name, changes, entry):
    directory = rewrite(copy(name), **changes)
    with pytest.raises(UserError, match=rf"{re.escape(str(directory / 'config.json'))}: {entry}: expected"):
        load_tokens(directory)


def _add_an_expert(arrays):
    arrays["model.layers.0.experts.0.weight"] = np.ones(3, np.float32)


ARRAYS_REFUSED = {
    "missing": (
        lambda arrays: arrays.pop("model.layers.1.mlp.up_proj.weight"),
        r": expected an array 'model.layers.1.mlp.up_proj.weight' of shape \(20, 16\), found none",
    ),
    "extra": (
        _add_an_expert,
        r"model.safetensors: .* found 'model.layers.0.experts.0.weight' besides \(1 in all\)",
    ),
    "misshapen": (
        lambda arrays: arrays.update({"model.norm.weight": np.ones(15, np.float32)}),
        r"model.safetensors: model.norm.weight: expected shape \(16,\) .*, found \(15,\)",
    ),
    "misshapen bias": (
        lambda arrays: arrays.update({"model.layers.0.mlp.up_proj.bias": np.ones(1, np.float32)}),
        r"model.safetensors: model.layers.0.mlp.up_proj.bias: expected shape \(20,\) .*, found \(1,\)",
    ),
    "not finite": (
        lambda arrays: arrays["model.norm.weight"].fill(np.nan),
        "model.safetensors: model.norm.weight: ",
    ),
    "no embeddings": (
        lambda arrays: arrays.pop("model.embed_tokens.weight"),
        r": expected an array '.*embed_tokens.weight' of shape \(31, 16\), found none",
    ),
}


@pytest.mark.parametrize("case", ARRAYS_REFUSED)
def test_arrays_that_are_not_those_of_the_model(copy, case):
    change, message = ARRAYS_REFUSED[case]
    directory = rewrite_arrays(copy(), change)
    with pytest.raises(UserError, match=re.escape(str(directory)) + ".*" + message):
        load_tokens(directory)


@pytest.mark.parametrize("says", [False, None])
def test_an_output_layer_that_is_missing_and_not_tied(copy, says):
    """Without an entry, those of Llama are not tied, and those of GPT-2 are."""
    directory = rewrite(copy(), tie_word_embeddings=says)
    with pytest.raises(
        UserError, match=r"expected an array 'lm_head.weight' of shape \(31, 16\), found none"
    ):
        load_tokens(directory)
    load_tokens(rewrite(copy("gpt2"), tie_word_embeddings=None))


def test_an_output_layer_that_is_there_and_tied(copy):
    """The library overwrites it with the embeddings, or does not: nobody knows which are meant."""
    directory = rewrite_arrays(
        copy(), lambda arrays: arrays.update({"lm_head.weight": arrays["model.embed_tokens.weight"].copy()})
    )
    assert load_tokens(directory).fingerprint() == load_tokens(DIRECTORY / "llama3").fingerprint()
    rewrite_arrays(directory, lambda arrays: arrays["lm_head.weight"].fill(1))
    with pytest.raises(UserError, match="expected lm_head.weight to be the embeddings, as tie_word_emb"):
        load_tokens(directory)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"llama", "qwen3"}))
def test_no_array_may_be_missing(copy, name):
    """Not one of a normalisation, nor a bias or a table of positions, without which it would compute."""
    directory = copy(name)
    path = directory / "model.safetensors"
    whole = numpy_files.load_file(path)
    for array in whole:
        if "pooler" not in array:
            numpy_files.save_file({each: whole[each] for each in whole if each != array}, path)
            with pytest.raises(UserError, match="expected an array '.*' of shape .*, found none"):
                load_tokens(directory)


def test_norms_of_heads_may_not_be_missing(copy):
    directory = copy("qwen3")
    index = directory / "model.safetensors.index.json"
    listed = json.loads(index.read_text())
    listed["weight_map"] = {n: f for n, f in listed["weight_map"].items() if not n.endswith("q_norm.weight")}
    index.write_text(json.dumps(listed))
    with pytest.raises(UserError, match="expected an array 'model.layers.0.self_attn.q_norm.weight'"):
        load_tokens(directory)


def test_biases_that_the_configuration_does_not_name(copy):
    """The library leaves them out."""
    directory = rewrite(copy(), attention_bias=False)
    with pytest.raises(UserError, match="found 'model.layers.0.self_attn.k_proj.bias' besides"):
        load_tokens(directory)


def test_a_number_of_types_is_that_of_the_configuration(copy):
    name = "embeddings.token_type_embeddings.weight"
    directory = rewrite_arrays(copy("bert"), lambda arrays: arrays.update({name: arrays[name][:1].copy()}))
    with pytest.raises(UserError, match=r"expected shape \(2, 16\) as config.json says, found \(1, 16\)"):
        load_tokens(directory)
    network = load_tokens(rewrite(directory, type_vocab_size=1))
    assert network.fingerprint() == load_tokens(DIRECTORY / "bert").fingerprint()


def test_a_window_that_is_not_given_is_that_of_the_library(copy):
    directory = rewrite(copy("mistral"), sliding_window=None)
    attentions = [op for op in load_tokens(directory).operations if isinstance(op, Attention)]
    assert {op.before for op in attentions} == {4095}
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sliding_window": None}))
    attentions = [op for op in load_tokens(directory).operations if isinstance(op, Attention)]
    assert {op.before for op in attentions} == {UNLIMITED}


def test_no_arrays(copy):
    directory = copy()
    (directory / "model.safetensors").unlink()
    with pytest.raises(UserError, match="expected model.safetensors or .*index.json .*, found neither"):
        load_tokens(directory)


def test_a_file_that_the_index_lists_is_missing(copy):
    directory = copy("qwen3")
    name = "model-00002-of-00004.safetensors"
    (directory / name).unlink()
    with pytest.raises(UserError, match=f"{re.escape(str(directory / name))}: expected a .safetensors file"):
        load_tokens(directory)


@pytest.mark.parametrize(
    ("fixture", "name", "content"),
    [
        ("llama", "config.json", "{"),
        ("llama", "config.json", "[1]"),
        ("llama", "model.safetensors", "no arrays"),
        ("qwen3", "model.safetensors.index.json", "{}"),
        ("qwen3", "model.safetensors.index.json", '{"weight_map": ["a"]}'),
    ],
)
def test_a_damaged_file(copy, fixture, name, content):
    path = copy(fixture) / name
    path.write_text(content)
    with pytest.raises(UserError, match=f"{re.escape(str(path))}: expected a readable "):
        load_tokens(path.parent)


@pytest.mark.parametrize("load", [load_model, load_tokens])
def test_a_directory_without_configuration(tmp_path, load):
    with pytest.raises(
        UserError, match="expected a directory with a file config.json, a .gguf file or an .onnx file, found"
    ):
        load(tmp_path)


@pytest.mark.parametrize("wrong", [-1, VOCABULARY])
def test_ids_outside_the_vocabulary(wrong):
    network = load_model(DIRECTORY / "llama", {"ids": (9,)})
    ids = recorded("llama", 9)[0].copy()
    ids[1, 4] = wrong
    with pytest.raises(UserError, match=f"expected token ids from 0 to {VOCABULARY - 1}, found {wrong}"):
        forward(network, ids)


@pytest.mark.parametrize(
    ("shapes", "given"),
    [
        (None, "none"),
        ({}, "none"),
        ({"ids": (0,)}, "ids=1x0"),
        ({"ids": (LONGEST + 1,)}, f"ids=1x{LONGEST + 1}"),
        ({"ids": (3, 4)}, "ids=1x3x4"),
        ({"ids": ()}, "ids=1;"),
        ({"x": (9,)}, "x=1x9"),
        ({"ids": (9,), "x": (9,)}, "ids=1x9 x=1x9"),
    ],
)
def test_the_length_of_sequences(shapes, given):
    with pytest.raises(UserError, match=f"ids=1x1 to ids=1x{LONGEST}, as input shape, got {given}"):
        load_model(DIRECTORY / "llama", shapes)
