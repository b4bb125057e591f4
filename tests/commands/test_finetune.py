"""``python -m repurpose_hpc finetune``: what it improves and what it leaves, runs that end early, faults."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers import small_plans
from helpers.injection import KILL, Injection, variables
from helpers.small_transformers import decoder
from repurpose_hpc import bundled
from repurpose_hpc.errors import PREFIX
from repurpose_hpc.io.lock import alone_at
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.plan.files.store import open_plan, read_network, shard_path, write_plan
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.report.schema import FinetuneReport, problems
from repurpose_hpc.restructure.exact import split_network
from repurpose_hpc.tuning.driver import parted
from repurpose_hpc.tuning.losses import cross_entropy, distillation
from repurpose_hpc.tuning.optimisers import OPTIMISERS
from repurpose_hpc.tuning.options import TuneOptions

MODULE = ("-m", "repurpose_hpc", "finetune")
WORKERS, SAMPLES = 3, 90
SHARDS, DATA, MODEL, OUT = "shards", "x.npz", "model.npz", "tuned"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Shards of a network that was pruned at random, the original, and samples with its classes."""
    write_inputs(tmp_path)
    return tmp_path


@pytest.fixture
def tune(mpirun, folder):
    """A function that runs the command: its report, and what it said on the way."""

    def run(*args: object, ranks: int = 2, out: str = OUT) -> tuple[dict, str]:
        report = folder / "report.json"
        done = mpirun(ranks, *MODULE, *usual(folder, out=folder / out), *args, "--report", report)
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(report.read_text())
        report.unlink()
        assert problems(found, FinetuneReport) == []
        assert found["ranks"] == ranks and not list(folder.glob(".*"))
        return found, done.stderr

    return run


@pytest.fixture(scope="module")
def whole(mpirun, tmp_path_factory):
    """A function that runs the command without a break: the files that it writes."""
    folder, found = tmp_path_factory.mktemp("whole"), {}
    write_inputs(folder)

    def run(*args: object) -> dict[str, bytes]:
        if args not in found:
            done = mpirun(2, *MODULE, *usual(folder), *args)
            assert done.returncode == 0 and "going on" not in done.stderr, done.stderr
            found[args] = content(folder / OUT)
        return found[args]

    return run


@pytest.fixture
def interrupted(mpirun, folder, tmp_path_factory):
    """A function that runs the command, which is killed at some place."""

    def run(*args: object, place: Injection) -> None:
        env = variables([place], tmp_path_factory.mktemp("notes"))
        done = mpirun(2, *MODULE, *usual(folder), *args, env=env, timeout=60)
        assert done.returncode != 0 and PREFIX not in done.stderr, done.stderr

    return run


@pytest.fixture
def refused(mpirun, folder):
    """A function that runs the command and checks that it fails as it should: its message."""

    def run(*args: object, ranks: int = 2, status: int = 1, **changed: object) -> str:
        before = set(folder.rglob("*"))
        done = mpirun(ranks, *MODULE, *usual(folder, **changed), *args, timeout=60)
        assert done.returncode == status, done.stdout + done.stderr
        assert set(folder.rglob("*")) == before, "something was left behind"
        return only_message(done.stderr)

    return run


def only_message(stderr: str) -> str:
    messages = [line for line in stderr.splitlines() if PREFIX in line]
    assert len(messages) == 1 and messages[0].startswith(PREFIX), stderr
    assert "Traceback" not in stderr and "Warning" not in stderr, stderr
    return messages[0].removeprefix(PREFIX)


def usual(folder: Path, **changed: object) -> list[object]:
    """The options of a run that lacks targets, but for those ``changed``; None leaves one out."""
    options = {"shards": folder / SHARDS, "data": folder / DATA, "out": folder / OUT, "epochs": 4}
    options |= {"batch_size": 32, "learning_rate": 0.01, "patience": 10, **changed}
    pairs = [(f"--{name.replace('_', '-')}", value) for name, value in options.items() if value is not None]
    return [word for pair in pairs for word in pair]


def write_inputs(folder: Path) -> None:
    small_plans.write_shards(folder / SHARDS, WORKERS, "partitioned")
    small_plans.write_model(folder / MODEL, small_plans.random_network())
    write_data(folder / DATA)


