"""The time that is left of a restructuring: by the sizes of layers, told as the work goes on."""

from unittest import mock

import numpy as np

from helpers.small_plans import random_network
from repurpose_hpc.io import progress
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.duration import work_of
from repurpose_hpc.restructure.options import Options


def test_larger_layers_are_more_work():
    network = random_network(widths=(8, 32, 32, 4))
    first, wide, narrow = (work_of(network, mixing, 100, is_exchanged=True) for mixing in network.mixings)
    assert first < narrow < wide
    assert wide < work_of(network, network.mixings[1], 200, is_exchanged=True)
    # What needs no exchange is only measured, by a forward.
    assert work_of(network, network.mixings[1], 100, is_exchanged=False) == 100 * 32 * 32


def test_what_is_left_is_told_by_size(monkeypatch):
    """Every clock reading is 100 seconds later than the one before: the pace is known, the rest follows."""
    clock = iter(range(0, 1_000_000, 100))
    monkeypatch.setattr(progress, "perf_counter", mock.Mock(side_effect=lambda: next(clock)))
    network = random_network(widths=(16, 40, 40, 40, 4))
    x = np.random.default_rng(0).normal(size=(60, 16))
    lines: list[str] = []
    restructure(network, Samples.of(x), Options(2, 0.1, input_placement="partitioned"), lines.append)
    told = [line for line in lines if "measuring" in line and " of 4)" in line]
    assert len(told) == 4 and " left" not in told[0]
    works = [work_of(network, mixing, 60, is_exchanged=True) for mixing in network.mixings]
    for number, line in enumerate(told[1:], 1):
        seconds = 100 * number / sum(works[:number]) * sum(works[number:])
        assert line.endswith(f"measuring{progress.expected(seconds)} left ...")
