"""The command ``export``: what it writes gives what ``infer`` gives."""

import numpy as np
import onnxruntime
import pytest

from helpers import onnx_models, small_plans, small_transformers
from helpers.exported import assert_close, played
from repurpose_hpc.commands.export import parse, run
from repurpose_hpc.errors import Note, UserError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.plan.files.store import write_plan
from repurpose_hpc.restructure.exact import split_network
from repurpose_hpc.restructure.job import restructure_network
from repurpose_hpc.runtime.session import Session


def export(*words):
    run(parse([*map(str, words)]), None)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Shards with relays, and samples."""
    directory = tmp_path_factory.mktemp("export") / "shards"
    cut = small_plans.write_relayed_shards(directory, small_plans.random_network(), 3)
    return directory, np.random.default_rng(1).standard_normal((9, cut.network.inputs)).astype(np.float32)


def test_one_graph(shards, tmp_path, capsys):
    directory, x = shards
    export(directory, "--to", tmp_path / "model.onnx")
    line = capsys.readouterr().out
    assert "model.onnx: an ONNX graph of opset 17, " in line
    assert "input (samples, 12) float32 -> output (samples, 5) float32" in line
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": x})
    assert_close(found, Session(directory).run(x))


def test_parts(shards, tmp_path, capsys):
    directory, x = shards
    export(directory, "--to", tmp_path / "parts")
    assert " ONNX graphs of 3 workers, " in capsys.readouterr().out
    assert_close(played(tmp_path / "parts", x), Session(directory).run(x))


def test_a_program_for_pytorch(shards, tmp_path):
    """Under the name that is given, whose suffix PyTorch may not like."""
    torch = pytest.importorskip("torch")
    directory, x = shards
    with pytest.warns(Note, match=r"model\.pt: torch\.export\.load takes .*open\('.*model\.pt', 'rb'\)"):
        export(directory, "--to", tmp_path / "model.pt")
    with open(tmp_path / "model.pt", "rb") as file:
        module = torch.export.load(file).module()
    assert_close(module(torch.from_numpy(x)).detach().numpy(), Session(directory).run(x))


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("model.h5", r"--to: expected the name of an \.onnx file, .* got .*model\.h5; try --to model\.onnx"),
        ("none/model.onnx", r"model\.onnx: expected a directory that exists, found none: .*/none; make it"),
        ("", r"expected an empty directory, or earlier parts, .*; choose another one"),
    ],
)
def test_a_place_that_cannot_be(shards, tmp_path, to, message):
    (tmp_path / "notes.txt").write_text("kept")
    with pytest.raises(UserError, match=message):
        export(shards[0], "--to", tmp_path / to)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_transformer(tmp_path, capsys):
    """It takes texts of any length, but has no parts: every worker has a copy of its stream."""
    network = small_transformers.decoder()
    cut = split_network(network, 2)
    write_plan(tmp_path / "shards", cut.network, cut.plan, {})
    export(tmp_path / "shards", "--to", tmp_path / "model.onnx")
    assert "ids (samples, tokens) int64 -> output (samples, tokens, 19) float32" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"found those of a transformer, .*; try --to model\.onnx"):
        export(tmp_path / "shards", "--to", tmp_path / "parts")
    assert not (tmp_path / "parts").exists()


def test_a_file_of_the_shards_stays(shards):
    with pytest.raises(UserError, match="--to: expected a place of its own"):
        export(shards[0], "--to", shards[0] / "plan.h5")


def test_names_and_shapes_of_the_original(tmp_path, capsys):
    """Shards keep them, and what is written can be restructured again."""
    draw = np.random.default_rng(0)
    shapes = {"W": (24, 16), "V": (10, 24), "U": (10, 5)}
    constants = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        onnx_models.node("Flatten", "image", "flat"),
        onnx_models.node("Gemm", "flat W", "hidden", transB=1),
        onnx_models.node("Relu", "hidden", "active"),
        onnx_models.node("Gemm", "active V", "seen", transB=1),
        onnx_models.node("Gemm", "more.facts U", "known", transB=1),
        onnx_models.node("Add", "seen known", "scores:0"),
    ]
    inputs = {"image": ("batch", 1, 4, 4), "more.facts": ("batch", 5)}
    original = tmp_path / "original.onnx"
    onnx_models.save(original, nodes, constants, opset=17, outputs=("scores:0",), inputs=inputs)
    x = draw.normal(size=(60, 21)).astype(np.float32)
    cut = restructure_network(load_model(original), Samples.of(x), workers=2)
    cut.save(tmp_path / "shards")
    export(tmp_path / "shards", "--to", tmp_path / "model.onnx")
    line = capsys.readouterr().out
    assert (
        "image (samples, 1, 4, 4) float32, more.facts (samples, 5) float32 -> scores:0 (samples, 10)" in line
    )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    given = {"image": x[:, :16].reshape(-1, 1, 4, 4), "more.facts": x[:, 16:]}
    (found,) = session.run(["scores:0"], given)
    expected = Session(tmp_path / "shards").run(x)
    assert_close(found, expected)
    again = restructure_network(load_model(tmp_path / "model.onnx"), Samples.of(x), workers=1)
    assert [port.name for port in again.network.ends.input_ports] == [*given]
    export(tmp_path / "shards", "--to", tmp_path / "parts")
    assert_close(played(tmp_path / "parts", x), expected)
