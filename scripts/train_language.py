"""Train the bundled language model on texts of Debian and write ``repurpose_hpc/bundled/language/``.

Needs the extras ``train`` (PyTorch) and ``tokenizers``, and the Debian packages ``fortunes`` and
``fortunes-min``.  One run with the default seed takes about an hour on one core.

The network is a small Llama: RMSNorm, rotary positions, grouped queries, SwiGLU, an output layer that is tied
to the embeddings.  It is written as Hugging Face's libraries would write it, in float16.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from language_texts import (
    DATA,
    END,
    SEED,
    TEST_TEXTS,
    VALIDATION_TEXTS,
    WINDOW,
    as_tokens,
    read_texts,
    windows,
    write_ids,
)
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional

from repurpose_hpc import bundled

CALIBRATION_WINDOWS = 400
BATCH = 16
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.1
DROPOUT = 0.1
WARM_UP = 100


@dataclass(frozen=True)
class Sizes:
    """Sizes of the network, by the names of ``config.json``."""

    vocab_size: int = 1024
    hidden_size: int = 192
    intermediate_size: int = 448
    num_hidden_layers: int = 5
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 32
    max_position_embeddings: int = 1024
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5


def train_tokenizer(texts: list[str], size: int) -> Tokenizer:
    """A byte-level BPE of ``size`` tokens; the first one ends a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


class RMSNorm(nn.Module):
    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(size)), epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, x.shape[-1:], self.weight, self.epsilon)


