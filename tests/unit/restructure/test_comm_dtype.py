"""Ghosts that arrive rounded: the reference, what restructuring measures and reports, and the options."""

import json
from dataclasses import replace

import numpy as np
import pytest
import wire_table
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import small_plans
from helpers.small_graphs import convolutional_network, normalised_network, residual_network
from helpers.small_plans import WITHOUT_RELAYS
from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples, open_samples
from repurpose_hpc.model.comm_dtype import COMM_DTYPES, EXACT, INT8, SCALED, received, scales_of
from repurpose_hpc.model.forward import compute, forward, outputs, patches, trace
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.files.store import open_plan, read_network, read_shard
from repurpose_hpc.plan.masks import EVERYBODY
from repurpose_hpc.plan.plan import PLACEMENTS, Plan
from repurpose_hpc.plan.rounding import rounded_compute
from repurpose_hpc.restructure import adjustment
from repurpose_hpc.restructure.adjustment import adjust
from repurpose_hpc.restructure.calibration.comm_dtype import measure_noise
from repurpose_hpc.restructure.calibration.evaluation import compare
from repurpose_hpc.restructure.calibration.moments import MomentSums
from repurpose_hpc.restructure.calibration.reach import LITTLE, MOST_NOISE, REACHES, attempts, settled
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.job import restructure_to
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.team import ALONE, Team
from repurpose_hpc.runtime.resources import Formats
from repurpose_hpc.runtime.verification import Verification, tolerance

ROUNDING = COMM_DTYPES[1:]
NETWORKS = {
    "chain": small_plans.random_network,
    "branches": convolutional_network,
    "residual": residual_network,
    "normalised": normalised_network,
}
WORKERS = 3


def quiet(line):
    """Swallow the log."""


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param]()


@pytest.fixture
def samples_of(tmp_path):
    """A function network -> random samples, some of them far out."""

    def write(network, count=150):
        rng = np.random.default_rng(3)
        mix = rng.standard_normal((network.inputs, network.inputs)) / np.sqrt(network.inputs)
        np.save(tmp_path / "x.npy", rng.standard_t(3, (count, network.inputs)) @ mix)
        return open_samples(tmp_path / "x.npy")

    return write


def read(samples):
    return np.concatenate(list(samples.batches(100, dtype=np.float64))).T


def worker_by_worker(network, plan, wire, op, x):
    """A mixing as its workers compute it: each with what it owns and what arrived."""
    y = compute(op, x)
    flat = y.reshape(len(y), -1)
    source, target = plan.owner(network, op.source), plan.owner(network, op.target)
    arrived = received(x, wire, plan.scales[op.source], plan.outliers.get(op.source)).astype(x.dtype)
    for q in range(plan.workers):
        is_ghost = plan.mixings[op.name].ghosts[q] & (source != EVERYBODY)
        rows = np.flatnonzero(target == q)
        seen = np.where(is_ghost.reshape(-1, *(1,) * (x.ndim - 1)), arrived, x)
        flat[rows] = op.weights[rows] @ patches(op.window, seen) + op.bias[rows, None]
    return y


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("wire", ROUNDING)
@pytest.mark.parametrize("with_outliers", [False, True])
def test_reference_is_what_workers_compute(network, wire, placement, with_outliers):
    rng = np.random.default_rng(5)
    owners = small_plans.random_owners(network, WORKERS, placement, rng)
    plan = Plan(WORKERS, placement, owners, small_plans.random_masks(network, owners, WORKERS, 0.5))
    network = small_plans.pruned(network, plan)
    plan = small_plans.scaled(network, plan)
    if with_outliers:
        plan = small_plans.with_outliers(network, plan)

    def by_hand(op, *x):
        return worker_by_worker(network, plan, wire, op, *x) if isinstance(op, Mixing) else compute(op, *x)

    x = rng.standard_normal((network.inputs, 9))
    expected = outputs(network, trace(network, x, compute=by_hand))
    found = outputs(network, trace(network, x, compute=rounded_compute(network, plan, wire)))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    exact = outputs(network, trace(network, x))
    assert np.abs(found - exact).max() > 1e-7 * np.abs(exact).max()


