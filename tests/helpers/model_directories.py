"""Model directories as Hugging Face's libraries write them, with random weights."""

import json
from pathlib import Path

import numpy as np

VOCABULARY = 23
LLAMA = {
    **{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu"},
    **{"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 3},
    **{"intermediate_size": 14, "vocab_size": VOCABULARY, "max_position_embeddings": 40},
    **{"rms_norm_eps": 1e-5, "rope_theta": 100.0},
}


def llama(directory: Path, overflows: bool = False, **changes) -> Path:
    """A small Llama, whose output may overflow; ``changes``: entries of its configuration."""
    from safetensors.numpy import save_file

    config, rng = {**LLAMA, **changes}, np.random.default_rng(3)
    width, hidden = config["hidden_size"], config["intermediate_size"]
    size = width // config["num_attention_heads"]
    shapes = {
        "model.embed_tokens": (VOCABULARY, width),
        "lm_head": (VOCABULARY, width),
        "model.norm": (width,),
    }
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        shapes |= {f"{name}.self_attn.{word}_proj": (width, width) for word in "qo"}
        groups = config["num_key_value_heads"]
        shapes |= {f"{name}.self_attn.{word}_proj": (groups * size, width) for word in "kv"}
        shapes |= {f"{name}.mlp.{word}_proj": (hidden, width) for word in ("gate", "up")}
        shapes |= {f"{name}.mlp.down_proj": (width, hidden)}
        shapes |= {f"{name}.{word}_layernorm": (width,) for word in ("input", "post_attention")}
    arrays = {
        f"{name}.weight": (rng.standard_normal(shape) / np.sqrt(shape[-1]) + (len(shape) == 1)).astype(
            np.float32
        )
        for name, shape in shapes.items()
    }
    if overflows:
        arrays["lm_head.weight"] = np.sign(arrays["lm_head.weight"]) * np.float32(3e38)
    directory.mkdir(exist_ok=True)
    save_file(arrays, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def tokenizer(directory: Path, tokens: int = VOCABULARY) -> None:
    """A tokenizer of words w0, w1, ..."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"w{number}": number for number in range(tokens)}
    made = Tokenizer(models.WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(directory / "tokenizer.json"))