def write_data(path: Path, **changed: np.ndarray) -> None:
    """Samples with the classes that the original network gives them."""
    x = np.random.default_rng(1).normal(size=(SAMPLES, small_plans.WIDTHS[0]))
    np.savez(path, **{"x": x, "y": forward(small_plans.random_network(), x).argmax(axis=1), **changed})


def data(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    found = np.load(folder / DATA)
    return found["x"], found["y"]


def network_in(directory: Path):
    return read_network(open_plan(directory))


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def logits(network, x: np.ndarray) -> np.ndarray:
    return forward(replace(network, heads=("identity",)), x)


def losses(report: dict) -> list[float]:
    return [epoch["held_out_loss"] for epoch in report["epochs"]]


def run_shards(mpirun, folder: Path, ranks: int) -> dict:
    """The report of an inference with the tuned shards, which is verified."""
    files = "--shards", folder / OUT, "--input", folder / DATA, "--report", folder / "run.json"
    done = mpirun(ranks, "-m", "repurpose_hpc", "infer", *files, "--verify", "--repeat", 0)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_labels(tune, folder, mpirun, optimiser):
    report, said = tune("--labels", "--optimiser", optimiser)
    found = losses(report)
    assert report["targets"] == "cross-entropy with labels" and report["best_epoch"] == np.argmin(found) > 0
    assert [epoch["epoch"] for epoch in report["epochs"]] == list(range(5))
    assert [epoch["loss"] is None for epoch in report["epochs"]] == [True, *[False] * 4]
    assert len([line for line in said.splitlines() if "epoch" in line]) == 4
    x, y = data(folder)
    held_out, rest = parted(SAMPLES, TuneOptions())
    assert (report["samples"], report["held_out_samples"]) == (SAMPLES, held_out.size)
    # What is reported is true of what was written.
    for directory, loss in ((SHARDS, found[0]), (OUT, min(found))):
        network = network_in(folder / directory)
        assert cross_entropy(logits(network, x[held_out]), y[held_out]).value == pytest.approx(loss, rel=1e-5)
    before, after = (
        cross_entropy(logits(network_in(folder / name), x[rest]), y[rest]).value for name in (SHARDS, OUT)
    )
    assert after < before
    right = forward(network_in(folder / OUT), x).argmax(axis=1) == y
    ran = run_shards(mpirun, folder, 2)
    assert ran["relative_difference"] <= 1e-5
    assert ran["accuracy"] == pytest.approx(right.mean(), abs=1 / SAMPLES)


def test_distillation(tune, folder):
    """Without labels; with them there is an accuracy, that of the original's classes."""
    report, _ = tune("--distill", folder / MODEL)
    assert report["targets"] == "divergence from the original" and min(losses(report)) < losses(report)[0]
    assert all(epoch["held_out_accuracy"] is not None for epoch in report["epochs"])
    x, _ = data(folder)
    np.save(folder / "x.npy", x)
    unlabelled, _ = tune("--distill", folder / MODEL, "--data", folder / "x.npy", out="other")
    assert losses(unlabelled) == losses(report)
    wanted = logits(small_plans.random_network(), x)
    before, after = (
        distillation(logits(network_in(folder / name), x), wanted).value for name in (SHARDS, OUT)
    )
    assert after < before


def test_local_losses(tune, folder, mpirun):
    """A step sends back less, as no ghosts go back; what is reported is true of what was written."""
    words = "--distill", folder / MODEL
    report, _ = tune(*words, "--local")
    found, (x, _) = losses(report), data(folder)
    assert report["local"] == ["x1"] and 0 < report["best_epoch"] == np.argmin(found)
    held_out, _ = parted(SAMPLES, TuneOptions())
    wanted, network = logits(small_plans.random_network(), x[held_out]), network_in(folder / OUT)
    assert distillation(logits(network, x[held_out]), wanted).value == pytest.approx(min(found), rel=1e-5)
    whole, _ = tune(*words, out="whole")
    assert whole["local"] == [] and losses(whole)[0] == found[0] and losses(whole) != found
    assert report["values_sent"] == whole["values_sent"]
    assert report["values_sent_back"] < whole["values_sent_back"]
    run_shards(mpirun, folder, 2)


def test_local_losses_that_were_interrupted_go_on(tune, interrupted, folder):
    words = "--distill", folder / MODEL, "--local"
    tune(*words, out="whole")
    interrupted(*words, place=AFTER_TWO)
    _, said = tune(*words)
    assert "going on after epoch 2" in said and content(folder / OUT) == content(folder / "whole")


def test_local_losses_need_the_original(refused):
    message = refused("--labels", "--local", status=2)
    assert "--local" in message and "--labels" in message and "leave it out" in message


def test_rotation(tune, folder, mpirun):
    """Nothing more crosses, and nothing that was pruned is there; what is reported is true of the shards."""
    words = "--distill", folder / MODEL
    report, _ = tune(*words, "--rotate", 2)
    found, (x, _) = losses(report), data(folder)
    assert report["rotate"] == 2 and report["subnet_weights"] > 0 and report["seconds"]["subnets"] > 0
    assert 0 < report["best_epoch"] == np.argmin(found)
    held_out, _ = parted(SAMPLES, TuneOptions())
    wanted, network = logits(small_plans.random_network(), x[held_out]), network_in(folder / OUT)
    assert distillation(logits(network, x[held_out]), wanted).value == pytest.approx(min(found), rel=1e-5)
    whole, _ = tune(*words, out="whole")
    assert whole["rotate"] is None and whole["subnet_weights"] == 0
    assert losses(whole)[0] == found[0] and losses(whole) != found
    for key in ("values_sent", "values_sent_back"):
        assert report[key] == whole[key]
    original, tuned = open_plan(folder / SHARDS), open_plan(folder / OUT)
    assert tuned.plan.identity() == original.plan.identity()
    small_plans.assert_same(tuned.plan, original.plan)
    for mine, theirs in zip(network.mixings, read_network(original).mixings, strict=True):
        np.testing.assert_array_equal(mine.weights == 0, theirs.weights == 0)
    run_shards(mpirun, folder, 2)


def test_a_rotation_that_was_interrupted_goes_on(tune, interrupted, folder):
    """An epoch draws subnets anew, whether there was one before in the same process or not."""
    words = "--distill", folder / MODEL, "--rotate", 5
    tune(*words, out="whole")
    interrupted(*words, place=AFTER_TWO)
    _, said = tune(*words)
    assert "going on after epoch 2" in said and content(folder / OUT) == content(folder / "whole")


def test_rotations_need_the_original(refused):
    message = refused("--labels", "--rotate", 5, status=2)
    assert "--rotate" in message and "--labels" in message and "leave it out" in message
    message = refused("--rotate", 5, status=2)
    assert "expected --distill MODEL" in message and "labels" not in message


def test_rotations_have_no_local_losses(refused, folder):
    message = refused("--distill", folder / MODEL, "--rotate", 5, "--local", status=2)
    assert "--rotate" in message and "--local" in message


def test_a_network_without_hidden_layers_cannot_rotate(refused, folder):
    network = small_plans.random_network(0, (12, 5))
    plan = small_plans.random_plan(network, WORKERS, "replicated")
    shutil.rmtree(folder / SHARDS)
    provenance = {"model_fingerprint": network.fingerprint()}
    write_plan(folder / SHARDS, small_plans.pruned(network, plan), plan, provenance)
    small_plans.write_model(folder / MODEL, network)
    assert "leave --rotate out" in refused("--distill", folder / MODEL, "--rotate", 5)


def test_the_bundled_network_needs_no_model(tune, folder):
    network = load_model(bundled.MODEL)
    plan = small_plans.random_plan(network, 2, "replicated")
    provenance = {"model_fingerprint": network.fingerprint()}
    write_plan(folder / "bundled", small_plans.pruned(network, plan), plan, provenance)
    few = {name: array[:150] for name, array in np.load(bundled.CALIBRATION).items()}
    np.savez(folder / "few.npz", **few)
    arguments = "--shards", folder / "bundled", "--data", folder / "few.npz", "--learning-rate", 1e-3
    report, _ = tune(*arguments, "--epochs", 2)
    assert "original" in report["targets"] and min(losses(report)) < losses(report)[0]


@pytest.mark.parametrize("wire", [None, "int8"])
def test_what_stays_as_it_is(tune, folder, mpirun, wire):
    """All but the weights: owners, masks, scales, what is sent, and weights that are zero."""
    shutil.rmtree(folder / SHARDS)
    small_plans.write_shards(folder / SHARDS, WORKERS, "partitioned", wire=wire)
    before = content(folder / SHARDS)
    report, _ = tune("--labels", "--weight-decay", 0.1)
    assert content(folder / SHARDS) == before
    original, tuned = open_plan(folder / SHARDS), open_plan(folder / OUT)
    assert tuned.plan.identity() == original.plan.identity()
    small_plans.assert_same(tuned.plan, original.plan)
    small_plans.assert_same(dict(tuned.traffic), dict(original.traffic))
    assert report["comm_dtype"] == tuned.plan.comm_dtype == (wire or "float32")
    assert tuned.provenance["model_fingerprint"] == original.provenance["model_fingerprint"]
    for mine, theirs in zip(read_network(tuned).mixings, read_network(original).mixings, strict=True):
        np.testing.assert_array_equal(mine.weights == 0, theirs.weights == 0)
        assert (mine.weights != theirs.weights).any() and (mine.bias != theirs.bias).any()
        assert mine.weights.dtype == theirs.weights.dtype == np.float32
    ran = run_shards(mpirun, folder, WORKERS)
    assert ran["values_sent"] == original.traffic_matrix().sum() and ran["relative_difference"] <= 1e-5


def test_any_ranks_and_a_worker_that_owns_nothing(tune, folder):
    network, workers = small_plans.random_network(), 5
    plan = small_plans.random_plan(network, workers, "replicated", 3)
    owners = {name: np.where(owner == 4, 0, owner).astype(np.int32) for name, owner in plan.owners.items()}
    plan = Plan(workers, "replicated", owners, small_plans.random_masks(network, owners, workers))
    shutil.rmtree(folder / SHARDS)
    write_plan(folder / SHARDS, small_plans.pruned(network, plan), plan, {})
    found = [losses(tune("--labels", "--dtype", "float64", ranks=ranks)[0]) for ranks in (1, 2, 5)]
    np.testing.assert_allclose(found, [found[0]] * 3, rtol=1e-9)
    assert min(found[0]) < found[0][0]


@pytest.mark.parametrize(("ranks", "groups"), [(2, 2), (4, 2), (3, 3)])
def test_groups_share_the_samples_of_a_batch(tune, folder, ranks, groups):
    """Losses and weights are those of one group; for some there is none of the last held-out samples."""
    words = "--labels", "--dtype", "float64", "--batch-size", 7
    alone, shared = tune(*words, out="alone"), tune(*words, "--groups", groups, ranks=ranks)
    np.testing.assert_allclose(losses(shared[0]), losses(alone[0]), rtol=1e-9)
    networks = [network_in(folder / name) for name in ("alone", OUT)]
    for mine, theirs in zip(*(network.mixings for network in networks), strict=True):
        np.testing.assert_allclose(mine.weights, theirs.weights, rtol=0, atol=1e-6)


def test_groups_that_were_interrupted_go_on(tune, interrupted, folder):
    words = "--labels", "--groups", 2
    tune(*words, out="whole")
    interrupted(*words, place=AFTER_TWO)
    _, said = tune(*words)
    assert "going on after epoch 2" in said and content(folder / OUT) == content(folder / "whole")


def test_groups_that_do_not_fit(refused, folder):
    assert "divides the 3 ranks, got 2" in refused("--labels", "--groups", 2, ranks=3)
    assert "at most" in refused("--labels", "--groups", 2, "--batch-size", 1, status=2)


def test_a_batch_may_be_larger_than_the_data(tune):
    report, _ = tune("--labels", "--batch-size", 1000)
    assert report["batch_size"] == 1000 and min(losses(report)) < losses(report)[0]


def test_the_same_command_writes_the_same_bits(tune, folder):
    tune("--labels")
    first = content(folder / OUT)
    tune("--labels")
    assert content(folder / OUT) == first
    tune("--labels", "--seed", 1)
    assert content(folder / OUT) != first


@pytest.mark.parametrize("learning_rate", [1e-30, 1e3])
def test_it_ends_early_with_the_shards_as_they_were(tune, folder, learning_rate):
    """Steps are too small to change a loss, or so large that all epochs are worse."""
    report, _ = tune("--labels", "--learning-rate", learning_rate, "--patience", 2, "--epochs", 9)
    found = losses(report)
    assert report["best_epoch"] == 0 == np.argmin(found)
    assert len(found) - 1 == min(1 + np.argmin(found[1:]) + 2, 9)
    for q in range(WORKERS):
        assert shard_path(folder / OUT, q).read_bytes() == shard_path(folder / SHARDS, q).read_bytes()


# The first state is that before anything was tuned.
SAVE, WRITE = "repurpose_hpc.tuning.checkpoint:State.save", "repurpose_hpc.tuning.checkpoint:write_shard"
AFTER_TWO = Injection(SAVE, KILL, call=3, after=True, process=0)


@pytest.mark.parametrize(
    ("optimiser", "place", "gone_on"),
    [
        ("sgd", AFTER_TWO, "going on after epoch 2"),
        ("adamw", AFTER_TWO, "going on after epoch 2"),
        ("adamw", Injection(SAVE, KILL, call=3, process=1), "going on after epoch 1"),
        (
            "adamw",
            Injection("repurpose_hpc.tuning.checkpoint:write_arrays", KILL, call=6, process=0),
            "going on after epoch 1",
        ),
        ("adamw", Injection(WRITE, KILL, call=1, process=1), ""),
    ],
    ids=["behind an epoch", "with adamw", "before its state", "within its state", "within shards"],
)
def test_what_was_interrupted_goes_on(tune, interrupted, whole, folder, optimiser, place, gone_on):
    """It ends with the same bits as without a break."""
    words = "--labels", "--optimiser", optimiser
    interrupted(*words, place=place)
    _, said = tune(*words)
    assert gone_on in said and ("going on" in said) == bool(gone_on)
    assert content(folder / OUT) == whole(*words)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:700] + b"?" + path.read_bytes()[701:])


