"""Imports of a graph at several lengths, and the longest at which there is one."""

from __future__ import annotations

import warnings
from dataclasses import replace

from repurpose_hpc.errors import LacksMemory, Note, UserError
from repurpose_hpc.model.importers.onnx.evaluation import network_of
from repurpose_hpc.model.importers.onnx.tokens.graph import TokenGraph
from repurpose_hpc.model.importers.onnx.tokens.lookup import table_of
from repurpose_hpc.model.importers.onnx.tokens.matching import Matched
from repurpose_hpc.model.importers.transformers.transformer import embedding
from repurpose_hpc.model.network import Network

# Tokens of a sequence where nothing in a graph says how many there may be.
LONGEST = 2048
# Lengths at which a graph is imported besides the longest: primes, which no other size of a layer is.
_SHORT = (11, 13)
_FEWEST = _SHORT[1] + 1


def network_of_tokens(graph: TokenGraph, longest: int | None = None) -> Network:
    """The network of tokens in an ONNX graph.

    Args:
        graph: for sequences of any length.
        longest: see ``load_tokens``.

    Raises:
        UserError: something in the graph is not supported, or it computes otherwise at one of the lengths.
    """
    path = graph.graph.path
    if longest is not None and longest < _FEWEST:
        raise UserError(f"longest: expected {_FEWEST} tokens or more, got {longest}; give more")
    first, second = (_at(graph, length) for length in _SHORT)
    short = Matched(path, second)
    short.check(first)
    short.network()  # what is refused at any length is so before longer imports
    matched = Matched(path, _of(graph, longest) if longest else _longest(graph))
    for network in (first, second):
        matched.check(network)
    table = table_of(path, first)
    padding = graph.padding if graph.padding in range(len(table)) else None
    return replace(matched.network(), ends=embedding(table, padding))


def _of(graph: TokenGraph, longest: int) -> Network:
    """The network at a length that was asked for."""
    try:
        return _at(graph, longest)
    except UserError as error:
        raise UserError(
            f"longest: expected as many tokens as the graph has positions for, got {longest}: {error}"
        ) from None


def _longest(graph: TokenGraph) -> Network:
    """The network at the longest length at which the graph can be imported, up to ``LONGEST``."""
    whole = _imported(graph, LONGEST)
    if whole is not None:
        path = graph.graph.path
        warnings.warn(
            f"{path}: sequences of up to {LONGEST} tokens are taken; --longest, or load_tokens(longest=...), "
            "takes more if the model has positions for them",
            Note,
            stacklevel=4,
        )
        return whole
    whole, least, most = _bounds(graph)
    step = 1
    while most - least > 1:
        middle = min(least + step, (least + most) // 2)
        found = _imported(graph, middle)
        if found is None:
            most, step = middle, 1
        else:
            whole, least, step = found, middle, 2 * step
    return _at(graph, least) if whole is None else whole


def _bounds(graph: TokenGraph) -> tuple[Network | None, int, int]:
    """A length at which the graph can be imported, with the network if it was, and one at which it cannot.

    A table of positions has a row for each, or a few more.  What is too long is refused at once.
    """
    sizes = {size for array in graph.graph.constants.values() for size in array.shape}
    most = LONGEST
    for size in sorted((size for size in sizes if _FEWEST < size < LONGEST), reverse=True):
        whole = _imported(graph, size)
        if whole is not None:
            return whole, size, most
        most = size
    return None, _FEWEST, most


def _imported(graph: TokenGraph, length: int) -> Network | None:
    """The network at a length, None where the graph cannot be so long.

    Raises:
        UserError: there is not enough memory to tell.
    """
    try:
        return _at(graph, length)
    except LacksMemory as error:
        remedy = f"--longest, or load_tokens(longest=...), below {length} needs less"
        raise UserError(f"{error}; {remedy}") from None
    except UserError:
        return None


def _at(graph: TokenGraph, length: int) -> Network:
    return network_of(graph.at(length), are_sequences=True)
