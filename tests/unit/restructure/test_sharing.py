"""Cuts of maps: the fastest where the budget pays for them, else those that send least."""

import numpy as np
import pytest

from helpers.small_graphs import Draw, square_window
from repurpose_hpc.model.tiles import halo_values, most_multiply_adds, tiles_of
from repurpose_hpc.plan.plan import REPLICATED, dense_plan
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.sharing import cheapest, fastest, halos_sent, sharing_of


def network_of(channels=40):
    """Three convolutions of many channels, so that computing a halo twice takes longer than sending it."""
    draw = Draw(0)
    tensor = draw.builder.input("input", 2, (14, 14))
    for name in ("a", "b"):
        tensor = draw.mixing(name, tensor, channels, square_window((14, 14)))
    tensor = draw.mixing("c", tensor, 8, square_window((14, 14), 3, 2))
    return draw.builder.build((tensor,), ("identity",))


def time_of(network, sharing):
    tiles = tiles_of(network, sharing.layers, sharing.division, sharing.repeated)
    return most_multiply_adds(network, tiles) + 1000 * halo_values(network, tiles) / sharing.division.workers


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_the_budget_decides(workers):
    network = network_of()
    fast, cheap = (find(network, Options(workers), 3) for find in (fastest, cheapest))
    assert time_of(network, fast) <= time_of(network, cheap)
    assert halos_sent(network, Options(workers), fast) >= halos_sent(network, Options(workers), cheap)
    assert fast != cheap
    cut = fast.of(network, Options(workers))
    plan = dense_plan(cut, workers, REPLICATED, np.ones(workers))
    sent, dense = (
        sum(count(cut, mixing) for mixing in cut.mixings) for count in (plan.values_sent, plan.dense_values)
    )

    def taken(**options):
        found = sharing_of(network, Options(workers, **options), 3)
        return found.repeated, found.division.cuts

    assert taken(comm_budget=sent / dense + 1e-9) == (fast.repeated, fast.division.cuts)
    assert taken(comm_budget=sent / dense - 1e-9) == (cheap.repeated, cheap.division.cuts)
    assert taken(max_output_error=0.1) == (cheap.repeated, cheap.division.cuts)


def test_workers_who_read_no_input_compute_no_halo_of_it():
    options = Options(4, input_placement="root")
    assert fastest(network_of(), options, 3).repeated == 0
    assert fastest(network_of(), options, 0).division is None
