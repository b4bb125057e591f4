"""The method for networks of tokens: halves, fits, the choice of forms, and what comes of them."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.small_transformers import branching, decoder, encoder, texts
from repurpose_hpc.errors import UserError
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.texts import Pooling
from repurpose_hpc.plan.files.store import open_plan, read_network, write_plan
from repurpose_hpc.plan.masks import EVERYBODY
from repurpose_hpc.restructure.exact import with_copied_outputs
from repurpose_hpc.restructure.support.reserve import BudgetTooSmall
from repurpose_hpc.restructure.tokens.balance import Balance
from repurpose_hpc.restructure.tokens.budget import dense_values, load_of
from repurpose_hpc.restructure.tokens.choice import Budget, choose
from repurpose_hpc.restructure.tokens.driver import measure_halves, restructure_tokens
from repurpose_hpc.restructure.tokens.fits import Fit, Moments, Shape, fit, most_active, unexplained
from repurpose_hpc.restructure.tokens.forms import DIRECT, Choices, Form, Kind, optimism
from repurpose_hpc.restructure.tokens.graph import Decided, cut_for
from repurpose_hpc.restructure.tokens.halves import halves_of
from repurpose_hpc.restructure.tokens.method import TokenMethod
from repurpose_hpc.restructure.tokens.options import TokenOptions
from repurpose_hpc.restructure.tokens.propagation import Propagation, fitting_moments, joint_moments
from repurpose_hpc.restructure.tokens.quality import measure

CALIBRATION = texts(1, (9, 1, 14, 20, 11, 16) * 6)


def halves(network: Network):
    network = with_copied_outputs(network)
    return network, halves_of(network)


@pytest.mark.parametrize("make", [decoder, encoder])
def test_halves_are_attention_and_perceptrons_in_turn(make):
    _, found = halves(make())
    assert [half.name for half in found] == [
        f"layers.{layer}.{out}" for layer in (0, 1) for out in ("attention.out", "down")
    ]
    assert [half.is_divisible for half in found] == [False, True] * 2
    assert [half.neurons for half in found] == [16, 14] * 2
    assert all((half.metric != 1).any() for half in found)


def test_other_networks_are_refused_by_name():
    with pytest.raises(UserError, match="expected a transformer, .* found .* to add to it otherwise"):
        halves(branching(3))


def reached(number, network=None):
    network, found = halves(decoder(4, layers=2) if network is None else network)
    propagation = Propagation(network.astype(np.float64), CALIBRATION)
    for half in found[:number]:
        propagation.reach(half)
        propagation.replace(half, None)
    propagation.reach(found[number])
    return found[number], propagation


@pytest.mark.parametrize("predicts", [False, True])
@pytest.mark.parametrize(("number", "shared"), [(0, 0), (1, 0), (3, 5)])
def test_what_is_left_is_what_the_choice_was_told(number, shared, predicts):
    half, propagation = reached(number)
    covariance = joint_moments(propagation, half).covariance
    order = most_active(half, np.diag(covariance)[-half.neurons :])
    told = unexplained(half, covariance, Shape(0, shared, predicts), order)
    assert (np.diff(told) <= 1e-12).all()
    pairs = list(propagation.pairs(half))
    x, a = (np.concatenate([pair[i] for pair in pairs], axis=1).astype(np.float64) for i in (0, 1))
    y = half.out.weights @ a + half.out.bias[:, None]
    chosen = np.sort(order[:shared])
    for width in (0, 2, 7):
        shape = Shape(width, shared, predicts)
        made = fit(half, fitting_moments(propagation, half, chosen), shape, chosen)
        left = (half.metric[:, None] * (made.apply(half, x, a) - y)) ** 2
        np.testing.assert_allclose(left.sum() / x.shape[1], told[width], rtol=2e-3, atol=1e-9)


def test_what_more_is_known_leaves_less():
    half, propagation = reached(3)
    covariance = joint_moments(propagation, half).covariance
    order = most_active(half, np.diag(covariance)[-half.neurons :])
    none, some, both = (
        unexplained(half, covariance, Shape(0, shared, predicts), order)
        for shared, predicts in ((0, False), (5, False), (5, True))
    )
    assert (some <= none + 1e-9).all() and (both <= some + 1e-9).all() and both[0] < some[0] < none[0]


@given(st.integers(0, 10**6), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_moments_are_those_of_all_parts_together(seed, parts):
    rng = np.random.default_rng(seed)
    vectors = [rng.standard_normal((3, int(rng.integers(1, 9)))) for _ in range(parts)]
    moments, together = Moments(lambda: iter(vectors)), np.concatenate(vectors, axis=1)
    np.testing.assert_allclose(moments.mean, together.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(together, bias=True), atol=1e-12)


def drawn(seed):
    """Choices of some halves; the first form of each is without error, the last one costs nothing."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(int(rng.integers(1, 5))):
        count = int(rng.integers(2, 7))
        values = np.sort(rng.integers(1, 30, count))[::-1].copy()
        error = np.sort(rng.random(count))
        values[-1], error[0] = 0, 0
        loads = 1 + rng.random(count)
        loads[-1] = 1
        form = Form(Kind.DIRECT, None, 1)
        rounds = (values > 0).astype(int)
        found.append(Choices([form] * count, error, values, rounds, loads))
    return found, rng.random(len(found)) + 0.5, float(rng.random() * 40), len(found) * (1 + rng.random())


