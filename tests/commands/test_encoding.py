"""The command ``infer`` with the directory of a transformer, on texts of any lengths."""

import json
import shutil

import h5py
import numpy as np
import pytest

from helpers import ROOT
from helpers.model_directories import llama, tokenizer
from repurpose_hpc.report.schema import TextsReport, problems

pytest.importorskip("safetensors")
BERT = ROOT / "tests/data/transformers/bert"
EXPECTED = np.load(BERT / "expected.npz")
SIZES = (9, 3, 31, 9, 1)


@pytest.fixture
def run(mpirun):
    def start(ranks, *words, status=0):
        done = mpirun(ranks, "-m", "repurpose_hpc", "infer", *map(str, words))
        assert done.returncode == status, done.stderr
        return done

    return start


@pytest.fixture
def model(tmp_path):
    """A directory to which files may be added."""
    return shutil.copytree(BERT, tmp_path / "model")


def outputs(path):
    with h5py.File(path) as file:
        return file["y"][()]


def ids_of(tmp_path):
    """Texts of two lengths, of which transformers' outputs are known, as a tokenizer pads them."""
    mask = (np.arange(31) < np.array([9, 31, 9, 31])[:, None]).astype(np.int64)
    ids = np.zeros((4, 31), np.int64)
    ids[::2, :9], ids[1::2] = EXPECTED["ids_9"], EXPECTED["ids_31"]
    np.savez(tmp_path / "ids.npz", input_ids=ids, attention_mask=mask)
    return tmp_path / "ids.npz"


def expected(pool=lambda rows: rows):
    """What transformers found of them, text after text."""
    short, long = EXPECTED["outputs_9"], EXPECTED["outputs_31"]
    return np.concatenate([pool(rows) for rows in (short[0], long[0], short[1], long[1])])


def mean(rows):
    return rows.mean(axis=0, keepdims=True)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("ranks", "more"),
    [
        (1, ()),
        (1, ("--workers", 6)),
        (2, ("--workers", 3)),
        (3, ("--round-cost", 0)),
        (4, ("--batch-size", 10)),
    ],
)
def test_outputs_of_every_token(run, tmp_path, ranks, more):
    report = tmp_path / "report.json"
    files = ("--input", ids_of(tmp_path), "--output", tmp_path / "y.h5", "--report", report)
    run(ranks, BERT, *files, "--verify", *more)
    np.testing.assert_allclose(outputs(tmp_path / "y.h5"), expected(), rtol=0, atol=1e-5)
    found = json.loads(report.read_text())
    assert problems(found, TextsReport) == []
    assert found["lengths"] == [9, 31, 9, 31] and found["ranks"] == ranks and found["pool"] == "none"
    assert found["relative_difference"] < 1e-5 and (found["values_sent"] > 0) == (ranks > 1)


@pytest.mark.parametrize(
    ("pool", "of"), [("mean", mean), ("first", lambda rows: rows[:1]), ("last", lambda rows: rows[-1:])]
)
def test_a_vector_for_each_text(run, tmp_path, pool, of):
    files = ("--input", ids_of(tmp_path), "--output", tmp_path / "y.h5")
    run(2, BERT, *files, "--pool", pool, "--dtype", "float64", "--verify")
    np.testing.assert_allclose(outputs(tmp_path / "y.h5"), expected(of), rtol=0, atol=1e-5)


def sentence_transformer(model, kinds=("Transformer", "Pooling", "Normalize"), mode="mean_tokens"):
    folders = ("", "1_Pooling", "2_Normalize")
    modules = [
        {"idx": number, "name": str(number), "path": folder, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, folder) in enumerate(zip(kinds, folders, strict=False))
    ]
    (model / "modules.json").write_text(json.dumps(modules))
    (model / "1_Pooling").mkdir(exist_ok=True)
    modes = {f"pooling_mode_{name}": name == mode for name in ("cls_token", "mean_tokens", "max_tokens")}
    (model / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 16, **modes}))


def test_the_directory_says_what_is_made_of_a_text(run, model, tmp_path):
    sentence_transformer(model)
    files = ("--input", ids_of(tmp_path), "--output", tmp_path / "y.h5")
    run(2, model, *files, "--verify")
    found = outputs(tmp_path / "y.h5")
    np.testing.assert_allclose(found, unit(expected(mean)), rtol=0, atol=1e-5)
    run(1, model, *files, "--pool", "first")
    np.testing.assert_allclose(outputs(tmp_path / "y.h5"), expected(lambda rows: rows[:1]), rtol=0, atol=1e-5)


