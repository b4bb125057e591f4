"""Machine files."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from helpers.machines import PLAIN
from repurpose_hpc.errors import UserError
from repurpose_hpc.forecast.machine import Memory, Rates, parse_machine, read_machine, shipped, write_machine


@pytest.mark.parametrize("name", shipped())
def test_shipped_machines_can_be_read(name, tmp_path):
    machine = read_machine(name, tmp_path / "none")
    assert machine.network and machine.most_ranks == float("inf")


def test_the_machines_of_the_paper(tmp_path):
    edge, nvlink = (read_machine(name, tmp_path) for name in ("edge", "nvlink"))
    assert (edge.dense.gflops, edge.network.gb_per_s) == (((500,),), 0.1)
    assert (nvlink.dense.gflops, nvlink.network.gb_per_s) == (((125_000,),), 150)


def test_a_written_machine_is_read_again(tmp_path):
    machine = replace(PLAIN, local=None, ranks_per_node=1, name="écrit")
    write_machine(tmp_path / "m.json", machine)
    assert read_machine(str(tmp_path / "m.json"), tmp_path) == machine
    assert read_machine("this", tmp_path / "m.json") == machine


def test_rates_of_all_ranks_may_be_missing(tmp_path):
    """They are from machine files of older versions."""
    old = {key: value for key, value in asdict(PLAIN).items() if key != "all_ranks_gb_per_s"}
    assert parse_machine(old) == PLAIN
    machine = replace(PLAIN, all_ranks_gb_per_s=(2.0, 1.0))
    write_machine(tmp_path / "m.json", machine)
    assert read_machine(str(tmp_path / "m.json"), tmp_path) == machine


def test_links_limit_the_ranks():
    assert PLAIN.most_ranks == float("inf")
    assert replace(PLAIN, network=None, ranks_per_node=4).most_ranks == 4
    assert replace(PLAIN, network=None, local=None).most_ranks == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"call_us": -1}, "call_us is -1"),
        ({"value_ns": "1"}, "value_ns is '1'"),
        ({"ranks_per_node": 0}, "ranks_per_node is 0"),
        ({"colour": 1}, "has unknown colour"),
        ({"network": {"latency_us": 1}}, "network lacks"),
        ({"network": {**asdict(PLAIN.network), "gb_per_s": 0}}, "gb_per_s is 0"),
        ({"network": {**asdict(PLAIN.network), "overlap": 2}}, "overlap is more than 1"),
        ({"local": None, "ranks_per_node": 2}, "no link local"),
        ({"memory": {"bytes": [2, 1], "rank_gb_per_s": [1, 1], "node_gb_per_s": [1, 1]}}, "not ascending"),
        ({"memory": {"bytes": [1], "rank_gb_per_s": [1, 1], "node_gb_per_s": [1]}}, "not 1 numbers above 0"),
        ({"dense": {"rows": [1, 2], "columns": [1], "gflops": [[1]]}}, "dense.gflops has 1 rows"),
        ({"dense": 3}, "not an object"),
        ({"all_ranks_gb_per_s": [1, 0]}, "all_ranks_gb_per_s is .*, not 2 numbers above 0"),
        ({"all_ranks_gb_per_s": []}, "all_ranks_gb_per_s is .*, not 1 numbers above 0"),
        ({"all_ranks_gb_per_s": ["fast"]}, "all_ranks_gb_per_s is 'fast', not a number"),
        ({"all_ranks_gb_per_s": 3}, "expected a readable machine file"),
        ({"shared_cores": 0}, "shared_cores is 0, not an integer of 1 or more"),
    ],
)
def test_what_is_no_machine_is_refused(tmp_path, change, message):
    described = json.loads(json.dumps(asdict(PLAIN))) | change
    (tmp_path / "m.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match=message):
        read_machine(str(tmp_path / "m.json"), tmp_path)


def test_a_missing_machine_is_refused_with_what_there_is(tmp_path):
    with pytest.raises(UserError, match="edge, gigabit, hdr, nvlink"):
        read_machine(str(tmp_path / "none.json"), tmp_path)
    with pytest.raises(UserError, match="repurpose_hpc probe"):
        read_machine("this", tmp_path / "none.json")
    (tmp_path / "m.json").write_text("{")
    with pytest.raises(UserError, match="expected a readable machine file"):
        read_machine(str(tmp_path / "m.json"), tmp_path)


def test_memory_is_shared_by_the_ranks_of_a_node():
    memory = Memory((1000.0, 100_000.0), (100.0, 10.0), (200.0, 20.0))
    at = np.array([0, 1000, 10_000, 1e9])
    np.testing.assert_allclose(1e-9 / memory.seconds_per_byte(at, 1), [100, 100, 1000**0.5, 10])
    np.testing.assert_allclose(1e-9 / memory.seconds_per_byte(at, 4), [50, 50, 0.5 * 1000**0.5, 5])


def test_rates_are_interpolated_between_rows_and_columns():
    rates = Rates((1, 100), (1, 16), ((1.0, 4.0), (10.0, 40.0)))
    flops = 1e-9 / rates.seconds_per_flop(np.array([0.5, 1, 10, 100, 1000]), 4)
    np.testing.assert_allclose(flops, [2, 2, 2 * 10**0.5, 20, 20])


def test_parse_machine_needs_every_key():
    with pytest.raises(ValueError, match="lacks call_us"):
        parse_machine({key: value for key, value in asdict(PLAIN).items() if key != "call_us"})
