"""Networks of tokens in ONNX graphs whose axis of the sequence is free.

``inputs`` says what a graph takes beside the ids, and ``padding`` with which id it compares them; ``graph``
makes one of it whose only input is the ids.  ``lengths`` imports it at the longest length and at two
others; ``matching`` makes one network of the three, in which positions are told by ``rotations`` and tables,
and ``lookup`` the table of the tokens.
"""

from repurpose_hpc.model.importers.onnx.tokens.graph import TokenGraph, has_free_tokens, reads_ids
from repurpose_hpc.model.importers.onnx.tokens.lengths import network_of_tokens

__all__ = ["TokenGraph", "has_free_tokens", "network_of_tokens", "reads_ids"]
