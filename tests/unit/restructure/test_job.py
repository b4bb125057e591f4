"""Restructuring as a whole: what it promises about budget, owners, weights and files."""

import dataclasses
import itertools
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import small_plans
from repurpose_hpc.commands.parser import link_costs
from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples, open_samples
from repurpose_hpc.model.activations import IDENTITY, RELU
from repurpose_hpc.model.chain import chain
from repurpose_hpc.model.forward import trace
from repurpose_hpc.plan.assemble import assemble
from repurpose_hpc.plan.files.store import open_plan
from repurpose_hpc.plan.masks import EVERYBODY
from repurpose_hpc.plan.plan import PLACEMENTS, capacities
from repurpose_hpc.plan.relays import mixings_of_original
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.restructure.calibration.evaluation import compare
from repurpose_hpc.restructure.checkpoint import Checkpoint
from repurpose_hpc.restructure.constraints import node_links, uniform_links
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.job import restructure_network, restructure_to
from repurpose_hpc.restructure.options import ASSIGNMENTS, METHODS, Options
from repurpose_hpc.restructure.owners.shares import neuron_shares
from repurpose_hpc.restructure.team import Team

WIDTHS = (12, 20, 17, 5)


def quiet(line):
    """Swallow the log."""


@pytest.fixture(scope="module")
def network():
    rng = np.random.default_rng(1)
    weights = [rng.standard_normal((m, n)) / np.sqrt(n) for n, m in itertools.pairwise(WIDTHS)]
    return chain(weights, [rng.standard_normal(m) for m in WIDTHS[1:]], [RELU, RELU, IDENTITY])


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((400, 12)) @ rng.standard_normal((12, 12))
    x[:, 3] = 1.0  # a constant input
    x[:, 5] = x[:, 4]  # and one that stands twice
    path = tmp_path_factory.mktemp("data") / "x.npy"
    np.save(path, x)
    return open_samples(path)


@pytest.fixture(scope="module")
def wide_network():
    """No narrow mixing, so that only ghosts are sent."""
    rng = np.random.default_rng(3)
    weights = [rng.standard_normal((60, 60)) / np.sqrt(60) for _ in range(3)]
    return chain(weights, [rng.standard_normal(60) for _ in weights], [RELU, RELU, IDENTITY])


@pytest.fixture(scope="module")
def wide_samples(tmp_path_factory):
    rng = np.random.default_rng(4)
    path = tmp_path_factory.mktemp("data") / "wide.npy"
    np.save(
        path, rng.standard_normal((500, 8)) @ rng.standard_normal((8, 60)) + rng.standard_normal((500, 60))
    )
    return open_samples(path)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("method", METHODS)
def test_budget_owners_and_masks_hold(network, samples, placement, assignment, method):
    part_weights = (1.0, 2.0, 0.0, 1.0)
    options = Options(4, 0.2, placement, assignment, method, part_weights)
    result = restructure(network, samples, options, quiet)
    plan = result.plan
    dense = sum(plan.dense_values(network, mixing) for mixing in network.mixings)
    assert 0 < result.traffic_matrix().sum() <= 0.2 * dense
    shares = neuron_shares(network, np.array(part_weights) / 4, 0.2, placement == "replicated")
    for mixing in result.network.mixings:
        assert np.isfinite(mixing.weights).all()
        assert not mixing.weights[~plan.allowed(result.network, mixing)].any()
    for mixing in network.mixings:
        owner = plan.owner(network, mixing.target)
        limit = capacities(owner.size, shares)
        assert (np.bincount(owner, minlength=4) <= limit).all()
        assert limit[2] == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("part_weights", [(1,), (1, 0, 1), (1,) * 25])
def test_budget_one_reproduces_the_network(network, samples, method, placement, part_weights):
    workers = len(part_weights)
    options = Options(workers, 1.0, placement, method=method, part_weights=part_weights)
    result = restructure(network, samples, options, quiet)
    assert result.network.fingerprint() == network.fingerprint()
    for mixing in network.mixings:
        assert result.plan.allowed(network, mixing).all()
        assert result.plan.values_sent(network, mixing) <= result.plan.dense_values(network, mixing)
    shards = [make_shard(result.network, result.plan, worker, np.float64) for worker in range(workers)]
    assert assemble(shards).fingerprint() == network.fingerprint()