def test_exact_wire_is_the_plain_reference():
    network = small_plans.random_network()
    assert rounded_compute(network, small_plans.random_plan(network, 2, "root"), EXACT) is compute


@given(st.integers(0, 2**32 - 1), st.sampled_from(COMM_DTYPES), st.sampled_from(PLACEMENTS))
def test_runs_in_float32_are_within_the_tolerance(seed, wire, placement):
    network = small_plans.random_network(seed)
    plan = small_plans.random_plan(network, 4, placement, seed)
    network = small_plans.pruned(network, plan).astype(np.float32)
    plan = small_plans.scaled(network, plan)
    rounding = rounded_compute(network, plan, wire)
    x = np.random.default_rng(seed).standard_normal((400, network.inputs))
    run, reference = (forward(network, x, dtype, rounding) for dtype in (np.float32, np.float64))
    difference = np.abs(run - reference) / np.abs(reference).max()
    assert difference.max() <= tolerance(np.dtype(np.float32), Formats(comm_dtype=wire))
    # Hardly anything is rounded to the other side.
    assert np.mean(difference > 1e-5) < 0.05


@pytest.mark.parametrize("wire", COMM_DTYPES)
@pytest.mark.parametrize("budget", [0.3, 1.0])
def test_scales_are_those_of_what_is_propagated(network, samples_of, wire, budget):
    samples = samples_of(network)
    result = restructure(network, samples, Options(WORKERS, budget, "partitioned", comm_dtype=wire), quiet)
    tensors = trace(result.network, read(samples), compute=result.compute())
    assert result.plan.comm_dtype == wire
    assert {*result.plan.scales} == {mixing.source for mixing in result.network.mixings}
    for tensor, scales in result.plan.scales.items():
        x = tensors[tensor].reshape(len(scales), -1)
        assert scales.dtype == np.float32
        largest = scales_of(np.abs(x).max(axis=1))
        if wire in SCALED:
            check_reaches(x, wire, scales, largest)
        else:
            np.testing.assert_allclose(scales, largest, rtol=1e-6)


def check_reaches(x, wire, scales, largest):
    """Neurons reach their largest value where rounding takes little, else what leaves the least error."""
    for row, scale, full in zip(x[:, None], scales, largest, strict=True):
        errors = [
            np.mean((received(row, wire, np.array([full * part], np.float32)) - row) ** 2) for part in REACHES
        ]
        part = 1.0 if errors[0] <= LITTLE * np.mean(row**2) else REACHES[int(np.argmin(errors))]
        np.testing.assert_allclose(scale, full * part, rtol=1e-5)


@given(seed=st.integers(0, 2**32 - 1), tail=st.floats(0, 3), wire=st.sampled_from(SCALED))
@settings(max_examples=20)
def test_no_reach_leaves_less(seed, tail, wire):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((5, 300)) * np.exp(tail * rng.standard_normal((5, 300)))
    x[4] = 0
    largest = scales_of(np.abs(x).max(axis=1))
    found = settled(largest, np.mean(attempts(x, wire, largest) ** 2, axis=1))
    check_reaches(x, wire, found.scales, largest)
    left, full = (np.mean((received(x, wire, each) - x) ** 2, axis=1) for each in (found.scales, largest))
    squares = np.mean(x**2, axis=1)
    assert (left <= full).all() and not found.outliers[4]
    np.testing.assert_array_equal(found.outliers, left > MOST_NOISE * squares)


def test_four_bits_of_normal_numbers():
    """The least error of 16 equidistant levels is 0.0115 (Max 1960); with 15 it is a little more."""
    x = np.random.default_rng(0).standard_normal((3, 20_000))
    largest = scales_of(np.abs(x).max(axis=1))
    found = settled(largest, np.mean(attempts(x, "int4", largest) ** 2, axis=1))
    left = np.mean((received(x, "int4", found.scales) - x) ** 2, axis=1)
    assert (left < 0.015).all() and (left > 0.0115).all() and not found.outliers.any()


