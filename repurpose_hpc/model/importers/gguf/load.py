"""Reads a GGUF file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.importers.gguf.families import DIVISORS, OUTPUT, architecture_of, family_of
from repurpose_hpc.model.importers.gguf.file import REMEDY, File
from repurpose_hpc.model.importers.gguf.tensors import Tensors
from repurpose_hpc.model.importers.transformers.architecture import Architecture
from repurpose_hpc.model.importers.transformers.arrays import Arrays
from repurpose_hpc.model.importers.transformers.entries import Entries
from repurpose_hpc.model.importers.transformers.transformer import assemble
from repurpose_hpc.model.network import Network


def load_gguf(path: Path) -> Network:
    """The network of tokens in a file: ids in, logits out.

    Raises:
        UserError: something is missing, damaged or not supported; names the entry or tensor.
    """
    file = File.read(path)
    metadata = Entries(path, file.metadata)
    _, family = family_of(metadata)
    architecture = architecture_of(metadata, file.tensors)
    tensors = Tensors(file, family.reordered(architecture))
    arrays = Arrays(family.names, tensors)
    shape = (architecture.vocabulary, architecture.width)
    tokens = arrays.weight("tokens", shape)
    output = tensors.array(OUTPUT, shape) if OUTPUT in tensors else tokens
    if DIVISORS in tensors:
        architecture = replace(architecture, frequencies=_divided(path, architecture, tensors))
    network = assemble(architecture, arrays, tokens, output)
    tensors.check_all_read()
    return network


def _divided(path: Path, architecture: Architecture, tensors: Tensors) -> np.ndarray:
    """Frequencies divided by what the file has for them, as those of Llama 3.1 are.

    Raises:
        UserError: a divisor is not positive, or of another shape.
    """
    frequencies = architecture.frequencies
    assert frequencies is not None
    divisors = tensors.array(DIVISORS, frequencies.shape)
    if not (divisors > 0).all():
        raise UserError(f"{path}: {DIVISORS}: expected positive numbers, found {divisors.min()}; {REMEDY}")
    return frequencies / divisors