@pytest.mark.parametrize(
    ("damage", "name"),
    [(truncate, "worker-0002.npz"), (spoil, "worker-0000.npz"), (Path.unlink, "record.npz")],
)
def test_a_damaged_state_is_begun_anew(tune, interrupted, whole, folder, damage, name):
    interrupted("--labels", place=replace(AFTER_TWO, call=2))
    (path,) = folder.glob(f".{OUT}.tuning/*/epoch-*/{name}")
    damage(path)
    _, said = tune("--labels")
    assert "going on" not in said
    assert content(folder / OUT) == whole("--labels")


def test_the_state_of_another_run_is_left_alone(tune, interrupted, folder):
    """Of other options or labels, or of other ranks, where the weights lie in another order."""
    for others in ((2, "--seed", 1), (3, "--seed", 0)):
        interrupted("--labels", place=AFTER_TWO)
        _, said = tune("--labels", *others[1:], ranks=others[0])
        assert "going on" not in said
    interrupted("--labels", place=AFTER_TWO)
    _, y = data(folder)
    write_data(folder / DATA, y=y[::-1])
    _, said = tune("--labels")
    assert "going on" not in said


@pytest.mark.parametrize("damage", [shutil.rmtree, lambda best: truncate(shard_path(best, 1))])
def test_without_its_best_shards_a_run_is_begun_anew(tune, interrupted, whole, folder, damage):
    """No epoch is better than what there was, which was written first."""
    words = "--labels", "--learning-rate", 1e3
    interrupted(*words, place=AFTER_TWO)
    (best,) = folder.glob(f".{OUT}.tuning/*/best")
    damage(best)
    _, said = tune(*words)
    assert "going on" not in said and content(folder / OUT) == whole(*words)


