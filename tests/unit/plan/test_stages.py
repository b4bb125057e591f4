"""Stages of plans as they are found in the owners."""

import numpy as np

from helpers.small_plans import random_network, random_plan
from repurpose_hpc.plan.masks import EVERYBODY
from repurpose_hpc.plan.plan import Plan, dense_plan_for
from repurpose_hpc.plan.stages import stages_of

WIDTHS = (12, 8, 8, 8, 8, 4)


def plan_of(groups):
    """A plan in which every layer is shared by some workers, as many times as they are named."""
    network, owners = random_network(0, WIDTHS), {}
    spaces = [space.name for space in network.free_spaces]
    owners[spaces[0]] = np.full(WIDTHS[0], EVERYBODY, np.int32)
    for name, width, group in zip(spaces[1:], WIDTHS[1:], groups, strict=True):
        owners[name] = np.resize(np.array(group, np.int32), width)
    return network, dense_plan_for(network, 5, "replicated", network.derive(owners))


def found(groups):
    return [(len(stage.mixings), stage.workers) for stage in stages_of(*plan_of(groups))]


def test_layers_with_workers_in_common_are_together():
    assert found([[0, 1], [1], [2, 3], [4], [4]]) == [(2, (0, 1)), (1, (2, 3)), (2, (4,))]


def test_a_worker_who_comes_back_joins_all_between():
    assert found([[0], [1], [2], [1, 3], [4]]) == [(1, (0,)), (3, (1, 2, 3)), (1, (4,))]


def test_workers_who_share_every_layer_are_one_stage():
    network = random_network(0, WIDTHS)
    plan: Plan = random_plan(network, 3, "partitioned")
    (stage,) = stages_of(network, plan)
    assert stage.mixings == tuple(mixing.name for mixing in network.mixings)
    assert stage.workers == (0, 1, 2)
