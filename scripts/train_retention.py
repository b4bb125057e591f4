"""Train a small network of retention (RetNet) on texts of Debian and write it in the public layout.

    python scripts/train_retention.py --out DIR

Needs what ``train_language.py`` needs, and reads the same texts.  The directory is one of ``generate``,
``restructure`` and ``infer``; ``calibration.npz`` and ``test.npz`` in it are texts for them.  An epoch takes
about two and a half minutes on one core.

What it computes is the parallel form of Sun et al., "Retentive Network: A Successor to Transformer for Large
Language Models" (2023), with decays, rotations, scales and names as in the public code of torchscale.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from train_language import DROPOUT, RMSNorm, draw_weights, make_directory

OUT = Path("retention")


@dataclass(frozen=True)
class Sizes:
    """Sizes of the network, by the names of ``config.json``."""

    vocab_size: int = 1024
    decoder_embed_dim: int = 128
    decoder_value_embed_dim: int = 256
    decoder_ffn_embed_dim: int = 320
    decoder_layers: int = 4
    decoder_retention_heads: int = 4
    layernorm_eps: float = 1e-6


class Retention(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, values = sizes.decoder_embed_dim, sizes.decoder_value_embed_dim
        self.sizes, self.scale = sizes, (width // sizes.decoder_retention_heads) ** -0.5
        self.q_proj, self.k_proj = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.v_proj, self.g_proj = (nn.Linear(width, values, bias=False) for _ in range(2))
        self.out_proj = nn.Linear(values, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.sizes.decoder_retention_heads
        q, k, v = (
            layer(x).unflatten(-1, (heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        scores = rotated(q) @ rotated(k * self.scale).transpose(2, 3)
        y = scores * weights_by_distance(heads, x.shape[1]) @ v
        y = functional.rms_norm(y, y.shape[-1:], eps=self.sizes.layernorm_eps)
        return self.out_proj(functional.silu(self.g_proj(x)) * y.transpose(1, 2).flatten(2))


class GLU(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.fc1 = nn.Linear(sizes.decoder_embed_dim, sizes.decoder_ffn_embed_dim, bias=False)
        self.gate = nn.Linear(sizes.decoder_embed_dim, sizes.decoder_ffn_embed_dim, bias=False)
        self.fc2 = nn.Linear(sizes.decoder_ffn_embed_dim, sizes.decoder_embed_dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(functional.silu(self.fc1(x)) * self.gate(x))


class Block(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.retention_layer_norm = RMSNorm(sizes.decoder_embed_dim, sizes.layernorm_eps)
        self.retention = Retention(sizes)
        self.final_layer_norm = RMSNorm(sizes.decoder_embed_dim, sizes.layernorm_eps)
        self.ffn = GLU(sizes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + functional.dropout(self.retention(self.retention_layer_norm(x)), DROPOUT, self.training)
        return x + functional.dropout(self.ffn(self.final_layer_norm(x)), DROPOUT, self.training)


class Language(nn.Module):
    """Logits (samples, tokens, vocabulary) of ids (samples, tokens); names are those of public files."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(sizes.vocab_size, sizes.decoder_embed_dim)
        self.layers = nn.ModuleList(Block(sizes) for _ in range(sizes.decoder_layers))
        self.layer_norm = RMSNorm(sizes.decoder_embed_dim, sizes.layernorm_eps)
        draw_weights(self, ("out_proj.weight", "fc2.weight"), sizes.decoder_layers)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = functional.dropout(self.embed_tokens(ids), DROPOUT, self.training)
        for layer in self.layers:
            x = layer(x)
        return functional.linear(self.layer_norm(x), self.embed_tokens.weight)


def rotated(heads: torch.Tensor) -> torch.Tensor:
    """Heads (samples, heads, tokens, d) turned by their positions; the pairs are neighbours."""
    pairs = heads.shape[-1] // 2
    angles = torch.outer(torch.arange(heads.shape[-2]), 10_000 ** -torch.linspace(0, 1, pairs))
    first, second = heads[..., ::2], heads[..., 1::2]
    turned = first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()
    return torch.stack(turned, dim=-1).flatten(-2)


def weights_by_distance(heads: int, tokens: int) -> torch.Tensor:
    """What each token weighs for later ones, over the root of the sum, (heads, tokens, tokens)."""
    decay = 1 - 2.0 ** (-5 - torch.arange(heads))
    distance = torch.arange(tokens)[:, None] - torch.arange(tokens)
    weights = torch.tril(decay[:, None, None] ** distance.clamp(min=0))
    return weights / weights.sum(dim=-1, keepdim=True).sqrt()


def main() -> None:
    """Train it."""
    sizes = Sizes()
    config = {
        **{"architectures": ["RetNetForCausalLM"], "model_type": "retnet", "activation_fn": "swish"},
        **{"decoder_normalize_before": True, "use_glu": True, "no_scale_embedding": True},
        **vars(sizes),
    }
    make_directory(__doc__, lambda: Language(sizes), sizes.vocab_size, config, OUT)


if __name__ == "__main__":
    main()
