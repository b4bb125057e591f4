"""What branches exchange at the same time travels in one message."""

from unittest import mock

import numpy as np
import pytest
from mpi4py import MPI

from helpers import small_plans
from helpers.programs import counting, make_program, run_program
from helpers.small_graphs import branching_network
from repurpose_hpc.forecast.demand import plan_demand
from repurpose_hpc.model.comm_dtype import COMM_DTYPES, EXACT, STEPS
from repurpose_hpc.model.forward import forward
from repurpose_hpc.plan.plan import PLACEMENTS
from repurpose_hpc.plan.rounding import rounded_compute
from repurpose_hpc.runtime.buffers import Part
from repurpose_hpc.runtime.calls import COMPUTE, EXCHANGE, PHASES, WAIT
from repurpose_hpc.runtime.exchange.exchange import Exchange
from repurpose_hpc.runtime.exchange.merged import Merged
from repurpose_hpc.runtime.exchange.transport import TRANSPORTS
from repurpose_hpc.runtime.exchange.transports import available
from repurpose_hpc.runtime.resources import EXACT_FORMATS, Formats
from repurpose_hpc.runtime.schedule import schedule
from repurpose_hpc.runtime.schedule.replay import carry_out, record

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
SAMPLES, MAX_BATCH = 11, 4


def case(placement, more_workers=0, density=0.5):
    """A network, a plan for it, and samples."""
    network = branching_network(1)
    plan = small_plans.random_plan(network, COMM.size + more_workers, placement, 1, density)
    plan = small_plans.scaled(network, plan)
    network = small_plans.pruned(network, plan)
    return network, plan, np.random.default_rng(5).normal(size=(SAMPLES, network.inputs))


@pytest.mark.parametrize("more_workers", [0, 3])
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_transport_carries_merged_exchanges(transport, placement, more_workers):
    if transport not in available(COMM):
        pytest.skip("these ranks have no such transport")
    network, plan, x = case(placement, more_workers)
    expected = forward(network, x)
    for parts in (1, 3):
        program = make_program(network, plan, MAX_BATCH, transport=transport, micro_batches=parts)
        np.testing.assert_allclose(run_program(program, network, x), expected, rtol=0, atol=1e-12)
        program.free()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("wire", COMM_DTYPES)
def test_ghosts_and_sums_travel_together_if_they_are_of_one_type(wire, dtype):
    """To the last bit alike, whichever transport; as the reference that rounds them."""
    network, plan, x = case("partitioned", 2)
    program = make_program(network, plan, MAX_BATCH, dtype=dtype, formats=Formats(comm_dtype=wire))
    types = [{member.send.flat.dtype for member in each.members} for each in program._exchanges]
    assert all(len(each) == 1 for each in types)
    if COMM.size > 1:
        assert max(len(each.members) for each in program._exchanges) > 1
        assert len(types) == (3 if wire == EXACT else 5)  # in the last round there are sums alone
    outputs = {}
    for transport in available(COMM):
        program.use_transport(transport)
        outputs[transport] = run_program(program, network, x)
    program.free()
    assert len({y.tobytes() for y in outputs.values()}) == 1
    expected = forward(network, x, compute=rounded_compute(network, plan, wire))
    # Rounded to float32, a value may be coded as its neighbour in the format.
    tolerance = 1e-9 if dtype == np.float64 else 1e-5 + 2 * STEPS[wire]
    tolerance *= np.abs(expected).max()
    np.testing.assert_allclose(outputs["ialltoallv"], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_one_message_for_each_pair_of_ranks_and_round(placement):
    """Three rounds, whatever the masks have in them, for all that the plan sends."""
    network, plan, x = case(placement, density=1.0)
    with counting() as handed:
        program = make_program(network, plan, MAX_BATCH)
        run_program(program, network, x)
    batches = -(-SAMPLES // MAX_BATCH)
    assert handed.calls == batches * (3 if COMM.size > 1 else 0)
    assert program.messages <= 3 * (COMM.size - 1)
    assert COMM.allreduce(program.messages) == plan_demand(network, plan, per_node=1).messages
    assert handed.messages == batches * program.messages
    values = sum(plan.values_sent(network, mixing) for mixing in network.mixings)
    assert COMM.allreduce(program.values_sent) == values
    assert COMM.allreduce(handed.bytes) == values * SAMPLES * program.dtype.itemsize


@pytest.mark.parametrize("wire", [EXACT, "bfloat16"])
@pytest.mark.parametrize("density", [0.02, 0.1, 0.4])
def test_forecasts_count_the_same_messages(density, wire):
    """Also where some mixings have nothing to wait for, so that there are fewer rounds."""
    for seed in range(5):
        network = branching_network(seed)
        plan = small_plans.random_plan(network, COMM.size, "partitioned", seed, density)
        network = small_plans.pruned(network, plan)
        program = make_program(network, plan, MAX_BATCH, formats=Formats(comm_dtype=wire))
        demand = plan_demand(network, plan, 1, wire)
        assert COMM.allreduce(program.messages) == demand.messages
        assert sum(bool(each.exchanges) for each in program._rounds) == len(demand.exchanges)


def test_messages_are_on_their_way_while_own_neurons_are_multiplied():
    """In every round what is sent is posted before the last products, and waited for after them."""
    if COMM.size == 1:
        pytest.skip("one rank waits for nobody")
    network, plan, x = case("partitioned", density=1.0)
    with mock.patch.object(schedule, "record", wraps=record) as made:
        run_program(make_program(network, plan, MAX_BATCH), network, x[:MAX_BATCH])
    calls, *_ = made.call_args.args
    phases = [phase for phase, *_ in calls]
    posts, waits = ([k for k, phase in enumerate(phases) if phase == kind] for kind in (EXCHANGE, WAIT))
    assert len(posts) == len(waits) == 3
    for post, wait in zip(posts, waits, strict=True):
        assert COMPUTE in phases[post:wait]


@pytest.mark.parametrize("dtype", ["f4", "f8", "u2", "i1"])
def test_merged_exchanges_bring_what_they_would_alone(dtype):
    """Blocks of different lengths for every rank, none for some."""
    apart, together = ([exchange(number, dtype) for number in range(3)] for _ in range(2))
    whole = Merged(together, MAX_BATCH)
    assert whole.bytes_sent == sum(each.bytes_sent for each in apart)
    for part in (Part(MAX_BATCH), Part(1, 2), Part(2)):
        for carried in (*apart, whole):
            carry(carried, part)
        for alone, member in zip(apart, together, strict=True):
            np.testing.assert_array_equal(member.receive.view(part), alone.receive.view(part))
    if COMM.size > 1:
        assert any(each.receive.flat.any() for each in apart)


def exchange(number, dtype):
    """Rank p sends (p + 2 q + number) % 3 items to rank q."""
    ranks, rank = np.arange(COMM.size), COMM.rank
    sent, received = ((p + 2 * q + number) % 3 * (ranks != rank) for p, q in ((rank, ranks), (ranks, rank)))
    made = Exchange(sent, received, MAX_BATCH, np.dtype(dtype), 1 + number)
    made.send.flat[:] = 1 + 40 * number + 10 * rank + np.arange(made.send.flat.size) % 10
    return made


def carry(carried, part):
    request = TRANSPORTS["ialltoallv"]([carried], COMM).request(carried, part)
    steps = record([*request.begin, *request.post, *request.wait], np.dtype(np.float32), EXACT_FORMATS)
    carry_out(steps, np.zeros(len(PHASES)))