def test_earlier_shards_stay_until_there_are_others(tune, interrupted, mpirun, folder):
    tune("--labels")
    earlier = content(folder / OUT)
    interrupted("--labels", "--seed", 1, place=AFTER_TWO)
    assert content(folder / OUT) == earlier
    arguments = [*usual(folder, learning_rate=1e30), "--labels", "--optimiser", "sgd"]
    assert mpirun(2, *MODULE, *arguments).returncode == 1
    assert content(folder / OUT) == earlier
    tune("--labels", "--seed", 1)
    assert content(folder / OUT) != earlier


def test_a_loss_that_is_not_finite(mpirun, folder):
    """The message tells the step, and nothing is written where nothing was better."""
    arguments = [*usual(folder, learning_rate=1e30), "--labels", "--optimiser", "sgd"]
    done = mpirun(2, *MODULE, *arguments)
    assert done.returncode == 1
    message = only_message(done.stderr)
    assert "expected a finite loss, found" in message and "of epoch 1" in message
    assert "try a lower learning rate" in message and "are in" not in message
    assert not (folder / OUT).exists()
    assert {path.name for path in folder.glob(".*")} == {f".{OUT}.tuning"}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"y": np.arange(SAMPLES)}, "labels from 0 to 89, expected 0 to 4"),
        ({"y": np.zeros((SAMPLES, 3))}, "3 values for each sample, where the network has 5 outputs"),
        ({"y": np.full(SAMPLES, np.nan)}, "NaN or infinite values"),
        ({"x": np.zeros((SAMPLES, 7))}, "expected 12 values per sample"),
        ({"x": np.r_[np.zeros((20, 12)), np.full((70, 12), np.nan)]}, "found nan in sample 20, column 0"),
        ({"x": np.full((SAMPLES, 12), 1e300)}, "float32"),
        (
            {"x": np.zeros((4, 12)), "y": np.zeros(4)},
            "expected a share of 4 samples that leaves some of both, got 0.1",
        ),
        ({"x": np.zeros((0, 12)), "y": np.zeros(0)}, "empty"),
    ],
    ids=["labels", "width of labels", "nan labels", "narrow", "nan", "too large", "few", "none"],
)
def test_data_that_do_not_fit(refused, folder, changed, expected):
    write_data(folder / DATA, **changed)
    message = refused("--labels")
    assert str(folder / DATA) in message or "--held-out" in message
    assert expected in message


