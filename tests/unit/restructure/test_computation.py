"""A budget of computation: which columns go, what workers still do, and what the network computes then."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import small_plans
from helpers.interruption import Interrupted, assert_same_bits, interrupting_at
from helpers.small_graphs import (
    branching_network,
    convolutional_network,
    normalised_network,
    residual_network,
)
from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.spec import check
from repurpose_hpc.plan.assemble import assemble
from repurpose_hpc.plan.files.store import open_plan, read_network
from repurpose_hpc.plan.masks import mixing_plan
from repurpose_hpc.plan.plan import PLACEMENTS
from repurpose_hpc.plan.relays import Relays, without_relays
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.restructure.calibration.moments import Moments
from repurpose_hpc.restructure.checkpoint import Checkpoint
from repurpose_hpc.restructure.columns import Offer, rank_columns
from repurpose_hpc.restructure.computation import (
    ComputeBudgetTooSmall,
    Workload,
    _multiply_adds,
    _price,
    dense_multiply_adds,
    makers_of,
)
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.job import restructure_network, restructure_to
from repurpose_hpc.restructure.method import METHODS
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.support.elimination import metric_root
from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.support.tradeoff import Ranking
from repurpose_hpc.restructure.team import ALONE, Team

WITH_RELAYS = ("ghosts", "sums", "relays")
WORKERS = 3
NETWORK = small_plans.random_network(5, widths=(24, 40, 30, 6), head="identity")
GRAPHS = (convolutional_network, residual_network, branching_network, normalised_network)


def samples_of(network, count=400):
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((count, network.inputs)) @ rng.standard_normal((network.inputs,) * 2)
    return Samples.of(mixed.reshape(count, *network.input_shape))


def random_problem(rng, m, n, taps):
    """A mixing with random moments, owners and masks; a worker may own nothing."""
    x = rng.standard_normal((n * taps, 3 * n * taps)) * rng.uniform(0.1, 2, (n * taps, 1))
    H = x @ x.T / (3 * n * taps) + 0.01 * np.eye(n * taps)
    root, links = rng.standard_normal((m, m)), 1.0 - np.eye(WORKERS)
    R = rng.standard_normal((m, n * taps)) @ H
    problem = MixingProblem(
        moments=Moments(H, R, np.ones(m), np.zeros(n * taps), np.zeros(m)),
        metric=root.T @ root,
        source_owner=rng.integers(0, WORKERS, n).astype(np.int32),
        ghost_costs=links,
        sum_costs=links,
        most_ghosts=lambda rows: np.full(WORKERS, n),
        only_ghosts=False,
        team=ALONE,
        taps=taps,
    )
    owner = rng.integers(0, WORKERS, m).astype(np.int32)
    masks = rng.random((WORKERS, n)) < 0.3, rng.random((WORKERS, m)) < 0.2 * rng.integers(0, 2)
    return problem, owner, mixing_plan(*masks, problem.source_owner, owner)


def random_relays(rng, problem, plan, behind):
    """Relays to some workers, of neurons that they do not have, and the plan without partial sums."""
    k = problem.taps
    source = problem.source_owner.repeat(k if behind else 1)
    sender, receiver = rng.integers(0, WORKERS, (2, 2 * WORKERS)).astype(np.int32)
    known = (problem.own() | plan.ghosts).repeat(k if behind else 1, axis=1)
    free = (source == sender[:, None]) & ~known[receiver]
    combined, used = rng.standard_normal(free.shape) * free, free.any(axis=1)
    relays = Relays(
        sender=sender[used],
        receiver=receiver[used],
        combined=combined[used],
        weights=np.zeros((plan.sums.shape[1], used.sum() * (1 if behind else k))),
        scales=np.zeros(used.sum(), np.float32),
        outliers=np.zeros(used.sum(), bool),
    )
    # Of so few neurons of a worker, two relays may say the same.
    independent = [
        np.linalg.matrix_rank(C) == len(C) for C in (relays.combined[relays.receiver == q] for q in range(3))
    ]
    plan = dataclasses.replace(plan, sums=np.zeros_like(plan.sums))
    return (relays if used.any() and all(independent) else None), plan


def unexplained(problem, rows, neurons, C):
    """Error of rows on some neurons, bool (n,), and combinations C by least squares, above that on all."""
    H, R = problem.moments.H, metric_root(problem.metric[np.ix_(rows, rows)]) @ problem.moments.R[rows]
    T = np.concatenate([np.eye(len(H))[problem.columns(neurons)], C])
    explained = np.vdot(R @ T.T, np.linalg.solve(T @ H @ T.T, T @ R.T).T)
    return np.vdot(R, np.linalg.solve(H, R.T).T) - explained


@given(
    seed=st.integers(0, 10_000),
    m=st.integers(1, 9),
    n=st.integers(2, 12),
    taps=st.integers(1, 3),
    place=st.sampled_from([None, "before", "behind"]),
)
@settings(max_examples=100)
def test_savings_are_what_least_squares_finds(seed, m, n, taps, place):
    """All that goes together costs what refitting without it does, for the rows that the worker computes."""
    rng = np.random.default_rng(seed)
    problem, owner, plan = random_problem(rng, m, n, taps)
    relays, nothing = None, np.empty((0, n * taps))
    if place is not None:
        relays, plan = random_relays(rng, problem, plan, place == "behind")
    loads = rng.integers(1, 9, (WORKERS, n))
    offered = rng.random((WORKERS, n)) < 0.7
    offer = Offer(offered, loads, loads * 2.0)
    own = problem.own()
    for q, ranking in enumerate(rank_columns(problem, owner, plan, offer, relays)):
        rows = np.flatnonzero((owner == q) | plan.sums[q])
        known = own[q] | plan.ghosts[q]
        for i in rows:  # what owners of these rows, and whoever sends sums to them, know
            known = known | (own[owner[i]] if plan.sums[q, i] else False)
            known = known | own[plan.sums[:, i]].any(axis=0)
        if not rows.size:
            assert not ranking.groups.size
            continue
        assert {*ranking.groups.tolist()} == {*np.flatnonzero(known & offered[q]).tolist()}
        assert (np.diff(ranking.savings) <= 0).all()
        C = nothing if relays is None else relays.columns[(relays.receiver == q).repeat(relays.taps)]
        whole = unexplained(problem, rows, known, C)
        risen = unexplained(problem, rows, known & ~offered[q], C) - whole
        scale = unexplained(problem, rows, np.zeros(n, bool), nothing)
        assert ranking.savings @ ranking.costs == pytest.approx(risen, abs=1e-6 * scale)
        assert ranking.costs.tolist() == offer.costs[q, ranking.groups].tolist()


def random_workloads(rng, count, n):
    """Workloads of a chain of mixings for one worker; own neurons take rows of the one before along."""
    workloads = []
    for number in range(count):
        # The last column stays.
        loads = np.append(rng.integers(1, 20, n), rng.integers(5 * n, 9 * n))[None]
        rows = (
            {f"m{number - 1}": np.append(rng.integers(0, 5, n) * (rng.random(n) < 0.5), 0)} if number else {}
        )
        ranking = Ranking(rng.permutation(n), np.sort(rng.random(n))[::-1], loads[0, :n].astype(float))
        offer = Offer(np.arange(n + 1)[None] < n, loads, loads.astype(float))
        workloads.append(Workload(f"m{number}", rows, offer, [ranking], np.zeros(1)))
    return workloads


@given(seed=st.integers(0, 10_000), count=st.integers(1, 4), share=st.floats(0.1, 1.2))
@settings(max_examples=60)
def test_the_price_is_the_lowest_that_keeps_within_the_limit(seed, count, share):
    ahead = random_workloads(np.random.default_rng(seed), count, 6)
    done = {"before": np.array([17])}
    limit = share * (17 + sum(load.load[0] for load in ahead))
    prices = np.unique(np.concatenate([[0.0], *(load.rankings[0].savings for load in ahead)]))
    totals = [_multiply_adds(0, price, ahead, done) for price in prices]
    assert (np.diff(totals) <= 1e-9).all()
    affordable = [price for price, total in zip(prices, totals, strict=True) if total <= limit]
    if affordable:
        assert _price(0, limit, ahead, done, limit) == affordable[0]
    else:
        with pytest.raises(ComputeBudgetTooSmall, match=r"at least [\d,]+ multiply-adds of worker 0"):
            _price(0, limit, ahead, done, limit)


def held(shard):
    """Multiply-adds of a sample that a worker does with its blocks."""
    graph = shard.graph
    return sum(
        sum(np.count_nonzero(part) for part in (block.own_weights, block.ghost_weights, block.sum_weights))
        * graph.values(mixing.target)
        for mixing in graph.mixings
        for block in [shard.blocks[mixing.name]]
    )


def assert_is_limited(network, options, samples):
    """Nobody does more than it may, and shards compute what the restructured network does; the cut."""
    cut = restructure(network, samples, options)
    speeds = np.array(options.part_weights or (1.0,) * options.workers)
    limits = options.compute_budget * dense_multiply_adds(network) * speeds / speeds.sum()
    done = cut.plan.multiply_adds(cut.network)
    assert (done <= limits * (1 + 1e-12)).all()
    shards = [make_shard(cut.network, cut.plan, q, np.float64) for q in range(options.workers)]
    assert [held(shard) for shard in shards] == done.tolist()
    x = np.random.default_rng(3).standard_normal((9, network.inputs))
    np.testing.assert_allclose(forward(assemble(shards), x), forward(cut.network, x), rtol=0, atol=1e-12)
    dense = sum(cut.plan.dense_values(network, mixing) for mixing in network.mixings)
    assert cut.traffic_matrix().sum() <= options.comm_budget * dense * (1 + 1e-9)
    for name, removed in cut.plan.removed.items():
        assert not any(removed[shard.own[name]].any() for shard in shards)
    return cut


@pytest.mark.parametrize("forms", [("ghosts",), ("ghosts", "sums")])
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("compute_budget", [0.3, 0.2])
def test_nobody_does_more_than_it_may(compute_budget, placement, forms):
    options = Options(WORKERS, 0.1, placement, compute_budget=compute_budget, forms=forms)
    cut = assert_is_limited(NETWORK, options, samples_of(NETWORK))
    assert cut.plan.removed


@pytest.mark.parametrize("forms", [("ghosts", "sums"), WITH_RELAYS])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_any_number_of_workers_of_any_speed(workers, forms):
    weights = tuple(range(workers)) if workers > 2 else None  # the first owns nothing
    for placement in ("replicated", "partitioned"):
        options = Options(workers, 0.1, placement, part_weights=weights, compute_budget=0.5, forms=forms)
        assert_is_limited(NETWORK, options, samples_of(NETWORK))


@pytest.mark.parametrize("make", GRAPHS)
@pytest.mark.parametrize("placement", ["replicated", "partitioned"])
def test_graphs(make, placement):
    """Neurons that several mixings read, gates, groups and outputs keep what they need."""
    network = make()
    options = Options(2, 0.4, placement, compute_budget=0.5)
    cut = assert_is_limited(network, options, samples_of(network, 100))
    for name in cut.plan.removed:
        readers = [m for m in network.mixings if name in network.parts(m.source)]
        assert len(readers) == 1
        assert name not in {network.space_of[tensor] for tensor in network.output_tensors}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("assignment", ["contiguous", "random"])
def test_baselines(method, assignment):
    options = Options(WORKERS, 0.1, assignment=assignment, method=method, compute_budget=0.3)
    assert_is_limited(NETWORK, options, samples_of(NETWORK))


def test_limits_of_load_as_well():
    """``--imbalance`` limits the ghosts first, and unequal links have prices."""
    links = ((0.0, 1.0, 5.0), (1.0, 0.0, 5.0), (5.0, 5.0, 0.0))
    options = Options(WORKERS, 0.1, "partitioned", imbalance=0.1, link_costs=links, compute_budget=0.2)
    cut = restructure(NETWORK, samples_of(NETWORK), options)
    done = cut.plan.multiply_adds(cut.network)
    assert (done <= 0.2 * dense_multiply_adds(NETWORK) / WORKERS * (1 + 1e-12)).all()


def test_who_else_needs_a_neuron():
    chain = {mixing.name: makers_of(NETWORK, mixing) for mixing in NETWORK.mixings}
    assert [[m.name for m in makers] for makers in chain.values()] == [[], ["layer0"], ["layer1"]]
    network = residual_network()
    makers = {mixing.name: makers_of(network, mixing) for mixing in network.mixings}
    # The shortcut is read by two; behind it one layer reads what c2 makes.
    assert makers["c1"] is None and makers["c2"] is None
    assert [m.name for m in makers["last"]] == ["c2"]


def test_less_is_computed_at_a_small_error():
    """Half of the neurons of this network are copies: half of the computation is for nothing."""
    rng = np.random.default_rng(4)
    wide = small_plans.random_network(2, widths=(12, 16, 16, 4), head="identity")
    first, second, last = wide.mixings
    twice = {
        first.name: dataclasses.replace(first, weights=np.tile(first.weights[:8], (2, 1)), bias=np.zeros(16)),
        second.name: dataclasses.replace(
            second, weights=np.tile(second.weights[:8], (2, 1)), bias=np.zeros(16)
        ),
    }
    network = wide.with_mixings(twice)
    x = rng.standard_normal((500, 12))
    cut = restructure(network, Samples.of(x), Options(1, 0.5, compute_budget=0.375))
    # 12 · 8 + 8 · 8 + 8 · 4 of 12 · 16 + 16 · 16 + 16 · 4 multiply-adds are needed: 0.375.
    # The ridge keeps what is fitted from being exact.
    np.testing.assert_allclose(forward(cut.network, x), forward(network, x), rtol=0, atol=0.02)
    assert [int(removed.sum()) for removed in cut.plan.removed.values()] == [8, 8]


def test_without_a_limit_nothing_changes():
    samples = samples_of(NETWORK)
    plain, limited = (
        restructure(NETWORK, samples, Options(2, 0.1, **f)) for f in ({}, {"compute_budget": 1})
    )
    assert plain.plan.identity() == limited.plan.identity()
    assert plain.network.fingerprint() == limited.network.fingerprint()


def test_too_small_a_budget_names_what_is_needed():
    """The sums of normalisations stay."""
    network = normalised_network()
    with pytest.raises(ComputeBudgetTooSmall, match="allow more computation"):
        restructure(network, samples_of(network, 100), Options(2, 0.4, compute_budget=0.01))


def deep_chain():
    return small_plans.random_network(26, widths=(16, 20, 20, 20, 20, 20, 4), head="identity")


@pytest.mark.parametrize("compute_budget", [0.5, 0.2, 0.1])
@pytest.mark.parametrize("comm_budget", [0.5, 1.0])
def test_neurons_that_turn_out_to_be_needed(comm_budget, compute_budget):
    """What is planned to go may be read by others when its turn comes; then all begins again."""
    network = deep_chain()
    options = Options(WORKERS, comm_budget, "partitioned", compute_budget=compute_budget)
    assert_is_limited(network, options, samples_of(network))


def test_beginning_again_is_kept_too(tmp_path):
    """An interrupted run that had begun again goes on there, with the same bits."""
    network, lines = deep_chain(), []
    options = Options(WORKERS, 0.5, "partitioned", compute_budget=0.3)
    whole = restructure(network, samples_of(network), options, lines.append)
    assert any(line.startswith("beginning again") for line in lines)
    checkpoint, log = Checkpoint(tmp_path, {}), interrupting_at("beginning again", "layer3 ")
    with pytest.raises(Interrupted):
        restructure(network, samples_of(network), options, log, checkpoint=checkpoint)
    assert checkpoint.load(network).is_careful
    again = restructure(network, samples_of(network), options, checkpoint=Checkpoint(tmp_path, {}))
    assert_same_bits(again, whole)


def test_constants_have_sane_weights():
    """Behind a mixing that is gone there are only constants, whose variances are rounding errors."""
    network = residual_network(4, channels=12)
    cut = restructure(network, samples_of(network, 150), Options(1, 0.0, compute_budget=0.1))
    largest = max(np.abs(mixing.weights).max() for mixing in cut.network.mixings)
    assert largest < 1e3


def test_a_promise_with_less_computation(tmp_path):
    options = Options(WORKERS, max_output_error=0.6, compute_budget=0.3)
    report = restructure_to(
        tmp_path / "shards", NETWORK, samples_of(NETWORK), options, np.float64, lambda line: None
    )
    assert report["compute_fraction"] <= 0.3 and report["output_error_held_out"] <= 0.6


def test_a_promise_that_computation_breaks():
    options = Options(WORKERS, max_output_error=1e-4, compute_budget=0.3)
    with pytest.raises(UserError, match=r"do without compute_budget=0\.3"):
        restructure_network(NETWORK, samples_of(NETWORK), options)


@pytest.mark.parametrize("comm_dtype", ["float32", "int8"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_relays_keep_what_they_combine(placement, comm_dtype):
    """They are counted, and no removed neuron is in one of them or reads one."""
    options = Options(WORKERS, 0.1, placement, compute_budget=0.3, forms=WITH_RELAYS, comm_dtype=comm_dtype)
    cut = assert_is_limited(NETWORK, options, samples_of(NETWORK))
    check(cut.network)
    assert cut.plan.relays and cut.plan.removed
    mixings, removed = {m.name: m for m in cut.network.mixings}, cut.plan.removed_neurons(cut.network)
    for reader in (mixings[name] for name in cut.plan.relays.values()):
        (maker,) = (mixing for mixing in cut.network.mixings if mixing.target == reader.source)
        assert not maker.weights[:, removed[cut.network.space_of[maker.source]]].any()
        assert not reader.weights[removed[cut.network.space_of[reader.target]]].any()
        assert reader.weights.any(axis=0).all()
    x = np.random.default_rng(1).standard_normal((9, 24))
    collapsed = without_relays(cut.network, cut.plan)
    np.testing.assert_allclose(forward(collapsed, x), forward(cut.network, x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", GRAPHS)
@pytest.mark.parametrize("comm_budget", [0.15, 0.4])
def test_graphs_with_relays(make, comm_budget):
    """The budget is kept, or what it would take is named."""
    network = make()
    options = Options(3, comm_budget, "partitioned", compute_budget=0.5, forms=WITH_RELAYS)
    try:
        assert_is_limited(network, options, samples_of(network, 100))
    except ComputeBudgetTooSmall as error:
        assert "relays are not removed; allow more computation" in str(error)
        assert make in (residual_network, normalised_network)


def test_relays_give_way_where_they_take_too_much(tmp_path):
    """With the bits of a run without relays, also of one that was interrupted after that."""
    samples, lines = samples_of(NETWORK), []

    def run(directory, log, forms=WITH_RELAYS):
        options = Options(WORKERS, 0.3, compute_budget=0.1, forms=forms)
        restructure_to(tmp_path / directory, NETWORK, samples, options, np.float64, log)
        return open_plan(tmp_path / directory)

    without = run("without", lambda line: None, WITH_RELAYS[:2])
    again = run("again", lines.append)
    assert any(line.startswith("with relays: compute_budget: expected at least") for line in lines)
    with pytest.raises(Interrupted):
        run("interrupted", interrupting_at("with relays: compute_budget", "without relays: layer2 "))
    for stored in (again, run("interrupted", lambda line: None)):
        assert not stored.plan.relays and stored.plan.identity() == without.plan.identity()
        assert read_network(stored).fingerprint() == read_network(without).fingerprint()


@pytest.mark.parametrize("limit", [{"compute_budget": 0.3}, {"compute_budget": 0.6}, {"density": 0.3}])
def test_relays_are_left_out_where_others_do_better(limit):
    """What they compute or weigh goes off everything else."""
    network = small_plans.random_network(5, widths=(12, 20, 16, 5))
    samples, found = samples_of(network), {}
    for forms in (WITH_RELAYS[:2], WITH_RELAYS):
        options = {"workers": 4, "comm_budget": 0.7, "input_placement": "partitioned", "forms": forms}
        found[forms] = restructure_network(network, samples, **options, **limit).report
        alone = restructure(network, samples, Options(**options, **limit)) if "relays" not in forms else None
        assert alone is None or found[forms]["values_sent"] == int(alone.traffic_matrix().sum())
    errors = [report["output_error"] for report in found.values()]
    assert errors[1] <= errors[0] and all(report["output_error"] > 0 for report in found.values())


def test_relays_that_removed_rows_read():
    """What nobody else reads is not sent."""
    relays = Relays(
        sender=np.array([0, 0, 1], np.int32),
        receiver=np.array([1, 2, 2], np.int32),
        combined=np.arange(12.0).reshape(3, 4),
        weights=np.array([[1.0, 2, 0, 0, 0, 0], [0, 0, 3, 4, 0, 6], [0, 0, 0, 7, 0, 0]]),
        scales=np.arange(3, dtype=np.float32),
        outliers=np.array([True, False, True]),
    )
    left = relays.without_rows(np.array([True, False, False]))
    assert (left.sender.tolist(), left.receiver.tolist(), left.scales.tolist()) == ([0, 1], [2, 2], [1, 2])
    assert left.outliers.tolist() == [False, True]
    assert left.combined.tolist() == relays.combined[1:].tolist() and left.taps == 2
    assert left.weights.tolist() == [[0, 0, 0, 0], [3, 4, 0, 6], [0, 7, 0, 0]]
    assert not len(relays.without_rows(np.ones(3, bool)))


def test_weights_or_columns():
    with pytest.raises(UserError, match="expected one of them below 1, got both"):
        Options(2, density=0.5, compute_budget=0.5)


def test_all_communication_and_less_computation():
    """A budget of 1 keeps what it can."""
    assert_is_limited(NETWORK, Options(2, 1.0, "partitioned", compute_budget=0.6), samples_of(NETWORK))


@pytest.mark.parametrize("forms", [("ghosts", "sums"), WITH_RELAYS])
def test_an_interrupted_run_and_several_ranks_yield_the_same_bits(tmp_path, forms):
    samples = samples_of(NETWORK)
    options = Options(WORKERS, 0.1, "partitioned", compute_budget=0.25, forms=forms)
    whole = restructure(NETWORK, samples, options)
    checkpoint = Checkpoint(tmp_path, {})
    with pytest.raises(Interrupted):
        restructure(NETWORK, samples, options, interrupting_at("layer2 "), checkpoint=checkpoint)
    assert checkpoint.load(NETWORK).removed
    for team, kept in ((Team(threads=3), None), (ALONE, checkpoint)):
        again = restructure(NETWORK, samples, options, team=team, checkpoint=kept)
        assert_same_bits(again, whole)


@pytest.mark.parametrize("forms", [("ghosts", "sums"), WITH_RELAYS])
def test_shards_and_report_tell(tmp_path, forms):
    options = Options(WORKERS, 0.1, compute_budget=0.4, forms=forms)
    report = restructure_to(
        tmp_path / "shards", NETWORK, samples_of(NETWORK), options, np.float64, lambda line: None
    )
    stored = open_plan(tmp_path / "shards")
    removed = [int(mask.sum()) for mask in stored.plan.removed.values()]
    assert any(removed)
    assert removed == [layer["inputs_removed"] for layer in report["layers"] if layer["inputs_removed"]]
    assert 0.2 < report["compute_fraction"] <= 0.4
    network = read_network(stored)
    done = stored.plan.multiply_adds(network) * WORKERS / dense_multiply_adds(NETWORK)
    assert report["compute_fraction"] == pytest.approx(done.max())