def test_lines_are_neither_padded_nor_cut_as_the_tokenizer_would(run, model, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer(model)
    made = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    made.enable_padding(length=8, pad_token="w0")
    made.enable_truncation(8)
    made.save(str(model / "tokenizer.json"))
    texts = [np.random.default_rng(size).integers(0, 23, size) for size in SIZES]
    lines = "\n".join(" ".join(f"w{token}" for token in text) for text in texts)
    (tmp_path / "texts.txt").write_text(lines)
    padded = np.array([np.pad(text, (0, 31 - text.size)) for text in texts])
    mask = np.arange(31) < np.array(SIZES)[:, None]
    np.savez(tmp_path / "ids.npz", input_ids=padded, attention_mask=mask)
    for name in ("texts.txt", "ids.npz"):
        run(2, model, "--input", tmp_path / name, "--output", tmp_path / f"{name}.h5", "--verify")
    found = outputs(tmp_path / "texts.txt.h5")
    assert found.shape == (sum(SIZES), 16)
    np.testing.assert_array_equal(found, outputs(tmp_path / "ids.npz.h5"))


def test_decoders_give_their_logits(run, tmp_path):
    ids = np.random.default_rng(0).integers(0, 23, (3, 7))
    np.save(tmp_path / "ids.npy", ids)
    model = llama(tmp_path / "llama")
    run(
        2,
        model,
        "--input",
        tmp_path / "ids.npy",
        "--output",
        tmp_path / "y.h5",
        "--verify",
        "--batch-size",
        4,
    )
    assert outputs(tmp_path / "y.h5").shape == (21, 23)


def test_a_gguf_file_gives_the_logits_of_its_directory(run, tmp_path):
    pytest.importorskip("gguf")
    import gguf_files

    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(0, 23, (3, 7)))
    directory = llama(tmp_path / "llama")
    file = gguf_files.write(tmp_path / "model.gguf", *gguf_files.contents(directory))
    for model in (directory, file):
        run(2, model, "--input", tmp_path / "ids.npy", "--output", tmp_path / f"{model.name}.h5", "--verify")
    found, expected = outputs(tmp_path / "model.gguf.h5"), outputs(tmp_path / "llama.h5")
    assert found.shape == (21, 23)
    np.testing.assert_array_equal(found, expected)


def test_what_cannot_be_done_is_refused_on_all_ranks(run, model, tmp_path):
    np.save(tmp_path / "ids.npy", np.full((2, 3), 30))
    np.save(tmp_path / "outside.npy", np.full((2, 3), 31))
    np.save(tmp_path / "long.npy", np.zeros((2, 33), int))
    (tmp_path / "texts.txt").write_text("w1 w2\n")
    right = ("--input", tmp_path / "ids.npy")
    refused = {
        ("--input", tmp_path / "outside.npy"): (1, "from 0 to 30"),
        ("--input", tmp_path / "long.npy"): (1, "1 to 32 tokens"),
        ("--input", tmp_path / "texts.txt"): (1, "tokenizer.json"),
        (*right, "--workers", 1): (2, "2 or more"),
        (*right, "--resume"): (2, "--resume has no effect"),
        (*right, "--groups", 2): (2, "--groups has no effect"),
        (*right, "--comm-budget", 0.1): (2, "--comm-budget has no effect"),
        (*right, "--round-cost", "auto"): (2, "expected a number"),
        (*right, "--calibration", tmp_path / "ids.npy"): (1, "the length of all sequences"),
        (*right, "--pool", "mean", "--calibration", tmp_path / "ids.npy"): (2, "--pool belongs"),
        (): (2, "--input DATA"),
    }
    assert "found no" in run(2, tmp_path / "missing.gguf", *right, status=2).stderr
    for words, (status, text) in refused.items():
        done = run(2, model, *words, status=status)
        assert text in done.stderr and "Traceback" not in done.stderr and done.stderr.count("error:") == 1
    for changes, text in (
        ({"mode": "max_tokens"}, "pooling_mode_max_tokens"),
        ({"kinds": ("Transformer", "Pooling", "Dense")}, "Dense"),
    ):
        sentence_transformer(model, **changes)
        done = run(2, model, *right, "--output", tmp_path / "y.h5", status=1)
        assert text in done.stderr and not (tmp_path / "y.h5").exists()
        run(1, model, *right, "--pool", "none")
