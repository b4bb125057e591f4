"""Sweeps with late exchanges on ranks: outputs, rounds, and what is kept of the weights."""

from itertools import cycle

import numpy as np
import pytest
from mpi4py import MPI

from helpers import small_plans
from helpers.example_operations import NETWORKS
from helpers.interruption import assert_same_bits
from helpers.programs import run_program
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import apply_heads, forward
from repurpose_hpc.plan.late import late
from repurpose_hpc.plan.plan import PLACEMENTS
from repurpose_hpc.plan.rounds import rounds_of
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.restructure.job import restructure_network
from repurpose_hpc.runtime.hosting import hosted_workers
from repurpose_hpc.runtime.program import Program
from repurpose_hpc.runtime.resources import Formats
from repurpose_hpc.runtime.session import Session

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD


def late_program(network, plan, sweeps, dtype=np.float64, **options):
    """This rank's part, and the network that it is of."""
    result = late(network, plan, sweeps)
    hosted = hosted_workers(plan.workers, COMM.size, COMM.rank)
    shards = [result.shard(make_shard(network, plan, worker, dtype)) for worker in hosted]
    return Program(shards, COMM, 3, **options), result


@pytest.mark.parametrize(("name", "placement"), [*zip(NETWORKS, cycle(PLACEMENTS), strict=False)])
def test_every_sweep_is_that_of_the_reference(name, placement):
    network = NETWORKS[name]()
    plan = small_plans.random_plan(network, COMM.size + 1, placement, 1)
    network = small_plans.pruned(network, plan)
    x = np.random.default_rng(5).normal(size=(5, network.inputs))
    for sweeps in (2, 3):
        program, result = late_program(network, plan, sweeps)
        reference = result.network(network)
        y = apply_heads(reference, run_program(program, reference, x))
        expected = forward(reference, x)
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-10 * max(1, np.abs(expected).max()))
        assert program.rounds <= sweeps - 1
        program.free()


def test_a_chain_exchanges_in_one_round_less_than_there_are_sweeps():
    network = small_plans.random_network(2, (12, 16, 17, 18, 19, 6))
    plan = small_plans.random_plan(network, COMM.size, "replicated", 2, 0.5)
    network = small_plans.pruned(network, plan)
    for sweeps in (1, 2, 3):
        program, result = late_program(network, plan, sweeps)
        assert program.rounds == (sweeps - 1 if COMM.size > 1 else 0)
        assert rounds_of(result.graph, result.plan) == program.rounds
        sent = sum(result.plan.values_sent(result.graph, mixing) for mixing in result.graph.mixings)
        assert COMM.allreduce(program.values_sent) == sent
        # Weights that several sweeps have are counted, and kept, once.
        weights = COMM.allreduce(sum(block["weights"] for block in program.blocks))
        assert weights <= sum(np.count_nonzero(mixing.W) for mixing in network.mixings)
        program.free()


@pytest.mark.parametrize("wire", ["bfloat16", "int8"])
def test_what_others_send_is_rounded_as_in_the_exact_order(wire):
    """After all sweeps the outputs are those of a run in the exact order, rounding and all."""
    network = small_plans.random_network(3, (12, 16, 17, 6), "identity")
    plan = small_plans.random_plan(network, COMM.size, "replicated", 3, 0.5)
    network = small_plans.pruned(network, plan)
    plan = small_plans.scaled(network, plan)
    x = np.random.default_rng(6).normal(size=(3, network.inputs))
    outputs = []
    for sweeps in (1 + rounds_of(network, plan), None):
        if sweeps is None:
            shards = [make_shard(network, plan, COMM.rank, np.float64)]
            program = Program(shards, COMM, 3, Formats(comm_dtype=wire))
        else:
            program, _ = late_program(network, plan, sweeps, formats=Formats(comm_dtype=wire))
        outputs.append(run_program(program, network, x))
        program.free()
    np.testing.assert_allclose(*outputs, atol=1e-9)


@pytest.mark.parametrize("sweeps", [1, 2, 3])
def test_weights_of_their_own_run_as_any_network(sweeps):
    """Ranks that restructure together make the same bits as one, and run what the reference does."""
    network = small_plans.random_network(4, (12, 20, 19, 18, 5), "identity")
    draw = np.random.default_rng(8)
    x = draw.normal(size=(200, 4)) @ draw.normal(size=(4, network.inputs))
    fields = {"workers": COMM.size + 1, "comm_budget": 0.3, "late": sweeps, "dtype": np.float64}
    cut = restructure_network(network, Samples.of(x), comm=COMM, **fields)
    assert_same_bits(cut, restructure_network(network, Samples.of(x), **fields))
    session = Session(cut, COMM, dtype=np.float64)
    y = session.run(x)
    if COMM.rank == 0:
        np.testing.assert_allclose(y, forward(cut.network, x), rtol=0, atol=1e-10)
    session.close()
