"""Large messages travel on while a rank computes the next batch; what is sent and received stays the same."""

import time
from itertools import groupby

import numpy as np
import pytest
from mpi4py import MPI

from helpers import small_plans
from helpers.programs import make_program
from repurpose_hpc.model.chain import sequence
from repurpose_hpc.model.forward import forward
from repurpose_hpc.plan.masks import ghost_plan
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.runtime.exchange import transport as transports
from repurpose_hpc.runtime.exchange.transports import available
from repurpose_hpc.runtime.program import MOST_SCHEDULES

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
# Batches in a row of the same size, and single ones between them; more sizes than schedules are kept.
SIZES = [4, 4, 4, 1, 7, 7, 3, 4, 4, 4, *range(2, MOST_SCHEDULES + 4), 5, 5, 5, 5, 2, 2, 4]


@pytest.fixture
def all_are_large(monkeypatch):
    monkeypatch.setattr(transports, "LARGE", 1)


def outputs(program, x, sizes, breaks=None):
    """Rows of each batch; all batches but the last of a size in a row promise another one."""
    found, first = [], 0
    for _, group in groupby(sizes):
        batches = list(group)
        for number, size in enumerate(batches, 1):
            if breaks is not None and breaks.random() < 0.2:
                time.sleep(2e-3 * breaks.random())
            columns = np.ascontiguousarray(x[first : first + size].T[program.input_columns], program.dtype)
            found.append(program.forward(columns, goes_on=number < len(batches)).copy())
            first += size
    return found


@pytest.mark.parametrize("transport", available(COMM))
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("more_workers", [0, 3])
def test_outputs_are_the_same_to_the_last_bit(transport, parts, more_workers, all_are_large):
    """Batches of different inputs and sizes, of ranks that take breaks at times of their own."""
    network = small_plans.random_network(head="identity")
    plan = small_plans.random_plan(network, COMM.size + more_workers, "partitioned", 5)
    network = small_plans.pruned(network, plan)
    x = np.random.default_rng(3).standard_normal((sum(SIZES), network.inputs))
    plain = make_program(network, plan, max(SIZES), micro_batches=parts)
    expected = outputs(plain, x, SIZES)
    plain.free()
    program = make_program(network, plan, max(SIZES), transport=transport, micro_batches=parts)
    for _ in range(2):
        found = outputs(program, x, SIZES, np.random.default_rng(COMM.rank))
        assert [y.tobytes() for y in found] == [y.tobytes() for y in expected]
    program.free()
    y = forward(network, x[: SIZES[0]]).T[program.output_columns]
    np.testing.assert_allclose(expected[0], y, rtol=0, atol=1e-12)


def passed_on(neurons):
    """Two layers that change nothing: the first ranks hand on what they have."""
    eye, zeros = np.eye(neurons), np.zeros(neurons)
    network = sequence(neurons, [(eye, zeros), (eye, zeros)])
    spaces = [np.full(neurons, min(place, COMM.size - 1), np.int32) for place in range(3)]
    mixings = {}
    for number, (source, target) in enumerate(zip(spaces, spaces[1:], strict=False)):
        ghosts = np.zeros((COMM.size, neurons), bool)
        ghosts[target[0]] = source[0] != target[0]
        mixings[f"layer{number}"] = ghost_plan(ghosts, source, target)
    owners = dict(zip(("input", "layer0", "layer1"), spaces, strict=True))
    return network, Plan(COMM.size, "partitioned", owners, mixings)


@pytest.mark.parametrize("transport", available(COMM))
def test_nothing_is_overwritten_before_it_is_sent(transport):
    """Messages of a MB to a receiver that takes its time."""
    network, plan = passed_on(256)
    samples, batches = 1024, 6
    program = make_program(network, plan, samples, dtype=np.float32, transport=transport)
    x = np.random.default_rng(4).standard_normal((batches * samples, network.inputs)).astype(np.float32)
    for number in range(batches):
        batch = x[number * samples : (number + 1) * samples].T
        if COMM.rank == COMM.size - 1:
            time.sleep(0.02)
        columns = np.ascontiguousarray(batch[program.input_columns])
        y = program.forward(columns, goes_on=number < batches - 1)
        assert np.array_equal(y, batch[program.output_columns])
    program.free()


@pytest.mark.parametrize("transport", available(COMM))
def test_what_is_on_its_way_is_given_back(transport, all_are_large):
    """A promised batch that never comes does not disturb those after it."""
    network = small_plans.random_network(head="identity")
    plan = small_plans.random_plan(network, COMM.size, "partitioned", 5)
    network = small_plans.pruned(network, plan)
    program = make_program(network, plan, 5, transport=transport)
    x = np.random.default_rng(3).standard_normal((30, network.inputs))
    for first in range(0, 30, 5):
        batch = x[first : first + 5].T
        y = program.forward(np.ascontiguousarray(batch[program.input_columns]), goes_on=True)
        np.testing.assert_allclose(y, forward(network, batch.T).T[program.output_columns], atol=1e-12)
        program.free()


def test_a_promise_is_kept():
    network = small_plans.random_network(head="identity")
    plan = small_plans.random_plan(network, COMM.size, "partitioned", 5)
    program = make_program(small_plans.pruned(network, plan), plan, 5)
    columns = np.zeros((program.input_columns.size, 5))
    program.forward(columns, goes_on=True)
    with pytest.raises(ValueError, match="expected .*promised"):
        program.forward(columns[:, :3])
    program.forward(columns)
    program.free()
