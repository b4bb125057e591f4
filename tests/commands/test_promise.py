"""Promises: what is held out, what the search finds, what confidence means, and what users are told."""

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from helpers import small_plans
from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import open_samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.plan.assemble import assemble
from repurpose_hpc.plan.files.store import open_plan, read_shard
from repurpose_hpc.report.text import render_restructured
from repurpose_hpc.restructure.calibration.evaluation import compare
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.held_out import ONE_IN, hold_out
from repurpose_hpc.restructure.job import restructure_to
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.promise import accuracy_drop_bound, keep_promise, samples_needed
from repurpose_hpc.restructure.search import RESOLUTION, least_values
from repurpose_hpc.runtime.certificate import Certificate

WORKERS = 3
SAMPLES = 400


def quiet(line):
    """Swallow the log."""


@pytest.fixture(scope="module")
def network():
    return small_plans.random_network()


@pytest.fixture(scope="module")
def samples(tmp_path_factory, network):
    """Samples that the network classifies rightly, but for one in ten."""
    path = tmp_path_factory.mktemp("data") / "x.npz"
    x = small_plans.write_samples(path, SAMPLES)
    y = forward(network, x).argmax(axis=1)
    y[::10] += 1
    np.savez(path, x=x, y=y % network.outputs)
    return open_samples(path)


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_search_finds_the_threshold_within_the_resolution(dense, threshold):
    needed, tried = round(threshold * dense), []
    found = least_values(lambda values: tried.append(values) or values >= needed, dense)
    assert found in tried and needed <= found <= max(RESOLUTION * needed, needed + 1)
    assert len(tried) == len(set(tried)) <= 10


@given(st.integers(1, 500), st.integers(0, 2**32 - 1))
def test_search_returns_the_smallest_budget_that_was_enough(dense, seed):
    enough = np.random.default_rng(seed).random(dense + 1) < 0.5
    tried = []
    found = least_values(lambda values: tried.append(values) or enough[values], dense)
    assert found == min((values for values in tried if enough[values]), default=None)


@pytest.mark.parametrize("dense", [0, 1, 2, 1000])
def test_search_that_finds_nothing(dense):
    tried = []
    assert least_values(lambda values: tried.append(values), dense) is None
    assert tried == ([0, dense] if dense else [0])


@pytest.mark.parametrize(("lost", "gained", "samples"), [(0, 0, 50), (7, 3, 200), (50, 0, 50), (0, 50, 50)])
def test_accuracy_drop_bound_is_that_of_two_exact_intervals(lost, gained, samples):
    shares = np.linspace(0, 1, 100_001)
    # The largest share of lost samples, and the least of gained ones, that the counts do not contradict.
    upper = shares[binom.cdf(lost, samples, shares) >= 0.025].max()
    lower = shares[binom.sf(gained - 1, samples, shares) >= 0.025].min()
    assert accuracy_drop_bound(lost, gained, samples) == pytest.approx(100 * (upper - lower), abs=3e-3)


@pytest.mark.parametrize("drop", [0.1, 0.5, 1, 20, 99])
def test_samples_needed_are_the_fewest(drop):
    needed = samples_needed(drop)
    assert accuracy_drop_bound(0, 0, needed) <= drop
    assert needed == 1 or accuracy_drop_bound(0, 0, needed - 1) > drop


def test_the_split_depends_on_the_seed_alone():
    held_out = hold_out(1003, seed=1)
    assert held_out.sum() == 1003 // ONE_IN
    np.testing.assert_array_equal(held_out, hold_out(1003, seed=1))
    assert (held_out != hold_out(1003, seed=2)).any()


def test_restructuring_sees_the_rest_only(network, samples):
    seen = []

    def spy(data, options, log):
        seen.append(np.concatenate(list(data.batches(100))))
        return restructure(network, data, options, log)

    outcome = keep_promise(network, samples, Options(WORKERS, max_output_error=0.5, seed=4), spy, quiet)
    x = np.load(samples.name)["x"].astype(np.float32)
    rest = x[~hold_out(SAMPLES, seed=4)]
    for given_samples in (*seen, *outcome.calibration.batches(SAMPLES)):
        np.testing.assert_array_equal(given_samples, rest)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tolerance", [{"max_accuracy_drop": 4.6}, {"max_output_error": 0.1}])