@given(st.integers(0, 10**6), st.sampled_from([0.0, 5.0]))
@settings(max_examples=60, deadline=None)
def test_the_choice_keeps_the_budget_and_is_near_the_best(seed, price):
    choices, sensitivity, cost, load = drawn(seed)

    def totals(chosen):
        picked = list(zip(choices, chosen, sensitivity, strict=True))
        error = sum(c.error[i] * weight for c, i, weight in picked)
        spent = sum(c.values[i] + price * c.rounds[i] for c, i, _ in picked)
        return error, spent, sum(c.multiply_adds[i] for c, i, _ in picked)

    error, spent, computed = totals(choose(choices, sensitivity, price, Budget(cost, load)))
    assert spent <= cost + 1e-9 and computed <= load + 1e-9
    every = map(totals, itertools.product(*(range(len(c.forms)) for c in choices)))
    best = min(error for error, spent, computed in every if spent <= cost and computed <= load)
    # The gap of the relaxation: no more than one half's largest error.
    assert (
        best - 1e-12
        <= error
        <= best + max(c.error.max() * weight for c, weight in zip(choices, sensitivity, strict=True))
    )


def test_a_budget_that_nothing_keeps():
    choices, sensitivity, _, _ = drawn(0)
    with pytest.raises(BudgetTooSmall, match="allow a larger comm_budget or load"):
        choose(choices, sensitivity, 0.0, Budget(0.0, 0.5))


FORMS = {
    "direct": Form(Kind.DIRECT, None, 1),
    "gathered": Form(Kind.GATHERED, None, 1),
    "shared": Form(Kind.SHARED, None, 0),
    "mean": Form(Kind.NARROW, Shape(0, 0, False), 0),
    "predicted": Form(Kind.NARROW, Shape(0, 0, True), 0),
    "narrow": Form(Kind.NARROW, Shape(5, 0, False), 2),
    "narrow at once": Form(Kind.NARROW, Shape(5, 0, True), 1),
    "whole": Form(Kind.NARROW, Shape(12, 0, False), 2),
    "some neurons of all": Form(Kind.NARROW, Shape(4, 3, True), 2),
    "nothing but neurons of all": Form(Kind.NARROW, Shape(0, 3, False), 0),
}


def decided(network, found, form):
    """All halves in one form, or as near to it as they can be, with the outputs that come of it."""
    propagation, made = Propagation(network.astype(np.float64), CALIBRATION), []
    for half in found:
        propagation.reach(half)
        fitted, own = None, form
        if form.shape is not None:
            shape = form.shape if half.is_divisible else replace(form.shape, shared=0)
            own, shared = replace(form, shape=shape), np.arange(1, 1 + shape.shared)
            fitted = fit(half, fitting_moments(propagation, half, shared), shape, shared)
        propagation.replace(half, fitted)
        made.append(Decided(half, own, fitted))
    return made


