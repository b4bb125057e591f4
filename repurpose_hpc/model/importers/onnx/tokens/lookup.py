"""The table of the tokens: what stands before the weights of a transformer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.ends import Subgraph
from repurpose_hpc.model.importers.onnx.tokens.matching import place_of_input
from repurpose_hpc.model.network import Network


def table_of(path: Path, network: Network) -> np.ndarray:
    """The rows that stand for the tokens, (vocabulary, width).

    Args:
        path: of the file, for messages.
        network: on sequences of two tokens or more.

    Raises:
        UserError: the front is no lookup in a table.
    """
    front = network.ends.front
    if front is None or front.model:
        raise UserError(f"{path}: {_EXPECTED}, found {', '.join(front.operators) if front else 'no lookup'}")
    sizes = {
        len(front.constants[step.inputs[0]])
        for step in front.steps
        if step.operator == "Gather" and step.inputs[0] in front.constants
    }
    if len(sizes) != 1:
        raise UserError(f"{path}: {_EXPECTED}, found {len(sizes)} tables in {', '.join(front.operators)}")
    ids = np.arange(sizes.pop())
    place = place_of_input(path, network)
    table, other = (_rows(front, each, place) for each in (ids, np.roll(ids, 1)))
    if not np.array_equal(np.roll(table, 1, axis=0), other):
        raise UserError(
            f"{path}: {_EXPECTED}, found {', '.join(front.operators)}, which depend on the position as well"
        )
    return table


_EXPECTED = (
    "expected a table in which every token has a row (Gather) before all weights; export the embeddings of "
    "tokens as one table"
)


def _rows(front: Subgraph, ids: np.ndarray, place: int) -> np.ndarray:
    """Output ``place`` of the front for ids (n,), one sequence after the other, (n, width)."""
    (port,) = front.inputs
    (length,) = port.shape
    sequences = np.resize(ids, (-(-ids.size // length), length)).astype(port.dtype)
    rows = front.compute([sequences])[place]
    return np.ascontiguousarray(rows.reshape(sequences.size, -1)[: ids.size])
