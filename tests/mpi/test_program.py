"""A program on any number of ranks computes what the reference does and sends what the masks say."""

import time
from dataclasses import replace
from itertools import pairwise
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

from helpers import small_plans
from helpers.programs import counting, make_program, run_program
from helpers.random_cases import cases
from repurpose_hpc.errors import UserError
from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.chain import sequence
from repurpose_hpc.model.comm_dtype import COMM_DTYPES, SCALED, STEPS
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.network import Network, Space
from repurpose_hpc.model.operations import Elementwise, Mixing
from repurpose_hpc.mpi.groups import Groups
from repurpose_hpc.plan.masks import EVERYBODY, ghost_plan
from repurpose_hpc.plan.plan import Plan, single_worker_plan
from repurpose_hpc.plan.rounding import rounded_compute
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.runtime.buffers import parts_of
from repurpose_hpc.runtime.exchange.choose import AUTO, choose_transport
from repurpose_hpc.runtime.exchange.transport import TRANSPORTS
from repurpose_hpc.runtime.exchange.transports import DEFAULT_TRANSPORT, available, shared
from repurpose_hpc.runtime.exchange.transports.shared import on_one_node
from repurpose_hpc.runtime.hosting import hosted_workers
from repurpose_hpc.runtime.program import MOST_SCHEDULES, Program
from repurpose_hpc.runtime.resources import Formats
from repurpose_hpc.runtime.schedule import threads as parallel

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
TOLERANCE = {np.float64: 1e-12, np.float32: 1e-5}


def crossing_items(case):
    """By brute force, what ranks must hand to one another: a set of (mixing, kind, from, to, neuron)."""
    rank_of = {
        q: rank for rank in range(COMM.size) for q in hosted_workers(case.plan.workers, COMM.size, rank)
    }
    rank_of[EVERYBODY] = None
    items = set()
    for mixing in case.network.mixings:
        masks = case.plan.mixings[mixing.name]
        source, target = (
            case.plan.owners[case.network.space_of[end]] for end in (mixing.source, mixing.target)
        )
        for worker, neuron in np.argwhere(masks.ghosts):
            mine, other = rank_of[worker], rank_of[source[neuron]]
            if other is not None and mine != other:
                items.add((mixing.name, "ghost", other, mine, neuron))
        for worker, neuron in np.argwhere(masks.sums):
            mine, other = rank_of[worker], rank_of[target[neuron]]
            if mine != other:
                items.add((mixing.name, "sum", mine, other, neuron))
    return items