def test_what_was_checked_is_what_was_written(network, samples, tmp_path, tolerance, dtype):
    log = []
    options = Options(WORKERS, input_placement="partitioned", seed=3, **tolerance)
    report = restructure_to(tmp_path, network, samples, options, dtype, log.append)
    stored = open_plan(tmp_path)
    written = assemble([read_shard(stored, worker) for worker in range(WORKERS)])

    recorded = stored.provenance["promise"]
    order = eval(recorded["split"], {"numpy": np, **recorded})
    held_out = np.isin(np.arange(SAMPLES), order)
    assert held_out.sum() == recorded["held_out_samples"] == report["held_out_samples"] == SAMPLES // ONE_IN
    assert stored.provenance["calibration_samples"] == SAMPLES - held_out.sum()

    found = compare(network, written, samples.subset(held_out))
    if "max_accuracy_drop" in tolerance:
        assert report["accuracy_drop"] == 100 * (found.lost - found.gained) / found.samples <= 4.6
        assert report["accuracy_drop"] < report["accuracy_drop_bound"]
        assert f"{report['accuracy_drop_bound']:.2f}" in render_restructured(report)
    else:
        assert report["output_error_held_out"] == pytest.approx(found.output_error, rel=1e-12)
        assert report["output_error_held_out"] <= 0.1
        assert report["agreement_held_out"] == found.agreement
    assert report["comm_fraction"] <= report["comm_budget"] < 1
    assert stored.provenance["options"]["comm_budget"] == report["comm_budget"]
    trials = [line for line in log if line.startswith("trial")]
    assert len(trials) == report["trials"] > 1
    assert trials[-1].startswith(f"trial {report['trials']} of at most {report['trials']}: budget ")


def test_the_recorded_budget_makes_the_same_network(network, samples):
    options = Options(WORKERS, max_output_error=0.2)

    def make(data, chosen, log):
        return restructure(network, data, chosen, log)

    outcome = keep_promise(network, samples, options, make, quiet)
    again = restructure(network, outcome.calibration, outcome.options, quiet)
    assert again.network.fingerprint() == outcome.cut.network.fingerprint()


def test_a_tolerance_of_nothing_keeps_the_network(network, samples, tmp_path):
    options = Options(WORKERS, max_output_error=0)
    report = restructure_to(tmp_path / "exact", network, samples, options, np.float64, quiet)
    assert report["comm_budget"] > 0 and report["output_error_held_out"] == report["bound"] == 0
    with pytest.raises(
        UserError, match=r"max_output_error: expected at most 0 .*even at comm_budget=1.*dtype=float64"
    ):
        restructure_to(tmp_path / "rounded", network, samples, options, np.float32, quiet)
    assert not (tmp_path / "rounded").exists()


def test_one_worker_needs_nothing(network, samples, tmp_path):
    report = restructure_to(tmp_path, network, samples, Options(1, max_output_error=0), np.float64, quiet)
    assert (report["comm_budget"], report["trials"]) == (0, 1)


def test_a_promise_that_other_options_break(network, samples, tmp_path):
    options = Options(WORKERS, max_output_error=1e-3, density=0.1)
    with pytest.raises(UserError, match=r"even at comm_budget=1 with density=0.1; .*do without density=0.1"):
        restructure_to(tmp_path / "out", network, samples, options, np.float32, quiet)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["restructure", "infer"])
def test_command_lines_that_cannot_be_meant(mpirun, tmp_path, samples, command):
    small_plans.write_model(tmp_path / "model.npz", small_plans.random_network())
    needs = {"restructure": ("--out", tmp_path / "out"), "infer": ("--input", samples.name)}[command]
    both = ("--comm-budget", 0.05, "--max-accuracy-drop", 1)
    for arguments, expected in (
        (both, "--max-accuracy-drop: not allowed with argument --comm-budget"),
        (("--max-output-error", 1, "--max-accuracy-drop", 1), "not allowed with argument"),
        (("--max-accuracy-drop", 0), "above 0 and below 100 percentage points, got 0"),
        (("--max-accuracy-drop", "nan"), "above 0 and below 100 percentage points, got nan"),
        (("--max-output-error", "inf"), "finite number, 0 or more, got inf"),
    ):
        message = refusal(mpirun, tmp_path, 2, command, *needs, "--calibration", samples.name, *arguments)
        assert expected in message


