"""``python -m repurpose_hpc inspect``."""

import json
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest

from helpers import ROOT, small_plans

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from helpers.model_directories import llama  # noqa: E402
from helpers.onnx_models import node, save  # noqa: E402
from repurpose_hpc.commands.inspect import inspect, inspect_shards, parse, render  # noqa: E402
from repurpose_hpc.commands.parser import UsageError  # noqa: E402
from repurpose_hpc.errors import UserError  # noqa: E402
from repurpose_hpc.io.samples import Samples  # noqa: E402
from repurpose_hpc.model.importers.load import load_tokens  # noqa: E402
from repurpose_hpc.plan.files.store import open_plan, write_plan  # noqa: E402
from repurpose_hpc.report.schema import REPORTS, problems  # noqa: E402
from repurpose_hpc.restructure.exact import split_network  # noqa: E402
from repurpose_hpc.restructure.job import restructure_to  # noqa: E402
from repurpose_hpc.restructure.options import Options  # noqa: E402

CONSTANTS = {
    "K": np.ones((4, 3, 3, 3), np.float32),
    "K1": np.ones((4, 4, 1, 1), np.float32),
    "W": np.ones((4 * 36, 2), np.float32),
    "half": np.array(0.5, np.float32),
}
NODES = [
    *(node("Conv", "x K", "h"), node("Relu", "h", "r"), node("Conv", "r K1", "i"), node("Conv", "r K1", "j")),
    *(node("Add", "i j", "s"), node("Concat", "s r", "c", axis=1), node("Slice", "c first four one", "d")),
    *(node("Flatten", "d", "f"), node("Gemm", "f W", "y")),
]
SLICE = {"first": np.array([2]), "four": np.array([6]), "one": np.array([1])}


def _model(tmp_path, nodes=NODES):
    used = {name for each in nodes for name in each.input}
    constants = {name: value for name, value in (CONSTANTS | SLICE).items() if name in used}
    return save(tmp_path / "model.onnx", nodes, constants, ("N", 3, 8, 8))


def test_report_of_a_graph(tmp_path):
    result = inspect(_model(tmp_path), workers=3)
    mixings = result["mixings"]
    assert [each["name"] for each in mixings] == ["node_h", "node_i", "node_j", "node_y"]
    assert [each["weights"] for each in mixings] == [108, 16, 16, 288]
    assert [each["multiply_adds"] for each in mixings] == [108 * 36, 16 * 36, 16 * 36, 288]
    # The input is there, the second reader of a tensor has it already.
    assert [each["dense_values"] for each in mixings] == [0, 2 * 4 * 36, 0, 2 * 4 * 36]
    assert result["dense_values"] == 4 * 4 * 36
    assert [mixings[0][key] for key in ("inputs", "outputs", "kernel", "positions")] == [3, 4, [3, 3], [6, 6]]
    assert {each["name"]: each["neurons"] for each in result["spaces"] if not each["derived"]} == {
        **{"input": 3, "node_h": 4, "node_i": 4, "node_y": 2}
    }
    text = render(result)
    assert "node_h" in text and "6x6" in text and "derived" in text


def test_every_unsupported_node_is_named(tmp_path):
    nodes = [
        *(node("Conv", "x K", "h"), node("Mod", "h half", "r", fmod=1), node("Relu", "r", "t")),
        *(node("Mod", "t half", "s", fmod=1), node("Mod", "h half", "u", fmod=1), node("Add", "s u", "v")),
        *(node("Flatten", "v", "f"), node("Gemm", "f W", "y")),
    ]
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "repurpose_hpc", "inspect", _model(tmp_path, nodes), "--report", report]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "3 nodes are not supported" in done.stderr
    found = json.loads(report.read_text())["unsupported"]
    assert {text.split(":")[0] for text in found} == {f"node 'node_{letter}'" for letter in "rsu"}
    assert all(text.endswith("Mod") for text in found)
    assert "operator Mod is not supported" in done.stdout


