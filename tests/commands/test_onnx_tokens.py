"""The commands with an ONNX file for texts of any lengths: infer, generate, restructure."""

import json

import h5py
import numpy as np
import pytest

from helpers import cached_graphs
from helpers.model_directories import tokenizer
from helpers.token_graphs import PADDING, VOCABULARY, transformer

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SIZES = (5, 12, 1)


@pytest.fixture
def run(mpirun):
    def start(ranks, *words, status=0):
        done = mpirun(ranks, "-m", "repurpose_hpc", *map(str, words))
        assert done.returncode == status, done.stderr
        return done

    return start


@pytest.fixture
def model(tmp_path):
    onnx.save(transformer(positions="rotary"), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def ids(tmp_path):
    """Texts of several lengths, as a tokenizer pads them."""
    mask = (np.arange(max(SIZES)) < np.array(SIZES)[:, None]).astype(np.int64)
    ids = np.random.default_rng(0).integers(0, VOCABULARY, mask.shape)
    np.savez(tmp_path / "ids.npz", input_ids=ids, attention_mask=mask)
    return tmp_path / "ids.npz"


def outputs(path):
    with h5py.File(path) as file:
        return file["y"][()]


def test_infer_on_texts_and_shards(run, tmp_path, model, ids):
    """Outputs of the shards are those of the file, bit for bit."""
    report = tmp_path / "report.json"
    made = tmp_path / "y.h5"
    run(2, "infer", model, "--input", ids, "--output", made, "--verify", "--report", report)
    assert outputs(made).shape == (sum(SIZES), VOCABULARY)
    assert json.loads(report.read_text())["max_abs_difference"] < 1e-5
    run(1, "restructure", model, "--workers", 2, "--out", tmp_path / "shards")
    run(2, "infer", "--shards", tmp_path / "shards", "--input", ids, "--output", tmp_path / "z.h5")
    assert np.array_equal(outputs(made), outputs(tmp_path / "z.h5"))
    run(3, "infer", model, "--input", ids, "--output", tmp_path / "p.h5", "--pool", "last")
    last = np.cumsum(SIZES) - 1
    np.testing.assert_allclose(outputs(tmp_path / "p.h5"), outputs(made)[last], rtol=0, atol=1e-5)


def test_texts_are_as_long_as_asked_for(run, tmp_path, model, ids):
    """What is too long for them is refused; outputs of the others do not depend on it."""
    short, whole, report = tmp_path / "s.h5", tmp_path / "w.h5", tmp_path / "report.json"
    run(2, "infer", model, "--input", ids, "--output", short, "--longest", 14)
    run(2, "infer", model, "--input", ids, "--output", whole)
    assert np.array_equal(outputs(short), outputs(whole))
    found = run(1, "generate", model, "--ids", ids, "--tokens", 4, "--longest", 14, status=1)
    assert "expected 14 tokens at most, as the model has positions" in found.stderr
    shards = tmp_path / "shards"
    split = "restructure", model, "--workers", 2, "--out", shards, "--longest", 15
    run(1, *split, "--report", report)
    assert json.loads(report.read_text())["longest"] == 15
    found = run(2, "generate", shards, "--ids", ids, "--longest", 20, status=1)
    assert "longest is of .onnx files, shards say it themselves" in found.stderr


def test_generate_is_the_same_on_all_ranks(run, model, ids):
    texts = [run(ranks, "generate", model, "--ids", ids, "--tokens", 6).stdout for ranks in (1, 4)]
    lines = [[line for line in text.splitlines() if line.startswith("[")] for text in texts]
    assert len(lines[0]) == len(SIZES)
    assert lines[0] == lines[1]


def test_texts_need_a_tokenizer_beside_the_file(run, tmp_path, model):
    (tmp_path / "texts.txt").write_text("a text\n")
    done = run(1, "infer", model, "--input", tmp_path / "texts.txt", "--output", tmp_path / "y.h5", status=1)
    assert "expected a file tokenizer.json" in done.stderr


def test_texts_by_the_tokenizer_beside_the_file(run, tmp_path, model):
    pytest.importorskip("tokenizers")
    tokenizer(tmp_path, VOCABULARY)
    (tmp_path / "texts.txt").write_text("w5 w17 w4\nw9\n")
    np.save(tmp_path / "ids.npy", np.array([[5, 17, 4]]))
    for name in ("texts.txt", "ids.npy"):
        run(2, "infer", model, "--input", tmp_path / name, "--output", tmp_path / f"{name}.h5")
    found = [outputs(tmp_path / f"{name}.h5") for name in ("texts.txt", "ids.npy")]
    assert found[0].shape == (4, VOCABULARY)
    np.testing.assert_allclose(found[0][:3], found[1], rtol=0, atol=1e-5)


def test_of_a_fixed_length_it_says_what_to_do(run, tmp_path, model, ids):
    onnx.save(transformer(length=7), model)
    done = run(2, "infer", model, "--input", ids, "--output", tmp_path / "y.h5", status=1)
    assert "expected an axis of tokens that is free, found one of 7" in done.stderr


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_texts_go_on_where_the_file_takes_earlier_tokens(run, tmp_path, ranks):
    """As onnxruntime continues them with the keys and values that it gives back."""
    path, prompts = tmp_path / "model.onnx", np.random.default_rng(1).integers(0, VOCABULARY, (2, 6))
    onnx.save(cached_graphs.decoder("grouped", "SimplifiedLayerNormalization"), path)
    np.save(tmp_path / "ids.npy", prompts)
    report, words = tmp_path / "report.json", ("--ids", tmp_path / "ids.npy", "--tokens", 8)
    run(ranks, "generate", path, *words, "--report", report)
    runtime, pasts, ids, expected = cached_graphs.Runtime(path), (), prompts, []
    for _ in range(8):
        logits, *pasts = runtime.run(ids, *pasts)
        ids = logits[:, -1:].argmax(-1)
        expected.append(ids[:, 0])
    assert json.loads(report.read_text())["ids"] == np.transpose(expected).tolist()


def test_padding_where_ids_are_counted(run, tmp_path, ids):
    """Behind the end of a text it is cut off; inside of one it is refused."""
    onnx.save(transformer(positions="counted"), tmp_path / "model.onnx")
    padded = dict(np.load(ids))
    padded["input_ids"][padded["input_ids"] == PADDING] = 0
    padded["input_ids"][padded["attention_mask"] == 0] = PADDING
    np.savez(ids, **padded)
    words = ("infer", tmp_path / "model.onnx", "--output", tmp_path / "y.h5")
    run(2, *words, "--input", ids, "--verify")
    np.save(tmp_path / "ids.npy", padded["input_ids"])
    done = run(2, *words, "--input", tmp_path / "ids.npy", status=1)
    assert done.stderr.count(f"without padding, found its id {PADDING} at place {SIZES[0]}") == 1
