"""Small transformers with random weights, as networks of tokens."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.builder import Builder
from repurpose_hpc.model.importers.huggingface.config import Config
from repurpose_hpc.model.importers.huggingface.families import FAMILIES
from repurpose_hpc.model.importers.transformers.architecture import Architecture
from repurpose_hpc.model.importers.transformers.arrays import Arrays
from repurpose_hpc.model.importers.transformers.transformer import assemble
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Attention

VOCABULARY, LONGEST = 19, 24


class _Drawn:
    """Random arrays of any name."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def __contains__(self, name: str) -> bool:
        return True

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Normally distributed numbers; scales of normalisations are near 1."""
        drawn = self._rng.standard_normal(shape) / np.sqrt(shape[-1])
        return 1 + drawn / 4 if len(shape) == 1 and name.endswith("weight") else drawn


def decoder(
    seed: int = 0,
    heads: int = 4,
    groups: int = 2,
    layers: int = 2,
    has_output: bool = True,
    family: str = "qwen3",
    **changes,
) -> Network:
    """A decoder with rotary positions and gated perceptrons; ``changes``: of ``Architecture``."""
    architecture = Architecture(
        **{"layers": layers, "width": 3 * heads, "hidden": 14, "heads": heads, "groups": groups},
        **{"head_size": 4, "vocabulary": VOCABULARY, "longest": LONGEST, "epsilon": 1e-5},
        **{"activation": Activation("silu"), "is_gated": True, "frequencies": np.array([1.0, 0.1])},
        biased=("layers.queries", "layers.values", "layers.up", "layers.down"),
    )
    architecture, chosen = replace(architecture, **changes), FAMILIES[family]
    arrays = Arrays(chosen.names | chosen.variants(Config(Path("config.json"), {})), _Drawn(seed))
    tokens = arrays.weight("tokens", (architecture.vocabulary, architecture.width))
    return assemble(architecture, arrays, tokens, tokens if has_output else None)


def encoder(seed: int = 0, **changes) -> Network:
    """Likewise, but tokens see those behind them, and the stream is the output."""
    return decoder(seed, has_output=False, is_causal=False, **changes)


def retentive(seed: int = 0, heads: int = 4, **changes) -> Network:
    """A decoder with retention, of several decays, and values that are wider than keys."""
    decay = 1 - 0.5 ** np.arange(1.0, heads + 1)
    kept = {"decay": decay, "value_size": 5, "is_interleaved": True, "biased": ()}
    return decoder(seed, heads, heads, family="retnet", **kept, **changes)


def normalised_behind(seed: int = 0, **changes) -> Network:
    """An encoder with a table of positions, LayerNorm behind all sums, and perceptrons without gates."""
    kept = {"normalises_first": False, "centred": True, "is_gated": False, "frequencies": None}
    return encoder(seed, family="bert", **kept, **changes)


def branching(seed: int = 0, steps: int = 9, width: int = 6) -> Network:
    """Random operations on tokens, each on any tensors before it; the last one is an output, and one more."""
    rng, builder = np.random.default_rng(seed), Builder()
    tensors = [builder.input("input", width)]

    def mixed(name: str) -> str:
        weights = rng.standard_normal((width, width)) / np.sqrt(width)
        return builder.mixing(name, str(rng.choice(tensors)), weights, rng.standard_normal(width))

    def attention(name: str, is_turned: bool = False) -> str:
        queries, keys, values = (mixed(f"{name}.{kind}") for kind in "qkv")
        if is_turned:
            queries = builder.rotary(f"{name}.q.turned", queries, 2, np.ones(1))
            keys = builder.rotary(f"{name}.k.turned", keys, 2, np.ones(1))
        op = Attention(name, (queries, keys, values), f"{name}.y", 2, 2, 0.5, after=0)
        return builder.attention(op)

    def added(name: str) -> str:
        return builder.combine(name, mixed(f"{name}.left"), mixed(f"{name}.right"), "add")

    makers = {
        "mixing": mixed,
        "attention": attention,
        "added": added,
        "turned": lambda name: attention(name, is_turned=True),
        "placed": lambda name: builder.position_table(
            name, mixed(f"{name}.x"), rng.standard_normal((width, LONGEST))
        ),
        "active": lambda name: builder.elementwise(name, mixed(f"{name}.x"), Activation("tanh")),
    }
    for step, kind in enumerate(rng.choice(list(makers), steps)):
        tensors.append(makers[kind](f"{kind}{step}"))
    return builder.build((mixed("output"), tensors[-1]), ("identity", "identity"), longest=LONGEST)


def texts(seed: int = 0, lengths: tuple[int, ...] = (9, 1, 14)) -> list[np.ndarray]:
    """Random ids, one text of each length."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCABULARY, length) for length in lengths]
