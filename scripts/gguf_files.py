"""Write a model directory of the Llama family as a GGUF file, as llama.cpp's converter does.

    python scripts/gguf_files.py MODEL_DIR model.gguf --type Q8_0

Matrices get the type, but for those whose rows are no whole blocks of it, which get F16; all else is F32.
There are no tokens of texts in the file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes  # noqa: F401, safetensors needs it for bfloat16
import numpy as np
from safetensors import safe_open

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0")
# By ``model_type``; queries and keys of the first two turn neighbours.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers": "blk",
}


def main() -> None:
    """Write a file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--type", choices=TYPES, default="F16")
    args = parser.parse_args()
    write(args.file, *contents(args.model), args.type)


def contents(directory: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Metadata and tensors, float32, of a model directory."""
    config = json.loads((directory / "config.json").read_text())
    # Newer versions write all of a rotation into one entry.
    config |= config.get("rope_parameters") or config.get("rope_scaling") or {}
    name = ARCHITECTURES[config["model_type"]]
    metadata, tensors = _metadata(name, config), {}
    for path in sorted(directory.glob("model*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            for key in file.keys():  # noqa: SIM118, it is no mapping
                array = file.get_tensor(key).astype(np.float32)
                tensors[_renamed(key)] = array
    if name == "llama":
        for key in tensors:
            if ".attn_q." in key:
                tensors[key] = _neighbours(tensors[key], config["num_attention_heads"])
            if ".attn_k." in key:
                tensors[key] = _neighbours(tensors[key], config["num_key_value_heads"])
    if config.get("rope_type") == "llama3":
        tensors["rope_freqs.weight"] = _divisors(config)
    return metadata, tensors


def write(path: Path, metadata: dict[str, Any], tensors: dict[str, np.ndarray], kind: str = "F32") -> Path:
    """Write a file; returns its path.

    Args:
        path: of the file.
        metadata: texts, integers, floating-point numbers, booleans, and lists of one of them.
        tensors: float32 or float64.
        kind: of ``TYPES``, of matrices.
    """
    writer = gguf.GGUFWriter(path, metadata["general.architecture"])
    writer.data_alignment = metadata.get("general.alignment", writer.data_alignment)
    for name, value in metadata.items():
        if name != "general.architecture":
            _add(writer, name, value)
    for name, array in tensors.items():
        type_ = gguf.GGMLQuantizationType[kind if array.ndim > 1 else "F32"]
        if array.ndim > 1 and array.shape[-1] % gguf.GGML_QUANT_SIZES[type_][0]:
            type_ = gguf.GGMLQuantizationType.F16
        writer.add_tensor(name, gguf.quantize(array, type_), raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    if isinstance(value, str):
        writer.add_string(name, value)
    elif isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    else:
        writer.add_array(name, value)


def _metadata(name: str, config: dict[str, Any]) -> dict[str, Any]:
    width, heads = config["hidden_size"], config["num_attention_heads"]
    size = config.get("head_dim") or width // heads
    found = {
        "vocab_size": config["vocab_size"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": width,
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": size,
        "attention.value_length": size,
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.dimension_count": size,
        "rope.freq_base": float(config["rope_theta"]),
    }
    if config["model_type"] == "mistral" and config["sliding_window"]:
        found["attention.sliding_window"] = config["sliding_window"]
    if config.get("rope_type") == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(config["factor"])}
    return {
        "general.architecture": name,
        **{f"{name}.{entry}": value for entry, value in found.items()},
        "tokenizer.ggml.model": "none",
    }


def _renamed(name: str) -> str:
    for theirs, ours in _NAMES.items():
        name = name.replace(theirs, ours)
    return name


def _neighbours(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys: the first halves of all pairs of a head, then the second, as pairs."""
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def _divisors(config: dict[str, Any]) -> np.ndarray:
    """What the frequencies of Llama 3.1 are divided by, (pairs,)."""
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    old, factor = config["original_max_position_embeddings"], config["factor"]
    low, high = config["low_freq_factor"], config["high_freq_factor"]
    divisors = []
    for exponent in range(0, size, 2):
        wavelength = 2 * np.pi * config["rope_theta"] ** (exponent / size)
        share = min(max((old / wavelength - low) / (high - low), 0), 1)
        divisors.append(1 / ((1 - share) / factor + share))
    return np.array(divisors, np.float32)


if __name__ == "__main__":
    main()