@pytest.mark.parametrize("command", ["restructure", "infer"])
def test_data_that_cannot_keep_a_promise(mpirun, tmp_path, samples, command):
    small_plans.write_model(tmp_path / "model.npz", small_plans.random_network())
    np.save(tmp_path / "unlabelled.npy", np.load(samples.name)["x"])
    np.save(tmp_path / "few.npy", np.load(samples.name)["x"][: ONE_IN - 1])
    needs = {"restructure": ("--out", tmp_path / "out"), "infer": ("--input", samples.name)}[command]
    for calibration, option, expected in (
        (tmp_path / "unlabelled.npy", ("--max-accuracy-drop", 1), "expected labels y"),
        (
            samples.name,
            ("--max-accuracy-drop", 1),
            "--max-accuracy-drop: expected at least 1840 samples",
        ),
        (tmp_path / "few.npy", ("--max-output-error", 1), "--max-output-error: expected at least 5 samples"),
    ):
        message = refusal(mpirun, tmp_path, 1, command, *needs, "--calibration", calibration, *option)
        assert expected in message and str(calibration) in message


def test_a_network_without_classes_has_no_accuracy(samples):
    network = small_plans.random_network()
    outputs = (network.mixings[0].target, *network.output_tensors)
    network = replace(network, output_tensors=outputs, heads=("identity",) * 2)
    with pytest.raises(UserError, match="found left alone: one number .* the network has 2 outputs of 21"):
        keep_promise(network, samples, Options(WORKERS, max_accuracy_drop=4.6), None, print)


def refusal(mpirun, folder, status, command, *arguments) -> str:
    """The message of a command that fails as it should and leaves nothing behind."""
    (folder / "cache").mkdir(mode=0o700, exist_ok=True)
    before = sorted(folder.rglob("*"))
    module = ("-m", f"repurpose_hpc.{command}", folder / "model.npz", "--workers", WORKERS)
    done = mpirun(1, *module, *arguments, env={"REPURPOSE_HPC_CACHE": str(folder / "cache")})
    assert done.returncode == status, done.stdout + done.stderr
    assert sorted(folder.rglob("*")) == before
    (message,) = (line for line in done.stderr.splitlines() if "repurpose-hpc: error:" in line)
    assert "trial" not in done.stderr
    return message


def test_infer_keeps_a_promise_and_certifies(mpirun, tmp_path, network, samples):
    small_plans.write_model(tmp_path / "model.npz", network)
    report, output = tmp_path / "report.json", tmp_path / "y.h5"
    arguments = ("--calibration", samples.name, "--input", samples.name, "--workers", WORKERS, "--repeat", 0)
    command = ("-m", "repurpose_hpc.infer", tmp_path / "model.npz", *arguments, "--report", report)
    for tolerance, cached in ((0.1, False), (0.1, True), (1e-3, False)):
        done = mpirun(
            2,
            *command,
            *("--max-output-error", tolerance, "--certify", "--output", output),
            env={"REPURPOSE_HPC_CACHE": str(tmp_path / "cache")},
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(report.read_text())
        assert found["cached"] is cached
        assert done.stderr.count("trial ") > 1 or cached
        assert f"{found['certified']:.2%} of the samples" in done.stdout
    with h5py.File(output) as file:
        outputs = file["y"][()]
    stored = open_plan(Path(found["shards"]))
    whole = assemble([read_shard(stored, worker) for worker in range(WORKERS)])
    x = np.load(samples.name)["x"]
    certified = Certificate(network, whole).add(x, outputs)
    assert found["certified"] == certified.mean() > 0
    assert (outputs.argmax(axis=1) == forward(network, x).argmax(axis=1))[certified].all()


def test_certifying_shards_needs_their_model(mpirun, tmp_path, samples):
    small_plans.write_shards(tmp_path / "shards", 2)
    command = ("-m", "repurpose_hpc.infer", "--shards", tmp_path / "shards", "--input", samples.name)
    done = mpirun(2, *command, "--certify")
    assert done.returncode == 2 and "--certify needs MODEL" in done.stderr
    done = mpirun(2, *command, "--max-output-error", 0.1)
    assert done.returncode == 2 and "--max-output-error has no effect" in done.stderr