class Attention(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        d, self.sizes = sizes.head_dim, sizes
        self.q_proj = nn.Linear(sizes.hidden_size, sizes.num_attention_heads * d, bias=False)
        self.k_proj = nn.Linear(sizes.hidden_size, sizes.num_key_value_heads * d, bias=False)
        self.v_proj = nn.Linear(sizes.hidden_size, sizes.num_key_value_heads * d, bias=False)
        self.o_proj = nn.Linear(sizes.num_attention_heads * d, sizes.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (-1, self.sizes.head_dim)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = (rotated(heads, self.sizes.rope_theta) for heads in (q, k))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(sizes.hidden_size, sizes.intermediate_size, bias=False)
        self.up_proj = nn.Linear(sizes.hidden_size, sizes.intermediate_size, bias=False)
        self.down_proj = nn.Linear(sizes.intermediate_size, sizes.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(sizes.hidden_size, sizes.rms_norm_eps)
        self.self_attn = Attention(sizes)
        self.post_attention_layernorm = RMSNorm(sizes.hidden_size, sizes.rms_norm_eps)
        self.mlp = MLP(sizes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + functional.dropout(self.self_attn(self.input_layernorm(x)), DROPOUT, self.training)
        return x + functional.dropout(self.mlp(self.post_attention_layernorm(x)), DROPOUT, self.training)


class Language(nn.Module):
    """Logits (samples, tokens, vocabulary) of ids (samples, tokens); names are those of Llama's files."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(sizes.vocab_size, sizes.hidden_size)
        self.layers = nn.ModuleList(Block(sizes) for _ in range(sizes.num_hidden_layers))
        self.norm = RMSNorm(sizes.hidden_size, sizes.rms_norm_eps)
        draw_weights(self, ("o_proj.weight", "down_proj.weight"), sizes.num_hidden_layers)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = functional.dropout(self.embed_tokens(ids), DROPOUT, self.training)
        for layer in self.layers:
            x = layer(x)
        return functional.linear(self.norm(x), self.embed_tokens.weight)


def draw_weights(network: nn.Module, last: tuple[str, ...], layers: int) -> None:
    """Draw matrices; those that add to the stream, whose names end with one of ``last``, are smaller."""
    for name, weight in network.named_parameters():
        if weight.ndim == 2:
            nn.init.normal_(weight, std=0.03 / (math.sqrt(2 * layers) if name.endswith(last) else 1))


def rotated(heads: torch.Tensor, theta: float) -> torch.Tensor:
    """Heads (samples, heads, tokens, d) turned by their positions; the pairs are d/2 apart."""
    half = heads.shape[-1] // 2
    angles = torch.outer(torch.arange(heads.shape[-2]), theta ** (-torch.arange(half) / half))
    cosines, sines = (table.repeat(1, 2) for table in (angles.cos(), angles.sin()))
    first, second = heads.split(half, dim=-1)
    return heads * cosines + torch.cat([-second, first], dim=-1) * sines


def calibration(training: list[list[int]], seed: int) -> np.ndarray:
    """Some windows of the texts that the network is trained on, (CALIBRATION_WINDOWS, WINDOW + 1)."""
    rows = windows(training)
    return rows[np.random.default_rng(seed).permutation(len(rows))[:CALIBRATION_WINDOWS]]


def loss_of(network: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the next token, nats, mean over the windows (samples, WINDOW + 1)."""
    return functional.cross_entropy(network(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


def measure(network: nn.Module, rows: torch.Tensor) -> float:
    """The loss without dropout."""
    network.eval()
    with torch.inference_mode():
        losses = [len(part) * loss_of(network, part).item() for part in rows.split(BATCH)]
    return sum(losses) / len(rows)


def train(network: nn.Module, training: list[list[int]], validation: torch.Tensor, epochs: int) -> None:
    """AdamW with warm-up and a cosine; ends with the weights of the epoch that was best on ``validation``."""
    random = np.random.default_rng(0)
    steps = epochs * (sum(map(len, training)) // (WINDOW * BATCH))
    matrices = [weight for weight in network.parameters() if weight.ndim == 2]
    vectors = [weight for weight in network.parameters() if weight.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        betas=(0.9, 0.95),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    best, weights = math.inf, network.state_dict()
    for epoch in range(epochs):
        network.train()
        rows = windows(training, random.permutation(len(training)), int(random.integers(WINDOW)))
        rows, losses = rows[random.permutation(len(rows))], []
        for batch in torch.from_numpy(rows[: len(rows) // BATCH * BATCH]).split(BATCH):
            loss = loss_of(network, batch)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        held_out = measure(network, validation)
        print(
            f"epoch {epoch + 1}: loss {np.mean(losses):.3f}, on validation texts {held_out:.3f}", flush=True
        )
        if held_out < best:
            best = held_out
            weights = {name: weight.clone() for name, weight in network.state_dict().items()}
    network.load_state_dict(weights)


def write(network: nn.Module, tokenizer: Tokenizer, config: dict[str, object], folder: Path) -> None:
    """The directory: config.json, model.safetensors, tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "eos_token_id": tokenizer.token_to_id(END),
        **config,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    arrays = {f"model.{name}": weight.half().contiguous() for name, weight in network.state_dict().items()}
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))


def make_directory(
    description: str | None,
    make: Callable[[], nn.Module],
    vocabulary: int,
    config: dict[str, object],
    out: Path,
) -> None:
    """Train a network as the command line says, report losses, write the directory with texts for it.

    Args:
        description: of the script.
        make: the network, with weights drawn.
        vocabulary: how many tokens there are.
        config: entries of ``config.json`` that say what the network is.
        out: the directory, by default.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    texts, held_out = read_texts(options.data, options.seed), VALIDATION_TEXTS + TEST_TEXTS
    tokenizer = train_tokenizer(texts[held_out:], vocabulary)
    ids = as_tokens(texts, tokenizer)
    training, validation, test = ids[held_out:], ids[:VALIDATION_TEXTS], ids[VALIDATION_TEXTS:held_out]
    network = make()
    count = sum(weight.numel() for weight in network.parameters())
    print(f"{len(training)} texts of {sum(map(len, training))} tokens to train {count} weights", flush=True)
    train(network, training, torch.from_numpy(windows(validation)), options.epochs)

    network.half().float()  # as written
    rows = windows(test)
    loss = measure(network, torch.from_numpy(rows))
    share = sum(len(text.encode()) + 1 for text in texts[VALIDATION_TEXTS:held_out]) / sum(map(len, test))
    print(
        f"test texts: loss {loss:.3f}, perplexity {math.exp(loss):.2f} a token, "
        f"{loss / math.log(2) / share:.3f} bits a byte"
    )
    write(network, tokenizer, config, options.out)
    write_ids(options.out / bundled.LANGUAGE_TEST.name, rows)
    write_ids(options.out / bundled.LANGUAGE_CALIBRATION.name, calibration(training, options.seed))


def main() -> None:
    """Train the bundled model."""
    sizes = Sizes()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        **vars(sizes),
    }
    make_directory(__doc__, lambda: Language(sizes), sizes.vocab_size, config, bundled.LANGUAGE)


if __name__ == "__main__":
    main()