def test_budget_one_keeps_what_the_samples_do_not_need(network, samples):
    # A neuron that is 0 for all of these samples, but not for others.
    biases = [mixing.bias.copy() for mixing in network.mixings]
    biases[0][3] = -1e3
    weights = [mixing.weights for mixing in network.mixings]
    network = chain(weights, biases, [RELU, RELU, IDENTITY])
    result = restructure(network, samples, Options(3, 1.0), quiet)
    assert result.network.fingerprint() == network.fingerprint()


def test_budget_zero_sends_nothing(network, samples):
    result = restructure(network, samples, Options(3, 0.0, "partitioned"), quiet)
    assert not result.traffic_matrix().any()


def test_replicated_input_is_owned_by_everybody(network, samples):
    result = restructure(network, samples, Options(3, 0.1), quiet)
    assert (result.plan.owners["input"] == EVERYBODY).all()
    assert result.plan.dense_values(network, network.mixings[0]) == 0


def test_full_method_is_better_than_the_baselines(network, samples):
    errors = {}
    for method in METHODS:
        result = restructure(network, samples, Options(4, 0.2, "partitioned", method=method), quiet)
        errors[method] = compare(network, result.network, samples).output_error
    assert errors["data"] < errors["second-moment"]
    assert errors["data"] < errors["magnitude"]
    assert errors["frobenius"] < errors["magnitude"]


def test_same_command_same_bytes(network, samples, tmp_path):
    contents = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        options = Options(3, 0.1, assignment="random", seed=seed)
        restructure_to(tmp_path / name, network, samples, options, np.float32, quiet)
        contents.append([path.read_bytes() for path in sorted((tmp_path / name).iterdir())])
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def test_report_has_what_scripts_read(network, samples, tmp_path):
    report = restructure_to(tmp_path / "shards", network, samples, Options(3, 0.1), np.float32, quiet)
    assert report["values_sent"] == sum(layer["values_sent"] for layer in report["layers"])
    assert report["comm_fraction"] == report["values_sent"] / report["dense_values"] <= 0.1
    assert report["output_error"] == pytest.approx(report["layers"][-1]["relative_error"])
    held_out = report["layers"][-1]["relative_error_held_out"]
    assert report["output_error_held_out"] == pytest.approx(held_out) != pytest.approx(report["output_error"])
    assert report["weights_kept"] < report["weights"] == network.weight_count


def test_errors_of_layers_are_those_of_their_outputs(network, samples):
    result = restructure(network, samples, Options(3, 0.1), quiet)
    x = np.load(samples.name).T
    y, y_hat = trace(network, x), trace(result.network, x)
    expected = {
        mixing.name: np.linalg.norm(y[mixing.target] - y_hat[mixing.target])
        / np.linalg.norm(y[mixing.target])
        for mixing in network.mixings
    }
    assert compare(network, result.network, samples).layer_errors == pytest.approx(expected)


