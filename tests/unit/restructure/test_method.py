"""Methods as values, and decisions that no step changes in place."""

import dataclasses

import numpy as np
import pytest

from helpers.small_plans import random_network
from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import open_samples
from repurpose_hpc.plan.masks import GHOST, PARTIAL, RELAY, MixingPlan
from repurpose_hpc.restructure.context import open_context, silent
from repurpose_hpc.restructure.decisions import nothing_decided
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.method import DATA, METHODS, Gram, Metric, PriceScope, method_named
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.owners.initial import assign_spaces, given_owners
from repurpose_hpc.restructure.owners.sweep import draft_owners, whole_spaces
from repurpose_hpc.restructure.team import ALONE

NETWORK = random_network(3, widths=(10, 12, 12, 4))


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    path, rng = tmp_path_factory.mktemp("data") / "x.npy", np.random.default_rng(0)
    np.save(path, rng.standard_normal((100, 10)) @ rng.standard_normal((10, 10)))
    return open_samples(path)


def test_methods_differ_and_have_names():
    assert len(set(METHODS.values())) == len(METHODS) == 4
    assert all(method_named(name) is method for name, method in METHODS.items())
    with pytest.raises(UserError, match="expected one of data, second-moment, .*, got 'best'"):
        method_named("best")


@pytest.mark.parametrize(
    "change",
    [
        {"forms": frozenset({PARTIAL})},
        {"forms": frozenset({GHOST, "links"})},
        {"forms": DATA.forms | {RELAY}, "compensation": 0},
        {"forms": DATA.forms | {RELAY}, "gram": Gram.DIAGONAL},
        {"alternations": 0},
        {"look_ahead": -1},
        {"compensation": -1},
    ],
)
def test_methods_that_cannot_be(change):
    with pytest.raises(ValueError, match="expected"):
        dataclasses.replace(DATA, **change)


@pytest.mark.parametrize("gram", Gram)
@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("price", PriceScope)
def test_every_combination_meets_the_budget(samples, gram, metric, price):
    method = dataclasses.replace(DATA, gram=gram, metric=metric, price=price)
    assert method.needs_data == (gram is not Gram.IDENTITY or metric is not Metric.IDENTITY)
    plan = restructure(NETWORK, samples, Options(3, 0.2, "partitioned"), method=method).plan
    sent = sum(plan.values_sent(NETWORK, mixing) for mixing in NETWORK.mixings)
    assert 0 < sent <= 0.2 * sum(plan.dense_values(NETWORK, mixing) for mixing in NETWORK.mixings)


def test_only_ghosts_are_sent_if_no_other_form_may_be(samples):
    method = dataclasses.replace(DATA, forms=frozenset({GHOST}))
    plan = restructure(NETWORK, samples, Options(3, 0.2, "partitioned"), method=method).plan
    assert {mask.form for mask in plan.mixings.values()} == {GHOST}


def test_steps_return_new_decisions(samples):
    context = open_context(NETWORK, samples, Options(3, 0.2, "partitioned"), DATA, silent, ALONE)
    first = nothing_decided(given_owners(context), 10.0, 100)
    assigned = assign_spaces(context, first)
    drafted = draft_owners(context, assigned, whole_spaces(context, assigned))
    assert [*first.owners] == ["input"] and len(assigned.owners) == len(drafted.owners) == 4
    (mixing, *_), mask = NETWORK.mixings, MixingPlan(np.zeros((3, 10), bool), np.zeros((3, 12), bool))
    planned = drafted.with_mask(mixing.name, mask)
    finished = planned.with_weights(mixing, exact=False)
    assert not drafted.masks and not planned.finished and planned.exact and not finished.exact
    assert finished.weights_left == 100 - np.count_nonzero(mixing.weights)
    assert finished.settled(NETWORK) == {"input", NETWORK.space_of[mixing.target]}
    assert drafted.settled(NETWORK) == set()