def computed(network: Network, made: list[Decided], ids):
    """The outputs of a text by what stands for each half."""
    by_name = {half.name: (half, fitted) for half, _, fitted in made if fitted is not None}
    seen = {}

    def compute(op, *x):
        seen.update(zip(op.sources, x, strict=True))
        if op.name in by_name:
            half, fitted = by_name[op.name]
            return fitted.apply(half, seen[half.read], x[0])
        return op.compute(*x)

    return forward(network.at(ids.size), ids[None], compute=compute)


@pytest.mark.parametrize("workers", [1, 3, 4])
@pytest.mark.parametrize("make", [decoder, encoder])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_network_computes_what_stands_for_its_halves(form, make, workers, tmp_path: Path):
    network, found = halves(make(5, groups=4))
    made = decided(network, found, form)
    cut = cut_for(network, made, np.ones(workers))
    ids = texts(3, (17,))[0]
    expected = computed(network, made, ids)
    np.testing.assert_allclose(forward(cut.network.at(17), ids[None]), expected, atol=2e-6)
    # What the plan does not allow is zero.
    np.testing.assert_array_equal(
        forward(cut.plan.pruned(cut.network).at(17), ids[None]), forward(cut.network.at(17), ids[None])
    )
    sent, told = cut.traffic_matrix().sum(), sum(own.values(half, workers) for half, own, _ in made)
    # With three, the worker that has two of four heads has no perceptrons.
    assert sent == told if workers == 4 else sent <= told
    write_plan(tmp_path / "shards", cut.network, cut.plan, {}, np.float64)
    stored = open_plan(tmp_path / "shards")
    np.testing.assert_allclose(forward(read_network(stored).at(17), ids[None]), expected, atol=2e-6)


def test_work_is_balanced_where_heads_do_not_divide():
    network, found = halves(decoder(6, heads=4, groups=2))
    cut = cut_for(network, decided(network, found, FORMS["direct"]), np.ones(4))
    loads = cut.plan.multiply_adds(cut.network)
    assert loads.max() < 1.4 * loads.min()


@pytest.mark.parametrize("comm_dtype", ["float32", "int8"])
@pytest.mark.parametrize("budget", [1.0, 0.4, 0.1, 0.0])
def test_budget_and_load_are_kept_and_bits_are_the_same(budget, comm_dtype):
    network = decoder(7)
    options = TokenOptions(3, comm_budget=budget, comm_dtype=comm_dtype, load=1.6)

    def made():
        measured = measure_halves(network, CALIBRATION, options)
        return restructure_tokens(CALIBRATION, options, measured)

    cut, again = made(), made()
    assert cut.network.fingerprint() == again.network.fingerprint()
    assert cut.plan.identity() == again.plan.identity()
    assert cut.traffic_matrix().sum() <= budget * dense_values(network, 3)
    assert cut.plan.comm_dtype == comm_dtype and cut.plan.has_scales == (comm_dtype == "int8")


@pytest.mark.parametrize("load", [1.3, 2.0])
@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 2, 1), (1, 1, 1, 1, 1, 1)])
def test_load_is_kept_also_where_heads_do_not_divide(weights, load):
    network = decoder(7, heads=8, groups=4, hidden=200)
    options = TokenOptions(len(weights), comm_budget=0.4, part_weights=weights, load=load)
    parts = np.array(weights, float)
    measured = measure_halves(network, CALIBRATION * 4, options)
    cut = restructure_tokens(CALIBRATION * 4, options, measured)
    balance = Balance(measured.network, measured.halves, parts)
    whole = sum(mixing.weights.size for mixing in network.mixings if not mixing.fixed)
    most = load * balance.busiest([DIRECT] * len(measured.halves)) / whole
    # Neurons of perceptrons are not divided, either.
    assert load_of(network, cut, parts) <= 1.05 * most


