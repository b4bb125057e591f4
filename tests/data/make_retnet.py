"""Make the fixtures ``transformers/retnet*`` from the recurrent equations of retention (needs torch).

They are what ``make_transformers.py`` makes of other families.  No library has these models, so the equations
are written here, token by token, in float64: Sun et al., "Retentive Network: A Successor to Transformer for
Large Language Models" (2023), with names and details of the public code of torchscale.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional

DIRECTORY = Path(__file__).resolve().parent / "transformers"
VOCABULARY, SEQUENCES, LENGTHS, NEW_TOKENS = 31, 2, (9, 31), 12
# Logits of the first two tokens differ by more, or rounding may decide which is generated.
MARGIN = 1e-3

BASE = {
    **{"architectures": ["RetNetForCausalLM"], "model_type": "retnet", "vocab_size": VOCABULARY},
    **{"decoder_embed_dim": 16, "decoder_value_embed_dim": 24, "decoder_ffn_embed_dim": 20},
    **{"decoder_layers": 2, "decoder_retention_heads": 4, "decoder_normalize_before": True},
    **{"layernorm_eps": 1e-6, "deepnorm": False, "max_position_embeddings": 32},
}
CONFIGS = {
    "retnet": {
        **{**BASE, "activation_fn": "swish", "use_glu": True, "subln": True, "tie_word_embeddings": False},
        **{"layernorm_embedding": False, "no_scale_embedding": True, "use_lm_decay": False},
    },
    "retnet-plain": {
        **{**BASE, "activation_fn": "gelu", "use_glu": False, "subln": False, "tie_word_embeddings": True},
        **{"layernorm_embedding": True, "no_scale_embedding": False, "use_lm_decay": True},
    },
}
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "swish": functional.silu,
    "gelu": functional.gelu,
}


def draw(config: dict) -> dict[str, torch.Tensor]:
    """Random arrays of a model, by their names in files."""
    width, values, hidden = (config[f"decoder_{word}embed_dim"] for word in ("", "value_", "ffn_"))
    shapes = {"model.embed_tokens.weight": (VOCABULARY, width), "model.layer_norm.weight": (width,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (VOCABULARY, width)
    if config["layernorm_embedding"]:
        shapes["model.layernorm_embedding.weight"] = (width,)
    for layer in range(config["decoder_layers"]):
        for norm in ("retention_layer_norm", "final_layer_norm"):
            shapes[f"model.layers.{layer}.{norm}.weight"] = (width,)
        for name, rows, columns in (
            *((name, width, width) for name in ("q_proj", "k_proj")),
            *((name, values, width) for name in ("v_proj", "g_proj")),
            ("out_proj", width, values),
        ):
            shapes[f"model.layers.{layer}.retention.{name}.weight"] = (rows, columns)
        shapes[f"model.layers.{layer}.ffn.fc1.weight"] = (hidden, width)
        shapes[f"model.layers.{layer}.ffn.fc2.weight"] = (width, hidden)
        if config["use_glu"]:
            shapes[f"model.layers.{layer}.ffn.gate.weight"] = (hidden, width)
        else:
            shapes[f"model.layers.{layer}.ffn.fc1.bias"] = (hidden,)
            shapes[f"model.layers.{layer}.ffn.fc2.bias"] = (width,)
    arrays = {name: 0.35 * torch.randn(shape) for name, shape in shapes.items()}
    return {name: array + 1 if "norm" in name else array for name, array in arrays.items()}


class Recurrent:
    """A model that reads a sequence token by token.

    Args:
        config: entries of ``config.json``.
        arrays: of its file.
    """

    def __init__(self, config: dict, arrays: dict[str, torch.Tensor]) -> None:
        self.config = config
        self.arrays = {name.removeprefix("model."): array.double() for name, array in arrays.items()}
        self.heads = config["decoder_retention_heads"]
        self.states: list[torch.Tensor | None] = [None] * config["decoder_layers"]
        self.scale, self.position = torch.zeros(self.heads, dtype=torch.double), 0
        if config["use_lm_decay"]:
            ends = (float(np.log(1 / end)) for end in (32, 512))
            self.decay = 1 - torch.exp(torch.linspace(*ends, self.heads, dtype=torch.double))
        else:
            self.decay = 1 - 2.0 ** (-5 - torch.arange(self.heads, dtype=torch.double))

    def logits(self, token: int) -> torch.Tensor:
        """Those behind a further token, (vocabulary,)."""
        config, table = self.config, self.arrays["embed_tokens.weight"]
        x = table[token] * (1 if config["no_scale_embedding"] else config["decoder_embed_dim"] ** 0.5)
        if config["layernorm_embedding"]:
            x = self._normalised(x, "layernorm_embedding")
        before, self.scale = self.scale, self.scale * self.decay + 1
        for layer in range(config["decoder_layers"]):
            read = self._normalised(x, f"layers.{layer}.retention_layer_norm")
            x = x + self._retained(read, layer, before)
            x = x + self._perceptron(self._normalised(x, f"layers.{layer}.final_layer_norm"), layer)
        self.position += 1
        return self._normalised(x, "layer_norm") @ self.arrays.get("lm_head.weight", table).T

    def _retained(self, x: torch.Tensor, layer: int, before: torch.Tensor) -> torch.Tensor:
        """What retention adds to the stream; the state is kept over the root of the scale."""
        name, heads = f"layers.{layer}.retention", self.heads
        q, k, v, g = (self.arrays[f"{name}.{word}_proj.weight"] @ x for word in "qkvg")
        q, k, v = (each.reshape(heads, -1) for each in (q, k, v))
        q, k = self._turned(q), self._turned(k * k.shape[1] ** -0.5)
        new = k[:, :, None] * v[:, None, :] / self.scale.sqrt()[:, None, None]
        passed = (before.sqrt() * self.decay / self.scale.sqrt())[:, None, None]
        state = self.states[layer]
        self.states[layer] = state = new if state is None else state * passed + new
        y = self._over_root((q[:, :, None] * state).sum(dim=1)).flatten()
        return self.arrays[f"{name}.out_proj.weight"] @ (functional.silu(g) * y)

    def _turned(self, x: torch.Tensor) -> torch.Tensor:
        pairs = x.reshape(self.heads, -1, 2)
        angles = self.position / 10_000 ** torch.linspace(0, 1, pairs.shape[1], dtype=torch.double)
        turned = torch.view_as_complex(pairs.contiguous()) * torch.polar(torch.ones_like(angles), angles)
        return torch.view_as_real(turned).reshape(x.shape)

    def _perceptron(self, x: torch.Tensor, layer: int) -> torch.Tensor:
        name, activation = f"layers.{layer}.ffn", ACTIVATIONS[self.config["activation_fn"]]
        inner = activation(self._linear(x, f"{name}.fc1"))
        if self.config["use_glu"]:
            inner = inner * self._linear(x, f"{name}.gate")
        return self._linear(inner, f"{name}.fc2")

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, self.arrays[f"{name}.weight"], self.arrays.get(f"{name}.bias"))

    def _normalised(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return self._over_root(x) * self.arrays[f"{name}.weight"]

    def _over_root(self, x: torch.Tensor) -> torch.Tensor:
        return x * (x.square().mean(dim=-1, keepdim=True) + self.config["layernorm_eps"]).rsqrt()


def continued(model: Recurrent, ids: list[int]) -> list[int]:
    """The tokens behind ``ids``, each the likeliest by far."""
    found: list[int] = []
    for token in ids:
        logits = model.logits(token)
    for _ in range(NEW_TOKENS):
        first, second = logits.topk(2).values
        if first - second < MARGIN:
            raise RuntimeError("expected one token far likelier than the others, found two; change the seed")
        found.append(int(logits.argmax()))
        logits = model.logits(found[-1])
    return found


def compute(config: dict, arrays: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """What is expected of a model."""
    expected = {}
    for length in LENGTHS:
        ids = torch.randint(0, VOCABULARY, (SEQUENCES, length)).tolist()
        models = [Recurrent(config, arrays) for _ in ids]
        outputs = [
            [model.logits(token).numpy() for token in text] for model, text in zip(models, ids, strict=True)
        ]
        expected |= {f"ids_{length}": np.array(ids), f"outputs_{length}": np.array(outputs, np.float32)}
    texts = expected["ids_9"].tolist()
    expected["continuations"] = np.array([continued(Recurrent(config, arrays), text) for text in texts])
    return expected


@torch.no_grad()
def main() -> None:
    """Write all of them."""
    for seed, (name, config) in enumerate(CONFIGS.items()):
        torch.manual_seed(seed)
        arrays, directory = draw(config), DIRECTORY / name
        directory.mkdir(exist_ok=True)
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_file(arrays, directory / "model.safetensors", metadata={"format": "pt"})
        np.savez(directory / "expected.npz", **compute(config, arrays))


if __name__ == "__main__":
    main()
