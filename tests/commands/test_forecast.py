"""``python -m repurpose_hpc forecast``."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from helpers import ROOT
from helpers.machines import PLAIN, with_network
from helpers.model_directories import llama
from helpers.small_graphs import convolutional_network
from helpers.small_plans import (
    pruned,
    random_network,
    random_plan,
    write_model,
    write_relayed_shards,
    write_shards,
)
from helpers.token_forms import WISHES, cut_of
from repurpose_hpc.commands.forecast import parse, predict
from repurpose_hpc.errors import UsageError, UserError
from repurpose_hpc.forecast.machine import write_machine
from repurpose_hpc.forecast.summary import marginal_efficiencies, paying_ranks, render
from repurpose_hpc.forecast.tokens import Piece, piece_seconds
from repurpose_hpc.model.importers.load import load_tokens
from repurpose_hpc.plan.files.store import write_plan
from repurpose_hpc.report.schema import ForecastReport, problems
from repurpose_hpc.restructure.exact import split_network


def _forecast(subject, machine, *options) -> dict:
    return predict(parse([str(subject), "--machine", str(machine), *map(str, options)]))


@pytest.fixture
def machine(tmp_path):
    path = tmp_path / "machine.json"
    write_machine(path, with_network(latency_us=1))
    return path


def test_shards_are_forecast_from_their_plan(tmp_path, machine):
    network, plan = write_shards(tmp_path / "shards", 3, "partitioned")
    result = _forecast(tmp_path / "shards", machine)
    points = {point["ranks"]: point for point in result["points"]}
    assert [*points] == [1, 2, 3, *(1 << k for k in range(2, 14)), 10_000]
    assert [points[ranks]["basis"] for ranks in (1, 2, 3)] == ["single", "scaled", "plan"]
    sent = [plan.traffic(network, mixing) for mixing in network.mixings]
    assert points[3]["restructured"]["values_sent"] == sum(each.sum() for each in sent)
    dense = sum(plan.dense_values(network, mixing) for mixing in network.mixings[:2])
    assert points[3]["dense"]["values_sent"] >= dense  # and partial sums of the last
    assert points[1]["restructured"] == points[1]["dense"]
    assert "best with" in render(result)


def test_graphs_are_forecast(tmp_path, machine):
    network = convolutional_network()
    plan = random_plan(network, 4, "replicated")
    write_plan(tmp_path / "shards", pruned(network, plan), plan, {})
    result = _forecast(tmp_path / "shards", machine, "--ranks", "1,4,300", "--batch-size", 3)
    assert [point["basis"] for point in result["points"]] == ["single", "plan", "scaled"]
    assert all(point["restructured"]["total_us"] > 0 for point in result["points"])


def test_ghosts_travel_in_the_format_of_the_shards_or_in_another(tmp_path, machine):
    write_shards(tmp_path / "shards", 3, "partitioned", wire="int8")
    write_machine(machine, with_network(gb_per_s=1e-3))
    of_shards, exact = (
        _forecast(tmp_path / "shards", machine, *wire) for wire in ((), ("--wire", "float32"))
    )
    assert [each["comm_dtype"] for each in (of_shards, exact)] == ["int8", "float32"]
    for short, long in zip(of_shards["points"][1:], exact["points"][1:], strict=True):
        for form in ("restructured", "dense"):
            assert short[form]["values_sent"] == long[form]["values_sent"]
            assert 1 < long[form]["bytes_us"] / short[form]["bytes_us"] < 4
    assert "ghosts in int8" in render(of_shards)


def test_relays_are_none_of_the_dense_network(tmp_path, machine):
    network = random_network(widths=(24, 40, 30, 6), head="identity")
    cut = write_relayed_shards(tmp_path / "shards", network, 3)
    write_model(tmp_path / "model.npz", network)
    ranks = "--ranks", "1,3,8"
    of_shards = _forecast(tmp_path / "shards", machine, *ranks)["points"]
    of_model = _forecast(tmp_path / "model.npz", machine, *ranks, "--input-placement", "partitioned")[
        "points"
    ]
    assert [point["dense"] for point in of_shards] == [point["dense"] for point in of_model]
    assert of_shards[1]["restructured"]["values_sent"] == cut.traffic_matrix().sum()


def test_models_are_forecast_by_assumption(tmp_path, machine):
    write_model(tmp_path / "model.npz", random_network(widths=(30, 40, 40, 40)))
    options = "--ranks", "1,8", "--input-placement", "partitioned"
    few, all_ = (_forecast(tmp_path / "model.npz", machine, *options, "--comm-budget", f) for f in (0.1, 1))
    few, all_ = few["points"][1], all_["points"][1]
    assert few["restructured"]["values_sent"] == pytest.approx(0.1 * few["dense"]["values_sent"])
    assert all_["restructured"]["total_us"] == pytest.approx(all_["dense"]["total_us"])


def test_only_as_many_ranks_as_there_are_links(tmp_path):
    write_machine(tmp_path / "m.json", replace(PLAIN, network=None, ranks_per_node=6))
    write_model(tmp_path / "model.npz", random_network())
    result = _forecast(tmp_path / "model.npz", tmp_path / "m.json")
    assert [point["ranks"] for point in result["points"]] == [1, 2, 4]
    assert result["most_ranks"] == 6 and "no more than 6 ranks" in render(result)


def test_efficiencies():
    assert marginal_efficiencies([1, 2, 8], [8.0, 4.0, 4.0]) == [None, 1.0, 0.0]
    assert marginal_efficiencies([1, 2], [0.0, 0.0]) == [None, 0.0]
    assert paying_ranks([1, 2, 4, 8], [None, 1.0, 0.4, 0.9]) == 2
    assert paying_ranks([1, 2, 4], [None, 1.0, 0.5]) == 4


def _command(*args):
    command = [sys.executable, "-m", "repurpose_hpc", "forecast", *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_command_prints_a_table_and_writes_the_report(tmp_path):
    write_shards(tmp_path / "shards", 2)
    options = "--machine", "gigabit", "--ranks", "1,2,64", "--report", tmp_path / "r.json"
    done = _command(tmp_path / "shards", *options)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    assert [point["ranks"] for point in report["points"]] == [1, 2, 64]
    assert report["restructured"]["best_ranks"] in (1, 2, 64)
    assert len([line for line in done.stdout.splitlines() if " scaled " in line]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--comm-budget", "0.1"), "has no effect"),
        (("--input-placement", "root"), "has no effect"),
        (("--ranks", "0"), "--ranks"),
        (("--machine", "moon"), "expected this, a file, or one of edge"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, options, message):
    write_shards(tmp_path / "shards", 2)
    done = _command(tmp_path / "shards", "--machine", "edge", *options)
    assert done.returncode != 0 and message in done.stderr
    assert "Traceback" not in done.stderr


def test_shards_of_one_worker_show_nothing(tmp_path, machine):
    write_shards(tmp_path / "shards", 1)
    with pytest.raises(UserError, match="2 workers or more"):
        _forecast(tmp_path / "shards", machine)


def test_a_model_needs_a_budget_that_is_a_fraction(tmp_path):
    with pytest.raises(UsageError, match="fraction from 0 to 1"):
        parse([str(tmp_path / "model.npz"), "--machine", "edge", "--comm-budget", "2"])


def test_too_many_ranks_for_a_machine_that_has_no_links(tmp_path):
    write_machine(tmp_path / "m.json", replace(PLAIN, network=None, local=None))
    write_model(tmp_path / "model.npz", random_network())
    with pytest.raises(UserError, match="expected links for 4 ranks, found those of 1 "):
        _forecast(tmp_path / "model.npz", tmp_path / "m.json", "--ranks", "4")


def test_it_does_not_start_mpi():
    code = "import sys, repurpose_hpc.commands.forecast; sys.exit('mpi4py.MPI' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.fixture
def transformer(tmp_path):
    pytest.importorskip("safetensors")
    return llama(tmp_path / "transformer")


def test_transformers_are_forecast_as_they_are(transformer, machine):
    """One process computes all of it; more send what the split sends."""
    result = _forecast(transformer, machine, "--tokens", 4, "--context", 7)
    assert problems(result, ForecastReport) == []
    assert [point["ranks"] for point in result["points"]] == [1, 2, 4, 8, 16, 32, 64]
    assert [point["basis"] for point in result["points"]] == ["single", *["split"] * 6]
    assert (result["tokens"], result["context"], result["comm_budget"]) == (4, 7, None)
    network, piece = load_tokens(transformer), Piece(4, 7)
    for point in result["points"][:3]:
        cut = split_network(network, point["ranks"])
        seconds = piece_seconds(cut.network, cut.plan, with_network(latency_us=1), piece)
        assert point["dense"]["total_us"] == pytest.approx(1e6 * seconds)
    assert "4 tokens behind 7 of 1 sequence at a time; split as it is" in render(result)


def test_shards_of_transformers_are_forecast_from_their_plan(transformer, tmp_path, machine):
    """Those that were only split are their own original; others need it."""
    network = load_tokens(transformer)
    made_of = {"model_fingerprint": network.fingerprint()}
    split, narrow = split_network(network, 3), cut_of(network, [WISHES["narrow in one round"]], np.ones(3))
    for name, cut, more in (("split", split, {}), ("narrow", narrow, {"calibration_sha256": ""})):
        write_plan(tmp_path / name, cut.network, cut.plan, made_of | more)
    of_split = _forecast(tmp_path / "split", machine)
    assert problems(of_split, ForecastReport) == []
    assert [(point["ranks"], point["basis"]) for point in of_split["points"]] == [(1, "single"), (3, "plan")]
    assert all(point["restructured"] == point["dense"] for point in of_split["points"])
    with pytest.raises(UserError, match="expected --original MODEL"):
        _forecast(tmp_path / "narrow", machine)
    of_narrow = _forecast(tmp_path / "narrow", machine, "--original", transformer)
    assert of_narrow["points"][0] == of_split["points"][0]
    one, three = of_narrow["points"]
    assert three["dense"] == of_split["points"][1]["dense"]
    assert three["restructured"]["values_sent"] == narrow.traffic_matrix().sum()
    is_slower = three["restructured"]["total_us"] > one["restructured"]["total_us"]
    assert of_narrow["restructured"]["slower_ranks"] == [3] * is_slower == [3]
    assert "one process is faster than 3 ranks" in render(of_narrow)
    with pytest.raises(UserError, match="found those of another one"):
        _forecast(tmp_path / "narrow", machine, "--original", llama(tmp_path / "other", rms_norm_eps=1e-3))
    with pytest.raises(UserError, match="expected 1 or 3, the workers of the shards, got 2"):
        _forecast(tmp_path / "split", machine, "--ranks", 2)


def test_nobody_says_that_one_process_is_faster_where_it_is_not(transformer):
    result = _forecast(transformer, "nvlink", "--ranks", "1,2", "--tokens", 40, "--batch-size", 64)
    slower = result["points"][1]["dense"]["total_us"] > result["points"][0]["dense"]["total_us"]
    assert result["dense"]["slower_ranks"] == [2] * slower
    assert ("one process is faster" in render(result)) == slower
    without = _forecast(transformer, "nvlink", "--ranks", "2,4")
    assert without["dense"]["slower_ranks"] is None and "one process" not in render(without)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--comm-budget", "0.1"), "--comm-budget has no effect on a transformer"),
        (("--comm-dtype", "int8"), "--comm-dtype has no effect on a transformer"),
        (("--original", "x"), "--original belongs to SHARDS"),
        (("--tokens", "30", "--context", "11"), "expected 40 tokens at most"),
        (("--tokens", "3", "--input-shape", "ids=1x8"), "--tokens belongs to a transformer for texts"),
    ],
)
def test_what_transformers_are_refused(transformer, machine, options, message):
    with pytest.raises(UserError, match=message):
        _forecast(transformer, machine, *options)


def test_sequences_of_one_length_are_forecast_as_samples(transformer, machine):
    assert "tokens" not in _forecast(transformer, machine, "--input-shape", "ids=1x8", "--ranks", "1,2")