@pytest.mark.parametrize("wire", ROUNDING)
def test_budget_holds_and_threads_do_not_enter(network, samples_of, wire):
    samples, options = samples_of(network), Options(WORKERS, 0.3, "partitioned", comm_dtype=wire)
    alone, together = (
        restructure(network, samples, options, quiet, team) for team in (Team(), Team(threads=2))
    )
    assert alone.network.fingerprint() == together.network.fingerprint()
    assert alone.plan.identity() == together.plan.identity()
    dense = sum(alone.plan.dense_values(network, mixing) for mixing in network.mixings)
    assert 0 < alone.traffic_matrix().sum() <= 0.3 * dense
    for mixing in alone.network.mixings:
        allowed = alone.plan.allowed(alone.network, mixing).repeat(mixing.taps, axis=1)
        assert not mixing.weights[~allowed].any()


def test_noise_is_what_rounding_adds_to_ghosts(network, samples_of, monkeypatch):
    samples, seen = samples_of(network), {}

    def spy(propagation, mixing, current):
        seen[mixing.name] = current, measure_noise(propagation, mixing, current)
        return seen[mixing.name][1]

    monkeypatch.setattr(adjustment, "measure_noise", spy)
    options = Options(WORKERS, 0.4, "partitioned", comm_dtype=INT8, forms=WITHOUT_RELAYS)
    result = restructure(network, samples, options, quiet)
    assert seen
    tensors = trace(result.network, read(samples), compute=result.compute())
    for mixing in network.mixings:
        if mixing.name in seen:
            current, noise = seen[mixing.name]
            x = tensors[mixing.source]
            errors = (received(x, INT8, result.plan.scales[mixing.source]) - x).reshape(len(x), -1)
            arriving = current.plan.arriving(network, mixing)
            expected = np.where(arriving, (errors**2).mean(axis=1), 0).repeat(mixing.taps, axis=1)
            assert arriving.any()
            np.testing.assert_allclose(noise, expected, rtol=1e-6)


@pytest.mark.parametrize("wire", ["int8", "int4"])
def test_outliers_are_those_that_rounding_leaves_little_of(wire):
    """Of every third input, one sample in a thousand is so large that the others lose their digits."""
    rng, network = np.random.default_rng(0), small_plans.random_network(head="identity")
    x = rng.standard_normal((4000, network.inputs))
    x[::1000, ::3] = {"int8": 3000, "int4": 100}[wire]
    samples, options = Samples.of(x), Options(WORKERS, 0.5, "partitioned", comm_dtype=wire)
    cut = restructure(network, samples, options, quiet)
    tensors, found = trace(cut.network, x.T, compute=cut.compute()), {}
    for tensor, scales in cut.plan.scales.items():
        errors = received(tensors[tensor], wire, scales) - tensors[tensor]
        found[tensor] = (errors**2).mean(axis=1) > MOST_NOISE * (tensors[tensor] ** 2).mean(axis=1)
    expected = {tensor: mask.tolist() for tensor, mask in found.items() if mask.any()}
    assert {tensor: mask.tolist() for tensor, mask in cut.plan.outliers.items()} == expected
    source = network.mixings[0].source
    assert wire == "int8" or np.array_equal(cut.plan.outliers[source], np.arange(network.inputs) % 3 == 0)
    others = Options(WORKERS, 0.5, "partitioned", comm_dtype="float16")
    assert not restructure(network, samples, others, quiet).plan.outliers


