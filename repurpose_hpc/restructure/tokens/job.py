"""A whole restructuring of a network of tokens: from texts to what is to be written, and how good it is."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.progress import PENDING
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.texts import UNPOOLED, Pooling, check_texts
from repurpose_hpc.restructure.context import Log, silent
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.exact import split_network
from repurpose_hpc.restructure.held_out import ONE_IN, split_record
from repurpose_hpc.restructure.tokens.driver import Measured, measure_halves, restructure_tokens
from repurpose_hpc.restructure.tokens.options import TokenOptions
from repurpose_hpc.restructure.tokens.promise import TokenOutcome, check_promise, keep_promise
from repurpose_hpc.restructure.tokens.quality import held_out, measure

# Tokens to restructure with, for each neuron of the stream.
FEWEST = 4


def restructure_texts(
    network: Network,
    texts: Sequence[np.ndarray],
    options: TokenOptions,
    dtype: type = np.float32,
    log: Log = silent,
    pooling: Pooling | None = None,
) -> TokenOutcome:
    """Restructure a network of tokens, with a budget or with a promise, and measure it.

    Args:
        network: of tokens, trained.
        texts: calibration data, ids (tokens,) integers of each.
        options: how.
        dtype: of the weights, and to measure in: float32 or float64.
        log: is given one line for each step.
        pooling: what is made of the outputs of an encoder; None: nothing, or something else than a
            ``Pooling`` can say.

    Raises:
        UserError: it is no network of tokens, or texts that it cannot read; too few of them; a promise that
            it cannot keep.
    """
    split = held_out(texts, options.seed) if len(texts) >= ONE_IN else None
    calibration = list(texts) if split is None else split.rest
    _check(network, texts, calibration, options)

    @cache  # all trials of a promise are of the same texts
    def measured() -> Measured:
        return measure_halves(network, calibration, options, pooling or UNPOOLED)

    def make(texts: Sequence[np.ndarray], options: TokenOptions, log: Log) -> Cut:
        if options.workers == 1:
            return rounded(split_network(network, 1))
        log(f"measuring what halves of blocks add{PENDING}")
        return rounded(restructure_tokens(texts, options, measured(), log))

    def rounded(cut: Cut) -> Cut:
        # With the weights as they are written: what is measured must be what is kept.
        return replace(cut, network=cut.network.astype(dtype))

    if options.promised is not None:
        return keep_promise(network, texts, options, make, log, dtype)
    cut = make(calibration, options, log)
    log(f"comparing with the original{PENDING}")
    judges = texts if split is None else split.held_out
    record = {} if split is None else split_record(split.mask, options.seed, "texts")
    return TokenOutcome(cut, options, measure(network, cut, judges, dtype), record=record)


def texts_sha256(texts: Sequence[np.ndarray]) -> str:
    """SHA-256 (hex) of the ids of texts and of where each ends."""
    digest = hashlib.sha256(np.array([text.size for text in texts], "<i8").tobytes())
    for text in texts:
        digest.update(np.asarray(text, "<i8").tobytes())
    return digest.hexdigest()


def _check(
    network: Network, texts: Sequence[np.ndarray], calibration: Sequence[np.ndarray], options: TokenOptions
) -> None:
    if not network.longest:
        raise UserError(
            "network: expected one of tokens, as load_tokens returns, found one of samples; "
            "restructure_network is for it"
        )
    check_texts(texts, network.longest, len(network.ends.embeddings), network.ends.padding)
    check_promise(network, texts, options)
    tokens, fewest = sum(text.size for text in calibration), FEWEST * network.inputs
    if tokens < fewest:
        raise UserError(
            f"expected at least {fewest} tokens to restructure with, {FEWEST} for each neuron of the stream, "
            f"got {tokens} in the {len(calibration)} of {len(texts)} texts that are not held out; add texts "
            "like those that the network will read"
        )
