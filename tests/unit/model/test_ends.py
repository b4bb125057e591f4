"""What stands before and behind the network: division of graphs, and what is refused."""

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from helpers.end_models import DENSE, MODELS, EndModel, expected, packed, weights  # noqa: E402
from helpers.onnx_models import node  # noqa: E402
from repurpose_hpc.errors import Note, UserError  # noqa: E402
from repurpose_hpc.io.samples import Samples  # noqa: E402
from repurpose_hpc.model.forward import forward  # noqa: E402
from repurpose_hpc.model.importers.load import load_model  # noqa: E402
from repurpose_hpc.plan.plan import single_worker_plan  # noqa: E402
from repurpose_hpc.restructure.cut import Cut  # noqa: E402
from repurpose_hpc.runtime.session import Session  # noqa: E402

SAMPLES = 9
CONSTANTS = {"W": weights(6, 8), "V": weights(8, 3), "zero": np.array([0]), "half": np.float32(0.5)}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_computes_what_onnxruntime_does(name, tmp_path):
    model = MODELS[name]
    batch = 1 if name == "fixed_batch" else "N"
    path, x = model.save(tmp_path / "model.onnx", batch), model.draw(SAMPLES)
    network = load_model(path)
    ends = [() if end is None else end.operators for end in (network.ends.front, network.ends.back)]
    assert ends == [model.front, model.back]
    groups = x.reshape(SAMPLES, 1, *x.shape[1:]) if batch == 1 else [x]
    want = np.vstack([packed(expected(path, model, group)) for group in groups])
    y = forward(network, x)
    assert y.shape == want.shape
    np.testing.assert_allclose(y, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_only_what_numpy_does_not_know_is_for_onnxruntime(tmp_path):
    for name, model in MODELS.items():
        batch = 1 if name == "fixed_batch" else "N"
        ends = load_model(model.save(tmp_path / "model.onnx", batch)).ends
        models = [bool(end.model) for end in (ends.front, ends.back) if end is not None]
        assert {*models} <= {name == "sorted_ends"}


@pytest.mark.parametrize("name", ["tokens", "classifier", "sorted_ends"])
def test_fingerprints_tell_ends_apart(name, tmp_path):
    model = MODELS[name]
    first = load_model(model.save(tmp_path / "model.onnx"))
    again = load_model(model.save(tmp_path / "again.onnx"))
    changes = {"tokens": "table", "classifier": "classes", "sorted_ends": "two"}
    constants = {**model.constants}
    constants[changes[name]] = constants[changes[name]] - 1
    other = load_model(
        EndModel(model.nodes, constants, model.inputs, model.outputs).save(tmp_path / "other.onnx")
    )
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


REFUSED = {
    "samples_are_mixed": (
        [
            node("ReduceMax", "x zero", "a", axes=[0]),
            node("Sub", "x a", "h"),
            *DENSE,
            node("Identity", "z", "y"),
        ],
        r"node 'node_a' \(ReduceMax\): .*nor can what stands before .* 'a' has shape \(1, 6\) for 5 samples",
    ),
    "how_much_is_found": (
        [node("MatMul", "x W", "z"), node("NonZero", "z", "i"), node("Cast", "i", "y", to=1)],
        r"node 'node_i' \(NonZero\): .*depends on the values: NonZero",
    ),
    "drawn_at_random": (
        [node("MatMul", "x W", "z"), node("RandomNormalLike", "z", "n"), node("Add", "z n", "y")],
        r"node 'node_n' \(RandomNormalLike\): .*drawn at random",
    ),
    "in_the_middle": (
        [node("MatMul", "x W", "m"), node("Mod", "m half", "r", fmod=1), node("MatMul", "r V", "y")],
        r"node 'node_r' \(Mod\): operator Mod is not supported",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, tmp_path):
    nodes, message = REFUSED[name]
    nodes = [node("ReduceMax", "x", "a", axes=[0]) if each.op_type == "ReduceMax" else each for each in nodes]
    used = {each for node_ in nodes for each in node_.input}
    constants = {key: value for key, value in CONSTANTS.items() if key in used}
    with pytest.raises(UserError, match=message):
        load_model(EndModel(nodes, constants).save(tmp_path / "model.onnx"))


def fed(name, tmp_path, x):
    network = load_model(MODELS[name].save(tmp_path / "model.onnx"))
    return np.vstack(list(network.ends.feed(Samples.of(x), network.input_shape).batches(3)))


def test_integers_are_read_exactly(tmp_path):
    """Those that float32 does not have, too, and whole numbers in floating point."""
    constants, inputs = {**MODELS["tokens"].constants, "first": np.array(2**40)}, {"x": ("int64", (4,))}
    nodes = [node("Sub", "x first", "i"), node("Gather", "table i", "e"), *MODELS["tokens"].nodes[1:]]
    model = EndModel(nodes, constants, inputs)
    path, x = model.save(tmp_path / "model.onnx"), 2**40 + model.draw(SAMPLES)
    want = packed(expected(path, model, x))
    with pytest.warns(Note, match="takes none of the inputs that were tried"):
        network = load_model(path)
    for samples in (x, x.astype(np.float64)):
        np.testing.assert_allclose(forward(network, samples), want, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tokens", 50, r"sample 4: .*expected indices from -50 to 49, found 50"),
        ("tokens", 1.5, r"expected int32, as input 'x' of the model is, found 1.5 in sample 4, column 2"),
        ("tokens", 2**31, r"expected int32, .* found 2147483648.0 in sample 4"),
        ("one_hot_and_reals", np.nan, r"found nan in sample 4"),
    ],
)
def test_values_that_the_front_cannot_take(name, value, message, tmp_path):
    x = MODELS[name].draw(SAMPLES).astype(np.float64)
    x[4, 2 if name == "tokens" else 0] = value
    with pytest.raises(UserError, match=message):
        fed(name, tmp_path, x)


def test_samples_of_another_shape(tmp_path):
    with pytest.raises(UserError, match=r"expected samples of shape \(6, 6, 3\)"):
        fed("channels_last", tmp_path, np.zeros((2, 3, 6, 6), np.float32))


@pytest.mark.parametrize("name", MODELS)
def test_samples_one_by_one(name, tmp_path):
    """A session whose samples do not depend on one another: front, heads and back neither."""
    model = MODELS[name]
    network = load_model(model.save(tmp_path / "model.onnx", 1 if name == "fixed_batch" else "N"))
    cut, x = Cut(network, single_worker_plan(network)), model.draw(SAMPLES)
    results = []
    for batch_size, groups in ((SAMPLES, [x]), (4, [x]), (1, x[:, np.newaxis]), (SAMPLES, [x[:2], x[2:]])):
        session = Session(cut, batch_size=batch_size, deterministic=True)
        outputs = [session.run(group) for group in groups]
        parts = zip(*(y if isinstance(y, tuple) else (y,) for y in outputs), strict=True)
        results.append([np.concatenate(part) for part in parts])
    together = Session(cut).run(x)
    for parts in results:
        assert [part.tobytes() for part in parts] == [part.tobytes() for part in results[0]]
        for part, other in zip(parts, together if len(parts) > 1 else [together], strict=True):
            np.testing.assert_allclose(part, other, rtol=1e-5, atol=1e-6)
