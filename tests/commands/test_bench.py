"""``python -m repurpose_hpc bench``: what each subject reports, and what it refuses."""

import json
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from helpers import small_plans
from helpers.small_graphs import convolutional_network
from repurpose_hpc.bench.candidate import check
from repurpose_hpc.bench.stream import layers_of
from repurpose_hpc.bench.turns import alone, in_turns
from repurpose_hpc.errors import UserError
from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.chain import sequence
from repurpose_hpc.plan.files.store import write_plan
from repurpose_hpc.plan.plan import dense_plan
from repurpose_hpc.report.schema import REPORTS, problems
from repurpose_hpc.restructure.synthetic import random_network

BENCH = ("-m", "repurpose_hpc", "bench")
HAS_TORCH = find_spec("torch") is not None
HAS_ONNX = find_spec("onnx") is not None and find_spec("onnxruntime") is not None
SPREAD = {"median", "p10", "p90", "repeats"}


@pytest.fixture
def bench(mpirun, tmp_path: Path):
    """A function (ranks, words) -> report."""

    def run(ranks: int, *words: str) -> dict:
        out = tmp_path / "report.json"
        done = mpirun(ranks, *BENCH, *words, "--repeat", 2, "--out", out)
        assert done.returncode == 0, done.stdout + done.stderr
        result = json.loads(out.read_text())
        assert problems(result, REPORTS[f"bench {words[0]}"]) == []
        assert result["ranks"] == ranks
        assert result["machine"]["versions"]["numpy"] == np.__version__
        assert any(line.startswith("torch: ") for line in result["left_out"]) != HAS_TORCH
        for line in result["left_out"]:
            assert f"left out: {line}" in done.stdout
        return result

    return run


def check_rows(rows: list[dict], base: str, names: set[str]) -> None:
    """Every candidate of every row has its times, and every one but ``base`` a ratio to it."""
    for row in rows:
        assert set(row["us"]) == names
        assert set(row["ratios"]) == names - {base}
        for name, us in row["us"].items():
            assert set(us) == SPREAD and 0 < us["p10"] <= us["median"] <= us["p90"]
            if name != base:
                assert row["ratios"][name] == pytest.approx(
                    us["median"] / row["us"][base]["median"], rel=0.01, abs=1e-3
                )


def test_kernels(bench):
    result = bench(1, "kernels", "--sizes", "70")
    torch, onnx = {"torch"} if HAS_TORCH else set(), {"onnxruntime"} if HAS_ONNX else set()
    short = {"ours_bfloat16", "ours_float16", "ours_int8"}
    check_rows(result["vector"], "ours", {"ours", "sum", "numpy"} | short | torch)
    check_rows(result["batch"], "ours", {"ours", "numpy"} | torch | onnx)
    check_rows(result["csr"], "ours", {"ours", "scipy"} | torch)
    assert {(row["n"], row["columns"]) for row in result["csr"]} == {
        (70, columns) for columns in (1, 8, 20, 64)
    }


def test_exchange(bench):
    result = bench(3, "exchange", "--bytes", "4,400")
    assert [row["bytes"] for row in result["exchange"]] == [4, 400]
    names = set(result["exchange"][0]["us"])
    assert names >= {
        "ours",
        "ours_p2p",
        "ours_sparse",
        "ours_shared",
        "allgather",
        "alltoallv",
        "ialltoallv",
        "neighbor",
        "p2p",
        "p2p_persistent",
    }
    assert ("gloo_allgather" in names) == HAS_TORCH
    check_rows(result["exchange"], "ours", names)


