"""Formats and resources that all operations of a program have in common."""

from __future__ import annotations

from typing import NamedTuple

from repurpose_hpc.model.comm_dtype import EXACT, FLOAT16, INT8
from repurpose_hpc.runtime.buffers import Arena, Scratch
from repurpose_hpc.runtime.hosting import Hosting
from repurpose_hpc.runtime.sequences import Sequences

KEPT_DTYPES = (EXACT, FLOAT16, INT8)
"""Formats of keys and values; int8 has a scale for each token and head."""


class Formats(NamedTuple):
    """Formats, of those in ``model.comm_dtype``.

    Attributes:
        weights_dtype: of weights in memory.
        comm_dtype: of ghosts in messages.
        kept_dtype: of keys and values of earlier tokens, one of ``KEPT_DTYPES``.
    """

    weights_dtype: str = EXACT
    comm_dtype: str = EXACT
    kept_dtype: str = EXACT


EXACT_FORMATS = Formats()


class Resources(NamedTuple):
    """Workers, memory, formats and threads that a program has, and what its outputs may depend on.

    Attributes:
        hosting: of the program.
        max_batch: most samples of a forward.
        scratch: memory that operations use one after the other.
        arena: memory of weights.
        formats: of weights, ghosts, and keys and values.
        threads: that share the rows of a kernel.
        deterministic: whether outputs have the same bits for any ranks and batches (see ``Program``).
        sequences: of which the samples are tokens; None: they are no parts of sequences.
    """

    hosting: Hosting
    max_batch: int
    scratch: Scratch
    arena: Arena
    formats: Formats
    threads: int
    deterministic: bool
    sequences: Sequences | None = None
