"""A promise instead of a budget, for texts: the least communication that stays within a tolerance.

Budgets are tried as ``search`` says; each trial restructures with four texts in five and is measured on those
that were held out.  Of the trials that stayed within, the one with the smallest budget is what is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from repurpose_hpc.fields import FieldError
from repurpose_hpc.model.comm_dtype import EXACT
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.texts import is_decoder
from repurpose_hpc.restructure.context import Log, silent
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.held_out import ONE_IN, split_record
from repurpose_hpc.restructure.promise import BrokenPromise
from repurpose_hpc.restructure.search import Pace, least_values
from repurpose_hpc.restructure.support.reserve import BudgetTooSmall
from repurpose_hpc.restructure.tokens.budget import dense_values
from repurpose_hpc.restructure.tokens.options import TokenOptions
from repurpose_hpc.restructure.tokens.quality import TokenQuality, held_out, measure

# From texts, options with a budget, and a log.
Restructure = Callable[[Sequence[np.ndarray], TokenOptions, Log], Cut]


@dataclass(frozen=True, eq=False)
class TokenOutcome:
    """A restructured network of tokens, and the options that it was made with.

    Attributes:
        cut: as it is to be written.
        options: those given, with the budget that was used.
        quality: on the texts that were held out; of fewer than five on all, which it was made with.
        trials: of budgets; 0: there was no promise.
        record: how texts were split, for the provenance; empty: none were held out.
    """

    cut: Cut
    options: TokenOptions
    quality: TokenQuality
    trials: int = 0
    record: dict[str, Any] = field(default_factory=dict)


def keep_promise(
    network: Network,
    texts: Sequence[np.ndarray],
    options: TokenOptions,
    restructure: Restructure,
    log: Log,
    dtype: type = np.float32,
) -> TokenOutcome:
    """Search the smallest budget that stays within the tolerance of ``options``.

    Args:
        network: of tokens, trained.
        texts: all calibration data, ids (tokens,) of each.
        options: with a tolerance.
        restructure: makes the network that would be written.
        log: is given one line for each trial.
        dtype: to measure in.

    Raises:
        FieldError: the tolerance means nothing to this network, or there are too few texts.
        BrokenPromise: not even the whole budget meets it.
    """
    check_promise(network, texts, options)
    trials = _Trials(network, texts, options, restructure, log, dtype)
    if least_values(trials.meets, trials.dense) is None:
        raise trials.broken()
    return trials.outcome()


def check_promise(network: Network, texts: Sequence[np.ndarray], options: TokenOptions) -> None:
    """Refuse a promise that means nothing to a network, or that no texts can be held out for.

    Raises:
        FieldError: names the option, and the text where it is one.
    """
    if options.promised is None:
        return
    name, tolerance = options.promised
    if len(texts) < ONE_IN:
        raise FieldError(
            name,
            f"expected at least {ONE_IN} texts for {tolerance:g}, so that 1 can be held out (1 in {ONE_IN}), "
            f"got {len(texts)}; add texts, or divide them",
        )
    if name == "max_output_error":
        return
    if not is_decoder(network):
        raise FieldError(
            name,
            "expected a decoder, of which the outputs of a token tell the next one, found another network; "
            "promise max_output_error=0.05",
        )
    for place, text in enumerate(texts):
        if text.size < 2:
            raise FieldError(
                name,
                f"expected texts of 2 tokens or more, of which the first tells the next, got {text.size} in "
                f"text {place} (counted from 0); leave it out",
            )


@dataclass(frozen=True, eq=False)
class _Trial:
    options: TokenOptions
    cut: Cut
    quality: TokenQuality


class _Trials:
    """Trials of budgets: the best within the tolerance, and the last beyond it.

    Attributes:
        dense: values of a token that the whole budget is.
    """

    def __init__(
        self,
        network: Network,
        texts: Sequence[np.ndarray],
        options: TokenOptions,
        restructure: Restructure,
        log: Log,
        dtype: type,
    ) -> None:
        assert options.promised is not None
        self._network, self._options, self._restructure, self._log = network, options, restructure, log
        self._name, self._tolerance = options.promised
        self._dtype = dtype
        self._split = held_out(texts, options.seed)
        self.dense = dense_values(network, options.workers)
        self._count, self._pace = 0, Pace(self.dense)
        self._best: _Trial | None = None
        self._beyond: _Trial | None = None

    def meets(self, values: int) -> bool:
        """Restructure with a budget of so many values of a token, and measure."""
        options = replace(self._options, comm_budget=values / self.dense if self.dense else 0.0)
        try:
            cut = self._restructure(self._split.rest, options, silent)
        except BudgetTooSmall as problem:
            if values == self.dense:
                raise
            self._pace.follow(values, False)
            self._log(f"not enough: {problem}")
            return False
        trial = _Trial(options, cut, measure(self._network, cut, self._split.held_out, self._dtype))
        self._count += 1
        is_enough = _loss(trial.quality, self._name) <= self._tolerance
        following = self._pace.follow(values, is_enough)
        self._log(
            f"trial {self._count} of at most {self._count + following}: budget {options.comm_budget:.4g} "
            f"({values:,} values per token), {_finding(trial.quality, self._name)} on "
            f"{trial.quality.texts:,} held-out texts: {'enough' if is_enough else 'not enough'}"
            f"{self._pace.left(following)}"
        )
        if not is_enough:
            self._beyond = trial
        elif self._best is None or options.comm_budget < self._best.options.comm_budget:
            self._best = trial
        return is_enough

    def broken(self) -> BrokenPromise:
        """The failure of all trials."""
        trial = self._beyond
        assert trial is not None
        dtype = "" if trial.options.comm_dtype == EXACT else f" and comm_dtype={trial.options.comm_dtype}"
        return BrokenPromise(
            self._name,
            f"expected at most {self._tolerance:g} on {trial.quality.texts} held-out texts, found "
            f"{_finding(trial.quality, self._name)} even at comm_budget=1 with "
            f"load={trial.options.load:g}{dtype}; allow more, or a larger load{' and float32' * bool(dtype)}",
        )

    def outcome(self) -> TokenOutcome:
        """The best trial."""
        trial = self._best
        assert trial is not None
        record = split_record(self._split.mask, trial.options.seed, "texts")
        return TokenOutcome(trial.cut, trial.options, trial.quality, self._count, record)


def _loss(quality: TokenQuality, promise: str) -> float:
    """What a promise is about."""
    losses: dict[str, Callable[[], float]] = {
        "max_perplexity_increase": lambda: quality.perplexity_increase,
        "max_accuracy_drop": lambda: quality.accuracy_drop,
        "max_output_error": lambda: quality.output_error,
    }
    return losses[promise]()


def _finding(quality: TokenQuality, promise: str) -> str:
    if promise == "max_perplexity_increase":
        return f"a perplexity that is {quality.perplexity_increase:.3g} % higher"
    if promise == "max_accuracy_drop":
        return f"an accuracy drop of {quality.accuracy_drop:.2f} points"
    return f"an output error of {quality.output_error:.3g}"
