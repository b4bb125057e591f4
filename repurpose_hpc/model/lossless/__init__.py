"""Smaller networks with the same outputs, in real arithmetic: ``reduced`` (docs/lossless.md).

A *rule* says what the neurons of an operation's target are in terms of those of its sources (``local``,
``mixings``); what it finds is ``Values``.  May import the rest of the model.
"""

from repurpose_hpc.model.lossless.reduction import reduced

__all__ = ["reduced"]
