"""Families of transformers: how their configurations and arrays are called.

A name of an array has ``{}`` for the number of its layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from repurpose_hpc.model.importers.huggingface.architecture import Architecture
from repurpose_hpc.model.importers.huggingface.config import Config


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
    """

    architecture: Callable[[Config], Architecture]
    classes: tuple[str, ...]
    names: dict[str, str]
    prefixes: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    is_transposed: bool = False


def _llama(config: Config) -> Architecture:
    width, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    groups = config.integer("num_key_value_heads", heads)
    head_size = config.integer("head_dim", width // heads)
    if heads % groups:
        raise config.error("num_key_value_heads", f"a divisor of num_attention_heads, which is {heads}")
    window = config.entries.get("sliding_window") if config.entries.get("use_sliding_window", True) else None
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
        window=0 if window is None else config.integer("sliding_window"),
    )


def _qwen(config: Config) -> Architecture:
    # Layers with and without a window beside each other.
    if config.entries.get("use_sliding_window"):
        raise config.error(
            "use_sliding_window", "false", "models with windows in some layers are not supported"
        )
    config = Config(config.path, {**config.entries, "use_sliding_window": False})
    return _llama(config)


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
    )


_LLAMA_NAMES = {
    "tokens": "embed_tokens",
    **{f"layers.{word}": f"layers.{{}}.self_attn.{word[0]}_proj" for word in ("queries", "keys", "values")},
    "layers.queries.norm": "layers.{}.self_attn.q_norm",
    "layers.keys.norm": "layers.{}.self_attn.k_norm",
    "layers.attention.out": "layers.{}.self_attn.o_proj",
    "layers.attention.norm": "layers.{}.input_layernorm",
    "layers.perceptron.norm": "layers.{}.post_attention_layernorm",
    **{f"layers.{word}": f"layers.{{}}.mlp.{word}_proj" for word in ("gate", "up", "down")},
    "norm": "norm",
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


def _decoder(architecture: Callable[[Config], Architecture], name: str) -> Family:
    classes = (f"{name}ForCausalLM", f"{name}Model")
    return Family(architecture, classes, _LLAMA_NAMES, ("model.", ""), ("rotary_emb.inv_freq",))


# By the entry ``model_type``.
FAMILIES = {
    "llama": _decoder(_llama, "Llama"),
    "mistral": _decoder(_llama, "Mistral"),
    "qwen2": _decoder(_qwen, "Qwen2"),
    "qwen3": _decoder(_qwen, "Qwen3"),
    "gpt2": Family(
        _gpt2,
        ("GPT2LMHeadModel", "GPT2Model"),
        _GPT2_NAMES,
        ("transformer.", ""),
        (".attn.bias", ".attn.masked_bias"),
        is_transposed=True,
    ),
    "bert": Family(
        _bert,
        ("BertModel",),
        _BERT_NAMES,
        ("bert.", ""),
        ("position_ids", "pooler.dense.weight", "pooler.dense.bias"),
    ),
}
# Whose output layer is tied to the embeddings where the configuration does not say.
TIED = ("gpt2",)
# The output layer's name, of all families.
OUTPUT = "lm_head"
