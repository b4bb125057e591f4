"""Options, promises and texts that restructuring a network of tokens refuses."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.small_graphs import residual_network
from helpers.small_transformers import LONGEST, VOCABULARY, decoder, encoder, texts
from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import FieldError
from repurpose_hpc.model.forward import forward
from repurpose_hpc.restructure.context import silent
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.exact import split_network
from repurpose_hpc.restructure.promise import BrokenPromise
from repurpose_hpc.restructure.search import RESOLUTION
from repurpose_hpc.restructure.support.reserve import BudgetTooSmall
from repurpose_hpc.restructure.tokens.budget import dense_values
from repurpose_hpc.restructure.tokens.job import restructure_texts, texts_sha256
from repurpose_hpc.restructure.tokens.options import PROMISES, TokenOptions
from repurpose_hpc.restructure.tokens.promise import keep_promise
from repurpose_hpc.restructure.tokens.quality import held_out, measure

WORKERS = 3
LENGTHS = (9, 7, 14, 9, 2, 24, 8, 11, 3, 5, 20)


def told(network, text):
    """A text of tokens each of which is the most probable one behind those before it."""
    for place in range(1, text.size):
        text[place] = forward(network.at(place), text[None, :place]).reshape(place, -1)[-1].argmax()
    return text


TEXTS = [told(decoder(), text) for text in texts(5, LENGTHS)]
SPLIT = held_out(TEXTS, 0)


class Disturbing:
    """Restructures by noise: the less is sent, the more of it."""

    def __init__(self, network, most=0.05, least=0.0, needed=0.0):
        self.network, self.most, self.least, self.needed = network, most, least, needed
        self.budgets: list[float] = []

    def __call__(self, texts, options, log):
        assert [text.tolist() for text in texts] == [text.tolist() for text in SPLIT.rest]
        if options.comm_budget < self.needed:
            raise BudgetTooSmall("comm_budget", "expected more")
        self.budgets.append(options.comm_budget)
        rng, mixings = np.random.default_rng(0), {}
        for mixing in self.network.mixings:
            if not mixing.fixed:
                amount = self.most * (1 - options.comm_budget) + self.least
                noise = amount * rng.standard_normal(mixing.weights.shape)
                mixings[mixing.name] = replace(mixing, weights=mixing.weights + noise)
        network = self.network.with_mixings(mixings)
        return Cut(network, split_network(network, options.workers).plan)


def kept(network, restructure, log=silent, **promise):
    options = TokenOptions(workers=WORKERS, **promise)
    return keep_promise(network, TEXTS, options, restructure, log)


@pytest.mark.parametrize(
    ("promise", "measured"),
    [
        ({"max_perplexity_increase": 20.0}, lambda quality: quality.perplexity_increase),
        ({"max_output_error": 0.3}, lambda quality: quality.output_error),
    ],
)
def test_the_least_budget_that_keeps_it_on_held_out_texts(promise, measured):
    network, lines = decoder(), []
    restructure = Disturbing(network)
    outcome = kept(network, restructure, lines.append, **promise)
    (tolerance,) = promise.values()
    assert outcome.quality == measure(network, outcome.cut, SPLIT.held_out)
    assert measured(outcome.quality) <= tolerance
    budget, dense = outcome.options.comm_budget, dense_values(network, WORKERS)
    assert 0 < budget < 1 and budget in restructure.budgets and outcome.trials == len(lines)
    (below,) = [max(other for other in restructure.budgets if other < budget)]
    cut = restructure(SPLIT.rest, replace(outcome.options, comm_budget=below), silent)
    assert measured(measure(network, cut, SPLIT.held_out)) > tolerance
    assert budget * dense <= max(RESOLUTION * below * dense, below * dense + 1) + 1e-9
    assert outcome.record["texts"] == len(TEXTS) and "permutation(texts)" in outcome.record["split"]
    assert sum(line.endswith(": enough") for line in lines) < len(lines)
    assert all(" on 2 held-out texts: " in line for line in lines)


def test_nothing_is_sent_where_that_is_enough():
    network = decoder()
    outcome = kept(network, Disturbing(network, most=0), max_perplexity_increase=0.1)
    assert outcome.options.comm_budget == 0 and outcome.trials == 1
    # Accuracy of one that guesses cannot fall far.
    assert kept(network, Disturbing(network), max_accuracy_drop=50).options.comm_budget == 0


def test_a_budget_that_is_too_small_is_not_enough():
    network, lines = decoder(), []
    outcome = kept(network, Disturbing(network, most=0, needed=0.4), lines.append, max_output_error=0.01)
    assert 0.4 <= outcome.options.comm_budget < 0.45
    assert sum(line.startswith("not enough: ") for line in lines) + outcome.trials == len(lines)
    with pytest.raises(BudgetTooSmall):
        kept(network, Disturbing(network, needed=2), max_output_error=0.01)


@pytest.mark.parametrize("comm_dtype", ["float32", "int8"])
def test_a_promise_that_cannot_be_kept(comm_dtype):
    network = decoder()
    with pytest.raises(BrokenPromise, match="at most 0.01 on 2 held-out texts, found an output err") as error:
        kept(network, Disturbing(network, least=1), max_output_error=0.01, comm_dtype=comm_dtype)
    assert ("comm_dtype=int8" in str(error.value)) == (comm_dtype == "int8")
    with pytest.raises(BrokenPromise, match="a perplexity that is .* higher even at comm_budget=1"):
        kept(network, Disturbing(network, least=1), max_perplexity_increase=1)
    with pytest.raises(BrokenPromise, match="an accuracy drop of"):
        kept(network, Disturbing(network, most=0, least=1), max_accuracy_drop=1e-9)


@pytest.mark.parametrize("promise", PROMISES)
def test_a_network_that_nothing_is_promised_of(promise):
    network = encoder()
    options = TokenOptions(workers=WORKERS, **{promise: 1.0})
    if promise == "max_output_error":
        assert restructure_texts(network, TEXTS, options).trials == 1
        return
    with pytest.raises(FieldError, match="expected a decoder") as error:
        restructure_texts(network, TEXTS, options)
    assert error.value.fields == promise


@pytest.mark.parametrize(
    ("given", "promise", "message"),
    [
        ([[VOCABULARY]], {}, f"ids from 0 to {VOCABULARY - 1}.* of text 0"),
        ([[0] * (LONGEST + 1)], {}, f"texts of 1 to {LONGEST} tokens"),
        ([[0] * 11], {}, "at least 48 tokens to restructure with, .* got 11 in the 1 of 1 texts"),
        ([[0] * 12] * 4, {"max_output_error": 1.0}, "at least 5 texts .* got 4"),
        ([[0] * 12] * 7 + [[0]], {"max_perplexity_increase": 1.0}, "2 tokens or more, .* got 1 in text 7"),
        ([[0] * 12] * 7 + [[0]], {"max_accuracy_drop": 1.0}, "2 tokens or more, .* got 1 in text 7"),
    ],
)
def test_texts_that_are_refused(given, promise, message):
    with pytest.raises(UserError, match=message):
        restructure_texts(decoder(), [np.array(ids) for ids in given], TokenOptions(workers=2, **promise))


def test_a_network_of_samples_is_refused():
    with pytest.raises(UserError, match="restructure_network is for it"):
        restructure_texts(residual_network(), TEXTS, TokenOptions(workers=2))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_without_a_promise_one_text_in_five_measures_too(dtype):
    network = decoder()
    outcome = restructure_texts(network, TEXTS, TokenOptions(workers=2), dtype)
    assert outcome.trials == 0 and outcome.record and outcome.quality.texts == len(TEXTS) // 5
    few = [text for text in TEXTS if text.size > 10][:4]
    outcome = restructure_texts(network, few, TokenOptions(workers=2), dtype)
    assert outcome.record == {} and outcome.quality.texts == 4
    assert {mixing.weights.dtype for mixing in outcome.cut.network.mixings} == {np.dtype(dtype)}


def test_the_hash_of_texts_says_where_each_ends():
    one, other = ([np.array(ids) for ids in split] for split in ([[1, 2], [3]], [[1], [2, 3]]))
    assert texts_sha256(one) != texts_sha256(other)
    assert texts_sha256(one) == texts_sha256([text.astype(np.uint16) for text in one])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"workers": 0}, "workers"),
        ({"comm_budget": 1.1}, "comm_budget"),
        ({"part_weights": (1, 0)}, "above 0"),
        ({"part_weights": (1, 1, 1)}, "one number for each of 2 workers"),
        ({"part_weights": "auto"}, "words are for command lines"),
        ({"round_cost": "auto"}, "words are for command lines"),
        ({"comm_dtype": "int7"}, "comm_dtype"),
        ({"max_perplexity_increase": -1}, "max_perplexity_increase"),
        ({"max_perplexity_increase": 1, "max_output_error": 1}, "expected one of them, got 2"),
    ],
)
def test_options_that_are_refused(fields, message):
    with pytest.raises(FieldError, match=message):
        TokenOptions(**{"workers": 2, **fields})


def test_the_promise_of_options():
    assert TokenOptions(workers=2).promised is None
    assert TokenOptions(workers=2, max_accuracy_drop=1).promised == ("max_accuracy_drop", 1)
