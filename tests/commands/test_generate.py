"""The command ``generate`` under mpirun."""

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest

from helpers import ROOT
from helpers.model_directories import VOCABULARY, llama, tokenizer
from repurpose_hpc.commands.generate import _Writer
from repurpose_hpc.commands.start import start
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_tokens
from repurpose_hpc.report.schema import GenerateReport

pytest.importorskip("safetensors")


@pytest.fixture
def run(mpirun):
    def start(ranks, *words, status=0):
        done = mpirun(ranks, "-m", "repurpose_hpc", "generate", *map(str, words))
        assert done.returncode == status, done.stderr
        return done

    return start


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = llama(tmp_path_factory.mktemp("model"))
    tokenizer(directory)
    return directory


def written(model, prompt, count):
    network, ids = load_tokens(model), list(prompt)
    for _ in range(count):
        logits = forward(network.at(len(ids)), np.array([ids])).reshape(len(ids), -1)
        ids.append(int(logits[-1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_texts_of_ids(run, model, tmp_path, ranks):
    prompts = np.random.default_rng(0).integers(0, VOCABULARY, (2, 6))
    np.save(tmp_path / "ids.npy", prompts)
    report = tmp_path / "report.json"
    words = ("--ids", tmp_path / "ids.npy", "--tokens", 8, "--workers", 3, "--report", report)
    done = run(ranks, model, *words)
    found = json.loads(report.read_text())
    assert found["ids"] == [written(model, prompt, 8) for prompt in prompts.tolist()]
    assert set(found) == set(GenerateReport.__annotations__)
    assert (found["ranks"], found["workers"], found["tokens"]) == (ranks, 3, 16)
    assert (found["values_sent"] > 0) == (ranks > 1) and len(found["kept_bytes"]) == ranks
    # Keys and values of three heads in two layers, of 13 tokens of two texts.
    assert sum(found["kept_bytes"]) == 2 * 3 * (2 + 2) * 13 * 2 * 4
    lines = done.stdout.splitlines()
    assert lines[0] == "[0] " + " ".join(map(str, found["ids"][0]))


def test_a_text(run, model):
    pytest.importorskip("tokenizers")
    done = run(2, model, "--prompt", "w3 w1 w4", "--tokens", 5)
    assert done.stdout.splitlines()[0] == " ".join(f"w{token}" for token in written(model, [3, 1, 4], 5))


def test_the_directory_says_what_ends_a_text(run, model, tmp_path):
    ids = written(model, [3, 1, 4], 6)
    ended = llama(tmp_path / "ended", eos_token_id=[ids[2]])
    np.save(tmp_path / "ids.npy", [[3, 1, 4]])
    done = run(1, ended, "--ids", tmp_path / "ids.npy", "--tokens", 6)
    assert done.stdout.splitlines()[0] == " ".join(map(str, ids[: ids.index(ids[2]) + 1]))


def test_what_cannot_be_done_is_refused_on_all_ranks(run, model, tmp_path):
    pytest.importorskip("tokenizers")
    np.save(tmp_path / "outside.npy", [[1, VOCABULARY]])
    np.save(tmp_path / "reals.npy", [[0.5]])
    np.save(tmp_path / "ids.npy", [[1, 2]])
    other = llama(tmp_path / "other")
    tokenizer(other, VOCABULARY + 1)
    bare = llama(tmp_path / "bare")
    refused = {
        ("--ids", tmp_path / "outside.npy"): (1, f"from 0 to {VOCABULARY - 1}"),
        ("--ids", tmp_path / "reals.npy"): (1, "integers"),
        ("--ids", tmp_path / "ids.npy", "--tokens", 99): (1, "40 tokens at most"),
        ("--ids", tmp_path / "ids.npy", "--workers", 1): (2, "2 or more"),
        (): (2, "--prompt TEXT or --ids FILE"),
    }
    for words, (status, text) in refused.items():
        done = run(2, model, *words, status=status)
        assert text in done.stderr and "Traceback" not in done.stderr and done.stderr.count("error:") == 1
    assert f"token {VOCABULARY}" in run(2, other, "--prompt", "w1", status=1).stderr
    assert "tokenizer.json" in run(2, bare, "--prompt", "w1", status=1).stderr
    assert "config.json" in run(2, tmp_path, "--prompt", "w1", status=1).stderr


class _Pieces:
    """A tokenizer whose texts change behind their end."""

    TEXTS = ("", "do", "do n", "don't", "don't go", "don't go \N{REPLACEMENT CHARACTER}")

    def text(self, ids):
        return self.TEXTS[len(ids)]


def test_all_of_a_text_is_printed(capsys):
    """Also where it has become something else, and where it ends within a character."""
    writer = _Writer(_Pieces(), 1)
    for token in range(5):
        writer.add(0, token)
    writer.finish()
    assert capsys.readouterr().out == "do n\ndon't go \N{REPLACEMENT CHARACTER}\n"


def test_a_directory_is_inspected(model, capsys):
    start("inspect", [str(model), "--input-shape", "ids=1x7", "--workers", "2"])
    assert "layers.0.queries" in capsys.readouterr().out


def test_a_failure_of_the_root_alone_ends_all(run, tmp_path):
    """Weights in which the output overflows: the logits are not finite."""
    directory = llama(tmp_path / "broken", overflows=True)
    np.save(tmp_path / "ids.npy", [[3, 1, 4]])
    done = run(2, directory, "--ids", tmp_path / "ids.npy", "--tokens", 5, "--temperature", 1, status=1)
    assert "finite logits" in done.stderr and "Traceback" not in done.stderr


def test_sequences_of_one_length_are_restructured_and_run(mpirun, model, tmp_path):
    """A directory is a MODEL for all commands, with the length of all sequences."""
    ids = np.random.default_rng(1).integers(0, VOCABULARY, (60, 7))
    np.save(tmp_path / "ids.npy", ids)
    shape = ("--input-shape", "ids=1x7")
    command = [sys.executable, "-m", "repurpose_hpc"]
    cut = ["restructure", model, *shape, "--calibration", tmp_path / "ids.npy", "--workers", 2]
    cut += ["--comm-budget", 1.0, "--out", tmp_path / "shards"]
    subprocess.run([*command, *map(str, cut)], check=True, cwd=ROOT, timeout=170, capture_output=True)
    files = ("--input", tmp_path / "ids.npy", "--output", tmp_path / "y.h5")
    done = mpirun(2, "-m", "repurpose_hpc", "infer", "--shards", tmp_path / "shards", *files, "--verify")
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "y.h5") as file:
        found = file["y"][()]
    np.testing.assert_allclose(found, forward(load_tokens(model).at(7), ids), rtol=0, atol=1e-4)