def test_few_tokens_are_not_taken_for_knowledge():
    """With as many tokens as regressors nothing is left unexplained, and nothing has been learnt."""
    assert np.isinf(optimism(np.array([10, 11]), 10)).all()
    rng = np.random.default_rng(0)
    X, truth = rng.standard_normal((600, 20)), rng.standard_normal(20)
    inside, outside = [], []
    for _ in range(200):
        y = X @ truth + rng.standard_normal(600)
        found = np.linalg.lstsq(X[:40], y[:40], rcond=None)[0]
        inside.append(np.mean((X[:40] @ found - y[:40]) ** 2))
        outside.append(np.mean((X[40:] @ found - y[40:]) ** 2))
    told = np.mean(inside) * optimism(np.array([20]), 40)[0]
    assert 0.5 < told / np.mean(outside) < 2


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_fits_do_not_depend_on_units(scale):
    half, propagation = reached(1)
    scaled = replace(half, out=replace(half.out, weights=scale * half.out.weights))
    errors = {}
    for one, unit in ((half, 1.0), (scaled, scale)):
        empty = np.arange(0)
        made = fit(one, fitting_moments(propagation, one, empty), Shape(5, 0, True), empty)
        (x, a), *_ = propagation.pairs(half)
        y = one.out.weights @ a + one.out.bias[:, None]
        errors[unit] = np.sum((made.apply(one, x, a) - y) ** 2) / unit**2
    assert errors[scale] == pytest.approx(errors[1.0], rel=1e-3)


def test_moments_of_a_stream_with_an_outlier():
    rng = np.random.default_rng(0)
    vectors = [np.full((4, 1), 1000, np.float32), (0.01 * rng.standard_normal((4, 9000))).astype(np.float32)]
    expected = np.cov(np.concatenate(vectors, axis=1).astype(np.float64), bias=True)
    np.testing.assert_allclose(Moments(lambda: iter(vectors)).covariance, expected, rtol=1e-9)


def test_a_half_of_few_neurons_has_a_sensitivity_like_others():
    network = decoder(5, hidden=3)
    slopes = measure_halves(network, CALIBRATION, TokenOptions(3)).sensitivity
    assert slopes.min() > 0 and slopes.max() < 100 * slopes.min()


def test_with_the_whole_budget_outputs_are_the_same():
    network = decoder(8)
    options = TokenOptions(4, comm_budget=1.0)
    cut = restructure_tokens(CALIBRATION, options, measure_halves(network, CALIBRATION, options))
    assert measure(network, cut, texts(9, (9, 20)), np.float64).output_error < 1e-6


def test_errors_grow_as_less_is_sent():
    network, errors = decoder(8, layers=3), []
    for budget in (0.8, 0.4, 0.1, 0.0):
        options = TokenOptions(4, comm_budget=budget)
        measured = measure_halves(network, CALIBRATION, options)
        cut = restructure_tokens(CALIBRATION, options, measured)
        errors.append(measure(network, cut, CALIBRATION).output_error)
    assert errors == sorted(errors) and errors[0] < 0.5 * errors[-1]


def test_fitted_weights_are_better_than_those_left():
    """So are directions than neurons of the stream."""
    network, options = decoder(8, layers=3), TokenOptions(4, comm_budget=0.3)
    errors = {}
    for name, method in {
        "full": TokenMethod(),
        "neurons": TokenMethod(rotates=False),
        "left": TokenMethod(adjusts=False, predicts=False, rotates=False),
    }.items():
        measured = measure_halves(network, CALIBRATION, options, method=method)
        cut = restructure_tokens(CALIBRATION, options, measured, method=method)
        errors[name] = measure(network, cut, CALIBRATION).output_error
    assert errors["full"] < errors["neurons"] < errors["left"]


def test_what_is_not_of_the_mean_does_not_count_where_outputs_are_pooled():
    network, options = encoder(9), TokenOptions(3)
    tokens = measure_halves(network, CALIBRATION, options).sensitivity
    means = measure_halves(network, CALIBRATION, options, Pooling("mean", False)).sensitivity
    assert (means < tokens).all()


def test_halves_of_everybody_send_nothing():
    network, found = halves(encoder(5))
    cut = cut_for(network, decided(network, found, FORMS["shared"]), np.ones(3))
    assert not cut.traffic_matrix().any()
    owned = [name for name, owner in cut.plan.owners.items() if (owner != EVERYBODY).any()]
    assert owned == [cut.network.space_of[name] for name in network.output_tensors]


def test_a_fit_keeps_the_shape_of_what_it_reads():
    half, propagation = reached(0)
    empty = np.arange(0)
    made = fit(half, fitting_moments(propagation, half, empty), Shape(3, 0, True), empty)
    assert isinstance(made, Fit)
    x, a = np.ones((half.width, 2, 5)), np.ones((half.neurons, 2, 5))
    assert made.apply(half, x, a).shape == (half.width, 2, 5)
