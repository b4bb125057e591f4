"""Shards of a transformer that is split as it is: written by ``restructure``, run by others."""

import json
import shutil

import h5py
import numpy as np
import pytest

from helpers import ROOT, small_plans
from helpers.model_directories import VOCABULARY, llama, tokenizer
from repurpose_hpc.plan.files.store import open_plan
from repurpose_hpc.report.schema import GenerateReport, SplitReport, TextsReport, problems

pytest.importorskip("safetensors")
BERT = ROOT / "tests/data/transformers/bert"
END = 7


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
    directory = llama(tmp_path_factory.mktemp("model"), eos_token_id=END)
    tokenizer(directory)
    return directory


@pytest.fixture(scope="module")
def shards(model, mpirun, tmp_path_factory):
    """For three workers, once for each form of the stream."""
    folder = tmp_path_factory.mktemp("shards")
    for name, price in (("owned", 0), ("common", 1e9)):
        words = ("restructure", model, "--workers", 3, "--round-cost", price, "--out", folder / name)
        done = mpirun(1, "-m", "repurpose_hpc", *words, "--report", folder / f"{name}.json")
        assert done.returncode == 0, done.stderr
        found = json.loads((folder / f"{name}.json").read_text())
        assert problems(found, SplitReport) == [] and found["stream"] == name and found["tokenizer"]
    return folder


@pytest.fixture
def ids(tmp_path):
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(0, VOCABULARY, (2, 6)))
    return tmp_path / "ids.npy"


def outputs(path):
    with h5py.File(path) as file:
        return file["y"][()]


def contents(directory):
    return {file.name: file.read_bytes() for file in directory.iterdir()}


@pytest.mark.parametrize("stream", ["owned", "common"])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_texts_are_those_of_the_model(run, model, shards, ids, tmp_path, ranks, stream):
    """The same logits, bit for bit, and so the same tokens and the same ends."""
    price = 0 if stream == "owned" else 1e9
    found = {}
    for source, more in ((model, ("--workers", 3, "--round-cost", price)), (shards / stream, ())):
        name = tmp_path / source.name
        run(ranks, "generate", source, *more, "--ids", ids, "--tokens", 30, "--report", f"{name}.json")
        found[source] = json.loads(name.with_suffix(".json").read_text())
        of = ("--shards", source) if source != model else (source, *more)
        run(ranks, "infer", *of, "--input", ids, "--verify", "--output", f"{name}.h5")
    ours, theirs = found[shards / stream], found[model]
    assert problems(ours, GenerateReport) == []
    assert {len(text) for text in ours["ids"]} != {30} and ours["workers"] == 3
    for key in ("ids", "values_sent", "bytes_sent", "rounds", "kept_bytes"):
        assert ours[key] == theirs[key]
    np.testing.assert_array_equal(outputs(tmp_path / f"{stream}.h5"), outputs(f"{tmp_path / model.name}.h5"))


def test_a_prompt_by_the_tokenizer_in_the_shards(run, model, shards):
    words = ("--prompt", "w3 w1 w4", "--tokens", 5)
    found, expected = (run(2, "generate", source, *words) for source in (shards / "owned", model))
    assert found.stdout.splitlines()[0] == expected.stdout.splitlines()[0]
    assert found.stdout.startswith("w")


@pytest.mark.parametrize("pooling", [None, "mean_tokens", "max_tokens"])
def test_an_encoder_keeps_how_it_is_pooled(run, tmp_path, pooling):
    pytest.importorskip("tokenizers")
    model = shutil.copytree(BERT, tmp_path / "model")
    tokenizer(model)
    if pooling:
        names = ("Transformer", "Pooling", "Normalize")
        modules = [{"type": f"models.{name}", "path": name} for name in names]
        (model / "modules.json").write_text(json.dumps(modules))
        (model / "Pooling").mkdir()
        (model / "Pooling/config.json").write_text(json.dumps({f"pooling_mode_{pooling}": True}))
    note = run(1, "restructure", model, "--workers", 2, "--out", tmp_path / "shards").stderr
    assert ("no pooling is kept" in note) == (pooling == "max_tokens")
    (tmp_path / "texts.txt").write_text("w1 w2 w3\nw4\n")
    files = ("--input", tmp_path / "texts.txt", "--verify")
    report = tmp_path / "report.json"
    of_shards = ("--shards", tmp_path / "shards", *files, "--output", tmp_path / "y.h5", "--report", report)
    if pooling == "max_tokens":
        assert "--pool says" in run(2, "infer", *of_shards, status=1).stderr
    more = ("--pool", "first") if pooling == "max_tokens" else ()
    run(2, "infer", *of_shards, *more)
    run(2, "infer", model, *files, "--output", tmp_path / "expected.h5", *more)
    assert problems(json.loads(report.read_text()), TextsReport) == []
    np.testing.assert_array_equal(outputs(tmp_path / "y.h5"), outputs(tmp_path / "expected.h5"))
    assert len(outputs(tmp_path / "y.h5")) == (2 if pooling else 4)


