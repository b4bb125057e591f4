"""Compares a network of tokens with the ONNX file that it was made from."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial

import numpy as np

from repurpose_hpc.errors import Note, UserError
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.onnx.tokens import TokenGraph
from repurpose_hpc.model.importers.opinion.asking import Differs, ask
from repurpose_hpc.model.importers.opinion.comparison import (
    HALF_PRECISION_TOLERANCE,
    ImportCheck,
    differences,
)
from repurpose_hpc.model.importers.opinion.evaluators import Evaluator, evaluators
from repurpose_hpc.model.network import Network

# Tokens of the sequences, as far as the network takes so many: other lengths than those of the imports.
_LENGTHS = (7, 29)
# Of programs that compute in float32, relative to the largest value of a sequence; another activation, mask
# or position is far more.
_TOLERANCE = 1e-4


def check_tokens(graph: TokenGraph, network: Network) -> ImportCheck:
    """Compare a network of tokens with its file on random ids of two lengths; warns if no program can run it.

    Where one program computes something else, the next one is asked, which computes in float64.

    Args:
        graph: that of the file.
        network: made from it.

    Raises:
        UserError: the network is not the one in the file.
    """
    path = graph.graph.path
    result, fault = ask(evaluators(path), partial(_largest_difference, graph, network))
    if fault:
        raise UserError(f"{path}: {fault}; please report it; load_tokens(check=False) goes on regardless")
    if result.evaluator is None:
        warnings.warn(f"{path}: {result}", Note, stacklevel=3)
    return result


def _largest_difference(graph: TokenGraph, network: Network, evaluator: Evaluator) -> float:
    """The largest difference at any length.

    Raises:
        Differs: it is too large.
        CannotRun, UserError: see ``_differences``.
    """
    largest, length = max(_differences(graph, network, evaluator))
    if largest <= (HALF_PRECISION_TOLERANCE if evaluator.half_precision else _TOLERANCE):
        return largest
    raise Differs(
        f"the imported network differs from the model by {largest:.1e} of the largest output for a "
        f"sequence of {length} tokens in {evaluator.name}"
    )


def _differences(graph: TokenGraph, network: Network, evaluator: Evaluator) -> Iterator[tuple[float, int]]:
    """The largest difference at each length, and the length.

    Raises:
        CannotRun: the evaluator cannot run the file.
        UserError: its outputs are no rows of tokens.
    """
    rng, tokens = np.random.default_rng(0), np.arange(len(network.ends.embeddings))
    tokens = tokens[tokens != network.ends.padding]
    for length in _LENGTHS:
        length = min(length, network.longest)
        ids = rng.choice(tokens, (evaluator.batch or 2, length))
        feeds = {
            name: array.astype(evaluator.inputs[name]) for name, array in graph.inputs.feeds(ids).items()
        }
        expected = evaluator.outputs(feeds)[graph.place]
        found = forward(network.at(length), ids)
        if expected.shape[:2] != ids.shape or found.size != expected.size:
            raise UserError(
                f"{graph.graph.path}: expected outputs of {len(ids)} sequences and {length} tokens, in this "
                f"order, found shape {expected.shape} in {evaluator.name}; export the model so"
            )
        yield float(differences(found.reshape(expected.shape), expected).max()), length