def test_outliers_bring_what_rounding_took():
    rng, network = np.random.default_rng(0), small_plans.random_network(head="identity")
    x = rng.standard_normal((4000, network.inputs))
    x[::1000, ::3] = 100
    options = Options(WORKERS, 0.5, "partitioned", comm_dtype="int4")
    cut = restructure(network, Samples.of(x), options, quiet)
    without = replace(cut.plan, outliers={})
    errors = [
        compare(
            network, cut.network, Samples.of(x), compute=rounded_compute(cut.network, plan, "int4")
        ).output_error
        for plan in (cut.plan, without)
    ]
    assert cut.plan.bytes_sent(cut.network, "int4") > without.bytes_sent(cut.network, "int4")
    assert errors[0] < 0.7 * errors[1]


def test_rows_lean_on_what_arrives_well():
    """Every input is there twice, own and as a ghost; one sample far out makes int8 coarse for the others."""
    rng, n = np.random.default_rng(0), 20
    x = rng.standard_normal((n, 2000))
    x[:, :n] += 45 * np.eye(n)
    arrived = received(x, INT8, scales_of(np.abs(x).max(axis=1)))
    mixing = Mixing("layer", "x", "y", rng.standard_normal((n, 2 * n)), np.zeros(n))
    sums, both = MomentSums(mixing, ALONE), np.vstack([x, x])
    y = mixing.weights @ both
    sums.add(both, y)
    mask, noise = np.ones((n, 2 * n), bool), np.zeros((n, 2 * n))
    noise[:, n:] = ((arrived - x) ** 2).mean(axis=1)
    errors = []
    for known in (noise, None):
        adjusted = adjust(mixing, sums.moments(), mask, None, ALONE, known)
        found = adjusted.weights @ np.vstack([x, arrived]) + adjusted.bias[:, None]
        errors.append(np.mean((y - found) ** 2))
    assert errors[0] < 0.3 * errors[1]


def test_report_and_shards_tell_the_wire(samples_of, tmp_path):
    network = small_plans.random_network(head="identity")
    samples, found = samples_of(network), {}
    for wire in COMM_DTYPES:
        # Nothing is chosen from few ghosts: they are the same for every wire.
        options = Options(WORKERS, 1.0, "partitioned", comm_dtype=wire)
        report = restructure_to(tmp_path / wire, network, samples, options, np.float32, quiet)
        stored = open_plan(tmp_path / wire)
        shards = [read_shard(stored, worker) for worker in range(WORKERS)]
        assert {wire} == {
            report["comm_dtype"],
            stored.plan.comm_dtype,
            *(shard.comm_dtype for shard in shards),
        }
        sums = sum(int(stored.plan.sum_traffic(network, mixing).sum()) for mixing in network.mixings)
        assert report["values_sent"] == stored.traffic_matrix().sum()
        expected = small_plans.ghost_bytes(network, stored.plan, wire) + 4 * sums
        assert report["bytes_per_sample"] == expected
        assert bool(stored.plan.outliers) == (wire == "int4")
        assert (report["bound"] is None) == (wire != EXACT)
        found[wire] = report["output_error"]
    assert found[EXACT] < 1e-6 < found["float16"] < found["bfloat16"]


def test_table_has_every_wire_adjusted_for_and_not(samples_of, tmp_path):
    network = small_plans.random_network(head="identity")
    samples = samples_of(network)
    x = np.concatenate(list(samples.batches(100, dtype=np.float64)))
    samples = Samples.of(x, np.zeros(len(x), np.int64))
    results = {
        wire: restructure(network, samples, Options(WORKERS, 0.5, "partitioned", comm_dtype=wire), quiet)
        for wire in COMM_DTYPES
    }
    rows = [
        dict(zip(wire_table.KEYS, (placement, str(budget), forms, wire, adjusted_for), strict=True))
        | wire_table.measured(network, results[adjusted_for], wire, samples, samples)
        for placement, budget, forms in wire_table.SETTINGS
        for wire in COMM_DTYPES
        for adjusted_for in {EXACT, wire}
    ]
    exact, *others = (row for row in rows[:-1] if row["adjusted_for"] == EXACT)
    assert all(row["bytes"] <= exact["bytes"] for row in others)
    assert len({row["test_output_error"] for row in rows}) > 4
    assert len(wire_table.table(rows).splitlines()) == 2 + len(wire_table.SETTINGS) * len(COMM_DTYPES)