def test_under_mpirun_the_same_shards(network, samples, tmp_path, mpirun):
    model = tmp_path / "model.npz"
    arrays = {f"W{i}": mixing.weights for i, mixing in enumerate(network.mixings)}
    np.savez(model, **arrays, **{f"b{i}": mixing.bias for i, mixing in enumerate(network.mixings)})
    contents, reports = [], []
    for ranks in (1, 2, 3, 5):
        out, report = tmp_path / str(ranks), tmp_path / f"{ranks}.json"
        command = ("-m", "repurpose_hpc.restructure", model, "--workers", 3, "--out", out, "--report", report)
        done = mpirun(ranks, *command, "--calibration", samples.name, env={"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        contents.append([path.read_bytes() for path in sorted(out.iterdir())])
        reports.append({**json.loads(report.read_text()), "seconds": 0, "shards": "", "command": ""})
    assert all(content == contents[0] for content in contents)
    # What is held out, and what is measured on it, are the same, too.
    assert reports[0]["held_out_samples"] == 80 and all(report == reports[0] for report in reports)


@pytest.mark.parametrize("ranks", [1, 2])
def test_mistakes_end_with_one_message(samples, tmp_path, mpirun, ranks):
    model = tmp_path / "model.npz"
    np.savez(model, W0=np.ones((3, 7)), b0=np.zeros(3))
    command = ("-m", "repurpose_hpc.restructure", model, "--workers", 2, "--calibration", samples.name)
    for arguments, status in ((("--out", tmp_path / "out"), 1), (("--comm-budget", 2, "--out", "x"), 2)):
        done = mpirun(ranks, *command, *arguments)
        assert done.returncode == status
        assert done.stderr.count("repurpose-hpc: error:") == 1
        assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.npz"]


@pytest.mark.parametrize("place", ["file", "full", "file/out", "/proc/out", "."])
def test_a_place_that_cannot_be_written_is_found_first(network, samples, tmp_path, place):
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    lines = []
    out = Path(place) if place == "." else tmp_path / place
    with pytest.raises(UserError, match=r"choose another (directory|place)"):
        restructure_to(out, network, samples, Options(4, 0.2), np.float32, lines.append)
    assert not lines
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]


@pytest.mark.parametrize("size", [2, 3])
def test_threads_do_not_change_a_bit(network, samples, size):
    options = Options(4, 0.2, "partitioned", density=0.3)
    results = [restructure(network, samples, options, quiet, Team(threads=n)) for n in (1, size)]
    assert results[0].plan.identity() == results[1].plan.identity()
    assert results[0].network.fingerprint() == results[1].network.fingerprint()


@pytest.mark.parametrize("wire", ["float32", "int8"])
def test_an_interrupted_run_goes_on_where_it_was(network, samples, tmp_path, wire):
    options = Options(4, 0.2, "partitioned", comm_dtype=wire)
    whole = tmp_path / "whole"
    restructure_to(whole, network, samples, options, np.float32, quiet)

    class Interrupt(Exception):
        pass

    def interrupting(line):
        if line.startswith("layer1: adjusting"):
            raise Interrupt

    lines = []
    out = tmp_path / "out"
    with pytest.raises(Interrupt):
        restructure_to(out, network, samples, options, np.float32, interrupting)
    assert not out.exists()
    restructure_to(out, network, samples, options, np.float32, lines.append)
    assert "layer0: finished by an earlier run" in lines
    assert not any(line.startswith("layer0: adjusting") for line in lines)
    for path in sorted(whole.iterdir()):
        assert path.read_bytes() == (out / path.name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_another_run_does_not_go_on_with_it(network, samples, tmp_path):
    checkpoints = [Checkpoint(tmp_path, {"options": number}) for number in (1, 2)]
    restructure(network, samples, Options(4, 0.2), quiet, checkpoint=checkpoints[0])
    assert [*checkpoints[0].load(network).finished] == ["layer0", "layer1", "layer2"]
    assert checkpoints[1].load(network) is None


@pytest.mark.parametrize("wire", ["float32", "int8", "int4"])
def test_a_checkpoint_has_all_decisions(network, samples, tmp_path, wire):
    options = Options(4, 0.2, "partitioned", density=0.5, comm_dtype=wire)
    result = restructure(network, samples, options, quiet, checkpoint=Checkpoint(tmp_path, {}))
    decisions = Checkpoint(tmp_path, {}).load(network)
    finished = network.with_mixings(dict(decisions.finished))
    assert finished.fingerprint() == result.network.fingerprint()
    for name, mask in result.plan.mixings.items():
        np.testing.assert_array_equal(decisions.masks[name].ghosts, mask.ghosts)
        np.testing.assert_array_equal(decisions.masks[name].sums, mask.sums)
    for name, owner in result.plan.owners.items():
        assert decisions.owners[name].tobytes() == owner.tobytes()
    assert (wire == "float32") == (not decisions.scales)
    of_neurons = {name: mask for name, mask in result.plan.outliers.items() if name in decisions.scales}
    assert {name: mask.tolist() for name, mask in of_neurons.items()} == {
        name: mask.tolist() for name, mask in decisions.outliers.items() if name in result.plan.scales
    }
    assert 0 <= decisions.budget < 0.2 * 3 * sum(WIDTHS[:-1]) and not decisions.exact
    assert decisions.weights_left == 0.5 * network.weight_count - result.network.weight_count


@pytest.mark.parametrize("kept", [0, 100, 300])
@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_a_damaged_checkpoint_is_none(network, samples, tmp_path, kept, number):
    options = Options(4, 0.2)
    before = restructure(network, samples, options, quiet, checkpoint=Checkpoint(tmp_path, {}))
    path = sorted(Checkpoint(tmp_path, {}).directory.iterdir())[number]
    path.write_bytes(path.read_bytes()[:kept])
    assert Checkpoint(tmp_path, {}).load(network) is None
    after = restructure(network, samples, options, quiet, checkpoint=Checkpoint(tmp_path, {}))
    assert after.network.fingerprint() == before.network.fingerprint()
    assert Checkpoint(tmp_path, {}).load(network) is not None


def test_a_checkpoint_of_which_any_byte_is_another_is_none(network, samples, tmp_path):
    restructure(network, samples, Options(4, 0.2), quiet, checkpoint=Checkpoint(tmp_path, {}))
    draw = np.random.default_rng(0)
    for path in sorted(Checkpoint(tmp_path, {}).directory.iterdir()):
        content = path.read_bytes()
        for place in (0, len(content) - 1, *draw.integers(0, len(content), 30)):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            assert Checkpoint(tmp_path, {}).load(network) is None
        path.write_bytes(content)
    assert Checkpoint(tmp_path, {}).load(network) is not None


def test_decisions_and_plans_cannot_be_written(network, samples, tmp_path):
    result = restructure(network, samples, Options(2, 0.2), quiet, checkpoint=Checkpoint(tmp_path, {}))
    decisions = Checkpoint(tmp_path, {}).load(network)
    for mapping in (result.plan.owners, result.plan.mixings, result.plan.scales, decisions.owners):
        with pytest.raises(TypeError):
            mapping["layer0"] = np.zeros(3)
    copy = pickle.loads(pickle.dumps(result.plan))
    assert copy.identity() == result.plan.identity() and [*copy.owners] == [*result.plan.owners]


@pytest.mark.parametrize("placement", ["partitioned", "replicated"])
def test_a_worker_of_half_the_speed_gets_half_the_load(wide_network, wide_samples, placement):
    """Without ghosts exactly, but for rounding; with them, if the imbalance is limited."""
    speeds = np.array([2, 2, 1]) / 5
    for budget, imbalance, tolerance in ((0.0, None, 1.1), (0.1, 0.1, 1.15)):
        options = Options(3, budget, placement, part_weights=(2.0, 2.0, 1.0), imbalance=imbalance)
        result = restructure(wide_network, wide_samples, options, quiet)
        held = result.plan.weights_held(result.network)
        assert (held <= tolerance * speeds * held.sum()).all()
        assert held[2] >= 0.7 * speeds[2] * held.sum()


def test_density_is_shared_out_by_speed(network, samples):
    options = Options(3, 0.1, "partitioned", part_weights=(2.0, 2.0, 1.0), density=0.2)
    result = restructure(network, samples, options, quiet)
    held = result.plan.weights_held(result.network)
    quota = 0.2 * network.weight_count
    assert held.sum() <= quota
    assert (held <= quota * np.array([2, 2, 1]) / 5 + 3).all()


@given(st.lists(st.floats(0, 4), min_size=1, max_size=6).filter(lambda w: sum(w) > 0.1), st.floats(0, 1))
def test_neuron_shares_make_loads_go_with_speeds(network, weights, fraction):
    speeds = np.array(weights) / sum(weights)
    s = neuron_shares(network, speeds, fraction, replicated=False)
    assert s.sum() == pytest.approx(1)
    load = np.zeros(len(s))
    for mixing in network.mixings:
        m, n = mixing.weights.shape
        load += m * s * n * (1 if m < n else s + fraction * (1 - s))
    np.testing.assert_allclose(load / load.sum(), speeds, atol=1e-6)


def test_imbalance_limits_the_ghosts(wide_network, wide_samples):
    """A fourth of the outputs, all of one worker, matters most."""
    last = wide_network.mixings[-1]
    loud = np.where(np.arange(60) < 15, 10.0, 1.0)[:, None]
    network = wide_network.with_mixings({last.name: dataclasses.replace(last, weights=loud * last.weights)})
    held = {}
    for imbalance in (None, 0.02):
        options = Options(4, 0.3, "partitioned", "contiguous", imbalance=imbalance)
        result = restructure(network, wide_samples, options, quiet)
        weights = result.plan.weights_held(result.network)
        held[imbalance] = weights.max() / weights.mean()
    assert held[0.02] <= 1.05 < held[None]


@pytest.mark.parametrize("forms", [("ghosts",), ("ghosts", "relays")])
@pytest.mark.parametrize(("budget", "imbalance"), [(0.05, 0.0), (0.2, 0.02), (0.2, 0.1)])
def test_imbalance_holds_in_every_mixing(forms, budget, imbalance):
    """At the price that is paid in the end, which falls for what is left out."""
    rng = np.random.default_rng(3)
    network = small_plans.random_network(3, widths=(32, 48, 48, 48, 8), head="identity")
    samples = Samples.of(rng.standard_normal((400, 32)) @ (rng.standard_normal((32, 32)) / np.arange(1, 33)))
    options = Options(4, budget, "partitioned", imbalance=imbalance, forms=forms)
    result = restructure(network, samples, options, quiet)
    plan, mixings = result.plan, {mixing.name: mixing for mixing in result.network.mixings}
    for mixing in mixings_of_original(result.network, plan):
        parts = [mixing]
        if mixing.name in plan.relays:
            reads = mixings[plan.relays[mixing.name]]
            parts += [reads, mixings[reads.source]]
        held = sum(_held_by_each(result, part) for part in parts)
        assert (held <= (1 + imbalance) * held.sum() / 4 + 1e-9).all()


def _held_by_each(cut, mixing):
    holders = cut.plan.holders(cut.network, mixing)[mixing.weights != 0]
    return np.bincount(holders, minlength=cut.plan.workers)


def test_expensive_links_carry_less(network, samples):
    totals = {}
    for name, costs in (("equal", uniform_links(4)), ("nodes", node_links(4, 2, 0.1))):
        links = tuple(map(tuple, costs.tolist()))
        result = restructure(network, samples, Options(4, 0.15, "partitioned", link_costs=links), quiet)
        traffic = result.traffic_matrix()
        dear = node_links(4, 2, 0.0) > 0
        totals[name] = traffic[dear].sum() / traffic.sum()
        counts = [0.15 * costs.sum(axis=1).mean() * n for n in WIDTHS[:-1]]
        assert (traffic * costs).sum() <= sum(counts) * (1 + 1e-9)
    assert totals["nodes"] < 0.8 * totals["equal"]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_what_no_weight_uses_does_not_travel(network, samples, placement):
    result = restructure(network, samples, Options(3, 0.5, placement, density=0.03), quiet)
    plan = result.plan
    for mixing in result.network.mixings:
        source, target = plan.owners[network.space(mixing.source).name], plan.owners[mixing.name]
        mask, used = plan.mixings[mixing.name], mixing.weights != 0
        assert not (used & ~plan.allowed(network, mixing)).any()
        for q, j in np.argwhere(mask.ghosts):
            assert used[target == q, j].any()
        for p, i in np.argwhere(mask.sums):
            assert (used[i] & (source == p)).any()


def test_density_bounds_the_weights_and_keeps_the_adjustment(network, samples):
    dense, sparse, pruned = (
        restructure(network, samples, Options(2, 0.5, method=method, density=density), quiet).network
        for method, density in (("data", 1.0), ("data", 0.4), ("magnitude", 0.4))
    )
    assert sparse.weight_count <= 0.4 * network.weight_count < dense.weight_count
    errors = [compare(network, each, samples).output_error for each in (dense, sparse, pruned)]
    assert errors == sorted(errors)


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_memory_limits_hold(network, samples, assignment):
    """The first worker has room for a tenth of the weights; the limit is in MiB of float32."""
    unlimited = restructure(network, samples, Options(3, 0.5, "partitioned"), quiet)
    before = unlimited.plan.weights_held(unlimited.network)
    limits = np.array([0.1, 1, 1]) * network.weight_count
    options = Options(3, 0.5, "partitioned", assignment, memory_limits=tuple(limits * 4 / 2**20))
    result = restructure(network, samples, options, quiet)
    held = result.plan.weights_held(result.network)
    assert (held <= limits).all()
    assert before[0] > limits[0]
    assert all((owner >= 0).all() for owner in result.plan.owners.values())


def test_no_room_for_the_weights(network, samples):
    options = Options(3, 0.5, "partitioned", memory_limits=(1e-4, 1e-4, 1e-4))
    with pytest.raises(UserError, match="memory_limits: expected room for 20 rows over 12 inputs"):
        restructure(network, samples, options, quiet)


def test_the_former_method_of_independent_workers_is_a_budget():
    with pytest.raises(UserError, match="got 'independent'; take comm_budget=0"):
        Options(4, 0.3, method="independent")


def test_a_notebook_restructures_and_saves(network, samples, tmp_path):
    """The same shards as by ``restructure_to``, with options or with their fields, quietly."""
    report = restructure_to(tmp_path / "a", network, samples, Options(3, 0.1), np.float32, quiet)
    cuts = (
        restructure_network(network, samples, workers=3, comm_budget=0.1),
        restructure_network(network, samples, Options(3), comm_budget=0.1, resume=tmp_path / "kept"),
    )
    for cut, name in zip(cuts, "bc", strict=True):
        cut.save(tmp_path / name)
        for path in sorted((tmp_path / "a").iterdir()):
            assert path.read_bytes() == (tmp_path / name / path.name).read_bytes()
        assert {**cut.report, "seconds": 0, "shards": 0} == {**report, "seconds": 0, "shards": 0}
        assert cut.traffic_matrix().sum() == report["values_sent"] == cut.report["values_sent"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]
    cuts[0].save(str(tmp_path / "d"), np.float64)
    assert open_plan(tmp_path / "d").provenance["dtype"] == "float64"


def test_a_notebook_asks_for_a_promise(network, samples):
    cut = restructure_network(network, samples, workers=3, max_output_error=0.5)
    assert cut.report["output_error_held_out"] <= 0.5 and cut.report["trials"] >= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"density": 0.0}, "density: expected"),
        ({"imbalance": -1.0}, "imbalance: expected"),
        ({"memory_limits": (1.0,)}, "memory_limits: expected"),
        ({"link_costs": ((0.0, 1.0),)}, "link_costs: expected 2 rows"),
        ({"link_costs": ((0.0, -1.0), (1.0, 0.0))}, "found -1.0 from worker 0 to 1"),
    ],
)
def test_options_out_of_range(change, message):
    with pytest.raises(UserError, match=message):
        Options(2, **change)


