"""Spike trains of samples without steps."""

import numpy as np
import pytest

from helpers.small_graphs import spiking_network
from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.coding import CODINGS, coded
from repurpose_hpc.model.forward import forward
from repurpose_hpc.plan.files.store import open_plan, read_shard
from repurpose_hpc.restructure.job import restructure_network
from repurpose_hpc.runtime.session import Session

STEPS = 4


@pytest.fixture
def x():
    return np.random.default_rng(3).random((6, 2, 4, 3)).astype(np.float32)


def trains(network, x):
    return network.ends.front.compute([x])[0]


@pytest.mark.parametrize("coding", CODINGS)
def test_a_coded_network_makes_of_samples_what_it_makes_of_their_trains(x, coding):
    network = spiking_network()
    static = coded(network, coding, 5)
    assert trains(static, x).shape == (6, STEPS, 2, 4, 3)
    np.testing.assert_array_equal(
        forward(static, x.reshape(6, -1)), forward(network, trains(static, x).reshape(6, -1))
    )


@pytest.mark.parametrize("coding", CODINGS)
def test_an_input_is_binary_if_all_of_its_trains_are(x, coding):
    network = coded(spiking_network(), coding)
    is_binary = np.isin(trains(network, 3 * x - 1), (0, 1)).all()  # also beyond 0 and 1
    assert (network.input_tensors[0] in network.binary_tensors) == is_binary == (coding != "constant")


def test_every_step_has_the_constant_value(x):
    assert (trains(coded(spiking_network(), "constant"), x) == x[:, None]).all()


def test_the_rate_of_a_value_is_the_value(x):
    found = trains(coded(spiking_network(steps=4000), "rate", 1), x)
    assert set(np.unique(found)) == {0, 1}
    np.testing.assert_allclose(found.mean(axis=1), x, atol=5 / np.sqrt(4000))


def test_noise_depends_on_the_seed_alone(x):
    network = spiking_network()
    first, again, other = (trains(coded(network, "rate", seed), x) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(first[2:], trains(coded(network, "rate", 1), x[2:]))


def test_a_value_fires_once_the_sooner_the_larger_it_is():
    x = np.array([1, 0.7, 0.34, 1e-6, 0], np.float32)
    network = coded(spiking_network(), "latency")
    found = trains(network, np.broadcast_to(x[:, None, None, None], (5, 2, 4, 3)))[:, :, 0, 0, 0]
    np.testing.assert_array_equal(found, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0] * 4])


def test_a_coding_that_there_is_not_is_refused():
    with pytest.raises(UserError, match="expected one of constant, rate, latency, got burst"):
        coded(spiking_network(), "burst")
    with pytest.raises(UserError, match="nothing in front of it"):
        coded(coded(spiking_network(), "rate"), "rate")


def test_shards_keep_that_inputs_are_binary(tmp_path, x):
    network = coded(spiking_network(), "rate")
    cut = restructure_network(
        network, Samples.of(x), workers=2, comm_budget=1.0, input_placement="root", log=None
    )
    cut.save(tmp_path / "shards")
    graph = read_shard(open_plan(tmp_path / "shards"), 1).graph
    assert graph.input_tensors[0] in graph.binary_tensors
    np.testing.assert_allclose(
        Session(tmp_path / "shards").run(x), forward(network, x.reshape(6, -1)), rtol=0, atol=1e-5
    )
