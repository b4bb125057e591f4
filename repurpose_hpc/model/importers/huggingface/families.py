"""Families of transformers: how their configurations and arrays are called.

A name of an array has ``{}`` for the number of its layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from repurpose_hpc.model.importers.huggingface.config import Config
from repurpose_hpc.model.importers.transformers.architecture import Architecture


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        architecture: from a configuration.
        classes: entry ``architectures`` of models that are supported.
        names: what ``transformer`` calls an array -> its name in files, without ``.weight`` and ``.bias``.
        prefixes: that all names but that of the output may have.
        ignored: ends of the names of arrays that nothing needs.
        is_transposed: whether weights of layers are (inputs, outputs).
        is_tied: whether the output layer is that of the embeddings where a configuration does not say so.
        variants: from a configuration, further ``names``.
    """

    architecture: Callable[[Config], Architecture]
    classes: tuple[str, ...]
    names: dict[str, str]
    prefixes: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    is_transposed: bool = False
    is_tied: bool = False
    variants: Callable[[Config], dict[str, str]] = lambda config: {}


_READERS = ("layers.queries", "layers.keys", "layers.values")
_ATTENTION = (*_READERS, "layers.attention.out")
_GATED = ("layers.gate", "layers.up", "layers.down")


def _llama(config: Config) -> Architecture:
    config.require("sliding_window", None)
    mlp = _GATED if config.entries.get("mlp_bias") else ()
    return _rotary(config, (*_biased_attention(config), *mlp))


def _mistral(config: Config) -> Architecture:
    # Missing is the library's default, null is none.
    has_window = config.entries.get("sliding_window", 0) is not None
    return _rotary(config, (), config.integer("sliding_window", 4096) if has_window else 0)


def _qwen2(config: Config) -> Architecture:
    _refuse_window(config)
    return _rotary(config, _READERS)


def _qwen3(config: Config) -> Architecture:
    _refuse_window(config)
    return _rotary(config, _biased_attention(config))


def _biased_attention(config: Config) -> tuple[str, ...]:
    return _ATTENTION if config.entries.get("attention_bias") else ()


def _refuse_window(config: Config) -> None:
    """Refuse layers with and without a window beside each other."""
    if config.entries.get("use_sliding_window"):
        raise config.error(
            "use_sliding_window", "false", "models with windows in some layers are not supported"
        )