def test_inference(bench):
    """Of a partitioned input, which takes more steps; ``tests/mpi/test_bench.py`` has both."""
    words = ("--widths", "32,64", "--batches", "1,3", "--comm-budget", "0.25")
    result = bench(2, "inference", *words, "--input-placement", "partitioned")
    assert result["options"]["input_placement"] == "partitioned"
    rows = result["inference"]
    assert [(row["n"], row["batch"]) for row in rows] == [(32, 1), (32, 3), (64, 1), (64, 3)]
    names = set(rows[0]["us"])
    assert names >= {"restructured", "dense", "mpi_allgather", "single_1", "single_restructured", "numpy_1"}
    assert ({"gloo", "dtensor", "torch_1"} <= names) == HAS_TORCH
    assert ("onnxruntime_1" in names) == HAS_ONNX
    check_rows(rows, "restructured", names)
    alone = [name for name in names if name.rpartition("_")[2].isdigit()]
    for row in rows:
        best = min(alone, key=lambda name: row["us"][name]["median"])
        assert row["best_single"] == best
        assert row["best_single_ratio"] == pytest.approx(row["ratios"][best], abs=1e-3)
        assert row["restructured_efficiency"] == pytest.approx(
            row["ratios"]["single_restructured"] / 2, abs=1e-3
        )


@pytest.fixture
def shards(tmp_path: Path):
    """A directory of a chain for two workers."""
    network = random_network(24, 2, 0)
    plan = dense_plan(network, 2, "replicated", np.ones(2))
    write_plan(tmp_path / "shards", network, plan, {})
    return tmp_path / "shards"


def test_stream(bench, shards):
    """The outputs of all are compared with the reference before anything is timed."""
    words = ("--batches", "1,7", "--samples", "20", "--files", "h5,h5-gzip,npy")
    result = bench(2, "stream", "--shards", str(shards), *words)
    assert result["options"]["shards"] == str(shards)
    rows = result["stream"]
    assert [(row["file"], row["batch"]) for row in rows] == [
        (kind, batch) for kind in ("h5", "h5-gzip", "npy") for batch in (1, 7)
    ]
    names = set(rows[0]["us"])
    assert names >= {"stream", "forward"} and ("onnxruntime_1" in names) == HAS_ONNX
    check_rows(rows, "stream", names)


@pytest.mark.skipif(not HAS_ONNX, reason="needs onnx and onnxruntime")
def test_scripts_run_the_network_without_relays(bench, tmp_path):
    network = small_plans.random_network(widths=(24, 40, 30, 6), head="identity")
    small_plans.write_relayed_shards(tmp_path / "shards", network, 2)
    words = ("--shards", str(tmp_path / "shards"), "--batches", "3", "--samples", "9", "--files", "npy")
    assert "onnxruntime_1" in bench(2, "stream", *words)["stream"][0]["us"]


def test_scripts_run_no_other_networks(tmp_path):
    chain = random_network(6, 2, 0)
    assert len(layers_of(chain)) == 2
    bent = sequence(6, [(chain.mixings[0].weights, chain.mixings[0].bias), Activation("tanh")])
    assert layers_of(bent) == []
    assert layers_of(convolutional_network()) == []


@pytest.mark.parametrize(
    ("ranks", "words", "message"),
    [
        (2, ("kernels",), "kernels: expected one process, found 2 ranks"),
        (1, ("exchange",), "exchange: expected 2 ranks or more, found 1"),
        (
            2,
            ("inference", "--widths", "64,33"),
            "--widths: expected multiples of the 2 ranks",
        ),
    ],
)
def test_refusals(mpirun, ranks, words, message):
    done = mpirun(ranks, *BENCH, *words)
    assert done.returncode != 0
    assert done.stderr.count("repurpose-hpc: error: ") == 1
    assert message in done.stderr


@pytest.mark.parametrize("found", [np.array([[1.0], [2.001]]), np.array([[1.0], [np.nan]]), np.ones((1, 2))])
def test_what_computes_something_else_is_not_timed(found):
    expected = np.array([[1.0], [2.0]])
    check("right", expected + 1e-5, expected, np.dtype(np.float32))
    with pytest.raises(UserError, match="wrong: expected results of shape"):
        check("wrong", found, expected, np.dtype(np.float32))


def test_candidates_take_turns():
    order, seconds = [], {"a": 0.03, "b": 0.03, "c": 0.06}

    def call(name: str) -> None:
        order.append(name)
        time.sleep(seconds[name])

    spreads = in_turns({name: alone(partial(call, name)) for name in seconds}, repeats=4)
    assert [spread.repeats for spread in spreads.values()] == [4, 4, 1]
    # One round after the pilots: calls for 0.05 s that are not timed, then those that are.
    assert "".join(order).endswith(6 * "a" + 6 * "b" + 2 * "c")