@pytest.mark.parametrize("local", [(), ("--local",)])
def test_nan_where_the_original_is_asked(refused, folder, local):
    x, _ = data(folder)
    x[20, 3] = np.nan
    write_data(folder / DATA, x=x)
    assert "found nan in sample 20, column 3" in refused("--distill", folder / MODEL, *local)


def test_no_labels(refused, folder):
    np.savez(folder / DATA, x=data(folder)[0])
    message = refused("--labels")
    assert "found no y" in message and "--distill" in message


def test_shards_of_another_model(refused, folder):
    message = refused(status=2)
    assert "expected --distill MODEL" in message and "or --labels, found neither" in message
    small_plans.write_model(folder / MODEL, small_plans.random_network(seed=9))
    assert "found those of another one" in refused("--distill", folder / MODEL)


def test_labels_and_a_model(refused, folder):
    assert "--labels" in refused("--labels", "--distill", folder / MODEL, status=2)


def test_places_that_cannot_be_written(refused, folder):
    (folder / "full").mkdir()
    (folder / "full" / "thesis.txt").touch()
    for place in ("full", "/proc/out"):
        assert str(folder / place) in refused("--labels", out=folder / place)
    for place, read_by in ((SHARDS, "--shards"), (DATA, "--data")):
        assert f"which {read_by} reads" in refused("--labels", out=folder / place, status=2)


