"""Make the fixtures in ``transformers/`` with Hugging Face's library (needs transformers 4.57.6 and torch).

A fixture is a directory with a model as ``save_pretrained`` writes it, and ``expected.npz``: for lengths of
9 and 31 ``ids_9`` (sequences, positions) and ``outputs_9`` (sequences, positions, outputs), and of decoders
``continuations`` (sequences, tokens), what is generated greedily behind ``ids_9``.  All are computed in
float32 from the weights as stored.  The weights are random, from a fixed seed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
import transformers as hf

DIRECTORY = Path(__file__).resolve().parent / "transformers"
VOCABULARY, POSITIONS, SEQUENCES, LENGTHS, NEW_TOKENS = 31, 32, 2, (9, 31), 12
# Logits of the first two tokens differ by more, or rounding may decide which is generated.
MARGIN = 1e-3

ENDLESS = {"bos_token_id": None, "eos_token_id": None}
SIZES = {
    **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 20},
    **{"vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS},
}
BASE = {**SIZES, **ENDLESS, "num_key_value_heads": 2}
STRETCHED = {
    **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "original_max_position_embeddings": 16,
}
BIASED = {"attention_bias": True, "mlp_bias": True}
CONFIGS = {
    "llama": hf.LlamaConfig(**BASE),
    "llama3": hf.LlamaConfig(
        **BASE, **BIASED, tie_word_embeddings=True, rope_theta=500.0, rope_scaling=STRETCHED
    ),
    "linear": hf.LlamaConfig(**BASE, rope_scaling={"rope_type": "linear", "factor": 4.0}),
    "mistral": hf.MistralConfig(**BASE, sliding_window=5, head_dim=10),
    "qwen2": hf.Qwen2Config(**BASE, tie_word_embeddings=True),
    "qwen3": hf.Qwen3Config(**BASE, head_dim=8),
    "gpt2": hf.GPT2Config(
        n_embd=16, n_layer=2, n_head=4, vocab_size=VOCABULARY, n_positions=POSITIONS, **ENDLESS
    ),
    "bert": hf.BertConfig(**SIZES),
}
STORED = {"llama": torch.bfloat16}
IN_SEVERAL_FILES = "qwen3"


def draw(name: str) -> torch.nn.Module:
    """A model with random weights, among them biases and scales that are not 0 and 1."""
    kind = hf.AutoModel if name == "bert" else hf.AutoModelForCausalLM
    model = kind.from_config(CONFIGS[name])
    for label, parameter in model.named_parameters():
        is_scale = parameter.ndim == 1 and label.endswith("weight")
        torch.nn.init.normal_(parameter, float(is_scale), 0.35)
    return model.to(STORED.get(name, torch.float32))


def compute(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """What is expected of a model."""
    expected = {}
    for length in LENGTHS:
        ids = torch.randint(0, VOCABULARY, (SEQUENCES, length))
        result = model(ids)
        outputs = result.logits if hasattr(result, "logits") else result.last_hidden_state
        expected |= {f"ids_{length}": ids.numpy(), f"outputs_{length}": outputs.numpy()}
    if model.can_generate():
        expected["continuations"] = continuations(model, torch.tensor(expected["ids_9"]))
    return expected


def continuations(model: torch.nn.Module, ids: torch.Tensor) -> np.ndarray:
    """The tokens behind ``ids``, each the likeliest by far."""
    result = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    best = torch.stack(result.logits).topk(2).values
    if (best[..., 0] - best[..., 1]).min() < MARGIN:
        raise RuntimeError("expected one token far likelier than the others, found two; change the seed")
    return result.sequences[:, ids.shape[1] :].numpy()


@torch.no_grad()
def write(name: str) -> None:
    """Write one fixture."""
    directory = DIRECTORY / name
    shutil.rmtree(directory, ignore_errors=True)
    draw(name).save_pretrained(directory, max_shard_size="8KB" if name == IN_SEVERAL_FILES else "1MB")
    (directory / "generation_config.json").unlink(missing_ok=True)
    # Read again: casting a model to bfloat16 rounds more than its weights.
    kind = hf.AutoModel if name == "bert" else hf.AutoModelForCausalLM
    model = kind.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    np.savez(directory / "expected.npz", **compute(model))


def main() -> None:
    """Write all of them."""
    for seed, name in enumerate(CONFIGS):
        torch.manual_seed(seed)
        write(name)


if __name__ == "__main__":
    main()