def test_link_costs_from_the_command_line(tmp_path):
    costs = np.array([[0, 1, 2], [3, 0, 4], [5, 6, 0.0]])
    np.savetxt(tmp_path / "links.txt", costs)
    np.save(tmp_path / "links.npy", costs)
    for name in ("links.txt", "links.npy"):
        assert np.array(link_costs(str(tmp_path / name), 3)).tolist() == costs.tolist()
    assert link_costs("nodes:2", 3) == ((0, 0.1, 1), (0.1, 0, 1), (1, 1, 0))
    np.save(tmp_path / "deep.npy", np.ones((3, 3, 3)))
    np.save(tmp_path / "words.npy", np.full((3, 3), "dear"))
    (tmp_path / "empty.npy").touch()
    files = [str(tmp_path / name) for name in ("missing.txt", "deep.npy", "words.npy", "empty.npy")]
    for wrong in ("nodes:0", "nodes:x", *files):
        with pytest.raises(UserError, match="link_costs: expected"):
            link_costs(wrong, 3)


def test_link_costs_of_many_empty_rows(tmp_path):
    np.save(tmp_path / "rows.npy", np.empty((10**6, 0)))
    with pytest.raises(UserError, match=r"link_costs: .*an array of shape \(1000000, 0\)"):
        link_costs(str(tmp_path / "rows.npy"), 3)
