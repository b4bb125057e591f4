"""The price of a round in values, by hand."""

from dataclasses import replace

import pytest

from helpers.machines import PLAIN, with_network
from repurpose_hpc.errors import UserError
from repurpose_hpc.forecast.rounds import round_cost


def test_by_hand():
    machine = with_network(latency_us=50, overhead_us=3, gap_us=2, gb_per_s=0.1)
    machine = replace(machine, exchange_us=5, rank_us=0.5)
    for ranks in (2, 5):
        others = ranks - 1
        round_us = 5 + 0.5 * ranks + 3 * others + 50 + 2 * others + 3 * others
        # All links carry values at the same time.
        value_us = 4 / 0.1e3 / ranks
        assert round_cost(machine, ranks) == pytest.approx(round_us / value_us)
    assert round_cost(machine, 1) == 0


def test_ranks_of_a_node_share_its_link():
    machine = with_network(replace(PLAIN, ranks_per_node=2), latency_us=100, gb_per_s=0.1)
    # Of the 3 values that each of 4 ranks sends, 2 go through the link that it shares with another.
    assert round_cost(machine, 4) == pytest.approx(100 * 0.1e3 / 4 / 4 * 12, rel=1e-6)


def test_a_machine_without_links():
    with pytest.raises(UserError, match="links for 4 ranks, found those of 1 in plain; probe on more nodes"):
        round_cost(replace(PLAIN, local=None, network=None), 4)