def test_checks_compare_with_the_rounding(tmp_path):
    network, plan = small_plans.write_shards(tmp_path / "shards", 3, "partitioned", wire=INT8)
    x = small_plans.write_samples(tmp_path / "x.npz")
    exact, rounded = (
        forward(network, x, np.float64, rounded_compute(network, plan, wire)) for wire in (EXACT, INT8)
    )
    # The difference between both is found, whichever is run.
    for wire, outputs_of_run, other in ((INT8, rounded, exact), (EXACT, exact, rounded)):
        for run, is_same in ((outputs_of_run, True), (other, False)):
            verification = Verification(
                network, np.dtype(np.float32), compute=rounded_compute(network, plan, wire)
            )
            verification.add(run, x)
            assert (verification.difference < 1e-12) == is_same


def test_an_unknown_wire_is_refused():
    with pytest.raises(UserError, match="comm_dtype: expected one of float32, .*int8, int4, got 'f8'"):
        Options(2, comm_dtype="f8")


@pytest.fixture
def infer(mpirun, tmp_path):
    """A function that runs ``infer`` on shards and samples in ``tmp_path``."""

    def run(*args):
        files = (
            "--shards",
            tmp_path / "shards",
            "--input",
            tmp_path / "x.npz",
            "--report",
            tmp_path / "r.json",
        )
        return mpirun(2, "-m", "repurpose_hpc.infer", *files, "--repeat", 0, *args)

    return run


def test_infer_takes_the_wire_of_the_shards_or_another(infer, tmp_path):
    small_plans.write_shards(tmp_path / "shards", 2, "partitioned", wire="float16")
    small_plans.write_samples(tmp_path / "x.npz")
    for options, wire in (((), "float16"), (("--wire", INT8), INT8), (("--wire", EXACT), EXACT)):
        done = infer(*options, "--verify")
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / "r.json").read_text())["comm_dtype"] == wire
        assert f"comm dtype {wire}" in done.stdout


def test_infer_sends_outliers_and_pairs(infer, tmp_path):
    """The shards of a network that is restructured for int4; others run with it as well."""
    network = small_plans.random_network()
    samples = Samples.of(np.random.default_rng(0).standard_t(3, (300, network.inputs)))
    options = Options(2, 0.5, "partitioned", comm_dtype="int4")
    restructure_to(tmp_path / "shards", network, samples, options, np.float32, quiet)
    plan = open_plan(tmp_path / "shards").plan
    assert plan.outliers
    small_plans.write_samples(tmp_path / "x.npz")
    restructured = read_network(open_plan(tmp_path / "shards"))
    for options, wire in (((), "int4"), (("--comm-dtype", INT8), INT8)):
        done = infer(*options, "--verify")
        assert done.returncode == 0, done.stderr
        report = json.loads((tmp_path / "r.json").read_text())
        assert report["comm_dtype"] == wire and report["relative_difference"] < 0.05
        assert report["bytes_sent"] == plan.bytes_sent(restructured, wire)
    small_plans.write_shards(tmp_path / "shards", 2, "partitioned", wire="float16")
    assert infer("--comm-dtype", "int4", "--verify").returncode == 0


def test_infer_refuses_wires_that_cannot_be(infer, tmp_path):
    network, _ = small_plans.write_shards(tmp_path / "shards", 2, "partitioned")
    small_plans.write_samples(tmp_path / "x.npz")
    small_plans.write_model(tmp_path / "model.npz", small_plans.random_network())
    done = infer("--wire", INT8)
    assert done.returncode == 1 and "--comm-dtype: expected shards with a scale" in done.stderr
    done = infer(tmp_path / "model.npz", "--certify", "--wire", "bfloat16")
    assert done.returncode == 1 and "--certify: expected --comm-dtype float32, found bfloat16" in done.stderr
