"""The command ``generate`` under mpirun."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import environment
import h5py
import numpy as np
import pytest

from helpers import ROOT
from helpers.model_directories import VOCABULARY, llama, tokenizer
from repurpose_hpc import bundled
from repurpose_hpc.commands.generate import _Writer
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_tokens
from repurpose_hpc.plan.files.store import open_plan, read_network
from repurpose_hpc.report.schema import GenerateReport, problems

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
    assert problems(found, GenerateReport) == []
    assert (found["ranks"], found["workers"], found["tokens"]) == (ranks, 3, 16)
    assert (found["values_sent"] > 0) == (ranks > 1) and len(found["kept_bytes"]) == ranks
    # Keys and values of three heads in two layers, of 13 tokens of two texts.
    assert sum(found["kept_bytes"]) == 2 * 3 * (2 + 2) * 13 * 2 * 4
    lines = done.stdout.splitlines()
    assert lines[0] == "[0] " + " ".join(map(str, found["ids"][0]))


def test_without_arguments_the_bundled_model_writes_a_text(run):
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer.from_file(str(bundled.LANGUAGE / "tokenizer.json"))
    ids = written(bundled.LANGUAGE, made.encode(bundled.PROMPT).ids, 64)
    expected = made.decode(ids[: ids.index(made.token_to_id(bundled.PROMPT))])
    assert len(expected) > 20
    for ranks in (1, 2, 4):
        assert run(ranks).stdout.startswith(f"{expected}\n")


def test_the_bundled_model_takes_other_prompts(run, tmp_path):
    np.savez(tmp_path / "ids.npz", input_ids=[[5, 6, 7], [8, 0, 0]], attention_mask=[[1, 1, 1], [1, 0, 0]])
    report = tmp_path / "report.json"
    run(2, "--ids", tmp_path / "ids.npz", "--tokens", 3, "--report", report)
    found = json.loads(report.read_text())
    assert found["prompt_tokens"] == 4 and found["ids"][1] == written(bundled.LANGUAGE, [8], 3)


def test_keys_and_values_in_fewer_bits(run, model, tmp_path):
    np.save(tmp_path / "ids.npy", [[3, 1, 4]])
    kept = {}
    for name in ("float32", "float16"):
        report = tmp_path / f"{name}.json"
        words = ("--ids", tmp_path / "ids.npy", "--tokens", 8, "--kept-dtype", name, "--report", report)
        run(2, model, *words, "--weights-dtype", "int8")
        kept[name] = json.loads(report.read_text())["kept_bytes"]
    assert kept["float32"] == [2 * size for size in kept["float16"]] and all(kept["float16"])


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


@pytest.fixture
def file(model, tmp_path):
    """The model as a GGUF file, alone in a folder."""
    pytest.importorskip("gguf")
    import gguf_files

    metadata, tensors = gguf_files.contents(model)
    ends = {"tokenizer.ggml.eos_token_id": written(model, [3, 1, 4], 3)[2]}
    folder = tmp_path / "file"
    folder.mkdir()
    return gguf_files.write(folder / "model.gguf", metadata | ends, tensors)


def test_a_gguf_file(run, model, file, tmp_path):
    """Its text ends with the token that its metadata name."""
    ids = written(model, [3, 1, 4], 9)
    ids = ids[: ids.index(ids[2]) + 1]
    np.save(tmp_path / "ids.npy", [[3, 1, 4]])
    done = run(2, file, "--ids", tmp_path / "ids.npy", "--tokens", 9)
    assert done.stdout.splitlines()[0] == " ".join(map(str, ids))
    assert "give token ids" in run(2, file, "--prompt", "w3", status=1).stderr
    pytest.importorskip("tokenizers")
    tokenizer(file.parent)
    done = run(2, file, "--prompt", "w3 w1 w4", "--tokens", 9)
    assert done.stdout.splitlines()[0] == " ".join(f"w{token}" for token in ids)
    beside = file.with_name("tokenizer.json")
    before = beside.read_bytes()
    assert "a place of its own" in run(1, file, "--prompt", "w3", "--report", beside, status=2).stderr
    assert beside.read_bytes() == before
    file.write_bytes(file.read_bytes()[:-200])
    assert "expected a readable .gguf file" in run(2, file, "--prompt", "w3", status=1).stderr


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


SHAPE = ("--input-shape", "ids=1x7")


def alone(*words, status=0):
    """A command in one process."""
    command = [sys.executable, "-m", "repurpose_hpc", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, timeout=170, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done


@pytest.mark.parametrize("budget", [0.3, 1.0])
def test_sequences_of_one_length_are_restructured_and_run(mpirun, model, tmp_path, budget):
    """A directory is a MODEL for all commands, with the length of all sequences."""
    ids = np.random.default_rng(1).integers(0, VOCABULARY, (60, 7))
    np.save(tmp_path / "ids.npy", ids)
    cut = ("restructure", model, *SHAPE, "--calibration", tmp_path / "ids.npy", "--workers", 2)
    alone(*cut, "--comm-budget", budget, "--out", tmp_path / "shards")
    files = ("--input", tmp_path / "ids.npy", "--output", tmp_path / "y.h5")
    done = mpirun(2, "-m", "repurpose_hpc", "infer", "--shards", tmp_path / "shards", *files, "--verify")
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "y.h5") as file:
        found = file["y"][()]
    restructured = read_network(open_plan(tmp_path / "shards"))
    np.testing.assert_allclose(found, forward(restructured, ids), rtol=0, atol=1e-4)
    original = np.abs(found - forward(load_tokens(model).at(7), ids)).max()
    assert original < 1e-4 if budget == 1 else original > 1e-2
    np.save(tmp_path / "ids.npy", np.where(ids == 3, VOCABULARY, ids))
    done = mpirun(2, "-m", "repurpose_hpc", "infer", "--shards", tmp_path / "shards", *files)
    assert done.returncode == 1 and f"from 0 to {VOCABULARY - 1}" in done.stderr


def test_a_gguf_file_is_restructured(file, model, tmp_path):
    """With the same plan as its directory."""
    ids = np.random.default_rng(1).integers(0, VOCABULARY, (60, 7))
    np.save(tmp_path / "ids.npy", ids)
    for each in (file, model):
        cut = ("restructure", each, *SHAPE, "--calibration", tmp_path / "ids.npy", "--workers", 2)
        alone(*cut, "--comm-budget", 0.3, "--out", tmp_path / each.name)
    found = [read_network(open_plan(tmp_path / each.name)).fingerprint() for each in (file, model)]
    assert found[0] == found[1]


def test_directories_are_inspected_and_forecast(model, tmp_path):
    alone("inspect", model, *SHAPE, "--report", tmp_path / "report.json")
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["supported"] and found["model"] == str(model)
    assert "ranks" in alone("forecast", model, *SHAPE, "--machine", "gigabit", "--ranks", "1,2").stdout
    assert "multiply-adds per token" in alone("inspect", model).stdout
    assert "split as it is" in alone("forecast", model, "--machine", "gigabit").stdout


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_report_takes_no_place_of_the_model(model, name):
    before = (model / name).read_bytes()
    for command in (("inspect", model, *SHAPE), ("generate", model, "--prompt", "w1")):
        done = alone(*command, "--report", model / name, status=2)
        assert "--report: expected a place of its own" in done.stderr
    assert (model / name).read_bytes() == before


class _Bytes:
    """Tokens are bytes; of how many a text was asked for."""

    def __init__(self):
        self.asked = []

    def text(self, ids):
        self.asked.append(len(ids))
        return bytes(ids).decode("utf-8", "replace")


def test_a_text_is_printed_as_it_comes(capsys):
    """Characters as a whole, and in time that does not grow with what is there."""
    whole, tokenizer = "na\u00efve \u2192 \U0001f600, and so on" * 9, _Bytes()
    writer, printed = _Writer(tokenizer, 1), ""
    for number in whole.encode():
        writer.add(0, number)
        printed += capsys.readouterr().out
        assert whole.startswith(printed)
    assert printed == whole and max(tokenizer.asked) <= 8
    writer.add(0, whole.encode()[2])
    assert not capsys.readouterr().out
    writer.finish()
    assert capsys.readouterr().out == "\N{REPLACEMENT CHARACTER}\n"


def test_ids_are_printed_as_they_come(capsys):
    writer, printed = _Writer(None, 1), []
    for number in (3, 14, 5):
        writer.add(0, number)
        printed.append(capsys.readouterr().out)
    writer.finish()
    assert printed == ["3", " 14", " 5"] and capsys.readouterr().out == "\n"


def test_several_texts_are_printed_at_the_end(capsys):
    writer = _Writer(None, 2)
    for sequence, number in ((0, 3), (1, 4), (0, 5)):
        writer.add(sequence, number)
    assert not capsys.readouterr().out
    writer.finish()
    assert capsys.readouterr().out == "[0] 3 5\n[1] 4\n"


def test_a_failure_of_the_root_alone_ends_all(run, tmp_path):
    """Weights in which the output overflows: the logits are not finite."""
    directory = llama(tmp_path / "broken", overflows=True)
    np.save(tmp_path / "ids.npy", [[3, 1, 4]])
    words = ("--ids", tmp_path / "ids.npy", "--tokens", 5, "--temperature", 1)
    done = run(2, directory, *words, status=1)
    assert "finite logits" in done.stderr and "Traceback" not in done.stderr


def test_an_interrupt_leaves_a_report(model, tmp_path):
    """^C at the terminal of mpirun, in the middle of a long text."""
    long = llama(tmp_path / "long", max_position_embeddings=200000)
    np.save(tmp_path / "ids.npy", [[1, 2, 3]])
    report = tmp_path / "report.json"
    command = [*environment.mpi_command(Path(sys.executable), 2), "-m", "repurpose_hpc", "generate", long]
    command += ["--ids", tmp_path / "ids.npy", "--tokens", "190000", "--report", report]
    env = {**os.environ, **environment.mpi_environment(2), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*map(str, command)], env=env, start_new_session=True, **streams) as job:
        try:
            assert job.stdout.read(20)  # some tokens are there
            os.killpg(job.pid, signal.SIGINT)
            rest, errors = job.communicate(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)
    assert job.returncode == 0 and "Traceback" not in errors
    found = json.loads(report.read_text())
    assert found["interrupted"] and "until it was interrupted" in rest
    assert 1 <= found["tokens"] == len(found["ids"][0]) < 190000