def test_another_run_is_at_work(refused, folder):
    with alone_at(folder / OUT):
        assert "expected no other run" in refused("--labels")


def test_shards_that_are_none(refused, folder):
    assert "absent/plan.h5: expected a file" in refused("--labels", shards=folder / "absent")
    cut = split_network(decoder(2), 2)
    write_plan(folder / "texts", cut.network, cut.plan, {})
    message = refused("--labels", shards=folder / "texts")
    assert "expected shards of a network of samples, found those of a transformer" in message
    truncate(shard_path(folder / SHARDS, 2))
    assert str(shard_path(folder / SHARDS, 2)) in refused("--labels")


def test_more_ranks_than_workers(refused):
    message = refused("--labels", ranks=WORKERS + 1)
    assert "3 ranks" in message and "found 4" in message


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--learning-rate", "0"], "--learning-rate"),
        (["--exchange", "pigeon"], "ialltoallv"),
    ],
)
def test_wrong_options(refused, arguments: Sequence[str], expected):
    assert expected in refused("--labels", *arguments, status=2)


def test_a_rank_that_cannot_write(mpirun, folder, tmp_path_factory):
    """All leave with one message; what was written before stays."""
    fails = Injection(WRITE, "raise OSError(28, 'No space left on device')", call=3, process=1)
    env = variables([fails], tmp_path_factory.mktemp("notes"))
    done = mpirun(2, *MODULE, *usual(folder), "--labels", env=env, timeout=60)
    assert done.returncode == 1 and "No space left" in only_message(done.stderr)
    assert not (folder / OUT).exists() and not list(folder.glob(f".{OUT}-*"))
    (best,) = folder.glob(f".{OUT}.tuning/*/best")
    assert network_in(best).inputs == small_plans.WIDTHS[0]