def test_the_same_shards_for_any_ranks_in_place_of_earlier_ones(run, model, shards, tmp_path):
    out = tmp_path / "shards"
    words = ("restructure", model, "--round-cost", 0, "--out", out)
    run(2, *words)
    run(3, *words)
    assert contents(out) == contents(shards / "owned")
    run(2, *words, "--workers", 4, "--part-weights", "1,2,1,1", "--dtype", "float64")
    assert len(contents(out)) == 5
    (out / "other").touch()
    assert "earlier plan alone" in run(2, *words, status=1).stderr


def test_the_tokenizer_in_a_gguf_file_is_kept(run, model, tmp_path):
    pytest.importorskip("gguf")
    import gguf_files

    metadata, tensors = gguf_files.contents(model)
    letters = [chr(97 + number) for number in range(VOCABULARY - 1)] + ["ab"]
    own = {"model": "gpt2", "pre": "gpt-2", "tokens": letters, "merges": ["a b"], "eos_token_id": END}
    words = ("--prompt", "abacab", "--tokens", 6)
    for name, changes in (("known", {}), ("unknown", {"pre": "other"})):
        of_text = {f"tokenizer.ggml.{key}": value for key, value in {**own, **changes}.items()}
        file = gguf_files.write(tmp_path / f"{name}.gguf", metadata | of_text, tensors)
        done = run(1, "restructure", file, "--workers", 2, "--out", tmp_path / name)
        assert ("no tokenizer is kept" in done.stderr) == (name == "unknown")
    found, expected = (run(2, "generate", tmp_path / name, *words) for name in ("known", "known.gguf"))
    assert found.stdout.splitlines()[0] == expected.stdout.splitlines()[0]
    assert open_plan(tmp_path / "known").texts.ends == (END,)
    assert "give token ids" in run(2, "generate", tmp_path / "unknown", *words, status=1).stderr


def test_what_has_no_effect_is_refused(run, model, shards, ids, tmp_path):
    plan, dense = shards / "owned", tmp_path / "dense"
    small_plans.write_model(tmp_path / "model.npz", small_plans.random_network())
    small_plans.write_shards(dense, 2)
    cut = ("--workers", 2, "--out", tmp_path / "out")
    texts = ("--shards", plan, "--input", ids)
    refused = {
        ("restructure", tmp_path / "model.npz", *cut): (2, "--calibration DATA"),
        ("restructure", model, *cut, "--input-shape", "ids=1x6"): (2, "--calibration DATA"),
        ("restructure", model, *cut, "--comm-budget", 0.1): (2, "--comm-budget has no effect"),
        ("restructure", model, *cut, "--no-check"): (2, "--check has no effect"),
        ("restructure", model, *cut, "--round-cost", -1): (2, "--round-cost"),
        ("restructure", model, *cut, "--part-weights", "1,0"): (1, "capacity above 0"),
        ("restructure", model, "--workers", 2, "--out", model): (2, "--out"),
        ("generate", plan, "--ids", ids, "--workers", 3): (2, "--workers has no effect"),
        ("generate", plan, "--ids", ids, "--round-cost", 3): (2, "--round-cost has no effect"),
        ("generate", plan, "--ids", ids, "--tokens", 99): (1, "40 tokens at most"),
        ("generate", plan, "--ids", ids, "--report", plan / "plan.h5"): (2, "a place of its own"),
        ("generate", dense, "--ids", ids): (1, "found those of a network of samples"),
        ("infer", *texts, "--workers", 3): (2, "--workers has no effect"),
        ("infer", *texts, "--calibration", ids): (2, "--calibration has no effect"),
        ("infer", model, *texts): (2, "MODEL has no effect"),
        ("infer", "--shards", dense, "--input", ids, "--pool", "mean"): (2, "--pool belongs"),
    }
    for words, (status, text) in refused.items():
        assert text in run(2, *words, status=status).stderr, words
    assert "at most 3 ranks" in run(4, "generate", plan, "--ids", ids, "--tokens", 5, status=1).stderr
    assert not (tmp_path / "out").exists()


def test_commands_for_samples_say_what_they_take(run, model, shards, ids, tmp_path):
    plan = shards / "common"
    run(1, "inspect", plan, "--report", tmp_path / "report.json")
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["supported"] and found["workers"] == 3 and 0 < found["values_sent"] < found["dense_values"]
    run(2, "doctor", "--shards", plan)
    assert "as in the plan" in run(1, "forecast", plan, "--machine", "gigabit").stdout
    point = ("point", "--ranks", 2, "--batches", 1, "--repeat", 1, "--seconds", 1, "--dtype", "float32")
    scaling = ("scaling", "strong", model, "--shards", plan, "--input-shape", "ids=1x6", "--ranks", 2)
    for ranks, words in (
        (2, (*point, "--shards", plan, "--report", tmp_path / "point.json")),
        (2, ("bench", "stream", "--shards", plan)),
        (1, (*scaling, "--out", tmp_path / "scaling")),
    ):
        assert "a network of samples" in run(ranks, *words, status=1).stderr, words
