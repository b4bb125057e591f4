"""Sessions of one process: arrays in, the outputs of the restructured network out."""

import numpy as np
import pytest

from helpers import small_graphs, small_plans
from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.comm_dtype import STEPS
from repurpose_hpc.model.forward import forward
from repurpose_hpc.plan.files.store import open_plan, write_plan
from repurpose_hpc.plan.rounding import rounded_compute
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.job import restructure_network
from repurpose_hpc.runtime.session import Session

WORKERS = 3
SAMPLES = 11


def cut_of(network, wire="float32"):
    """A network cut at random, and samples."""
    plan = small_plans.random_plan(network, WORKERS, "partitioned", 5)
    plan = small_plans.scaled(network, plan, wire=wire)
    x = np.random.default_rng(3).standard_normal((SAMPLES, network.inputs))
    return Cut(small_plans.pruned(network, plan), plan), x


def expected_parts(network, x):
    """Outputs as ``forward`` has them, each by itself."""
    ends = np.cumsum([network.size(tensor) for tensor in network.output_tensors])
    return np.split(forward(network, x), ends[:-1], axis=1)


@pytest.fixture(scope="module")
def case():
    return cut_of(small_plans.random_network(head="softmax"))


@pytest.mark.parametrize("batch_size", [1, 4, SAMPLES, 256])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-14)])
def test_outputs_are_those_of_the_model(case, batch_size, dtype, tolerance):
    """With the head, whether or not batches divide the samples, and again."""
    cut, x = case
    with Session(cut, batch_size=batch_size, dtype=dtype) as session:
        for samples in (x, x[:5], x.astype(np.float32), x[:1]):
            y = session.run(samples)
            assert isinstance(y, np.ndarray) and y.dtype == dtype
            np.testing.assert_allclose(y, forward(cut.network, samples), rtol=0, atol=tolerance)
            np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-6)


def test_sources_are_alike(case, tmp_path):
    """What was cut, its directory, and the plan that was read of it."""
    cut, x = case
    write_plan(tmp_path / "shards", cut.network, cut.plan, {}, np.float64)
    stored = open_plan(tmp_path / "shards")
    np.testing.assert_array_equal(stored.traffic_matrix(), cut.traffic_matrix())
    sources = (cut, stored, tmp_path / "shards", str(tmp_path / "shards"))
    outputs = [Session(source, dtype=np.float64).run(x) for source in sources]
    assert len({y.tobytes() for y in outputs}) == 1


def test_several_outputs_are_a_tuple_and_maps_keep_their_positions():
    """Each with its own head; of samples that are shaped as the input, or flat."""
    cut, x = cut_of(small_graphs.convolutional_network(1))
    session = Session(cut, batch_size=4, dtype=np.float64)
    outputs = session.run(x)
    assert isinstance(outputs, tuple)
    assert [y.shape for y in outputs] == [(SAMPLES, 5), (SAMPLES, 2, 3, 2)]
    for y, expected in zip(outputs, expected_parts(cut.network, x), strict=True):
        np.testing.assert_allclose(y.reshape(SAMPLES, -1), expected, rtol=0, atol=1e-12)
    for again, y in zip(session.run(x.reshape(SAMPLES, *cut.network.input_shape)), outputs, strict=True):
        assert again.tobytes() == y.tobytes()


def test_ghosts_are_rounded_as_the_plan_says():
    cut, x = cut_of(small_plans.random_network(head="identity"), "int8")
    y, exact = Session(cut, dtype=np.float64).run(x), forward(cut.network, x)
    expected = forward(cut.network, x, compute=rounded_compute(cut.network, cut.plan, "int8"))
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-9 * np.abs(expected).max())
    assert 1e-6 < np.abs(y - exact).max() / np.abs(exact).max() < 20 * STEPS["int8"]


@pytest.mark.parametrize("comm_dtype", ["float32", "int8", "int4"])
def test_what_was_restructured_runs(tmp_path, comm_dtype):
    network = small_plans.random_network(head="identity")
    x = np.random.default_rng(3).standard_normal((60, network.inputs))
    options = {"workers": WORKERS, "comm_budget": 0.3, "comm_dtype": comm_dtype}
    result = restructure_network(network, Samples.of(x), **options)
    result.save(tmp_path / "shards")
    here, stored = (Session(source).run(x) for source in (result, tmp_path / "shards"))
    assert here.tobytes() == stored.tobytes()
    expected = forward(result.network, x, compute=result.compute())
    tolerance = 1e-5 if comm_dtype == "float32" else 2 * STEPS[comm_dtype]  # may be coded as its neighbour
    np.testing.assert_allclose(here, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    traffic = result.traffic_matrix()
    np.testing.assert_array_equal(open_plan(tmp_path / "shards").traffic_matrix(), traffic)
    assert traffic.sum() == result.report["values_sent"]
    assert not traffic.diagonal().any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: None, "x: expected an array of samples on the root, found None"),
        (lambda x: x[:, 1:], "x: expected 12 values per sample"),
        (lambda x: x[:0], "the data is empty"),
        (lambda x: x.astype(str), "real numbers"),
        (lambda x: np.where(np.arange(x.size).reshape(x.shape) == 30, np.nan, x), "found nan in sample 2"),
        (lambda x: np.where(x > 1, np.inf, x), "found inf"),
    ],
)
def test_other_samples_are_refused(case, change, message):
    """And the session is as good as before."""
    cut, x = case
    session = Session(cut)
    expected = session.run(x)
    with pytest.raises(UserError, match=message):
        session.run(change(x))
    assert session.run(x).tobytes() == expected.tobytes()


def test_maps_with_other_axes_are_refused():
    cut, x = cut_of(small_graphs.residual_network(1))
    turned = np.moveaxis(x.reshape(SAMPLES, *cut.network.input_shape), 1, -1)
    with pytest.raises(UserError, match="transpose the axes"):
        Session(cut).run(turned)


def test_a_directory_without_shards_is_refused(tmp_path):
    with pytest.raises(UserError, match="plan"):
        Session(tmp_path / "nowhere")