def test_a_chain(tmp_path):
    path = tmp_path / "chain.npz"
    arrays = {"W0": np.ones((4, 3)), "b0": np.zeros(4), "W1": np.ones((2, 4)), "b1": np.zeros(2)}
    np.savez(path, **arrays)
    done = subprocess.run(
        [sys.executable, "-m", "repurpose_hpc", "inspect", path, "--workers", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "20 weights" in done.stdout and "4 values sent" in done.stdout


@pytest.fixture(scope="module")
def relayed(tmp_path_factory):
    """Shards with relays, and the report of the command that made them."""
    directory = tmp_path_factory.mktemp("relayed") / "shards"
    network = small_plans.random_network(5, widths=(24, 40, 30, 6), head="identity")
    rng = np.random.default_rng(0)
    samples = Samples.of(rng.standard_normal((400, 24)) @ rng.standard_normal((24, 24)))
    options = Options(3, 0.1, "partitioned", forms=("ghosts", "sums", "relays"))
    return directory, restructure_to(directory, network, samples, options, np.float32, lambda line: None)


def test_relays_of_shards(relayed):
    """By layer and pair of workers, and no more than what crosses."""
    directory, made = relayed
    result = inspect_shards(directory)
    for key in ("values_sent", "dense_values", "workers", "input_placement"):
        assert result[key] == made[key]
    found = {layer["name"]: 0 for layer in made["layers"]}
    pairs = np.zeros((3, 3), np.int64)
    for count in result["relays"]:
        assert count["sender"] != count["receiver"] and count["values"] == count["relays"] > 0
        found[count["mixing"]] += count["relays"]
        pairs[count["sender"], count["receiver"]] += count["values"]
    assert found == {layer["name"]: layer["relays"] for layer in made["layers"]}
    assert pairs.any() and (pairs <= open_plan(directory).traffic_matrix()).all()
    table = [line.split() for line in render(result).splitlines()]
    first = table.index(["layer", "from", "to", "relays", "values"]) + 1
    rows = [[str(value) for value in count.values()] for count in result["relays"]]
    assert table[first : first + len(rows)] == rows


def test_shards_without_relays(tmp_path):
    small_plans.write_shards(tmp_path / "shards", 3, "partitioned")
    result = inspect_shards(tmp_path / "shards")
    assert result["relays"] == []
    text = render(result)
    assert f"{result['values_sent']:,} values sent per sample" in text and "relays" not in text


@pytest.mark.parametrize("option", ["--workers=2", "--check", "--input-shape=x=1x3"])
def test_options_of_a_model_have_no_effect_on_shards(tmp_path, option):
    with pytest.raises(UsageError, match=f"{option.split('=')[0]} has no effect"):
        parse([str(tmp_path), option])


def command(*words: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "repurpose_hpc", *map(str, words)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


def test_of_shards_that_are_not_complete_the_plan_is_shown(tmp_path):
    small_plans.write_shards(tmp_path / "shards", 3, "partitioned")
    sent = inspect_shards(tmp_path / "shards")["values_sent"]
    for worker in (1, 2):
        (tmp_path / "shards" / f"worker-000{worker}.h5").unlink()
    done = command("inspect", tmp_path / "shards", "--report", tmp_path / "r.json")
    assert done.returncode == 1
    assert done.stdout.startswith(f"plan for 3 workers, input partitioned; {sent:,} values sent per sample")
    (message,) = done.stderr.splitlines()
    assert "found no worker-0001.h5 and 1 other; copy all files" in message
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["missing"] == ["worker-0001.h5", "worker-0002.h5"]
    assert problems(report, REPORTS["inspect"]) == []


@pytest.mark.parametrize("name", ["plan.h5", "worker-0001.h5"])
@pytest.mark.parametrize(
    "words", ["inspect {}", "forecast {} --machine gigabit", "infer --shards {} --input x"]
)
def test_a_file_of_shards_is_answered_with_their_directory(tmp_path, name, words):
    small_plans.write_shards(tmp_path / "shards", 2)
    command_, *others = words.format(tmp_path / "shards" / name).split()
    with pytest.raises(UserError, match=f"{name}: expected a directory of shards, .*name {tmp_path}/shards$"):
        import_module(f"repurpose_hpc.commands.{command_}").parse(others)
    with pytest.raises(UserError, match=f"expected a directory of shards, .*name {tmp_path}/shards$"):
        open_plan(tmp_path / "shards" / name)


def test_numbers_of_networks_of_texts_are_per_token(tmp_path):
    """Without an input shape a transformer is shown as it is in shards."""
    pytest.importorskip("safetensors")
    model = llama(tmp_path / "model")
    result = inspect(model, workers=2)
    assert problems(result, REPORTS["inspect"]) == [] and result["longest"] > 1
    text = render(result)
    assert " multiply-adds per token; dense: " in text and " values sent per token between" in text
    assert "of every token" in text and "sample" not in text
    of_length = inspect(model, workers=2, shapes={"ids": (3,)})
    assert "longest" not in of_length and "per sample" in render(of_length)
    cut = split_network(load_tokens(model), 2)
    write_plan(tmp_path / "shards", cut.network, cut.plan, {})
    of_shards = inspect_shards(tmp_path / "shards")
    assert of_shards["dense_values"] == result["dense_values"]
    assert " values sent per token; dense: " in render(of_shards) and "sample" not in render(of_shards)