@pytest.mark.parametrize("dtype", TOLERANCE)
@given(case=cases())
@settings(max_examples=60)
def test_outputs_are_those_of_the_reference(dtype, case):
    program = make_program(case.network, case.plan, case.max_batch, dtype=dtype)
    y = run_program(program, case.network, case.x)
    expected = forward(case.network, case.x)
    np.testing.assert_allclose(y, expected, rtol=0, atol=TOLERANCE[dtype] * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("transport", TRANSPORTS)
@given(case=cases())
@settings(max_examples=20)
def test_every_transport(transport, case):
    """Again and again, with other inputs and batch sizes: nothing of the time before may be left."""
    if transport not in available(COMM):
        pytest.skip("this MPI has no such collective")
    program = make_program(case.network, case.plan, case.max_batch, transport=transport)
    for x in (case.x, case.x[: (len(case.x) + 1) // 2], case.x[::-1]):
        y, expected = run_program(program, case.network, x), forward(case.network, x)
        scale = max(1, np.abs(expected).max())
        np.testing.assert_allclose(y, expected, rtol=0, atol=TOLERANCE[np.float64] * scale)
    program.free()


@pytest.mark.parametrize("wire", COMM_DTYPES)
@pytest.mark.parametrize("more_workers", [0, 3])
def test_transports_agree_to_the_last_bit_and_follow_one_another(wire, more_workers):
    """Batches of all sizes in between: what one left in memory is not what another finds."""
    network = small_plans.random_network(head="identity")
    plan = small_plans.random_plan(network, COMM.size + more_workers, "partitioned", 5)
    plan = small_plans.with_outliers(network, small_plans.scaled(network, plan))
    network = small_plans.pruned(network, plan)
    x = np.random.default_rng(3).standard_normal((20, network.inputs))
    program = make_program(network, plan, 7, dtype=np.float32, formats=Formats(comm_dtype=wire))
    outputs = {}
    for transport in (
        [*available(COMM), "shared", DEFAULT_TRANSPORT] if on_one_node(COMM) else available(COMM)
    ):
        program.use_transport(transport)
        batches = [run_program(program, network, x[:count]) for count in (20, 1, 5, 20, 2)]
        outputs.setdefault(transport, []).append(np.concatenate(batches).tobytes())
    program.free()
    assert len({each for of_transport in outputs.values() for each in of_transport}) == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_more_batch_sizes_than_schedules_are_kept(transport):
    """Requests of the size used longest ago are given back, by all ranks alike, and made anew."""
    if transport not in available(COMM):
        pytest.skip("these ranks have no such transport")
    network = small_plans.random_network(head="identity")
    plan = small_plans.random_plan(network, COMM.size, "partitioned", 5)
    network = small_plans.pruned(network, plan)
    most = MOST_SCHEDULES + 3
    x = np.random.default_rng(3).standard_normal((most, network.inputs))
    program = make_program(network, plan, most, transport=transport)
    for size in (*range(1, most + 1), *range(most, 0, -1)):
        y = run_program(program, network, x[:size])
        np.testing.assert_allclose(y, forward(network, x[:size]), rtol=0, atol=1e-12)
    program.free()


def whole_numbers(widths):
    """A network that computes without rounding."""
    rng = np.random.default_rng(8)
    shapes = [(m, n) for n, m in pairwise(widths)]
    return sequence(
        widths[0], [(1.0 * rng.integers(-2, 3, (m, n)), 1.0 * rng.integers(-2, 3, m)) for m, n in shapes]
    )


def to_and_fro():
    """Four layers, each rank sends to most others."""
    network = whole_numbers((6, 9, 7, 9, 5))
    plan = small_plans.random_plan(network, COMM.size, "partitioned", 2)
    return small_plans.pruned(network, plan), plan


def one_way():
    """A layer in which the first rank sends to the last one, and nobody answers."""
    network, last = whole_numbers((6, 5)), COMM.size - 1
    source, target = np.zeros(6, np.int32), np.full(5, last, np.int32)
    ghosts = np.zeros((COMM.size, 6), bool)
    ghosts[last] = last > 0
    mixing = ghost_plan(ghosts, source, target)
    return network, Plan(COMM.size, "partitioned", {"input": source, "layer0": target}, {"layer0": mixing})


@pytest.mark.skipif(not on_one_node(COMM), reason="memory is shared on one node")
@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("made", [to_and_fro, one_way])
def test_shared_memory_keeps_ranks_in_step_that_come_and_go(made, parts):
    """Thousands of forwards, each of other inputs, while ranks take breaks at times of their own."""
    network, plan = made()
    rng, breaks = np.random.default_rng(9), np.random.default_rng(COMM.rank)
    # In four parts, 64 and 68 samples are cut at different places.
    sizes = (1, 2, 3) if parts == 1 else (3, 64, 68)
    program = make_program(network, plan, max(sizes), transport="shared", micro_batches=parts)
    x = 1.0 * rng.integers(-9, 10, (500, network.inputs))
    y, columns = forward(network, x).T[program.output_columns], x.T[program.input_columns]
    wrong = 0
    for first, size in zip(
        rng.integers(0, 430, 4000).tolist(), rng.choice(sizes, 4000).tolist(), strict=True
    ):
        if breaks.random() < 0.02:
            time.sleep(breaks.random() * 1e-3)
        batch = slice(first, first + size)
        wrong += not np.array_equal(program.forward(columns[:, batch]), y[:, batch])
    program.free()
    assert wrong == 0


@pytest.mark.skipif(not on_one_node(COMM), reason="memory is shared on one node")
def test_without_room_all_ranks_refuse_and_automatic_choice_goes_on(monkeypatch):
    network = small_plans.random_network(head="identity")
    plan = small_plans.random_plan(network, COMM.size, "partitioned", 5)
    program = make_program(network, plan, 3, transport="shared")
    free = 0 if COMM.rank == COMM.size - 1 else 2**40
    monkeypatch.setattr(shared, "_free_bytes", lambda: free)
    columns = np.zeros((program.input_columns.size, 3), program.dtype)
    with pytest.raises(UserError, match="expected .* bytes of shared memory for shared"):
        program.forward(columns)
    if COMM.size > 1:
        times = choose_transport(program, AUTO, columns, Groups(COMM))
        assert set(times) == {*available(COMM)} - {"shared"} and program.transport in times


@pytest.mark.parametrize(
    ("wire", "with_outliers"), [(wire, False) for wire in COMM_DTYPES[1:]] + [("int8", True), ("int4", True)]
)
@pytest.mark.parametrize("workers", [1, 3, 8, 11])
def test_ghosts_arrive_as_the_wire_makes_them(wire, with_outliers, workers):
    """Whether they come from another rank or from a worker of the same one."""
    if workers < COMM.size:
        pytest.skip("a rank hosts at least one worker")
    network = small_plans.random_network(head="identity")
    plan = small_plans.scaled(network, small_plans.random_plan(network, workers, "partitioned", 5))
    network = small_plans.pruned(network, plan)
    if with_outliers:
        plan = small_plans.with_outliers(network, plan)
    x = np.random.default_rng(3).standard_normal((5, network.inputs))
    program = make_program(network, plan, 3, dtype=np.float64, formats=Formats(comm_dtype=wire))
    y = run_program(program, network, x)
    expected = forward(network, x, compute=rounded_compute(network, plan, wire))
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-9 * np.abs(expected).max())
    ghosts, sums = plan_values(network, plan)
    if workers == COMM.size:
        assert COMM.allreduce(program.values_sent) == ghosts + sums
        ghost_bytes = small_plans.ghost_bytes(network, plan, wire)
        assert COMM.allreduce(program.bytes_sent) == ghost_bytes + 8 * sums


@pytest.mark.parametrize("wire", SCALED)
@given(
    seed=st.integers(0, 2**32 - 1),
    more_workers=st.integers(0, 5),
    density=st.sampled_from([0.02, 0.3, 1.0]),
    idle=st.booleans(),
    max_batch=st.integers(1, 5),
)
@settings(max_examples=25)
def test_messages_of_bytes(wire, seed, more_workers, density, idle, max_batch):
    """Of any lengths, odd ones too; with workers that own nothing, and ranks that host several."""
    network = small_plans.random_network(seed % 7, widths=(9, 13, 11, 4), head="identity")
    workers = COMM.size + more_workers
    plan = small_plans.random_plan(network, workers, "partitioned", seed, density)
    if idle and workers > 1:  # the last has nothing
        owners = {
            name: np.where(owner == workers - 1, 0, owner).astype(np.int32)
            for name, owner in plan.owners.items()
        }
        masks = small_plans.random_masks(network, owners, workers, density, seed)
        plan = replace(plan, owners=owners, mixings=masks)
    network = small_plans.pruned(network, plan)
    plan = small_plans.with_outliers(network, small_plans.scaled(network, plan), seed)
    program = make_program(network, plan, max_batch, dtype=np.float64, formats=Formats(comm_dtype=wire))
    x = np.random.default_rng(3).standard_normal((7, network.inputs))
    y = run_program(program, network, x)
    expected = forward(network, x, compute=rounded_compute(network, plan, wire))
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-9 * max(1, np.abs(expected).max()))


def plan_values(network, plan):
    """Values of ghosts and of partial sums that cross between workers."""
    whole = sum(plan.values_sent(network, mixing) for mixing in network.mixings)
    without = replace(
        plan,
        mixings={
            name: replace(masks, sums=np.zeros_like(masks.sums)) for name, masks in plan.mixings.items()
        },
    )
    ghosts = sum(without.values_sent(network, mixing) for mixing in network.mixings)
    return ghosts, whole - ghosts


@pytest.mark.parametrize("stored", ["bfloat16", "float16", "int8"])
def test_weights_in_fewer_bits(stored):
    network = small_plans.random_network(head="identity")
    plan = small_plans.random_plan(network, COMM.size, "partitioned", 5)
    network = small_plans.pruned(network, plan)
    x = np.random.default_rng(3).standard_normal((5, network.inputs))
    program = make_program(network, plan, 3, dtype=np.float32, formats=Formats(weights_dtype=stored))
    y, expected = run_program(program, network, x), forward(network, x)
    error = np.abs(y - expected).max() / np.abs(expected).max()
    assert 1e-6 < error < 4 * STEPS[stored]


@given(case=cases())
@settings(max_examples=20)
def test_outputs_are_the_same_to_the_last_bit_every_time(case):
    programs = [make_program(case.network, case.plan, case.max_batch, dtype=np.float32) for _ in range(2)]
    first, second, third = (run_program(programs[k], case.network, case.x) for k in (0, 0, 1))
    assert first.tobytes() == second.tobytes() == third.tobytes()


@given(case=cases(), parts=st.integers(2, 5), transport=st.sampled_from(sorted(TRANSPORTS)))
@settings(max_examples=40)
def test_outputs_do_not_depend_on_micro_batches(case, parts, transport):
    if transport not in available(COMM):
        transport = "ialltoallv"
    whole = run_program(make_program(case.network, case.plan, case.max_batch), case.network, case.x)
    with counting() as handed:
        program = make_program(
            case.network, case.plan, case.max_batch, transport=transport, micro_batches=parts
        )
        y = run_program(program, case.network, case.x)
    np.testing.assert_allclose(y, whole, rtol=0, atol=1e-12)
    if transport == "ialltoallv":
        batches, rest = divmod(len(case.x), case.max_batch)
        correct = handed.values.sum() == len(case.x) * program.values_sent
        correct &= bool(rest) or handed.messages == batches * program.messages
        assert all(COMM.allgather(correct))


@given(batch=st.integers(1, 300), most=st.integers(1, 20))
def test_parts_are_the_batch(batch, most):
    parts = parts_of(batch, most)
    assert [part.number for part in parts] == list(range(min(batch, most)))
    assert [sample for part in parts for sample in range(part.first, part.first + part.samples)] == list(
        range(batch)
    )
    samples = [part.samples for part in parts]
    assert max(samples) <= 1.5 * min(samples) or max(samples) - min(samples) <= 1


@given(case=cases())
@settings(max_examples=10)
def test_outputs_do_not_depend_on_the_number_of_threads(case):
    with mock.patch.object(parallel, "LEAST_WORK", 0):
        programs = [
            make_program(case.network, case.plan, case.max_batch, dtype=np.float32, threads=threads)
            for threads in (1, 2)
        ]
        alone, together = (run_program(program, case.network, case.x) for program in programs)
    assert alone.tobytes() == together.tobytes()


@given(case=cases())
@settings(max_examples=60)
def test_values_on_the_wire_are_those_of_the_masks(case):
    with counting() as handed:
        program = make_program(case.network, case.plan, case.max_batch)
        run_program(program, case.network, case.x)
    items = crossing_items(case)
    # Of a chain: what crosses for a mixing is the next round, whether ghosts, sums or both.
    crossed = [mixing.name for mixing in case.network.mixings if mixing.name in {item[0] for item in items}]
    rounds = {name: number for number, name in enumerate(crossed)}
    expected = [sum(item[2:4] == (COMM.rank, to) for item in items) for to in range(COMM.size)]
    batches = -(-len(case.x) // case.max_batch)
    correct = (
        handed.values.tolist() == [len(case.x) * values for values in expected]
        and handed.calls == batches * len(rounds)
        and handed.bytes == len(case.x) * sum(expected) * program.dtype.itemsize
        and program.values_sent == sum(expected)
        and program.messages * batches == handed.messages
        and program.messages == len({(rounds[item[0]], item[3]) for item in items if item[2] == COMM.rank})
    )
    assert all(COMM.allgather(correct))
    if case.plan.workers == COMM.size:
        values = sum(case.plan.values_sent(case.network, mixing) for mixing in case.network.mixings)
        assert COMM.allreduce(program.values_sent) == values


def test_no_collective_where_nothing_crosses():
    network = sequence(3, [(np.ones((4, 3)), np.ones(4))])
    source, target = np.zeros(3, np.int32), np.zeros(4, np.int32)
    nothing = ghost_plan(np.zeros((COMM.size, 3), bool), source, target)
    plan = Plan(COMM.size, "root", {"input": source, "layer0": target}, {"layer0": nothing})
    with counting() as handed:
        y = run_program(make_program(network, plan, 2), network, np.ones((2, 3)))
    assert handed.calls == 0
    np.testing.assert_array_equal(y, np.full((2, 4), 4.0))


def test_a_tensor_with_two_readers_is_kept():
    network = Network(
        (Space("input", 2), Space("a", 2), Space("b", 2)),
        (
            Mixing("first", "x", "y", np.eye(2), -np.ones(2)),
            Elementwise("relu", "y", "unused", Activation("relu")),
            Mixing("second", "y", "z", np.eye(2), np.zeros(2)),
        ),
        {"x": "input", "y": "a", "unused": "a", "z": "b"},
        dict.fromkeys(("x", "y", "unused", "z"), ()),
        ("x",),
        ("z",),
        ("identity",),
    )
    program = Program([make_shard(network, single_worker_plan(network), 0)], MPI.COMM_SELF, 1)
    np.testing.assert_array_equal(program.forward(np.zeros((2, 1), np.float32)), [[-1], [-1]])


@given(workers=st.integers(1, 40), ranks=st.integers(1, 40))
def test_hosting_is_contiguous_and_balanced(workers, ranks):
    if ranks > workers:
        with pytest.raises(UserError, match=f"at most {workers} ranks.*found {ranks}"):
            hosted_workers(workers, ranks, 0)
        return
    hosted = [hosted_workers(workers, ranks, rank) for rank in range(ranks)]
    assert [worker for each in hosted for worker in each] == list(range(workers))
    assert max(map(len, hosted)) - min(map(len, hosted)) <= 1
