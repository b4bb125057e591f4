"""The parts of the sensor experiment that need neither PyTorch nor the dataset."""

import numpy as np
import pytest
import sensor_experiment
from sensor_experiment import Entry, Experiment, measure_missing
from sensor_report import TITLES, markdown, read
from sensor_setting import (
    FOOTWEAR,
    PIXELS,
    SENSORS,
    Platform,
    SampleCost,
    compose,
    direct_plan,
    draw_composites,
    everywhere_cost,
    independent_plan,
    one_worker_plan,
    part_width,
    plan_cost,
)

from helpers.small_plans import pruned, random_network, random_plan, write_samples
from repurpose_hpc.io.samples import open_samples
from repurpose_hpc.plan.masks import GHOST
from repurpose_hpc.plan.shard import make_shard


def test_the_class_is_the_number_of_changes_between_the_images_drawn():
    labels = np.arange(40) % 10
    index, classes = draw_composites(labels, 500, np.random.default_rng(0))
    for images, found in zip(index, classes, strict=True):
        footwear = [labels[image] in FOOTWEAR for image in images]
        assert found == sum(left != right for left, right in zip(footwear, footwear[1:], strict=False))
    assert set(classes) == set(range(SENSORS))


def test_sensor_q_sees_block_q():
    images = np.arange(10, dtype=np.uint8)[:, None].repeat(PIXELS, axis=1)
    samples = compose(images, np.array([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]]))
    assert samples.dtype == np.uint8 and samples.shape == (2, SENSORS * PIXELS)
    np.testing.assert_array_equal(samples[1, 3 * PIXELS : 4 * PIXELS], 3)


def test_costs_of_a_plan_are_those_of_its_shards():
    network = random_network()
    plan = random_plan(network, 3, "partitioned")
    network = pruned(network, plan)
    cost = plan_cost(network, plan)
    for worker in range(3):
        blocks = make_shard(network, plan, worker).blocks.values()
        assert cost.weights[worker] == sum(
            np.count_nonzero(weights)
            for block in blocks
            for weights in (block.own_weights, block.ghost_weights, block.sum_weights)
        )
        assert cost.received[:, worker].tolist() == [
            len(block.ghosts.received) + len(block.sums.received) for block in blocks
        ]


def test_time_is_that_of_the_busiest_worker_of_every_exchange():
    cost = SampleCost(weights=np.array([10, 50]), received=np.array([[3, 1], [0, 4]]))
    assert cost.values_sent == 8
    assert cost.seconds(Platform(operations=100, bandwidth=7)) == pytest.approx(
        2 * 50 / 100 + 4 * (3 + 4) / 7
    )


def test_direct_parallel_sends_every_neuron_to_every_other_worker():
    network = random_network(widths=(SENSORS * PIXELS, 7, 5))
    plan = direct_plan(network)
    assert plan_cost(network, plan).values_sent == (SENSORS * PIXELS + 7) * (SENSORS - 1)
    assert plan_cost(network, plan).values_sent == sum(plan.dense_values(network, m) for m in network.mixings)
    assert plan_cost(network, plan).weights.sum() == network.weight_count


def test_sending_the_inputs_costs_the_inputs():
    network = random_network(widths=(SENSORS * PIXELS, 7, 5))
    one = plan_cost(network, one_worker_plan(network))
    assert one.values_sent == 5 * PIXELS
    assert one.weights.tolist() == [network.weight_count, 0, 0, 0, 0, 0]
    everywhere = everywhere_cost(network)
    assert everywhere.values_sent == SENSORS * (SENSORS - 1) * PIXELS
    assert everywhere.weights.tolist() == [network.weight_count] * SENSORS


def test_independent_parts_only_send_what_they_found():
    summed = random_network(widths=(SENSORS * PIXELS, 12, 18, 4))
    plan = independent_plan(summed, fused=False)
    assert plan_cost(pruned(summed, plan), plan).received.sum(axis=1).tolist() == [0, 0, 4 * (SENSORS - 1)]
    fused = random_network(widths=(SENSORS * PIXELS, 12, 18, 9, 4))
    plan = independent_plan(fused, fused=True)
    assert plan_cost(pruned(fused, plan), plan).received.sum(axis=1).tolist() == [0, 0, 15, 0]
    assert all(mixing.form == GHOST for mixing in plan.mixings.values())


@pytest.mark.parametrize("weights", [20_000, 2_044_000])
def test_parts_are_together_as_large_as_the_original(weights):
    width = part_width(weights)
    sizes = [SENSORS * (PIXELS * h + h * h) for h in (width, width + 1)]
    assert sizes[0] <= weights < sizes[1]


def test_the_table_groups_the_rows_by_method():
    values = dict.fromkeys(("comm_fraction", "values_sent", "busiest_weights", "accuracy", *TITLES), "1")
    rows = [
        {"name": name, "comm_budget": budget, **values} for budget in "12" for name in ("first", "second")
    ]
    starts = [line.split(" | ")[:2] for line in markdown(rows).splitlines()[2:]]
    assert starts == [["| first", "1"], ["| first", "2"], ["| second", "1"], ["| second", "2"]]


def test_a_second_run_measures_only_what_is_missing(tmp_path, monkeypatch):
    network = random_network(widths=(SENSORS * PIXELS, 7, 5))
    write_samples(tmp_path / "test.npz", width=network.inputs)
    samples = open_samples(tmp_path / "test.npz")
    experiment = Experiment(network, network, network, samples, samples)
    measured = []

    def entry(name, budget):
        def measure():
            measured.append((name, budget))
            return network, plan_cost(network, direct_plan(network))

        return Entry(name, budget, measure)

    first = [entry("baseline", None), entry("method", 0.1)]
    for found in (first, [*first, entry("method", 0.01)]):
        monkeypatch.setattr(sensor_experiment, "entries", lambda _, found=found: found)
        measure_missing(experiment, tmp_path / "results.csv")
    assert measured == [("baseline", None), ("method", 0.1), ("method", 0.01)]
    rows = read(tmp_path / "results.csv")
    assert [row["comm_budget"] for row in rows] == ["", "0.1", "0.01"]
    assert {row["comm_fraction"] for row in rows} == {"1.0"}
