"""The file config.json of a model directory, its entries checked as they are asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from repurpose_hpc.io.reading import reading
from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.importers.transformers.entries import Entries

# By Hugging Face's names.
_ACTIVATIONS = {
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_fast"), Activation("gelu_tanh")),
    **{"gelu": Activation("gelu"), "relu": Activation("relu")},
    **dict.fromkeys(("silu", "swish"), Activation("silu")),
}


class Config(Entries):
    """The entries of a file, as JSON values."""

    @classmethod
    def read(cls, path: Path) -> Config:
        """The entries of a file.

        Raises:
            UserError: it cannot be read, or is no JSON object.
        """
        with reading(path, "model configuration", "save the model again"):
            entries = json.loads(path.read_text())
            if not isinstance(entries, dict):
                raise ValueError(f"it holds {type(entries).__name__}, no object")
        return cls(path, entries)

    def activation(self, name: str) -> Activation:
        """An activation.

        Raises:
            UserError: it is not known.
        """
        known = _ACTIVATIONS.get(str(self.entries.get(name)))
        if known is None:
            raise self.error(name, f"one of {', '.join(_ACTIVATIONS)}", "others are not supported")
        return known

    def frequencies(self, head_size: int) -> np.ndarray:
        """Frequencies of rotary positions, (pairs,) float64.

        Raises:
            UserError: they are scaled in a way that is not known.
        """
        # Newer versions write all into one entry, older ones what differs from a plain rotation into another.
        name = "rope_parameters" if self.entries.get("rope_parameters") else "rope_scaling"
        scaling = self.entries.get(name) or {}
        if not isinstance(scaling, dict):
            raise self.error(name, "an object")
        if any(isinstance(value, dict) for value in scaling.values()):
            raise self.error(name, "one rotation for all layers", "others are not supported")
        both = Config(self.path, {**self.entries, **scaling})
        theta = both.number("rope_theta", 10000.0)
        rotated = int(head_size * both.number("partial_rotary_factor", 1.0))
        if rotated % 2:
            raise self.error("head_dim", f"pairs of neurons to turn, not {rotated} of a head")
        plain = theta ** (-np.arange(0, rotated, 2) / rotated)
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind == "default":
            return plain
        numbers = Config(self.path, scaling)
        if kind == "linear":
            return plain / numbers.number("factor")
        if kind == "llama3":
            return _stretched(plain, numbers)
        raise self.error(name, "a rope_type of default, linear or llama3", "others are not supported")


def _stretched(plain: np.ndarray, numbers: Config) -> np.ndarray:
    """Llama 3.1's frequencies: low ones divided by a factor, high ones kept, between them in proportion."""
    factor, low, high = (numbers.number(f"{word}factor") for word in ("", "low_freq_", "high_freq_"))
    if not low < high:
        raise numbers.error("high_freq_factor", f"more than low_freq_factor, which is {low}")
    turns = numbers.integer("original_max_position_embeddings") * plain / (2 * np.pi)
    share = np.clip((turns - low) / (high - low), 0, 1)
    return plain / factor * (1 - share) + plain * share
