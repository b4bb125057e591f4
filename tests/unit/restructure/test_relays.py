"""Relays: which are chosen, what they compute as neurons of a network, and how they are kept."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import small_plans
from helpers.interruption import Interrupted, assert_same_bits, interrupting_at
from helpers.small_graphs import convolutional_network
from helpers.small_plans import WITHOUT_RELAYS
from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.comm_dtype import COMM_DTYPES, EXACT, INT8, received, scales_of
from repurpose_hpc.model.forward import forward, trace
from repurpose_hpc.model.spec import check
from repurpose_hpc.model.weights import as_sparse
from repurpose_hpc.plan.files.store import open_plan, read_network
from repurpose_hpc.plan.relays import columns_of, with_relays, without_relays
from repurpose_hpc.plan.rounding import rounded_compute
from repurpose_hpc.restructure import driver, relayed
from repurpose_hpc.restructure.alternatives import with_relays_where_they_pay
from repurpose_hpc.restructure.calibration.evaluation import compare
from repurpose_hpc.restructure.calibration.moments import Moments
from repurpose_hpc.restructure.checkpoint import Checkpoint
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.job import restructure_to
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.support.balance import limit_received
from repurpose_hpc.restructure.support.elimination import METRIC_TOLERANCE, metric_root
from repurpose_hpc.restructure.support.forms.ghosts import ghost_tradeoff
from repurpose_hpc.restructure.support.forms.relays import (
    leading,
    relay_tradeoff,
    unfolded_relay_tradeoff,
)
from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.team import ALONE, Team

WORKERS = 3
ALL = ("ghosts", "sums", "relays")
NETWORK = small_plans.random_network(5, widths=(24, 40, 30, 6), head="identity")


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    return Samples.of(rng.standard_normal((400, 24)) @ rng.standard_normal((24, 24)))


def random_problem(rng, m, n, most, taps=1):
    """A mixing with random moments and owners; a worker may own nothing."""
    c = n * taps
    x = rng.standard_normal((c, 3 * c)) * rng.uniform(0.1, 2, (c, 1))
    H = x @ x.T / (3 * c) + 0.01 * np.eye(c)
    root = rng.standard_normal((m, m))
    links = 1.0 - np.eye(WORKERS)
    problem = MixingProblem(
        moments=Moments(H, rng.standard_normal((m, c)) @ H, np.ones(m), np.zeros(c), np.zeros(m)),
        metric=root.T @ root,
        source_owner=rng.integers(0, WORKERS, n).astype(np.int32),
        ghost_costs=links * rng.uniform(0.5, 2, (WORKERS, WORKERS)),
        sum_costs=links,
        most_ghosts=lambda rows: np.full(WORKERS, most),
        only_ghosts=False,
        team=ALONE,
        relays=True,
        taps=taps,
    )
    return problem, rng.integers(0, WORKERS, m).astype(np.int32)


def error_left(problem, rows, own, C):
    """Error of rows on own neurons and combinations, by plain least squares, above that on all neurons."""
    H, n = problem.moments.H, len(problem.moments.H)
    own, C = problem.columns(own), columns_of(C, problem.taps)
    root = metric_root(problem.metric[np.ix_(rows, rows)])
    R = root @ problem.moments.R[rows]
    T = np.concatenate([np.eye(n)[own], C])
    explained = np.einsum("ij,ij->", R @ T.T, np.linalg.lstsq(T @ H @ T.T, T @ R.T, rcond=None)[0].T)
    return np.vdot(R, np.linalg.solve(H, R.T).T) - explained


@given(
    seed=st.integers(0, 10_000),
    m=st.integers(1, 9),
    n=st.integers(2, 14),
    most=st.integers(0, 14),
    taps=st.integers(1, 3),
    behind=st.booleans(),
)
@settings(max_examples=80)
def test_savings_are_what_least_squares_finds(seed, m, n, most, taps, behind):
    """Before the window, where a relay has ``taps`` columns, and behind it."""
    problem, owner = random_problem(np.random.default_rng(seed), m, n, most, taps)
    if behind:
        problem = problem.unfolded()
        most = problem.most_ghosts(np.bincount(owner, minlength=WORKERS)).max()
    form, own = relay_tradeoff(problem, owner), problem.own()
    left = lacking = 0.0
    for q, (ranking, combined) in enumerate(zip(form.relays, form.combinations, strict=True)):
        C = combined.toarray()
        assert len(C) == len(ranking.groups) <= most
        for row in C:  # each of one other worker
            (sender,) = {*problem.source_owner[row != 0].tolist()}
            assert sender != q
        rows = np.flatnonzero(owner == q)
        if not rows.size or not most or own[q].all():
            assert not len(C)
            continue
        without, kept = error_left(problem, rows, own[q], C[:0]), error_left(problem, rows, own[q], C)
        assert ranking.savings @ ranking.costs == pytest.approx(without - kept, abs=1e-6 * without)
        assert (np.diff(ranking.savings) <= 0).all()
        left, lacking = left + kept, lacking + without
    assert form.floor == pytest.approx(left, abs=1e-6 * lacking)


@given(seed=st.integers(0, 10_000), taps=st.integers(1, 4))
@settings(max_examples=60)
def test_the_first_relay_is_worth_no_less_than_any_ghost(seed, taps):
    rng = np.random.default_rng(seed)
    problem, owner = random_problem(rng, 8, 12, 12, taps)
    relays, one_ghost = relay_tradeoff(problem, owner), dataclasses.replace(problem, most_ghosts=_one)
    for q, ranking in enumerate(relays.relays):
        ghost = ghost_tradeoff(one_ghost, owner).ghosts[q]
        if ghost.savings.size:
            assert ranking.savings[0] >= (1 - 1e-6) * ghost.savings[0]


def _one(rows):
    return np.ones(WORKERS, np.int64)


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("taps", [1, 4])
def test_all_relays_leave_what_the_root_of_the_metric_leaves_out(taps, behind):
    """As all ghosts do."""
    problem, owner = random_problem(np.random.default_rng(1), 9, 12, 100, taps)
    assert ghost_tradeoff(problem, owner).floor == pytest.approx(0, abs=1e-9)
    problem = problem.unfolded() if behind else problem
    form = relay_tradeoff(problem, owner)
    assert 0 <= form.floor < METRIC_TOLERANCE * _lacking(form)


@given(seed=st.integers(0, 10_000), taps=st.integers(1, 3), share=st.floats(0.01, 2))
@settings(max_examples=40)
def test_an_expected_price_leaves_out_only_what_is_not_worth_it(seed, taps, share):
    problem, owner = random_problem(np.random.default_rng(seed), 8, 12, 12, taps)
    every = relay_tradeoff(problem, owner)
    price = share * max(ranking.savings.max(initial=0) for ranking in every.relays)
    some = relay_tradeoff(problem.at_least(price), owner)
    for few, many in zip(some.relays, every.relays, strict=True):
        # What is judged once is so by all rows; what is found may miss what is lacking in few of them.
        worthwhile = few.savings[few.savings > price] @ few.costs[few.savings > price]
        missed = many.savings[many.savings > price] @ many.costs[many.savings > price] - worthwhile
        assert missed <= 0.3 * price * many.costs.sum() + 1e-9
    assert relay_tradeoff(problem.at_least(1e9), owner).floor == pytest.approx(_lacking(every))


def _lacking(form):
    """The error without any relay."""
    return form.floor + sum(float(ranking.savings @ ranking.costs) for ranking in form.relays)


@given(
    g=st.integers(1, 12),
    r=st.integers(1, 12),
    count=st.integers(1, 15),
    rank=st.integers(1, 12),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=80)
def test_leading_directions_are_those_of_singular_values(g, r, count, rank, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((g, rank)) @ rng.standard_normal((rank, r))
    roots = np.linalg.svd(matrix, compute_uv=False)
    least = 1e-9 * roots[0] ** 2
    directions, squares = leading(matrix, count, least)
    assert squares == pytest.approx(roots[roots**2 > least][:count] ** 2, rel=1e-4)
    assert directions.T @ directions == pytest.approx(np.eye(squares.size), abs=1e-4)
    assert ((matrix.T @ directions) ** 2).sum(axis=0) == pytest.approx(squares, rel=1e-4)


@given(
    seed=st.integers(0, 10_000),
    taps=st.integers(1, 4),
    rank=st.sampled_from((ghost_tradeoff, relay_tradeoff, unfolded_relay_tradeoff)),
    share=st.floats(0.3, 1),
    part=st.floats(0, 1),
)
@settings(max_examples=60)
def test_no_worker_is_given_more_than_it_may_hold_weights(seed, taps, rank, share, part):
    """Unless its own neurons are too many; relays weigh also where they are made."""
    problem, owner = random_problem(np.random.default_rng(seed), 8, 10, 10, taps)
    form = rank(problem, owner)
    price = float(np.quantile(form.pooled(), part))
    limited = limit_received(problem, owner, form, price, np.full(WORKERS, share))
    # However far λ falls: what was worth no more is gone.
    assert np.array_equal(limited.pooled(), limited.pooled()[limited.pooled() > price])
    held, groups = _held(problem, owner, limited, 0.0)
    assert (held <= share * held.sum() + 1e-6)[groups > 0].all()
    # What is left out counts as an error, and nothing is left out for nothing.
    assert limited.objective(price) >= form.objective(price) - 1e-9
    before, _ = _held(problem, owner, form, price)
    if (before <= share * before.sum()).all():
        assert limited.objective(price) == pytest.approx(form.objective(price))


def _held(problem, owner, form, price):
    """Weights that each worker holds at a price, (P,), and the groups that it receives or makes."""
    rows, taps = np.bincount(owner, minlength=WORKERS), problem.taps
    held, groups = rows * problem.own().sum(axis=1) * taps, np.zeros(WORKERS, int)
    for q, ranking in enumerate(form.relays or form.ghosts):
        for group in ranking.kept(price):
            columns = taps
            if form.relays:
                (combined,) = form.combinations[q][[group]].toarray()
                behind = combined.size // problem.source_owner.size
                (maker,) = {*problem.source_owner[np.flatnonzero(combined) // behind].tolist()}
                held[maker] += np.count_nonzero(combined)
                groups[maker] += 1
                columns = taps // behind
            held[q] += rows[q] * columns
            groups[q] += 1
    return held, groups


def assert_stands_for_the_original(network, cut, budget, x):
    """It keeps the budget, is legal, and computes what that without relays of its does."""
    check(cut.network)
    dense = sum(cut.plan.dense_values(network, mixing) for mixing in network.mixings)
    assert dense == sum(cut.plan.dense_values(cut.network, mixing) for mixing in cut.network.mixings)
    assert 0 < cut.traffic_matrix().sum() <= budget * dense
    for mixing in cut.network.mixings:
        allowed = cut.plan.allowed(cut.network, mixing).repeat(mixing.taps, axis=1)
        assert not mixing.weights[~allowed].any()
    collapsed = without_relays(cut.network, cut.plan)
    check(collapsed)
    assert [op.name for op in collapsed.operations] == [op.name for op in network.operations]
    assert (collapsed.spaces, collapsed.space_of) == (network.spaces, network.space_of)
    assert collapsed.positions_of == network.positions_of
    np.testing.assert_allclose(forward(collapsed, x), forward(cut.network, x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("budget", [0.05, 0.2, 0.6])
@pytest.mark.parametrize("placement", ["partitioned", "root", "replicated"])
def test_the_network_with_relays(samples, placement, budget):
    cut = restructure(NETWORK, samples, Options(WORKERS, budget, placement, forms=ALL))
    # At the larger budget all ghosts and sums of a layer may be had for less.
    assert cut.plan.relays or budget == 0.6
    x = np.random.default_rng(1).standard_normal((9, 24))
    assert_stands_for_the_original(NETWORK, cut, budget, x)


def test_relays_of_weights_that_are_stored_sparse(samples):
    network = NETWORK.with_mixings(
        {m.name: dataclasses.replace(m, weights=as_sparse(m.weights)) for m in NETWORK.mixings}
    )
    options = Options(WORKERS, 0.1, "partitioned", forms=ALL)
    cut, reference = restructure(network, samples, options), restructure(NETWORK, samples, options)
    assert cut.plan.relays == reference.plan.relays != {}
    assert any(mixing.is_sparse for mixing in cut.network.mixings)
    x = np.random.default_rng(1).standard_normal((9, 24))
    collapsed = forward(without_relays(cut.network, cut.plan), x)
    np.testing.assert_allclose(collapsed, forward(reference.network, x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "fields", [{}, {"comm_dtype": INT8}, {"round_cost": 9.0}, {"max_output_error": 0.1}, {"comm_budget": 0.3}]
)
def test_relays_are_used_unless_they_are_left_out(fields):
    assert "relays" in Options(WORKERS, **fields).may_travel
    assert Options(WORKERS, **fields, forms=WITHOUT_RELAYS).may_travel == WITHOUT_RELAYS


@pytest.mark.parametrize(
    "fields", [{"density": 0.5}, {"compute_budget": 0.5}, {"imbalance": 0.1}, {"method": "frobenius"}]
)
def test_relays_are_left_out_where_what_they_weigh_is_not_looked_at(fields):
    assert Options(WORKERS, **fields).may_travel == WITHOUT_RELAYS
    if fields != {"method": "frobenius"}:
        assert Options(WORKERS, **fields, forms=ALL).may_travel == ALL


@pytest.mark.parametrize("fields", [{}, {"density": 0.5}, {"compute_budget": 0.5}, {"imbalance": 0.1}])
@pytest.mark.parametrize("relays_are_worse", [False, True])
def test_with_a_limit_the_better_network_is_kept(fields, relays_are_worse):
    """The one with relays and the one without are made; without a limit only what is asked for."""
    made = []

    def make(samples, options, log):
        made.append("relays" in options.may_travel)
        return made[-1]

    def error(has_relays, samples):
        return float(has_relays == relays_are_worse)

    options = Options(WORKERS, **fields, forms=ALL)
    kept = with_relays_where_they_pay(make, error)(None, options, lambda line: None)
    assert made == ([True, False] if fields else [True])
    assert kept == (not relays_are_worse or not fields)


@pytest.mark.parametrize(("holes", "has_relays"), [(0.02, True), (0.2, False)])
def test_relays_of_layers_with_holes(samples, holes, has_relays):
    """A few weights that are zero by chance do not matter; workers do not fill those of their own neurons."""
    rng = np.random.default_rng(3)
    zeros = {mixing.name: rng.random(mixing.weights.shape) < holes for mixing in NETWORK.mixings}
    network = NETWORK.with_mixings(
        {
            mixing.name: dataclasses.replace(mixing, weights=np.where(zeros[mixing.name], 0, mixing.weights))
            for mixing in NETWORK.mixings
        }
    )
    cut = restructure(network, samples, Options(WORKERS, 0.2, "partitioned"))
    assert bool(cut.plan.relays) == has_relays
    assert_stands_for_the_original(network, cut, 0.2, rng.standard_normal((9, 24)))
    for mixing in cut.network.mixings:
        if mixing.name in zeros:
            assert not mixing.weights[zeros[mixing.name]].any()


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_relays_of_maps(workers):
    """Before and behind strided, dilated and pointwise windows, of what is pooled, and of whole maps."""
    found = set()
    for seed, budget in itertools.product((0, 1), (0.1, 0.3)):
        network, x = mapped(seed)
        cut = restructure(network, Samples.of(x), Options(workers, budget, "partitioned", forms=ALL))
        assert_stands_for_the_original(network, cut, budget, x[:5])
        mixings = {mixing.name: mixing for mixing in cut.network.mixings}
        for name, reader in cut.plan.relays.items():
            window = mixings[reader].window
            before = window is not None and window.taps > 1
            assert not before or window == mixings[name].window
            found.add(before)
    assert found == {True, False}


def mapped(seed):
    """A network of everything that there is on maps, and samples that depend on each other."""
    network, rng = convolutional_network(seed), np.random.default_rng(seed)
    x = rng.standard_normal((300, network.inputs)) @ rng.standard_normal((network.inputs, network.inputs))
    return network, x / np.sqrt(network.inputs)


def test_relays_lose_less_than_ghosts_and_sums(samples):
    for budget in (0.05, 0.1, 0.2):
        errors = [
            compare(NETWORK, restructure(NETWORK, samples, options).network, samples).output_error
            for options in (Options(WORKERS, budget, "partitioned", forms=forms) for forms in (ALL, ALL[:2]))
        ]
        assert errors[0] < errors[1]


def test_names_that_the_network_has_already(samples):
    old, new = NETWORK.mixings[1].target, "layer1 relays"

    def name(tensor):
        return new if tensor == old else tensor

    operations = [
        dataclasses.replace(op, source=name(op.source), target=name(op.target)) for op in NETWORK.operations
    ]
    tensors = {name(tensor): space for tensor, space in NETWORK.space_of.items()}
    positions = dict.fromkeys(tensors, ())
    network = dataclasses.replace(
        NETWORK, operations=tuple(operations), space_of=tensors, positions_of=positions
    )
    cut = restructure(network, samples, Options(WORKERS, 0.2, "partitioned", forms=ALL))
    check(cut.network)
    assert cut.plan.relays["layer1"] == "layer1' by relays"


@pytest.mark.parametrize("fields", [{}, {"density": 0.4}, {"comm_dtype": INT8}])
def test_interrupted_and_on_several_threads_the_same_bits(samples, tmp_path, fields):
    options = Options(WORKERS, 0.2, "partitioned", forms=ALL, **fields)
    whole = restructure(NETWORK, samples, options)
    checkpoint = Checkpoint(tmp_path, {})
    with pytest.raises(Interrupted):
        restructure(NETWORK, samples, options, interrupting_at("layer1: adjusting"), checkpoint=checkpoint)
    for team, kept in ((Team(threads=3), None), (ALONE, checkpoint)):
        again = restructure(NETWORK, samples, options, team=team, checkpoint=kept)
        assert_same_bits(again, whole)


def test_density_counts_the_weights_of_relays(samples):
    options = Options(WORKERS, 0.1, "partitioned", forms=ALL, density=0.5)
    cut = restructure(NETWORK, samples, options)
    relays = sum(mixing.weights.size for mixing in cut.network.mixings if "relays" in mixing.name)
    assert 0 < cut.network.weight_count <= 0.5 * NETWORK.weight_count + relays


@pytest.mark.parametrize("comm_dtype", COMM_DTYPES[1:])
@pytest.mark.parametrize("maps", [False, True])
def test_what_is_propagated_is_what_arrives(samples, monkeypatch, comm_dtype, maps):
    """Relays that are part of the weights are rounded as those that are neurons, whose scales fit them."""
    found = []

    def spy(network, plan, relays):
        found.append((network, plan, relays))
        return with_relays(network, plan, relays)

    monkeypatch.setattr(driver, "with_relays", spy)
    network, x = mapped(0) if maps else (NETWORK, np.concatenate([*samples.batches(400, dtype=None)]))
    options = Options(WORKERS, 0.1, "partitioned", forms=ALL, comm_dtype=comm_dtype)
    cut = restructure(network, Samples.of(x), options)
    ((propagated, plan, relays),) = found
    assert relays and cut.plan.comm_dtype == comm_dtype
    expected = forward(cut.network, x, compute=cut.compute())
    inner = rounded_compute(propagated, plan, comm_dtype, relays)
    np.testing.assert_allclose(forward(propagated, x, compute=inner), expected, rtol=0, atol=1e-9)
    ghosts_alone = rounded_compute(propagated, plan, comm_dtype)
    assert np.abs(forward(propagated, x, compute=ghosts_alone) - expected).max() > 1e-5
    tensors = trace(cut.network, x.T.astype(np.float64), compute=cut.compute())
    for tensor, scales in cut.plan.scales.items():
        largest = scales_of(np.abs(tensors[tensor]).reshape(len(scales), -1).max(axis=1))
        # In int4 values reach less far where that leaves less error.
        assert comm_dtype == "int4" or np.allclose(scales, largest, rtol=1e-5, atol=0)
        assert (scales <= largest * (1 + 1e-5)).all()


@pytest.mark.parametrize("maps", [False, True])
def test_noise_is_what_rounding_adds_to_relays(samples, monkeypatch, maps):
    seen = {}

    def spy(context, decisions, mixing, relays):
        noise = noise_of(context, decisions, mixing, relays)
        seen[mixing.name] = noise, relays, context.owner(decisions, mixing.target)
        return noise

    noise_of = relayed._noise
    monkeypatch.setattr(relayed, "_noise", spy)
    network, x = mapped(0) if maps else (NETWORK, np.concatenate([*samples.batches(400, dtype=None)]))
    options = Options(WORKERS, 0.1, "partitioned", forms=ALL, comm_dtype=INT8)
    cut = restructure(network, Samples.of(x), options)
    tensors = trace(cut.network, x.T.astype(np.float64), compute=cut.compute())
    readers = {mixing.name: mixing for mixing in cut.network.mixings}
    assert seen.keys() == cut.plan.relays.keys() and seen
    for name, (noise, relays, owner) in seen.items():
        r = tensors[readers[cut.plan.relays[name]].source]
        errors = (received(r, INT8, relays.scales, relays.outliers) - r).reshape(len(r), -1)
        reads = owner[:, None] == relays.receiver
        expected = np.where(reads, (errors**2).mean(axis=1), 0).repeat(relays.taps, axis=1)
        np.testing.assert_allclose(noise[:, -expected.shape[1] :], expected, rtol=1e-5)


def test_rows_lean_on_relays_that_arrive_well(monkeypatch):
    """Every worker has nearly what the others have; samples far out make int8 coarse for the rest."""
    rng, n = np.random.default_rng(0), 12
    signal = rng.standard_normal((2000, n))
    signal[:n] += 200 * np.eye(n)
    x = np.hstack([signal, signal + 0.1 * rng.standard_normal(signal.shape)])
    network = small_plans.random_network(1, widths=(2 * n, 8), head="identity")
    samples = Samples.of(x)
    options = Options(2, 0.3, "partitioned", forms=ALL, comm_dtype=INT8)
    cut = restructure(network, samples, options)
    monkeypatch.setattr(relayed, "_noise", lambda *_: None)
    unaware = restructure(network, samples, options)
    assert cut.plan.relays
    assert cut.traffic_matrix().tolist() == unaware.traffic_matrix().tolist()
    errors = [compare(network, c.network, samples, compute=c.compute()).output_error for c in (cut, unaware)]
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize("comm_dtype", COMM_DTYPES)
def test_shards_and_report(samples, tmp_path, comm_dtype):
    options = Options(WORKERS, 0.1, "partitioned", forms=ALL, comm_dtype=comm_dtype)
    report = restructure_to(tmp_path / "shards", NETWORK, samples, options, np.float64, lambda line: None)
    stored = open_plan(tmp_path / "shards")
    assert [*stored.plan.relays] == [layer["name"] for layer in report["layers"] if layer["relays"]] != []
    assert all(layer["form"] == "relay" for layer in report["layers"] if layer["relays"])
    assert report["values_sent"] == stored.traffic_matrix().sum()
    assert report["values_sent"] == sum(layer["values_sent"] for layer in report["layers"])
    network = read_network(stored)
    sums = sum(int(stored.plan.sum_traffic(network, mixing).sum()) for mixing in network.mixings)
    expected = small_plans.ghost_bytes(network, stored.plan, comm_dtype) + 4 * sums
    assert report["bytes_per_sample"] == expected
    assert comm_dtype != EXACT or report["output_error"] <= report["bound"]
    x = np.random.default_rng(1).standard_normal((9, 24))
    cut = restructure(NETWORK, samples, options)
    np.testing.assert_allclose(forward(network, x), forward(cut.network, x), rtol=1e-9, atol=1e-12)
    tensor = network.mixings[1].source
    assert stored.plan.scales == {} or stored.plan.scales[tensor].size == network.space(tensor).neurons


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"forms": ("relays",)}, "expected ghosts and others, each once"),
        ({"forms": ("ghosts", "ghosts")}, "expected ghosts and others, each once"),
        ({"forms": ("ghosts", "links")}, "expected some of ghosts, sums, relays"),
        ({"forms": ALL, "method": "magnitude"}, "expected no relays with method magnitude"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(UserError, match=message):
        Options(WORKERS, **options)


def test_more_relays_than_the_density_has_room_for(samples):
    options = Options(WORKERS, 0.3, "partitioned", forms=ALL, density=0.05)
    with pytest.raises(UserError, match="allow more weights, or leave relays out"):
        restructure(NETWORK, samples, options)
