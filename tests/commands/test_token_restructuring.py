"""Transformers restructured with texts: from a command line to shards that others run."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from helpers import ROOT, small_plans, token_graphs
from helpers.machines import PLAIN, with_network
from helpers.model_directories import VOCABULARY, llama, tokenizer
from repurpose_hpc.forecast.machine import THIS_FILE, write_machine
from repurpose_hpc.forecast.tokens import Piece, piece_seconds
from repurpose_hpc.io.token_ids import read_ids
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_tokens
from repurpose_hpc.plan.files.store import open_plan, read_network
from repurpose_hpc.plan.plan import single_worker_plan
from repurpose_hpc.report.schema import (
    GenerateReport,
    RestructuredTextsReport,
    RestructureReport,
    TextsReport,
    problems,
)
from repurpose_hpc.restructure.exact import split_network
from repurpose_hpc.restructure.held_out import hold_out
from repurpose_hpc.restructure.tokens.budget import dense_values
from repurpose_hpc.restructure.tokens.job import texts_sha256

pytest.importorskip("safetensors")
BERT = ROOT / "tests/data/transformers/bert"
TEXTS, TOKENS = 25, 14


@pytest.fixture
def run(mpirun):
    def start(ranks, *words, status=0):
        done = mpirun(ranks, "-m", "repurpose_hpc", *map(str, words))
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr and done.stderr.count("error:") == (status != 0)
        return done

    return start


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    pytest.importorskip("tokenizers")
    directory = llama(tmp_path_factory.mktemp("model"), eos_token_id=7)
    tokenizer(directory)
    return directory


@pytest.fixture
def ids(tmp_path):
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(0, VOCABULARY, (TEXTS, TOKENS)))
    return tmp_path / "ids.npy"


def read_report(path):
    found = json.loads(path.read_text())
    assert problems(found, RestructuredTextsReport) == []
    return found


def contents(directory):
    return {file.name: file.read_bytes() for file in directory.iterdir()}


@pytest.mark.parametrize("workers", [2, 3])
def test_a_decoder(run, model, ids, tmp_path, workers):
    """Its shards run wherever those of a model that was only split do, with any number of ranks."""
    out, report = tmp_path / "shards", tmp_path / "report.json"
    words = ("restructure", model, "--calibration", ids, "--workers", workers, "--comm-budget", 0.5)
    done = run(1, *words, "--out", out, "--report", report)
    found = read_report(report)
    assert (found["texts"], found["tokens"], found["held_out_texts"]) == (TEXTS, TEXTS * TOKENS, TEXTS // 5)
    assert found["measured_tokens"] == TEXTS // 5 * TOKENS and "trials" not in found
    assert found["comm_fraction"] <= 0.5 and found["stream"] == "common" and found["load"] < 2
    assert found["dense_values"] == dense_values(load_tokens(model), workers) and found["comm_budget"] == 0.5
    assert found["comm_fraction"] == found["values_sent"] / found["dense_values"]
    assert found["tokenizer"] and found["workers"] == workers
    for text in ("5 held-out texts", f"{found['perplexity']:.4g}", "of dense tensor parallelism"):
        assert text in done.stdout
    provenance = open_plan(out).provenance
    assert provenance["calibration_sha256"] == texts_sha256(read_ids(ids)) and provenance["texts"] == TEXTS
    assert (
        provenance["findings"]["perplexity"] == found["perplexity"]
        and provenance["held_out"]["texts"] == TEXTS
    )
    for ranks in (1, 2):
        run(ranks, "generate", out, "--prompt", "w3 w1 w4", "--tokens", 5, "--report", report)
        assert problems(json.loads(report.read_text()), GenerateReport) == []
        run(ranks, "infer", "--shards", out, "--input", ids, "--verify", "--report", report)
        assert problems(json.loads(report.read_text()), TextsReport) == []


def test_a_promise_is_kept_on_held_out_texts(run, model, ids, tmp_path):
    words = ("restructure", model, "--calibration", ids, "--workers", 2, "--max-perplexity-increase", 5)
    done = run(1, *words, "--out", tmp_path / "one", "--report", tmp_path / "report.json")
    found = read_report(tmp_path / "report.json")
    assert found["perplexity"] <= 1.05 * found["reference_perplexity"]
    assert (found["held_out_texts"], found["measured_tokens"]) == (TEXTS // 5, TEXTS // 5 * TOKENS)
    assert found["trials"] == done.stderr.count("trial ") > 0 and "5 held-out texts" in done.stdout
    plan = open_plan(tmp_path / "one")
    # What was measured is what is kept.
    network, held_out = read_network(plan), np.load(ids)[hold_out(TEXTS, 0)]
    assert plan.provenance["options"]["comm_budget"] == found["comm_budget"]
    assert plan.provenance["held_out"]["texts"] == TEXTS
    losses = []
    for text in held_out:
        logits = forward(network.at(TOKENS), text[None], np.float64).reshape(TOKENS, -1)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        losses.append(-logits[np.arange(TOKENS - 1), text[1:]])
    assert np.exp(np.mean(losses)) == pytest.approx(found["perplexity"], rel=1e-4)
    # Under a launcher one rank does all of it.
    run(3, *words, "--out", tmp_path / "three")
    assert contents(tmp_path / "three") == contents(tmp_path / "one")


def test_an_encoder_and_lines_of_text(run, tmp_path):
    """Nothing is predicted; texts of different lengths go by the tokenizer of the model."""
    pytest.importorskip("tokenizers")
    model = shutil.copytree(BERT, tmp_path / "model")
    tokenizer(model)
    rng = np.random.default_rng(0)
    lines = (" ".join(f"w{word}" for word in rng.integers(0, 23, 3 + place % 5)) for place in range(30))
    (tmp_path / "texts.txt").write_text("\n".join(lines) + "\n")
    report = tmp_path / "report.json"
    files = ("--calibration", tmp_path / "texts.txt", "--out", tmp_path / "shards", "--report", report)
    done = run(2, "restructure", model, *files, "--max-output-error", 0.2)
    found = read_report(report)
    assert found["workers"] == 2 and found["texts"] == 30 and found["held_out_texts"] == 6
    assert found["tokens"] == sum(3 + place % 5 for place in range(30))
    assert "perplexity" not in found and "next token" not in done.stdout and found["output_error"] <= 0.2
    run(2, "infer", "--shards", tmp_path / "shards", "--input", tmp_path / "texts.txt", "--verify")


def test_a_plan_that_the_forecast_calls_slower_is_said_to_be_so(run, model, ids, tmp_path, monkeypatch):
    """For the machine that is named, or for this one once it was probed; by the last token of a text."""
    monkeypatch.setenv("REPURPOSE_HPC_CACHE", str(tmp_path / "cache"))
    slow, fast = with_network(latency_us=1000), PLAIN
    write_machine(tmp_path / "slow.json", slow)
    write_machine(tmp_path / "alone.json", replace(PLAIN, local=None, network=None))
    report, out = tmp_path / "report.json", tmp_path / "shards"
    words = ("restructure", model, "--calibration", ids, "--workers", 2, "--out", out, "--report", report)
    original, said = load_tokens(model), "the original is faster"

    def check(done, machine):
        found, piece = read_report(report), Piece(1, TOKENS - 1)
        network, plan = read_network(open_plan(out)), open_plan(out).plan
        single = piece_seconds(original, single_worker_plan(original), machine, piece)
        assert found["modelled_us"] == pytest.approx(1e6 * piece_seconds(network, plan, machine, piece))
        assert found["modelled_single_process_us"] == pytest.approx(1e6 * single)
        assert (found["piece_tokens"], found["context"]) == piece
        split = split_network(original, 2)
        dense = piece_seconds(split.network, split.plan, machine, piece)
        assert found["modelled_dense_us"] == pytest.approx(1e6 * dense)
        faster = [found[f"modelled_{name}_us"] < found["modelled_us"] for name in ("single_process", "dense")]
        assert done.stderr.count(said) == any(faster) and "behind 13 others" in done.stdout
        assert done.stderr.count("µs in one process") == faster[0]
        assert done.stderr.count("µs split as it is") == faster[1]
        return faster[0]

    assert check(run(2, *words, "--machine", tmp_path / "slow.json"), slow)
    done = run(1, *words)
    assert "not forecast, as no machine is known" in done.stdout and said not in done.stderr
    assert "modelled_us" not in read_report(report)
    (tmp_path / "cache").mkdir(exist_ok=True)
    write_machine(tmp_path / "cache" / THIS_FILE, fast)
    assert not check(run(1, *words), fast)
    # Nobody has asked for a forecast.
    for content in ("{", (tmp_path / "alone.json").read_text()):
        (tmp_path / "cache" / THIS_FILE).write_text(content)
        assert "not forecast, as no machine is known" in run(1, *words).stdout


def test_blank_and_long_lines(run, model, tmp_path):
    """Of a decoder long lines become several texts; to infer they are refused as before."""
    words = [f"w{place % VOCABULARY}" for place in range(81)]
    lines = [*(" ".join(words[place : place + 9]) for place in range(20)), "", " ".join(words), "  ", "w1 w2"]
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    report, files = tmp_path / "report.json", ("--calibration", tmp_path / "texts.txt")
    made = ("--workers", 2, "--out", tmp_path / "shards", "--report", report)
    done = run(1, "restructure", model, *files, *made)
    found = read_report(report)
    assert (found["texts"], found["tokens"]) == (20 + 3 + 1, 20 * 9 + 81 + 2)
    assert "2 of 24 lines are blank, or without tokens, and were left out" in done.stderr
    assert "1 of 24 lines have more than 40 tokens" in done.stderr and "split into several" in done.stderr
    done = run(1, "infer", model, "--input", tmp_path / "texts.txt", status=1)
    assert "got 0 in text 20" in done.stderr


def test_what_is_refused(run, model, ids, tmp_path):
    np.save(tmp_path / "long.npy", np.zeros((3, 41), int))
    np.save(tmp_path / "few.npy", np.zeros((1, 5), int))
    np.save(tmp_path / "beyond.npy", np.full((3, 9), VOCABULARY))
    np.save(tmp_path / "bert.npy", np.ones((5, 9), int))
    (tmp_path / "empty.txt").write_text("\n \n")
    write_machine(tmp_path / "alone.json", replace(PLAIN, local=None, network=None))
    small_plans.write_model(tmp_path / "model.npz", small_plans.random_network())
    small_plans.write_samples(tmp_path / "x.npz", samples=60)
    out, with_ids = ("--workers", 2, "--out", tmp_path / "out"), ("--calibration", ids)
    promise = ("--max-perplexity-increase", 1)
    refused = {
        (model, *with_ids, "--method", "magnitude"): (2, "--method has no effect"),
        (model, *with_ids, "--no-check"): (2, "--check has no effect"),
        (model, *with_ids, "--machine", "moon"): (2, "expected this, a file, or one of edge"),
        (model, *with_ids, "--machine", tmp_path / "alone.json"): (2, "expected links for 2 ranks"),
        (model, *with_ids, "--part-weights", "1,0"): (2, "above 0"),
        (model, *with_ids, "--comm-budget", 0.1, *promise): (2, "not allowed with argument"),
        (model, *promise): (2, "--max-perplexity-increase has no effect"),
        (tmp_path / "model.npz", "--calibration", tmp_path / "x.npz", *promise): (2, "--max-perpl"),
        (model, *with_ids, "--longest", 9): (1, "longest is of .onnx files"),
        (model, "--calibration", tmp_path / "long.npy"): (1, "1 to 40 tokens"),
        (model, "--calibration", tmp_path / "few.npy", *promise): (
            1,
            "increase: expected at least",
        ),
        (model, "--calibration", tmp_path / "beyond.npy"): (1, f"from 0 to {VOCABULARY - 1}"),
        (model, "--calibration", tmp_path / "empty.txt"): (1, "blank lines alone"),
        (BERT, "--calibration", tmp_path / "bert.npy", *promise): (1, "expected a decoder"),
    }
    for words, (status, text) in refused.items():
        assert text in run(2, "restructure", *words, *out, status=status).stderr, words
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("length", [None, 7])
def test_an_onnx_file(run, tmp_path, length):
    """With a free axis of tokens it is for texts; with one of a fixed length its samples are sequences."""
    onnx = pytest.importorskip("onnx")
    path, report = tmp_path / "model.onnx", tmp_path / "report.json"
    onnx.save(token_graphs.transformer(length=length), path)
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(0, token_graphs.VOCABULARY, (40, 7)))
    files = ("--calibration", tmp_path / "ids.npy", "--out", tmp_path / "shards", "--report", report)
    longest = () if length else ("--longest", 20)
    run(1, "restructure", path, "--workers", 2, "--comm-budget", 0.5, *files, *longest)
    found = json.loads(report.read_text())
    schema = RestructureReport if length else RestructuredTextsReport
    assert problems(found, schema) == [] and found.get("longest") == (None if length else 20)
