"""Hyperparameters of a transformer, whatever its family calls them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from repurpose_hpc.model.activations import Activation


@dataclass(frozen=True, eq=False)
class Architecture:
    """What a transformer is, without its weights.

    Attributes:
        layers: blocks of attention, or retention, and a perceptron.
        width: neurons of the residual stream.
        hidden: neurons of a perceptron.
        heads, groups: of queries, and of keys and values.
        head_size: neurons of a head.
        vocabulary: tokens.
        longest: positions of a sequence, at most.
        epsilon: of normalisations.
        activation: of the perceptrons; ``is_gated``: of a gate that the rest is multiplied by.
        frequencies: of rotary positions, (pairs,) radians per position; None: there is a table instead.
        is_causal: a position sees none after it.
        window: positions that one sees, itself included; 0: all.
        centred: normalisations subtract the mean (LayerNorm), or they do not (RMSNorm).
        normalises_first: normalisations stand in front of attention and perceptron, or behind the sums.
        types: of texts; tokens are of the first.  0: there are none.
        decay: of each head of retention, (heads,), whose outputs a gate multiplies; None: it is attention.
        value_size: neurons of a head of values; 0: as of the others.
        is_interleaved: pairs that are turned are neighbours, as of ``Rotary``.
        embedding_scale: of embeddings that are no output layer.
        biased: layers that have biases, by the names that ``transformer`` gives them.
    """

    layers: int
    width: int
    hidden: int
    heads: int
    groups: int
    head_size: int
    vocabulary: int
    longest: int
    epsilon: float
    activation: Activation
    is_gated: bool
    frequencies: np.ndarray | None
    is_causal: bool = True
    window: int = 0
    centred: bool = False
    normalises_first: bool = True
    types: int = 0
    decay: np.ndarray | None = None
    value_size: int = 0
    is_interleaved: bool = False
    embedding_scale: float = 1.0
    biased: tuple[str, ...] = ()