def _rotary(config: Config, biased: tuple[str, ...], window: int = 0) -> Architecture:
    """Decoders with rotary positions and gated perceptrons."""
    width, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    groups = config.integer("num_key_value_heads", heads)
    head_size = config.integer("head_dim", width // heads)
    if heads % groups:
        raise config.error("num_key_value_heads", f"a divisor of num_attention_heads, which is {heads}")
    return Architecture(
        layers=config.integer("num_hidden_layers"),
        width=width,
        hidden=config.integer("intermediate_size"),
        heads=heads,
        groups=groups,
        head_size=head_size,
        vocabulary=config.integer("vocab_size"),
        longest=config.integer("max_position_embeddings"),
        epsilon=config.number("rms_norm_eps", 1e-6),
        activation=config.activation("hidden_act"),
        is_gated=True,
        frequencies=config.frequencies(head_size),
        window=window,
        biased=biased,
    )


def _gpt2(config: Config) -> Architecture:
    config.require("scale_attn_weights", True)
    config.require("scale_attn_by_inverse_layer_idx", False)
    config.require("add_cross_attention", False)
    width, heads = config.integer("n_embd"), config.integer("n_head")
    return Architecture(
        layers=config.integer("n_layer"),
        width=width,
        hidden=config.integer("n_inner", 4 * width),
        heads=heads,
        groups=heads,
        head_size=width // heads,
        vocabulary=config.integer("vocab_size"),
        longest=config.integer("n_positions"),
        epsilon=config.number("layer_norm_epsilon", 1e-5),
        activation=config.activation("activation_function"),
        is_gated=False,
        frequencies=None,
        centred=True,
        biased=("layers.packed", "layers.attention.out", "layers.up", "layers.down"),
    )


def _bert(config: Config) -> Architecture:
    config.require("position_embedding_type", "absolute")
    config.require("is_decoder", False)
    config.require("add_cross_attention", False)
    width, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    return Architecture(
        layers=config.integer("num_hidden_layers"),
        width=width,
        hidden=config.integer("intermediate_size"),
        heads=heads,
        groups=heads,
        head_size=width // heads,
        vocabulary=config.integer("vocab_size"),
        longest=config.integer("max_position_embeddings"),
        epsilon=config.number("layer_norm_eps", 1e-12),
        activation=config.activation("hidden_act"),
        is_gated=False,
        frequencies=None,
        is_causal=False,
        centred=True,
        normalises_first=False,
        types=config.integer("type_vocab_size", 2),
        biased=(*_ATTENTION, "layers.up", "layers.down"),
    )


# Tokens of a text that a network of retention reads, unless it says more: nothing in it has an end.
_ENDLESS = 1 << 15


def _retnet(config: Config) -> Architecture:
    if "hidden_size" in config.entries:
        raise config.error("hidden_size", "decoder_embed_dim instead", "files of fla are not supported")
    config.require("decoder_normalize_before", True)
    config.require("deepnorm", False)
    width, heads = config.integer("decoder_embed_dim"), config.integer("decoder_retention_heads")
    values = config.integer("decoder_value_embed_dim")
    for name, size in (("decoder_embed_dim", width), ("decoder_value_embed_dim", values)):
        if size % heads:
            raise config.error(name, f"a multiple of decoder_retention_heads, which is {heads}")
    if width // heads % 2:
        raise config.error("decoder_embed_dim", f"pairs of neurons to turn, not {width // heads} of a head")
    if not _is_glu(config):
        config.require("subln", False)
    rates = 2.0 ** (-5 - np.arange(heads))
    if config.entries.get("use_lm_decay"):
        rates = np.exp(np.linspace(np.log(1 / 32), np.log(1 / 512), heads))
    return Architecture(
        layers=config.integer("decoder_layers"),
        width=width,
        hidden=config.integer("decoder_ffn_embed_dim"),
        heads=heads,
        groups=heads,
        head_size=width // heads,
        vocabulary=config.integer("vocab_size"),
        longest=config.integer("max_position_embeddings", _ENDLESS),
        epsilon=config.number("layernorm_eps", 1e-6),
        activation=config.activation("activation_fn"),
        is_gated=_is_glu(config),
        # Not those of RoPE: the last pair is at 1 / 10,000.
        frequencies=10_000.0 ** -np.linspace(0, 1, width // heads // 2),
        decay=1 - rates,
        value_size=values // heads,
        is_interleaved=True,
        embedding_scale=1.0 if config.entries.get("no_scale_embedding", True) else width**0.5,
        biased=() if _is_glu(config) else ("layers.up", "layers.down"),
    )


def _is_glu(config: Config) -> bool:
    return bool(config.entries.get("use_glu", True))


def _retnet_variants(config: Config) -> dict[str, str]:
    names = {"tokens.norm": "layernorm_embedding"} if config.entries.get("layernorm_embedding") else {}
    perceptron = {"gate": "fc1", "up": "gate"} if _is_glu(config) else {"up": "fc1"}
    return names | {f"layers.{word}": f"layers.{{}}.ffn.{name}" for word, name in perceptron.items()}


_LLAMA_NAMES = {
    "tokens": "embed_tokens",
    **{f"layers.{word}": f"layers.{{}}.self_attn.{word[0]}_proj" for word in ("queries", "keys", "values")},
    "layers.attention.out": "layers.{}.self_attn.o_proj",
    "layers.attention.norm": "layers.{}.input_layernorm",
    "layers.perceptron.norm": "layers.{}.post_attention_layernorm",
    **{f"layers.{word}": f"layers.{{}}.mlp.{word}_proj" for word in ("gate", "up", "down")},
    "norm": "norm",
}
_HEAD_NORMS = {
    "layers.queries.norm": "layers.{}.self_attn.q_norm",
    "layers.keys.norm": "layers.{}.self_attn.k_norm",
}
_GPT2_NAMES = {
    "tokens": "wte",
    "positions": "wpe",
    "layers.packed": "h.{}.attn.c_attn",
    "layers.attention.out": "h.{}.attn.c_proj",
    "layers.attention.norm": "h.{}.ln_1",
    "layers.perceptron.norm": "h.{}.ln_2",
    "layers.up": "h.{}.mlp.c_fc",
    "layers.down": "h.{}.mlp.c_proj",
    "norm": "ln_f",
}
_BERT_NAMES = {
    "tokens": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "types": "embeddings.token_type_embeddings",
    "tokens.norm": "embeddings.LayerNorm",
    "layers.queries": "encoder.layer.{}.attention.self.query",
    "layers.keys": "encoder.layer.{}.attention.self.key",
    "layers.values": "encoder.layer.{}.attention.self.value",
    "layers.attention.out": "encoder.layer.{}.attention.output.dense",
    "layers.attention.norm": "encoder.layer.{}.attention.output.LayerNorm",
    "layers.up": "encoder.layer.{}.intermediate.dense",
    "layers.down": "encoder.layer.{}.output.dense",
    "layers.perceptron.norm": "encoder.layer.{}.output.LayerNorm",
}
_RETNET_NAMES = {
    "tokens": "embed_tokens",
    **{f"layers.{word}": f"layers.{{}}.retention.{word[0]}_proj" for word in ("queries", "keys", "values")},
    "layers.attention.gate": "layers.{}.retention.g_proj",
    "layers.attention.out": "layers.{}.retention.out_proj",
    "layers.attention.norm": "layers.{}.retention_layer_norm",
    "layers.perceptron.norm": "layers.{}.final_layer_norm",
    "layers.down": "layers.{}.ffn.fc2",
    "norm": "layer_norm",
}


def _decoder(
    architecture: Callable[[Config], Architecture], name: str, names: dict[str, str] = _LLAMA_NAMES
) -> Family:
    classes = (f"{name}ForCausalLM", f"{name}Model")
    return Family(architecture, classes, names, ("model.", ""), ("rotary_emb.inv_freq",))


# By the entry ``model_type``.
FAMILIES = {
    "llama": _decoder(_llama, "Llama"),
    "mistral": _decoder(_mistral, "Mistral"),
    "qwen2": _decoder(_qwen2, "Qwen2"),
    "qwen3": _decoder(_qwen3, "Qwen3", _LLAMA_NAMES | _HEAD_NORMS),
    "gpt2": Family(
        _gpt2,
        ("GPT2LMHeadModel", "GPT2Model"),
        _GPT2_NAMES,
        ("transformer.", ""),
        (".attn.bias", ".attn.masked_bias"),
        is_transposed=True,
        is_tied=True,
    ),
    "retnet": Family(
        _retnet,
        ("RetNetForCausalLM", "RetNetModel"),
        _RETNET_NAMES,
        ("model.", ""),
        ("retnet_rel_pos.angle", "retnet_rel_pos.decay"),
        variants=_retnet_variants,
    ),
    "bert": Family(
        _bert,
        ("BertModel",),
        _BERT_NAMES,
        ("bert.", ""),
        ("position_ids", "pooler.dense.weight", "pooler.dense.bias"),
    ),
}
# The output layer's name, of all families.
OUTPUT = "lm_head"
