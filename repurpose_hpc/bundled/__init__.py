"""The network and data that the commands use when none are named (see README.md here).

May import nothing of the package.
"""

from pathlib import Path

_folder = Path(__file__).resolve().parent

MODEL = _folder / "model.npz"
"""Weights: ``W0, b0, ... W3, b3``, float32; takes raw pixels 0..255, ReLU between layers."""

CALIBRATION = _folder / "calibration.npz"
"""Training images: ``x`` uint8 (4000, 784), ``y`` uint8 (4000,)."""

TEST = _folder / "test.npz"
"""Test images: ``x`` uint8 (2000, 784), ``y`` uint8 (2000,)."""

LANGUAGE = _folder / "language"
"""Directory of a small Llama that writes texts, as Hugging Face's libraries have it."""

LANGUAGE_TEST = LANGUAGE / "test.npz"
"""Texts that it has not seen: ``x`` uint16 (windows, 257), token ids."""

LANGUAGE_CALIBRATION = LANGUAGE / "calibration.npz"
"""Some of those that it was trained on: ``x`` uint16 (400, 257), token ids."""

PROMPT = "<|end|>"
"""With which a text of LANGUAGE begins when no other is given: behind the end of another."""
