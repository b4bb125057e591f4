"""The modelled time of a plan is that of ``forecast``."""

import json
from dataclasses import asdict, replace

import pytest

from helpers import small_plans
from helpers.machines import PLAIN, with_network
from repurpose_hpc.errors import UserError
from repurpose_hpc.forecast.demand import plan_demand
from repurpose_hpc.forecast.modelled import ModelledTime
from repurpose_hpc.forecast.timeline import forecast
from repurpose_hpc.plan.plan import single_worker_plan
from repurpose_hpc.restructure.time_model import TimeModel

MACHINE = replace(
    with_network(latency_us=20, overhead_us=2, gap_us=1, gb_per_s=0.1), ranks_per_node=2, value_ns=3
)


@pytest.mark.parametrize("comm_dtype", ["float32", "int8"])
def test_it_is_that_of_forecast_for_one_sample(comm_dtype):
    network = small_plans.random_network()
    plan = small_plans.scaled(network, small_plans.random_plan(network, 4, "partitioned"), wire=comm_dtype)
    demand = plan_demand(network, plan, 2, comm_dtype)
    assert ModelledTime(MACHINE).seconds(network, plan) == forecast(demand, MACHINE, batch=1).total


def test_one_process_only_multiplies():
    network = small_plans.random_network(widths=(10, 20, 5))
    seconds = ModelledTime(PLAIN).seconds(network, single_worker_plan(network))
    assert seconds == pytest.approx(2e-9 * (10 * 20 + 20 * 5))


def test_it_is_a_model_of_json_values():
    model = ModelledTime(MACHINE)
    assert isinstance(model, TimeModel) and model.name == "plain"
    assert json.loads(json.dumps(asdict(model)))["machine"]["network"]["latency_us"] == 20


def test_a_machine_without_links_for_so_many_workers():
    network = small_plans.random_network()
    model = ModelledTime(replace(MACHINE, network=None))
    for workers in (1, 2):
        assert model.seconds(network, small_plans.random_plan(network, workers, "root")) > 0
    with pytest.raises(UserError, match="links for 3 ranks, found those of 2 in plain; probe on more nodes"):
        model.seconds(network, small_plans.random_plan(network, 3, "root"))
